"""The pictures beside the results: maps, masks and overlays, all written band by band and atomically.

`Rows` stands for an image of which only some rows lie in memory: called with (top, bottom) it gives these rows. Maps
are float32 (rows, width), larger where less normal, NaN where there is no value (the info bar).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from anomalib_gan.runtime.defects import at_most
from anomalib_gan.runtime.files import atomic_write, write_bytes
from anomalib_gan.runtime.heat import HEAT_SPAN, heat_range
from anomalib_gan.runtime.image import Picture
from anomalib_gan.runtime.scores import holed

Rows = Callable[[int, int], NDArray[Any]]

TILE = 256
SPAN = 16.0
"""A map file reaches from the low end of the normal scale over so many times the scale's length."""
VISIBLE = (0.5, 1.25)
"""Over an image heat begins to show at the first share of the normal scale and is densest from the second on."""
PREVIEW = 2048
"""Longest side of an overlay (pixels)."""
OUTLINE = (255, 224, 64)
"""Cyan (blue, green, red), which neither the grey image nor the heat colours have."""
BRIGHT, BAR = 235, 115
"""Grey level that white has in an overlay, so that heat shows on it; and in the info bar."""
SAMPLED = 2**14
"""About so many pixels tell which grey levels are dark and bright."""
PIECE = 2**15
"""About so many pixels are calculated with at a time: what comes between stays in the processor's cache, while fetching
fresh memory for whole images takes longer than all calculations."""
LEVEL = 1
"""Of deflate. The next ones make files of maps a tenth smaller at best and take up to three times as long."""


class Spool:
    """A map that goes to a temporary file strip by strip and is read back by rows; closing it removes the file.

    For maps that are too large for the memory. Call it with (top, rows) to append, `rows(top, bottom)` to read.
    """

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = NamedTemporaryFile(prefix=".tmp-", suffix=".part", dir=folder)  # noqa: SIM115 (closed by close)
        self.width, self.height = width, 0

    def __call__(self, top: int, rows: NDArray[np.float32]) -> None:
        if top != self.height or rows.shape[1] != self.width:
            raise ValueError(f"strip {rows.shape} at row {top} does not continue {self.height} rows of {self.width}")
        self.file.write(np.ascontiguousarray(rows, np.float32).data)
        self.height += len(rows)

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        self.file.seek(4 * top * self.width)
        return np.frombuffer(self.file.read(4 * (bottom - top) * self.width), np.float32).reshape(-1, self.width)

    def close(self) -> None:
        self.file.close()


def write_map(path: Path, rows: Rows, height: int, width: int, scale: tuple[float, float]) -> None:
    """Writes a map as a tiled 16-bit TIFF (deflate) on a fixed scale, which stands in its ImageDescription.

    Pixel 0 is "no value"; 1..65535 are linear from the low end of the normal `scale` over SPAN times its length, values
    beyond either end become that end.
    """
    low, high = _reach(scale)

    def quantised(top: int, bottom: int) -> NDArray[np.uint16]:
        return _levels(rows(top, bottom), low, high, 1, 65535, np.uint16)

    _write_tiff(path, quantised, height, width, np.uint16, _told(low, high, scale))


def write_volume(path: Path, map: NDArray[np.float32], scale: tuple[float, float]) -> None:
    """Writes the map of a stack (depth, height, width) as `write_map` does, a page for every slice, for `read_map`."""
    low, high = _reach(scale)
    pages = (_levels(one, low, high, 1, 65535, np.uint16) for one in map)
    with (
        atomic_write(path) as file,
        tifffile.TiffWriter(tifffile.FileHandle(file, name=path.name), bigtiff=2 * map.size > 2**31) as writer,
    ):
        writer.write(
            pages,
            shape=map.shape,
            dtype=np.uint16,
            photometric="minisblack",
            compression="zlib",
            predictor=True,
            description=_told(low, high, scale),
            metadata=None,
            software="anomalib_gan",
            maxworkers=1,
        )


def _told(low: float, high: float, scale: tuple[float, float]) -> str:
    """The ImageDescription of a map."""
    return json.dumps(
        {
            "content": "anomaly map",
            "low": low,
            "high": high,
            "normal_scale": list(scale),
            "value": "low + (pixel - 1) / 65534 * (high - low); pixel 0 means no value",
        }
    )


def read_map(path: Path) -> NDArray[np.float32]:
    """The map in a file of `write_map`, NaN where it has no value; exact to half a step of (high - low) / 65534.

    ValueError for a file that is damaged or another's.
    """
    with _whole_map(path), tifffile.TiffFile(path) as file:
        scale, levels = json.loads(file.pages.first.description), file.asarray()
        values = scale["low"] + (levels.astype(np.float64) - 1) / 65534 * (scale["high"] - scale["low"])
        return np.where(levels == 0, np.nan, values).astype(np.float32)


