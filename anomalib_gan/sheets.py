"""Sheets of pictures, pixel for pixel, with a word on each: what the eye is given beside the figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.files import write_bytes

GAP = 4  # px between pictures
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.36
LINE = 14  # px, height of a line of text

Image = NDArray[np.floating]  # (H, W) in [-1, 1]
Levels = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """Pictures side by side, with a name above the first and a word below each, or none."""

    name: str
    images: Sequence[Image]
    words: Sequence[str] = ()


def sheet(rows: Sequence[Row]) -> Levels:
    """All rows below each other, black text on white; text that is too long is cut off at the picture's edge."""
    wide = max(sum(image.shape[1] + GAP for image in row.images) for row in rows) + GAP
    parts = []
    for row in rows:
        tall = max(image.shape[0] for image in row.images)
        words = LINE if any(row.words) else 0
        part = np.full((LINE + tall + words + GAP, wide), 255, np.uint8)
        write(part[:LINE], row.name)
        left = GAP
        for image, word in zip(row.images, (*row.words, *[""] * (len(row.images) - len(row.words))), strict=True):
            height, width = image.shape
            grey = np.clip(np.rint((image + 1) * 127.5), 0, 255)
            part[LINE : LINE + height, left : left + width] = grey
            write(part[LINE + height : LINE + height + words, left : left + width], word, 0)
            left += width + GAP
        parts.append(part)
    return np.concatenate(parts)


def write(strip: Levels, text: str, left: int = GAP) -> None:
    """Black text in a strip of LINE px height, in place."""
    if text:
        drawn = np.ascontiguousarray(strip)
        cv2.putText(drawn, text, (left, LINE - 4), FONT, SIZE, 0, 1, cv2.LINE_AA)
        strip[:] = drawn


def save(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Writes the sheet as PNG, atomically."""
    write_bytes(path, cv2.imencode(".png", sheet(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers that are no integers to three digits."""

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(cell, line)) + " |\n" for line in lines)
