"""Cutting an image into tiles so that the tiled map equals the map of the whole image.

A detector is local: no pixel farther than `halo` influences a pixel's value, and a shift of the image by a multiple of
`stride` shifts the map. So a tile is computed from a window that reaches `halo` beyond it, and only the inner core is
kept. Where the window meets the image's border it ends there, so that the network's own padding acts exactly as on the
whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# A row of tiles holds about this many pixels at most (128 MB of map), so that memory does not grow with a wide image's
# width.
BAND_PIXELS = 2**25


class Box(NamedTuple):
    """A half-open rectangle in pixels: rows top..bottom-1, columns left..right-1."""

    top: int
    left: int
    bottom: int
    right: int


class Tile(NamedTuple):
    """`core` is the part of the map that this tile delivers, `window` the part of the image that it is computed
    from."""

    core: Box
    window: Box


@dataclass(frozen=True)
class Grid:
    """How images are cut, in pixels: `tile` is the largest side of a core, `halo` what windows reach beyond it,
    `stride` the lattice on which all edges lie. `tile` is rounded down and `halo` up to it.

    >>> Grid(tile=8, halo=3, stride=4).split(8, 12)[1]
    Tile(core=Box(top=0, left=8, bottom=8, right=12), window=Box(top=0, left=4, bottom=8, right=12))
    """

    tile: int = 1024
    halo: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.stride < 1 or self.halo < 0:
            raise ValueError(f"stride {self.stride} must be at least 1 and halo {self.halo} at least 0")
        if self.tile < self.stride:
            raise ValueError(f"tile {self.tile} is smaller than the model's stride {self.stride}: raise the tile size")

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size after the bottom and right edges are extended to multiples of the stride."""
        return _up(height, self.stride), _up(width, self.stride)

    def bands(self, height: int, width: int) -> list[list[Tile]]:
        """Tiles by rows, top to bottom and left to right. Cores partition `padded(height, width)`; tiles of one row
        share the top and bottom of both core and window."""
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}x{width} pixels cannot be cut into tiles")
        height, width = self.padded(height, width)
        # Rows lower than the halo would cost more in overlap than they save in memory.
        rows = min(self.tile, max(self.halo, self.stride, BAND_PIXELS // width))
        return [
            [
                Tile(Box(top, left, bottom, right), Box(above, before, below, behind))
                for left, right, before, behind in self._cut(width, self.tile)
            ]
            for top, bottom, above, below in self._cut(height, rows)
        ]

    def axis(self, length: int) -> list[tuple[int, int, int, int]]:
        """One axis of any length -> (core start, core end, window start, window end) of each piece, for whoever cuts
        along other axes than two."""
        return self._cut(_up(length, self.stride), self.tile)

    def split(self, height: int, width: int) -> list[Tile]:
        """All tiles of `bands`."""
        return [tile for band in self.bands(height, width) for tile in band]

    def _cut(self, length: int, largest: int) -> list[tuple[int, int, int, int]]:
        """One axis, a multiple of the stride -> (core start, core end, window start, window end), cores of nearly equal
        length."""
        count = -(-length // (largest // self.stride * self.stride))
        step = _up(-(-length // count), self.stride)
        halo = _up(self.halo, self.stride)
        return [
            (start, min(start + step, length), max(start - halo, 0), min(start + step + halo, length))
            for start in range(0, length, step)
        ]


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride
