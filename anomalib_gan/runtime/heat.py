"""The one range of heat colours: it comes from normal images, never from the map that is shown."""

from __future__ import annotations

HEAT_SPAN = 2.0
"""Heat colours reach from the low end of the normal scale over so many times the scale's length."""


def heat_range(scale: tuple[float, float]) -> tuple[float, float]:
    """The values of a map that are drawn coldest and hottest, in every picture.

    >>> heat_range((0.5, 1.5))
    (0.5, 2.5)
    """
    low, high = scale
    return low, low + HEAT_SPAN * (high - low)
