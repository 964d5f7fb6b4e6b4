"""What electron microscopes write beside the picture: pixel size, and the info bar at its bottom."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

LARGEST_PLAIN = 10.0
"""Micrometres per px above which a plain TIFF resolution is not believed.

Programs fill the tag with what a printer needs: 72, 96, 300, 600 or 1200 dpi are 353, 265, 85, 42 and 21 um. No common
print resolution lies below 10 um (2540 dpi), and few electron micrographs lie above.
"""
_UNITS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3}
_UNITS |= {"pm": 1e-6, "micrometer": 1.0, "\\u00b5m": 1.0, "inch": 25400.0, "in": 25400.0}
_FEI = (34682, 34680)
_ZEISS = 34118


def _number(value: Any) -> float | None:
    """A finite number above zero, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _fei(page: Any, section: str, key: str) -> float | None:
    for code in _FEI:
        value = page.tags.valueof(code)
        if isinstance(value, dict) and isinstance(value.get(section), dict):
            return _number(value[section].get(key))
    return None


def _zeiss(page: Any, key: str) -> tuple[Any, ...]:
    value = page.tags.valueof(_ZEISS)
    entry = value.get(key, ()) if isinstance(value, dict) else ()
    return entry if isinstance(entry, tuple) else ()


def pixel_size(page: Any, tif: Any) -> tuple[float | None, tuple[str, ...]]:
    """Micrometres per px of a tifffile page, and notes.

    In this order: FEI / Thermo Fisher ([Scan] or [EScan] PixelWidth, in metres), Zeiss (AP_IMAGE_PIXEL_SIZE or
    AP_PIXEL_SIZE with its unit), ImageJ (XResolution in its unit), plain TIFF (XResolution per inch or cm, where
    believable). None where none is there.
    """
    for section in ("Scan", "EScan"):
        width = _fei(page, section, "PixelWidth")
        if width is not None:
            height = _fei(page, section, "PixelHeight") or width
            odd = abs(height / width - 1) > 0.01
            note = f"pixels are not square: {width * 1e6:.6g} x {height * 1e6:.6g} um, the width is used"
            return width * 1e6, (note,) if odd else ()
    for key in ("ap_image_pixel_size", "ap_pixel_size"):
        entry = _zeiss(page, key)
        size = _number(entry[1]) if len(entry) == 3 else None
        if size is not None and entry[2] in _UNITS:
            return size * _UNITS[entry[2]], ()
    value = page.tags.valueof(282)
    ratio = value if isinstance(value, tuple) and len(value) == 2 else (value, 1)
    top, bottom = _number(ratio[0]), _number(ratio[1])
    if top is None or bottom is None:
        return None, ()
    per_unit = top / bottom
    unit = (tif.imagej_metadata or {}).get("unit") if tif.is_imagej else None
    if isinstance(unit, str):
        scale = _UNITS.get(unit.strip().lower())
        return (scale / per_unit if scale else None), ()
    scale = {2: _UNITS["inch"], 3: _UNITS["cm"]}.get(int(page.tags.valueof(296, 2)))
    plain = scale / per_unit if scale else None
    return (plain if plain is not None and plain <= LARGEST_PLAIN else None), ()


def bar_by_metadata(page: Any, height: int, width: int) -> int | None:
    """Rows of info bar by what FEI and Zeiss say of the scanned frame; None where they say nothing of this frame."""
    scanned = _fei(page, "Image", "ResolutionX"), _fei(page, "Image", "ResolutionY")
    store = _zeiss(page, "dp_image_store")
    size = re.fullmatch(r"\s*(\d+)\s*\*\s*(\d+)\s*", str(store[1])) if len(store) >= 2 else None
    if size:
        scanned = float(size[1]), float(size[2])
    # A frame of another width was cut or resized after the scan: its rows say nothing any more.
    if scanned[0] == width and scanned[1] is not None and height * 0.7 <= scanned[1] < height:
        return height - int(scanned[1])
    databar = _fei(page, "PrivateFei", "DatabarHeight")
    if scanned[1] is None and databar is not None and databar < height * 0.3:
        return int(databar)
    return None


LOOKED_AT = 0.2
"""Share of the height, from the bottom, in which an info bar is looked for."""
_TOLERANCE = 8  # of 255 levels: what JPEG does to a flat area
_FLAT = 0.85  # share of a row at one level; JPEG smears a line at the edge of the bar


def find_bar(rows: np.ndarray) -> int:
    """Rows of info bar at the end of `rows`, the (rows, width, channels) at the bottom of a picture; 0 without one.

    A bar covers the full width down to the last row. It begins and ends with a row that is one level, and begins at a
    sharp edge: the row above is texture, or far from that level. More than 60 % of it is one level, which is found in
    its text rows too; and there is text: pixels far from that level, not many. Real texture has no such first row.
    """
    grey = rows[..., 0] if rows.shape[-1] == 1 else rows.max(axis=-1)
    low, high = float(grey.min()), float(grey.max())
    height, width = grey.shape
    if high <= low or height < 9:
        return 0
    scale = 255.0 / (high - low)

    def histograms(some: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(((row - low) * scale).astype(np.intp), minlength=256) for row in some])

    if _window(histograms(grey[-1:]), _TOLERANCE).max() <= 0.95 * width:
        return 0  # as nearly all images end, and at once
    counts = histograms(grey)
    near = _window(counts, _TOLERANCE) / width  # (row, level): share of the row within the tolerance of the level
    dominant, share = near.argmax(axis=1), near.max(axis=1)
    below = np.cumsum(counts[::-1], axis=0)[::-1]  # counts of all rows from here to the bottom
    far = 1 - _window(below, 64) / below.sum(axis=1, keepdims=True)
    band = _window(below, _TOLERANCE) / below.sum(axis=1, keepdims=True)
    around = _window(counts, 24) / width
    for top in range(1, height - 8):
        above = top - 1, dominant[top]
        sharp = (share[top - 1] < 0.7 and near[above] < 0.5) or around[above] < 0.3
        if share[top] < _FLAT or not sharp:
            continue
        level = band[top].argmax()
        paper = near[top:, level] > 0.25  # rows without any are frame lines
        lines = share[top:] >= _FLAT
        text = 0.002 < far[top, level] < 0.4
        if band[top, level] > 0.6 and text and paper.mean() > 0.85 and (paper | lines).mean() > 0.97:
            smeared = 1 if share[top - 1] > 0.7 else 0  # a frame line that JPEG has mixed with the picture
            return height - top + smeared
    return 0


def _window(counts: np.ndarray, radius: int) -> np.ndarray:
    """Sums of (row, 256) counts over the levels within `radius` of each level."""
    total = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    level = np.arange(256)
    return total[:, np.minimum(level + radius + 1, 256)] - total[:, np.maximum(level - radius, 0)]
