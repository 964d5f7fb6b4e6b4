"""Pixels as a model takes them: its channels, a size that it can do, another magnification."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.tiling import Box


def framed(name: str, pixels: NDArray[Any], channels: int, height: int, width: int) -> NDArray[np.float32]:
    """(h, w, 1 or 3) -> (the model's channels, height, width), what lies beyond the image repeating its edge."""
    pixels = adapted(name, pixels, channels)
    below, beside = height - pixels.shape[0], width - pixels.shape[1]
    padded = np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")
    return np.ascontiguousarray(np.moveaxis(padded, -1, 0), np.float32)


def adapted(name: str, pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """(..., 1 or 3) -> (..., channels): those that a model has."""
    if pixels.shape[-1] == channels:
        return pixels
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if not (pixels == pixels[..., :1]).all():
        raise ImageError(f"{name}: the image has colours but the model was trained on grey images: convert it to grey")
    return pixels[..., :1]


def resized(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(h, w[, C]) -> (height, width[, C]): means where it shrinks, bilinear where it grows."""
    area = height * width < pixels.shape[0] * pixels.shape[1]
    found = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    return np.asarray(found, np.float32)


def enclosing(box: Box, down: float, right: float) -> Box:
    """The box in an image enlarged by these factors: all pixels that it touches."""
    top, left, bottom, end = box.top * down, box.left * right, box.bottom * down, box.right * right
    return Box(math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(end))
