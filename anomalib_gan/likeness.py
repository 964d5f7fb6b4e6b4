"""Which images show the same thing: several shots of one part, under other lighting or a little displaced.

What training has seen in one shot is not new to it in another, so such images are held back together or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

SIDE = 64  # px of the thumbnails that are compared
FINE, COARSE, AROUND = 1.0, 4.0, 8.0  # sigmas: of the band of detail, and of the neighbourhood its contrast is taken in
# Correlation from which two images show the same thing. Chosen on the normal images of a set whose file names tell: of
# 114 tiles photographed up to six times, 0.7 makes 117 things, 0.6 only 55, and 0.8 breaks three tiles in eight apart.
ALIKE = 0.7
SHAPE = 0.1  # largest relative difference of the ratio of their sides


def same_things(images: Sequence[Tensor]) -> NDArray[np.int32]:
    """A number for each image (C, H, W), the same for images that show the same thing.

    Two images are alike where thumbnails of their fine detail, its contrast made even, correlate by over ALIKE; what is
    alike by way of a third image counts as well. Lighting and exposure do not matter, a shift by a tenth of the image
    does.
    """
    thumbnails = np.stack([_detail(image) for image in images])
    ratios = np.log([image.shape[-2] / image.shape[-1] for image in images])
    found = (thumbnails @ thumbnails.T > ALIKE) & (np.abs(ratios[:, None] - ratios) < SHAPE)
    return connected_components(csr_array(found), directed=False)[1]


def _detail(image: Tensor) -> NDArray[np.float32]:
    """(SIDE * SIDE,), of length 1, or 0 for an image without detail."""
    grey = np.ascontiguousarray(image.float().mean(0).numpy())
    grey = grey / max(float(np.abs(grey).max()), 1e-12)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    band = cv2.GaussianBlur(small, (0, 0), FINE) - cv2.GaussianBlur(small, (0, 0), COARSE)
    even = band / (np.sqrt(cv2.GaussianBlur(band * band, (0, 0), AROUND)) + 4e-3)
    even = (even - even.mean()).ravel()
    return even / max(float(np.linalg.norm(even)), 1e-12)
