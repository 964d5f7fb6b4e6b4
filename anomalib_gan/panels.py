"""One picture as a file, as exact as the image that it came from."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan.runtime.files import write_bytes


def levels(x: Tensor, white: float = 255) -> NDArray[Any]:
    """(1, C, H, W) in [-1, 1] -> grey levels (H, W[, 3]) up to `white`, of 8 bits or, for a larger one, 16."""
    grey = (x[0].detach().float().cpu().numpy().transpose(1, 2, 0) + 1) * (white / 2)
    whole = np.clip(np.rint(grey), 0, white).astype(np.uint8 if white <= 255 else np.uint16)
    return whole[..., 0] if whole.shape[2] == 1 else whole


def save_picture(path: str | os.PathLike[str], x: Tensor, white: float = 255) -> None:
    """Writes (1, C, H, W) in [-1, 1] as PNG with `levels`, atomically."""
    found = levels(x, white)
    _, png = cv2.imencode(".png", found if found.ndim == 2 else np.ascontiguousarray(found[..., ::-1]))
    write_bytes(path, png.tobytes())


def shown(x: Tensor) -> NDArray[np.float32]:
    """(1, C, H, W) -> (H, W), as sheets have it."""
    return x[0].detach().float().mean(0).cpu().numpy()
