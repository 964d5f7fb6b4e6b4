"""Text from elsewhere (names of files, errors about them) on its way into Streamlit, which reads most as markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib_gan.records.schema import DefectRecord
    from anomalib_gan.runtime.defects import Defect


def plain(text: str) -> str:
    """Markdown that shows exactly `text`, in one line.

    >>> print(plain("![x](http://y) *z*"))
    \\!\\[x\\]\\(http\\:\\/\\/y\\) \\*z\\*
    """
    line = "".join(one if one.isprintable() else " " for one in text)
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", line)


def seconds(value: float) -> str:
    """A duration for people.

    >>> seconds(0.0231), seconds(2.345)
    ('23 ms', '2.3 s')
    """
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def defect(number: int, one: Defect | DefectRecord) -> str:
    """What the viewer says of a defect."""
    name = f"Defect {number}: {one.type}" if one.type else f"Defect {number}"
    return f"{name}\n{area(one.area, one.area_um2)}\npeak {one.peak:.3g}"


def area(px: int, um2: float | None) -> str:
    """An area in pixels and, where their size is known, in square micrometres."""
    return f"{px} px" if um2 is None else f"{px} px, {um2:.3g} \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}"
