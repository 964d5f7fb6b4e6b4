"""One page of a TIFF, decoded by strips or tiles as rows are asked for, so that its size does not matter."""

from __future__ import annotations

import logging
import math
from typing import IO, Any

import numpy as np
import tifffile

from anomalib_gan.runtime import sem
from anomalib_gan.runtime.decoding import AGAIN, WHOLE_LIMIT, ImageError, check_size

# tifffile logs odd tags, and Python prints what nobody handles. What matters here becomes an ImageError.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KEPT = 128 * 1024**2  # bytes of decoded segments kept from one band for the next
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6


class TiffImage:
    """Page `page` (from 0) of the TIFF in `file`, a binary file that stays open as long as rows are read.

    height, width (px), channels (1 or 3), dtype (uint8, uint16, float32), bits (per sample, None for float), pages,
    pixel_size (um or None), bar (rows of info bar by metadata, or None), notes. MINISWHITE is inverted, palettes and
    1, 2 and 4 bits are expanded to 8, samples beyond grey or RGB are dropped. The orientation tag is not applied.
    `tif`: the file as tifffile has it already, for whoever reads many pages of it.
    """

    def __init__(self, file: IO[bytes], page: int, max_pixels: int, tif: tifffile.TiffFile | None = None) -> None:
        tif = tif or tifffile.TiffFile(file)
        self.pages = len(tif.pages)
        if not 0 <= page < self.pages:
            raise ImageError(f"page {page} was asked for, but the file has {self.pages} (0 to {self.pages - 1})")
        self._file = file
        found: Any = tif.pages[page]
        self._page = found
        self.height, self.width = int(found.imagelength), int(found.imagewidth)
        check_size(self.height, self.width, max_pixels)
        notes = [f"page {page + 1} of {self.pages}"] if self.pages > 1 else []
        self._set_pixels(notes)
        self._set_segments()
        self.pixel_size, told = sem.pixel_size(self._page, tif)
        self.bar = sem.bar_by_metadata(self._page, self.height, self.width)
        self.notes = (*notes, *told)
        self._cache: dict[int, np.ndarray] = {}

    def _set_pixels(self, notes: list[str]) -> None:
        page = self._page
        photometric, kind, bits = int(page.photometric), page.dtype, page.bitspersample
        if page.imagedepth != 1:
            raise ImageError(f"the page is a volume of {page.imagedepth} planes: save the planes as pages")
        readable = (_MINISWHITE, _MINISBLACK, _RGB, _PALETTE) + ((_YCBCR,) if page.compression in (6, 7) else ())
        if photometric not in readable:
            raise ImageError(f"photometric kind {photometric} is not supported: save it as grey or RGB")
        if (
            kind is None
            or kind.kind not in "ubf"
            or (kind.kind == "u" and kind.itemsize > 2)
            or not isinstance(bits, int)
        ):
            raise ImageError(f"{bits}-bit pixels of type {kind} are not supported: convert to unsigned 8 or 16 bit")
        self.channels = 3 if photometric in (_RGB, _YCBCR) else 1
        self._samples = int(page.samplesperpixel)
        if self._samples < self.channels:
            raise ImageError(f"{self._samples} samples per pixel are too few for colour: {AGAIN}")
        if self._samples > self.channels:
            alpha = self._samples == self.channels + 1
            notes.append(
                "alpha channel dropped" if alpha else f"{self._samples - self.channels} extra channels dropped"
            )
        self.dtype = np.dtype(np.float32) if kind.kind == "f" else np.dtype(np.uint8 if bits <= 8 else np.uint16)
        self.bits: int | None = None if kind.kind == "f" else max(bits, 8)
        if self.bits is None and photometric == _MINISWHITE:
            raise ImageError("float pixels whose zero is white are not supported: invert them and save as grey")
        self._stored, self._table = kind, None
        if photometric == _PALETTE:
            colours = np.asarray(page.colormap)
            if bits > 8 or colours.shape != (3, 2**bits):
                raise ImageError(
                    f"a palette of {colours.shape} for {bits}-bit pixels is not supported: save as grey or RGB"
                )
            colours = colours.astype(np.uint16).T
            table = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
            self.channels = 1 if (table == table[:, :1]).all() else 3
            self._table = table[:, : self.channels]
        elif kind.kind != "f":
            top = 2**bits - 1
            if bits < 8 and 255 % top:
                raise ImageError(f"{bits}-bit pixels are not supported: convert to 8 bit")
            levels = np.arange(top + 1) if photometric != _MINISWHITE else np.arange(top, -1, -1)
            if bits < 8:
                notes.append(f"{bits}-bit pixels expanded to 8 bit")
                levels = levels * (255 // top)
            if bits < 8 or photometric == _MINISWHITE:
                self._table = levels.astype(self.dtype)[:, None]

    def _set_segments(self) -> None:
        page = self._page
        self._tiled = bool(page.is_tiled)
        self._length = int(page.tilelength if self._tiled else page.rowsperstrip)
        self._across = int(page.tilewidth if self._tiled else page.imagewidth)
        if self._length < 1 or self._across < 1 or (self._tiled and page.tiledepth != 1):
            raise ImageError(f"strips or tiles of {self._across} x {self._length} px cannot be: {AGAIN}")
        self._down, self._columns = math.ceil(self.height / self._length), math.ceil(self.width / self._across)
        self._split = int(page.planarconfig) == 2 and self._samples > 1
        planes = self._samples if self._split else 1
        per_pixel = (1 if self._split else self._samples) * self._stored.itemsize
        # Rows of an uncompressed strip lie one after the other and are read without touching the rest.
        self._plain = (
            page.compression == 1
            and page.predictor == 1
            and page.fillorder == 1
            and page.bitspersample == 8 * self._stored.itemsize
            and not self._tiled
        )
        size = self._length * self._across * per_pixel
        if not self._plain and size > WHOLE_LIMIT:
            raise ImageError(
                f"one strip or tile of {self._across} x {self._length} px needs {size / 1024**3:.1f} GiB (limit "
                f"{WHOLE_LIMIT // 1024**3} GiB): save with small tiles or strips"
            )
        self._budget = max(_KEPT, size * planes)
        count = self._down * self._columns * planes
        offsets, sizes = page.dataoffsets, page.databytecounts
        if min(len(offsets), len(sizes)) < count:
            raise ImageError(f"{count} strips or tiles are needed, {min(len(offsets), len(sizes))} are listed: {AGAIN}")
        end = self._file.seek(0, 2)
        for index in range(count):
            needed = self._rows_of(index) * self._across * per_pixel if self._plain else sizes[index]
            if offsets[index] <= 0 or needed <= 0 or offsets[index] + needed > end:
                raise ImageError(
                    f"strip or tile {index} of {count} should be {needed} bytes at {offsets[index]}, but the file has "
                    f"{end} bytes: it is truncated or damaged, {AGAIN}"
                )

    def _rows_of(self, index: int) -> int:
        row = index // self._columns % self._down
        return min(self._length, self.height - row * self._length)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows top..bottom as (bottom - top, width, channels); decodes only the strips or tiles that they touch."""
        out = np.empty((bottom - top, self.width, self.channels), self.dtype)
        planes = range(self.channels if self._split and self._table is None else 1)
        used: dict[int, np.ndarray] = {}
        for down in range(top // self._length, (bottom - 1) // self._length + 1):
            start = down * self._length
            first, last = max(top - start, 0), min(bottom - start, self._length)
            for column in range(self._columns):
                left = column * self._across
                right = min(left + self._across, self.width)
                for plane in planes:
                    index = (plane * self._down + down) * self._columns + column
                    if self._plain:
                        part = self._read_plain(index, first, last)
                    else:
                        used[index] = self._segment(index)
                        part = used[index][first:last]
                    target = out[start + first - top : start + last - top, left:right]
                    if self._split:
                        target = target[..., plane : plane + 1] if self._table is None else target
                    self._put(target, part[:, : right - left])
        kept, size = {}, 0
        for index in reversed(used):  # the lowest rows first: the next band needs them again
            size += used[index].nbytes
            if size > self._budget:
                break
            kept[index] = used[index]
        self._cache = kept
        return out

    def _put(self, target: np.ndarray, part: np.ndarray) -> None:
        """Writes stored samples (rows, columns, samples) into the picture, as grey or RGB."""
        if self._table is not None:
            target[...] = self._table[part[..., 0].astype(np.intp)]
            return
        if self.bits is None:
            with np.errstate(over="ignore"):  # beyond float32: refused as infinite below
                part = part.astype(np.float32)
        target[...] = part[..., : target.shape[-1]]

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ImageError(f"{size} bytes were expected at {offset}, {len(data)} are there: {AGAIN}")
        return data

    def _read_plain(self, index: int, first: int, last: int) -> np.ndarray:
        samples = 1 if self._split else self._samples
        stride = self.width * samples * self._stored.itemsize
        data = self._read(self._page.dataoffsets[index] + first * stride, (last - first) * stride)
        kind = self._stored.newbyteorder(self._page.parent.byteorder)
        return np.frombuffer(data, kind).reshape(last - first, self.width, samples)

    def _segment(self, index: int) -> np.ndarray:
        """The whole strip or tile `index` as (rows, columns, samples)."""
        if index in self._cache:
            return self._cache[index]
        page = self._page
        data = self._read(page.dataoffsets[index], page.databytecounts[index])
        segment, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        part = segment[0]
        columns = self.width - index % self._columns * self._across if self._tiled else self.width
        if part.shape[0] < self._rows_of(index) or part.shape[1] < min(columns, self._across):
            raise ImageError(f"strip or tile {index} holds only {part.shape[1]} x {part.shape[0]} px: {AGAIN}")
        return part
