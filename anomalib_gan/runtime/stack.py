"""Stacks of slices: the pages of a TIFF as one volume. Each page is decoded when it is asked for, as `image` does.

Tomograms and FIB-SEM write such files. All slices have one size and type; the info bar is that of the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import numpy as np
import tifffile

from anomalib_gan.runtime.decoding import AGAIN
from anomalib_gan.runtime.image import ImageError, Picture, named, open_image, tiff_picture
from anomalib_gan.runtime.tiff import TiffImage

MAX_PIXELS = 2**32


@dataclass
class Stack:
    """One opened stack, a context manager; what is said of `Picture` holds for its slices.

    depth: slices · height, width in px · content: rows of each slice that are image · pixel_size: within a slice.
    """

    first: Picture = field(repr=False)
    depth: int
    notes: tuple[str, ...]
    _page: Callable[[int], Picture] = field(repr=False)

    def __post_init__(self) -> None:
        first = self.first
        self.name, self.sha256, self.pixel_size = first.name, first.sha256, first.pixel_size
        self.height, self.width, self.channels = first.height, first.width, first.channels
        self.content, self.dtype, self.white = first.content, first.dtype, first.white

    @property
    def pixels(self) -> int:
        """How many voxels are image."""
        return self.depth * self.first.pixels

    def slices(self, front: int, back: int) -> np.ndarray:
        """Slices front..back (0 <= front < back <= depth) as (back - front, content, width, channels).

        ImageError as for `Picture.rows`, and where a slice has another size or type than the first.
        """
        if not 0 <= front < back <= self.depth:
            raise ValueError(f"{self.name}: slices {front} to {back} are not within 0 to {self.depth}")
        out = np.empty((back - front, self.content, self.width, self.channels), self.dtype)
        for number in range(front, back):
            page = self._page(number) if number else self.first
            one, other = (
                f"{each.height}x{each.width} px, {each.channels} x {each.dtype}, white {each.white:g}"
                for each in (page, self.first)
            )
            if one != other:
                raise ImageError(
                    f"{self.name}: page {number} ({one}) is not like page 0 ({other}): give slices of one size and type"
                )
            out[number - front] = page.rows(0, self.content)
        return out

    def changed(self) -> bool:
        """Is the file on the disk another one than the one that was opened?"""
        return self.first.changed()

    def close(self) -> None:
        self.first.close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_stack(
    source: str | os.PathLike[str] | bytes | np.ndarray,
    *,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    name: str | None = None,
) -> Stack:
    """Opens a TIFF with a page for every slice, the bytes of one, or an array (depth, height, width[, channels]).

    The options are those of `open_image`. Raises only ImageError for whatever is wrong with it.
    """
    if isinstance(source, np.ndarray):
        if source.ndim not in (3, 4) or source.size == 0:
            raise ImageError(
                f"{name or '<array>'}: an array of shape {source.shape} is no stack: give (depth, height, width)"
            )
        first = open_image(source[0], info_bar=info_bar, bits=bits, white=white, name=name)
        return Stack(
            first,
            len(source),
            first.notes,
            lambda number: open_image(source[number], info_bar=0, bits=bits, white=white, name=name),
        )
    first = open_image(source, info_bar=info_bar, bits=bits, white=white, name=name)
    file = first._file
    if first.pages == 1 or file is None:
        first.close()
        raise ImageError(f"{first.name}: is one image and no stack: save the slices as the pages of one TIFF")
    with named(first.name):
        try:
            file.seek(0)
            tif = tifffile.TiffFile(file)
            file.seek(tif.pages.next_page_offset or 0)  # after the last page that could be found there is none: 0
            if any(after := file.read(tif.tiff.offsetsize)) or not after:
                raise ImageError(f"is cut off or damaged after page {first.pages - 1}: {AGAIN}")
        except BaseException:
            first.close()
            raise

    def page(number: int) -> Picture:
        with named(first.name):
            return tiff_picture(first.name, TiffImage(file, number, MAX_PIXELS, tif), number, bits, white)

    notes = tuple(note for note in first.notes if note != f"page 1 of {first.pages}")
    return Stack(first, first.pages, notes, page)
