"""The scoring path of stacks: a volume goes in, its map, score, verdict and defects come out.

It is that of `inspector` with one more axis: a backend whose `dim` is 3 is given windows (N, C, D, H, W); tiles overlap
by the halo along all three axes, so that the tiled map equals that of the whole stack; verdicts come from the same
`Calibration`. The score is the largest mean of the hottest share HOTTEST of a window of WINDOW voxels along each axis,
of windows that begin every STEP voxels. The map lies in memory whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalib_gan.runtime.calibration import Calibration, Verdict
from anomalib_gan.runtime.defects import LIMIT
from anomalib_gan.runtime.fitting import adapted
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspection import Backend, InvalidImage, name_of, told_of
from anomalib_gan.runtime.inspector import Sink
from anomalib_gan.runtime.scores import hottest_mean, starts
from anomalib_gan.runtime.stack import Stack, open_stack
from anomalib_gan.runtime.tiling import Grid

WINDOW, STEP = 64, 32
TILE = 256  # voxels along each axis of the cores that large stacks are cut into
LARGEST = 2**30  # voxels of a map, which takes four bytes for each

Map = NDArray[np.float32]


@dataclass(frozen=True)
class VolumeDefect:
    """A 26-connected region of the map above the threshold, in voxels of the stack; ends are half-open."""

    front: int
    top: int
    left: int
    back: int
    bottom: int
    right: int
    volume: int  # voxels
    peak: float  # largest value of the map within
    slice: float  # centroid
    row: float
    col: float


@dataclass(eq=False)
class VolumeInspection:
    """What was found in one stack; see `Inspection`."""

    name: str
    map: Map | None = field(repr=False)  # (depth, height, width), NaN in the info bar; None where a sink took it
    score: float
    peak: float
    verdict: Verdict | None
    defects: tuple[VolumeDefect, ...]  # by falling peak
    defect_count: int
    depth: int
    height: int
    width: int
    content: int  # rows of each slice that are image
    pixel_size: float | None  # micrometres per px within a slice
    scale_warning: str | None
    sha256: str | None
    model: str
    device: str
    timing: dict[str, float]
    notes: tuple[str, ...]


class VolumeInspector:
    """Maps, scores and judges stacks with one model of volumes. `opener` opens what is no Stack yet."""

    def __init__(
        self,
        backend: Backend,
        tile: int = TILE,
        calibration: Calibration | None = None,
        opener: Callable[[Any], Stack] = open_stack,
    ) -> None:
        if getattr(backend, "dim", 2) != 3:
            raise ValueError("the model looks at images, not at stacks: use calibrate, score and evaluate")
        if calibration is not None and calibration.model not in ("", backend.hash):
            raise ValueError(
                f"the calibration belongs to model {calibration.model[:12]} and this is {backend.hash[:12]}: "
                "calibrate again"
            )
        self.backend = backend
        self.grid = Grid(tile, max(backend.halo, backend.smallest - backend.stride), backend.stride)
        self.calibration = calibration
        self.opener = opener

    def __call__(self, source: Any, sink: Sink | None = None) -> VolumeInspection:
        """Inspects a path, bytes, an array (depth, height, width[, channels]) or a Stack, which stays open.

        With a sink the finished map goes to sink(0, map), and VolumeInspection.map is None. Raises ImageError for what
        cannot be inspected.
        """
        start = perf_counter()
        stack = source if isinstance(source, Stack) else self.opener(source)
        try:
            return self._inspect(stack, sink, perf_counter() - start)
        finally:
            if stack is not source:
                stack.close()

    def stream(self, sources: Iterable[Any]) -> Iterator[VolumeInspection | InvalidImage]:
        """Inspects many stacks, in order; a bad one becomes an InvalidImage and the next one follows."""
        for source in sources:
            try:
                yield self(source)
            except (ImageError, MemoryError) as error:
                yield InvalidImage(name_of(source), told_of(error))

    def _inspect(self, stack: Stack, sink: Sink | None, opening: float) -> VolumeInspection:
        timing = {"decode": opening, "inference": 0.0, "post": 0.0}
        found = self._map(stack, timing)
        start = perf_counter()
        score, peak = volume_score(found), float(found.max())
        calibration = self.calibration
        defects, count = ([], 0) if calibration is None else volume_defects(found, calibration.pixel)
        if stack.changed():
            raise ImageError(f"{stack.name}: the file changed while it was read: inspect it again once it is complete")
        map = found
        if stack.content < stack.height:
            map = np.full((stack.depth, stack.height, stack.width), np.nan, np.float32)
            map[:, : stack.content] = found
        timing["post"] = perf_counter() - start
        if sink is not None:
            sink(0, map)
        notes = list(stack.notes)
        if count > len(defects):
            notes.append(f"{count} defects, of which the {len(defects)} with the largest peaks are listed")
        ours, theirs = self.backend.pixel_size, stack.pixel_size
        warning = None
        if ours and theirs and abs(theirs / ours - 1) > 0.1:
            warning = f"pixel size {theirs:.4g} um differs from the training stacks' {ours:.4g} um"
            notes.append(warning)
        return VolumeInspection(
            name=stack.name,
            map=map if sink is None else None,
            score=score,
            peak=peak,
            verdict=calibration.verdict(score, count > 0) if calibration else None,
            defects=tuple(defects),
            defect_count=count,
            depth=stack.depth,
            height=stack.height,
            width=stack.width,
            content=stack.content,
            pixel_size=stack.pixel_size,
            scale_warning=warning,
            sha256=stack.sha256,
            model=self.backend.hash,
            device=self.backend.device,
            timing=timing,
            notes=tuple(notes),
        )

    def _map(self, stack: Stack, timing: dict[str, float]) -> Map:
        """The map (depth, content, width), tile by tile."""
        sizes, least = (stack.depth, stack.content, stack.width), self.backend.smallest
        told = "x".join(map(str, sizes))
        if min(sizes) < least:
            raise ImageError(
                f"{stack.name}: stack {told} is smaller than the model's smallest, {least} voxels along every axis: "
                "give more slices or larger ones"
            )
        if stack.pixels > LARGEST:
            raise ImageError(
                f"{stack.name}: stack {told} has more than {LARGEST} voxels, whose map would not fit into memory: "
                "cut it into several"
            )
        found = np.empty(sizes, np.float32)
        for slices in self.grid.axis(sizes[0]):
            start = perf_counter()
            slab = adapted(stack.name, stack.slices(slices[2], min(slices[3], sizes[0])), self.backend.channels)
            timing["decode"] += perf_counter() - start
            for rows, columns in product(self.grid.axis(sizes[1]), self.grid.axis(sizes[2])):
                image = slab[:, rows[2] : rows[3], columns[2] : columns[3]]
                missing = [
                    (0, end - begin - have)  # what lies beyond the stack repeats its edge
                    for (_, _, begin, end), have in zip((slices, rows, columns), image.shape, strict=False)
                ]
                window = np.moveaxis(np.pad(image, [*missing, (0, 0)], mode="edge"), -1, 0)
                start = perf_counter()
                core = self.backend(np.ascontiguousarray(window, np.float32)[None], stack.white)[0, 0]
                timing["inference"] += perf_counter() - start
                ends = [
                    (begin, min(end, size), min(end, size) - first, begin - first)
                    for (begin, end, first, _), size in zip((slices, rows, columns), sizes, strict=True)
                ]
                target = tuple(slice(begin, end) for begin, end, _, _ in ends)
                found[target] = core[tuple(slice(begin, end) for _, _, end, begin in ends)]
        if not np.isfinite(found).all():
            raise ImageError(f"{stack.name}: the model's map is not finite: train it again")
        return found


def volume_score(map: Map) -> float:
    """The score of a whole map (depth, height, width) without NaN.

    >>> volume_score(np.full((8, 8, 8), 0.5, np.float32))
    0.5
    """
    windows = [
        map[tuple(slice(begin, begin + WINDOW) for begin in corner)]
        for corner in product(*(starts(size, WINDOW, STEP).tolist() for size in map.shape))
    ]
    peaks = [float(window.max()) for window in windows]
    best = -np.inf
    for index in np.argsort(peaks)[::-1]:
        if peaks[index] <= best:  # a mean is never above the maximum
            break
        best = max(best, hottest_mean(windows[index].ravel()))
    return float(best)


def volume_defects(map: Map, threshold: float, limit: int = LIMIT) -> tuple[list[VolumeDefect], int]:
    """The `limit` defects with the largest peaks of a whole map (depth, height, width), and how many there are."""
    if not np.isfinite(threshold):
        raise ValueError(f"the defect threshold {threshold} is not a finite number: calibrate again")
    labels, count = ndimage.label(map > np.float64(threshold), np.ones((3, 3, 3), bool))
    if not count:
        return [], 0
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(map, labels, numbers)
    chosen = np.argsort(-peaks, kind="stable")[:limit]
    boxes = ndimage.find_objects(labels)
    found = []
    for index in chosen.tolist():
        box = boxes[index]
        places = np.nonzero(labels[box] == index + 1)
        (front, top, left), (back, bottom, right) = zip(*((one.start, one.stop) for one in box), strict=True)
        number, row, col = (float(one.start + place.mean()) for one, place in zip(box, places, strict=True))
        volume, peak = len(places[0]), float(peaks[index])
        found.append(VolumeDefect(front, top, left, back, bottom, right, volume, peak, number, row, col))
    return found, count


class VolumeCutter:
    """A sink that cuts what lies within `box` (top, left, bottom, right) of all slices into nearly equal blocks of at
    most WINDOW voxels along each axis and scores each; as `calibrating.Cutter` does with images.
    """

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        top, left, bottom, right = box
        if not (0 <= top < bottom and 0 <= left < right):
            raise ValueError(f"the held-back box {list(box)} is empty: train again")
        self.box = box
        self.scores: list[float] = []
        self.peaks: list[float] = []
        self.pixels = 0

    def __call__(self, _front: int, map: Map) -> None:
        top, left, bottom, right = self.box
        part = map[:, top:bottom, left:right]
        counts = [-(-size // WINDOW) for size in part.shape]
        for slab in np.array_split(part, counts[0], 0):
            for band in np.array_split(slab, counts[1], 1):
                for block in np.array_split(band, counts[2], 2):
                    self.scores.append(volume_score(block))
                    self.peaks.append(float(block.max()))
                    self.pixels += block.size
