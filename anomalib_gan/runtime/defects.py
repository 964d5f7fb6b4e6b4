"""From a map and a threshold to defects: 8-connected regions above it, joined across strips of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

# Strips are labelled in pieces of about this many pixels, so that memory does not depend on how the rows arrive.
PIECE_PIXELS = 2**22
LIMIT = 10_000

# One component while it is gathered; sums are of pixel coordinates. All exact integers but the peak.
_PART = np.dtype(
    [(name, np.int64) for name in ("top", "left", "bottom", "right", "area", "row", "col")] + [("peak", np.float32)]
)
_EMPTY = np.zeros(0, _PART)


@dataclass(frozen=True)
class Defect:
    """A connected region of the map above the threshold, in pixels of the image."""

    top: int
    left: int
    bottom: int  # half-open
    right: int
    area: int  # px
    area_um2: float | None  # None where the pixel size is not known
    peak: float  # largest value of the map within
    row: float  # centroid
    col: float
    type: str = ""  # what kind it is: see `runtime.naming`; empty where the detector names none


class DefectFinder:
    """Finds defects in a map of `width` columns that arrives in strips of rows from the top.

    A pixel is part of a defect where its value is strictly above `threshold`; NaN never is. Only components that still
    touch the last row are held open, and of the finished ones the `limit` with the largest peaks are kept; `count` is
    the true number of all. `pixel_size` is in micrometres per pixel.
    """

    def __init__(self, threshold: float, width: int, pixel_size: float | None = None, limit: int = LIMIT) -> None:
        if not np.isfinite(threshold):
            raise ValueError(f"the defect threshold {threshold} is not a finite number: calibrate again")
        self.width = width
        self.pixel_size = pixel_size
        self.limit = limit
        self.threshold = at_most(threshold)
        self._row = 0
        self._count = 0
        self._finished = _EMPTY
        self._open = _EMPTY
        self._edge = np.zeros(width, np.int64)  # last row: 0 or 1 + index into _open

    def add(self, top: int, rows: NDArray[np.float32]) -> None:
        """Takes rows top..top+len(rows)-1 of the map; `top` must follow the rows already given."""
        if rows.ndim != 2 or rows.shape[1] != self.width or top != self._row:
            raise ValueError(
                f"rows of shape {rows.shape} at {top} do not continue a map of width {self.width} at row {self._row}"
            )
        step = max(1, PIECE_PIXELS // self.width)
        for start in range(0, len(rows), step):
            self._add(np.asarray(rows[start : start + step], np.float32))

    @property
    def count(self) -> int:
        """How many defects there are so far, kept or not."""
        return self._count + len(self._open)

    def defects(self) -> list[Defect]:
        """The defects with the largest peaks, at most `limit`, by falling peak and then from the top left."""
        found = []
        for top, left, bottom, right, area, row, col, peak in _largest(
            np.concatenate([self._finished, self._open]), self.limit
        ).tolist():
            area_um2 = None if self.pixel_size is None else area * self.pixel_size**2
            found.append(Defect(top, left, bottom, right, area, area_um2, peak, row / area, col / area))
        return found

    def _add(self, rows: NDArray[np.float32]) -> None:
        mask = rows > self.threshold
        if not mask.any():  # nothing here: all that was open is finished
            self._close(self._open)
            self._open, self._edge = _EMPTY, np.zeros(self.width, np.int64)
            self._row += len(rows)
            return
        number, found = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        labels = np.asarray(found)
        number -= 1  # it counts the background
        opened = len(self._open)

        # Nodes of a graph: the open components, then those of this piece; edges where pixels touch across the seam.
        edges = []
        for shift in (-1, 0, 1):
            above = self._edge[max(0, -shift) : self.width - max(0, shift)]
            below = labels[0, max(0, shift) : self.width - max(0, -shift)]
            both = (above > 0) & (below > 0)
            edges.append(np.stack([above[both] - 1, below[both] - 1 + opened]))
        pairs = np.unique(np.concatenate(edges, axis=1), axis=1)
        nodes = opened + number
        graph = sparse.coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(nodes, nodes))
        groups, group = csgraph.connected_components(graph, directed=False)

        parts = np.zeros(groups, _PART)
        parts["top"] = parts["left"] = np.iinfo(np.int64).max
        parts["peak"] = -np.inf
        _gather(parts, group[:opened], self._open)
        _gather(parts, group[opened:], self._measured(rows, labels, number, np.flatnonzero(mask)))

        last = np.where(labels[-1] > 0, group[opened + labels[-1] - 1], -1)
        still = np.unique(last[last >= 0])
        finished = np.ones(groups, bool)
        finished[still] = False
        self._close(parts[finished])
        self._open = parts[still]
        self._edge = np.where(last >= 0, np.searchsorted(still, last) + 1, 0)
        self._row += len(rows)

    def _measured(
        self, rows: NDArray[np.float32], labels: NDArray[Any], number: int, hits: NDArray[np.int64]
    ) -> NDArray[np.void]:
        """The components 1..`number` of a piece; `hits` are the places of all their pixels in it."""
        of = labels.ravel()[hits]
        order = np.argsort(of, kind="stable")
        hits = hits[order]
        starts = np.searchsorted(of[order], np.arange(1, number + 1))
        y, x = np.divmod(hits, self.width)
        y += self._row
        parts = np.empty(number, _PART)
        parts["area"] = np.diff(starts, append=len(hits))
        parts["row"], parts["col"] = np.add.reduceat(y, starts), np.add.reduceat(x, starts)
        parts["top"], parts["left"] = np.minimum.reduceat(y, starts), np.minimum.reduceat(x, starts)
        parts["bottom"], parts["right"] = np.maximum.reduceat(y, starts) + 1, np.maximum.reduceat(x, starts) + 1
        parts["peak"] = np.maximum.reduceat(rows.ravel()[hits], starts)
        return parts

    def _close(self, parts: NDArray[np.void]) -> None:
        self._count += len(parts)
        if len(parts):
            self._finished = np.concatenate([self._finished, parts])
            if len(self._finished) > 2 * self.limit:  # not at every strip, for sorting takes time
                self._finished = _largest(self._finished, self.limit)


def find_defects(map: NDArray[np.float32], threshold: float, pixel_size: float | None = None) -> list[Defect]:
    """The defects of a whole (height, width) map; equal to those of a DefectFinder however the map is cut into
    strips."""
    finder = DefectFinder(threshold, map.shape[1], pixel_size)
    finder.add(0, map)
    return finder.defects()


def _gather(into: NDArray[np.void], at: NDArray[np.integer], parts: NDArray[np.void]) -> None:
    for name in ("area", "row", "col"):
        np.add.at(into[name], at, parts[name])
    for name in ("top", "left"):
        np.minimum.at(into[name], at, parts[name])
    for name in ("bottom", "right", "peak"):
        np.maximum.at(into[name], at, parts[name])


def _largest(parts: NDArray[np.void], limit: int) -> NDArray[np.void]:
    """At most `limit` parts in one total order, so that what is kept does not depend on how the map was cut."""
    keys = [parts[name] for name in ("col", "row", "area", "right", "bottom", "left", "top")]
    return parts[np.lexsort([*keys, -parts["peak"]])[:limit]]


def at_most(threshold: float) -> np.float32:
    """The largest float32 that is not above `threshold`: comparing float32 values with it decides as the double
    would."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))
