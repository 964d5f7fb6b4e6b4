"""Stacks of slices as the normal images of a model of volumes; all else `data` does with them as with images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anomalib_gan.data import Normal, bytes_per_pixel, normal_of
from anomalib_gan.runtime.stack import open_stack


def read_stack(
    path: Path, *, info_bar: Literal["auto"] | int, bits: int | None, white: float | None, budget: int
) -> Normal:
    """The stack in a multi-page TIFF, `grey` (C, D, H, W), as many of its first slices as `budget` bytes hold.

    The options are those of `open_image`. ImageError for what is no stack, or is damaged.
    """
    with open_stack(path, info_bar=info_bar, bits=bits, white=white) as stack:
        depth = max(1, min(stack.depth, budget // (stack.content * stack.width * bytes_per_pixel(stack))))
        notes = list(stack.notes)
        if depth < stack.depth:
            notes.append(f"only the first {depth} of {stack.depth} slices fit into memory and are used")
        return normal_of(path, stack, stack.slices(0, depth), notes)
