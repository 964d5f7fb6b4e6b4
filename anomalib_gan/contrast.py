"""Images of even local contrast, so that a dark shot of a material and a bright one look alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from anomalib_gan.nets import enlarge, shrink

CELL = 4  # px, at which local means are taken: they vary slowly, and a box at full scale would cost more than a network
RADIUS = 6  # cells
FLOOR = 0.03  # added to a spread: noise and nothing else does not become texture
SPREAD = 0.3  # of what comes out
AROUND = CELL * (RADIUS + 2)  # px: no value depends on anything farther away


def evened(s: Tensor) -> Tensor:
    """(N, C, h, w) less its local mean and by its local spread, times SPREAD; h and w multiples of CELL.

    Subtractive and divisive normalisation (Jarrett et al., 2009); local is a box of 2 RADIUS + 1 cells, or what of it
    lies in the image.
    """
    side = 2 * RADIUS + 1
    around = shrink(torch.cat((s, s.square()), 1), CELL)
    for box, margin in (((1, side), (0, RADIUS)), ((side, 1), (RADIUS, 0))):
        around = avg_pool2d(around, box, stride=1, padding=margin, count_include_pad=False)
    mean, square = enlarge(around, CELL).chunk(2, 1)
    variance = (square - mean.square()).clamp_min(0)
    return SPREAD * (s - mean) / (variance + FLOOR**2).sqrt()
