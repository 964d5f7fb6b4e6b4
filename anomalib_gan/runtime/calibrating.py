"""From normal images that the model never saw to a calibration: the images whole, or tiles of them where they are few.

`calibration.py` holds what thresholds are; here are the files that they come from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import CARD
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.scores import image_score
from anomalib_gan.runtime.volume import VolumeCutter, VolumeInspector

SPLIT = "split.json"
WHOLE = 8
"""Of fewer good images than this, tiles should be counted instead: see `fit`."""
TILE = 256

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Normal:
    """A normal image; `box` (top, left, bottom, right) is the part that the model never saw, None for all of it.

    `sha256`: of the file as it was when the model was trained, None where that is not known.
    """

    path: Path
    sha256: str | None = None
    box: Box | None = None


def held_back(run: str | os.PathLike[str]) -> list[Normal]:
    """What training held back, as the run's split.json tells; a ValueError where it does not."""
    path = Path(run) / SPLIT
    split = read_json(path)
    try:
        return [
            Normal(Path(one["path"]), str(one["sha256"]), None if one["box"] is None else _box(one["box"]))
            for one in split["held"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what was held back ({error!r}): train again") from error


def trained_on(run: str | os.PathLike[str]) -> frozenset[str]:
    """SHA-256 of the images of which pixels were trained on, as card.json tells, also in the trainings before whose
    weights the run began with.
    """
    card = read_json(Path(run) / CARD)
    unseen = {normal.sha256 for normal in held_back(run) if normal.box is None}
    began = card.get("init_from") or {"trained": []}
    return (frozenset(image["sha256"] for image in card["data"]["images"]) - unseen).union(began["trained"])


def fit(
    inspector: Inspector | VolumeInspector,
    normals: Sequence[Normal],
    *,
    rate: float = 0.01,
    reject_rate: float = 0.001,
    pixel_rate: float = 0.05,
    cut: bool = False,
    seen: frozenset[str] = frozenset(),
    progress: Callable[[Sequence[Normal]], Iterable[Normal]] = iter,
) -> Calibration:
    """Thresholds from whole normal images or, with `cut` and where any is only a part, from tiles of up to TILE pixels;
    of stacks likewise, from blocks of them.

    A file that comes twice counts once. `seen`: SHA-256 of training images; some among the normals are a warning.
    `progress` wraps the images to show how far it is. Raises ValueError where an image is missing, damaged or no longer
    the one that was held back.
    """
    whole = not cut and all(normal.box is None for normal in normals)
    kind = VolumeCutter if isinstance(inspector, VolumeInspector) else Cutter
    scores: list[float] = []
    peaks: list[float] = []
    hashes: set[str | None] = set()
    notes: list[str] = []
    pixels = tiled = repeated = 0
    for normal in progress(normals):
        try:
            picture = inspector.opener(normal.path)
        except ImageError as error:
            raise ValueError(f"{error}; restore it, or calibrate with other good images (--good)") from error
        with picture:
            if normal.sha256 not in (None, picture.sha256):
                raise ValueError(
                    f"{normal.path} is not the file that training held back (its SHA-256 is another): "
                    "restore it, or calibrate with other good images (--good)"
                )
            if picture.sha256 in hashes:
                repeated += 1
                continue
            hashes.add(picture.sha256)
            cutter = kind(normal.box or (0, 0, picture.content, picture.width))
            inspection = inspector(picture, sink=_drop if whole else cutter)
        if whole:
            scores.append(inspection.score)
            peaks.append(inspection.peak)
        else:
            scores += cutter.scores
            peaks += cutter.peaks
            pixels += picture.pixels
            tiled += cutter.pixels
        if inspection.scale_warning:
            notes.append(f"{normal.path}: {inspection.scale_warning}")
    # So many tiles of the size that was scored make a whole image.
    tiles = 1.0 if whole else max(1.0, pixels / len(hashes) / (tiled / len(scores)))
    calibration = Calibration.fit(
        scores,
        peaks,
        rate=rate,
        reject_rate=reject_rate,
        pixel_rate=pixel_rate,
        unit="images" if whole else "tiles",
        tiles_per_image=tiles,
        model=inspector.backend.hash,
    )
    warnings = list(calibration.warnings)
    if known := len(hashes & seen):
        warnings.append(f"{known} of the {len(hashes)} good images were trained on: thresholds from them are too low")
    if repeated:
        warnings.append(f"{repeated} images were copies of others and counted once")
    if notes:
        warnings.append(f"{len(notes)} images have another pixel size, such as {notes[0]}")
    return replace(calibration, warnings=tuple(warnings))


class Cutter:
    """A sink that cuts what lies within `box` into nearly equal tiles of at most TILE pixels and scores each."""

    def __init__(self, box: Box) -> None:
        top, self.left, bottom, right = box
        if not (0 <= top < bottom and 0 <= self.left < right):
            raise ValueError(f"the held-back box {list(box)} is empty: train again")
        self.edges = edges(top, bottom)
        self.columns = edges(self.left, right)
        self.held = np.empty((0, right - self.left), np.float32)
        self.scores: list[float] = []
        self.peaks: list[float] = []
        self.pixels = 0

    def __call__(self, top: int, rows: NDArray[np.float32]) -> None:
        begin, end = max(top, self.edges[0] + len(self.held)), min(top + len(rows), self.edges[-1])
        if begin < end:
            self.held = np.concatenate([self.held, rows[begin - top : end - top, self.left : self.columns[-1]]])
        while len(self.edges) > 1 and len(self.held) >= self.edges[1] - self.edges[0]:
            band, self.held = np.split(self.held, [self.edges[1] - self.edges[0]])
            self.edges = self.edges[1:]
            for left, right in zip(self.columns, self.columns[1:], strict=False):
                tile = band[:, left - self.left : right - self.left]
                self.scores.append(image_score(tile))
                self.peaks.append(float(np.nanmax(tile)))
                self.pixels += tile.size


def edges(begin: int, end: int) -> list[int]:
    """Where to cut begin..end into the fewest nearly equal parts of at most TILE.

    >>> edges(0, 700)
    [0, 233, 467, 700]
    """
    parts = -(-(end - begin) // TILE)
    return [begin + round((end - begin) * part / parts) for part in range(parts + 1)]


def _box(value: list[int]) -> Box:
    top, left, bottom, right = value
    return int(top), int(left), int(bottom), int(right)


def _drop(_top: int, _rows: NDArray[np.float32]) -> None:
    """A sink for those who only want the score."""