def map_scale(path: Path) -> tuple[float, float]:
    """The normal scale that a file of `write_map` is on; ValueError as for `read_map`."""
    with _whole_map(path), tifffile.TiffFile(path) as file:
        low, high = json.loads(file.pages.first.description)["normal_scale"]
        return low, high


@contextmanager
def _whole_map(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged data raise anything, and all of it means one thing
        raise ValueError(f"{path} is no map, or is damaged ({type(error).__name__}): score the image again") from error


def write_mask(path: Path, rows: Rows, height: int, width: int, threshold: float) -> None:
    """Writes 255 where the map is above `threshold`, else 0: a PNG, or band by band where `path` ends in .tif."""

    def above(top: int, bottom: int) -> NDArray[np.bool_]:
        return rows(top, bottom) > at_most(threshold)

    if path.suffix == ".tif":
        _write_tiff(path, lambda top, bottom: _white(above(top, bottom)), height, width, np.uint8, None)
    else:
        found = above(0, height)
        write_bytes(path, _encode(".png", _white(found), []) if found.any() else _blank(height, width))


def write_overlay(
    path: Path, image: Rows, rows: Rows, height: int, width: int, scale: tuple[float, float], threshold: float
) -> None:
    """Writes the image in grey under the heat of its map, with the regions above `threshold` outlined, as a JPEG.

    Images beyond PREVIEW pixels are reduced by a whole number: the image by the mean, the map by the maximum, so that
    a small defect stays visible. The grey levels are stretched for the eye; the heat is on the fixed scale, always.
    """
    step = max(1, -(-max(height, width) // PREVIEW))
    band = height if step == 1 else step * max(1, 256 // step)
    greys, heats = [], []
    for top in range(0, height, band):
        bottom = min(top + band, height)
        greys.append(_blocks(_grey(image(top, bottom)), step, np.nan, np.nanmean))
        heats.append(_blocks(rows(top, bottom), step, np.nan, np.fmax.reduce))
    grey, heat = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in (greys, heats))

    sample = slice(None, None, grey.size // SAMPLED | 1)  # odd, or it would take the same columns of every row
    shown, valid = grey.ravel()[sample], ~np.isnan(heat.ravel()[sample])
    dark, bright = np.percentile(shown[valid] if valid.any() else shown, (0.5, 99.5))
    bright = max(bright, dark + 1e-9)
    tone = _levels(np.arange(256), dark, bright, 0, BRIGHT, np.uint8)
    picture = np.empty((*heat.shape, 3), np.uint8)
    some = max(1, PIECE // heat.shape[1])
    for top in range(0, len(heat), some):
        part = slice(top, top + some)
        light, warmth = grey[part], heat[part]
        tones = cv2.LUT(light, tone) if light.dtype == np.uint8 else _levels(light, dark, bright, 0, BRIGHT, np.uint8)
        places = _levels(warmth, *heat_range(scale), 0, 255, np.uint16)
        if holed(warmth):
            bar = np.isnan(warmth)
            tones[bar] = tones[bar] * (BAR / BRIGHT)
        places <<= 8
        places |= tones
        found = np.take(_colours(), places, mode="clip")  # no place lies outside; not to look is faster
        cv2.cvtColor(found.view(np.uint8).reshape(*places.shape, 4), cv2.COLOR_BGRA2BGR, picture[part])

    above = heat > at_most(threshold)
    if above.any():
        around = cv2.dilate(above.view(np.uint8), np.ones((5, 5), np.uint8))
        outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, OUTLINE, thickness=1 if max(picture.shape) < 800 else 2)
    write_bytes(path, _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90]))


def heat_colours() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """(256, 3) blue, green, red of the heat levels 0 to 255, which span `heat_range`; (256,) how much they cover."""
    levels = np.arange(256)
    # A column, for OpenCV 4 takes a plain list of levels for a column and OpenCV 5 for a row.
    colours = np.asarray(cv2.applyColorMap(levels.astype(np.uint8)[:, None], cv2.COLORMAP_INFERNO), np.uint8)
    begin, end = VISIBLE
    shown = np.clip((HEAT_SPAN * levels / 255 - begin) / (end - begin), 0, 1)
    return colours[:, 0], 0.65 * shown * shown * (3 - 2 * shown)


@lru_cache(1)
def _colours() -> NDArray[np.uint32]:
    """The colour (four bytes: blue, green, red, 0) of heat level h over grey level g, at place 256 h + g."""
    colours, covering = heat_colours()
    opacity = covering[:, None, None]
    table = np.zeros((256, 256, 4), np.uint8)
    table[..., :3] = np.rint((1 - opacity) * np.arange(256)[None, :, None] + opacity * colours[:, None])
    return table.view(np.uint32).ravel()


def thumbnail(path: Path, side: int) -> bytes:
    """A JPEG of at most `side` pixels of the overlay in `path`."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2)  # a JPEG of half the size is there in a third of the time
    if picture is None or max(picture.shape) < side:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path} is not a readable JPEG: delete it and score again")
    factor = side / max(picture.shape)
    if factor < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])


def plainly(picture: Picture, side: int) -> bytes:
    """A JPEG of at most `side` pixels of an image as it is, its grey levels not stretched: white is the picture's."""
    pixels = picture.rows(0, picture.height)
    factor = side / max(picture.height, picture.width)
    if factor < 1:
        size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    tones = np.clip(pixels * np.float32(255 / picture.white) + np.float32(0.5), 0, 255).astype(np.uint8)
    return _encode(".jpg", tones[..., ::-1] if picture.channels == 3 else tones, [cv2.IMWRITE_JPEG_QUALITY, 90])


def _reach(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    if not low < high:
        raise ValueError(f"map scale {scale} is empty: its low end must lie below its high end")
    return low, low + SPAN * (high - low)


def _grey(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows (n, width) of an image (n, width[, channels])."""
    if rows.ndim == 2 or rows.shape[2] == 1:
        return rows.reshape(rows.shape[:2])
    grey: NDArray[np.float32] = rows.mean(axis=2, dtype=np.float32)
    return grey


def _levels(values: NDArray[Any], low: float, high: float, first: int, last: int, dtype: type) -> NDArray[Any]:
    """Integer levels, `first` at `low` and below, `last` at `high` and above, 0 where there is no value."""
    levels: NDArray[Any] = np.empty(values.shape, dtype)
    some = max(1, PIECE // max(1, values[0].size))
    for top in range(0, len(values), some):
        piece = np.subtract(values[top : top + some], np.float32(low), dtype=np.float32)
        piece *= np.float32((last - first) / (high - low))
        np.clip(piece, 0, last - first, out=piece)
        piece += np.float32(first + 0.5)
        if holed(piece):
            piece[np.isnan(piece)] = 0
        levels[top : top + some] = piece
    return levels


def _white(found: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """255 where something was found, else 0."""
    white: NDArray[np.uint8] = found.view(np.uint8) * np.uint8(255)
    return white


@lru_cache(4)
def _blank(height: int, width: int) -> bytes:
    """The mask of an image without any defect, which most are."""
    return _encode(".png", np.zeros((height, width), np.uint8), [])


def _blocks(rows: NDArray[Any], step: int, fill: float, reduce: Callable[..., Any]) -> NDArray[Any]:
    """One value per block of step x step pixels; blocks at the border are smaller."""
    if step == 1:
        return rows
    height, width = rows.shape
    padded = np.pad(
        rows.astype(np.float32, copy=False), ((0, -height % step), (0, -width % step)), constant_values=fill
    )
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    result: NDArray[np.float32] = reduce(blocks.swapaxes(1, 2).reshape(*blocks.shape[::2], -1), axis=-1)
    return result


def _write_tiff(path: Path, rows: Rows, height: int, width: int, dtype: type, description: str | None) -> None:
    predictor = dtype is np.uint16

    def tiles() -> Iterator[bytes]:
        """Compressed here, for libdeflate takes less than half of the time of the zlib that tifffile would take."""
        for top in range(0, height, TILE):
            band = rows(top, min(top + TILE, height))
            for left in range(0, width, TILE):
                part = band[:, left : left + TILE]
                tile: NDArray[Any] = np.zeros((TILE, TILE), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                data = imagecodecs.delta_encode(tile).tobytes() if predictor else tile.tobytes()
                yield bytes(imagecodecs.deflate_encode(data, level=LEVEL))

    large = height * width * np.dtype(dtype).itemsize > 2**31
    with (
        atomic_write(path) as file,
        tifffile.TiffWriter(tifffile.FileHandle(file, name=path.name), bigtiff=large) as writer,
    ):
        writer.write(
            tiles(),
            shape=(height, width),
            dtype=dtype,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            predictor=predictor,
            description=description,
            metadata=None,
            software="anomalib_gan",
            maxworkers=1,
        )


def _encode(suffix: str, picture: NDArray[Any], options: list[int]) -> bytes:
    encoded, data = cv2.imencode(suffix, picture, options)
    if not encoded:
        raise ValueError(f"OpenCV cannot encode {picture.shape} as {suffix}")
    return data.tobytes()
