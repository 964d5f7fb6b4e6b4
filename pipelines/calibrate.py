"""Calibrate: thresholds for verdicts and defects, from normal images that the model never saw."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import ImageError, find_images, open_image
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.scores import image_score
from pipelines.opening import CALIBRATION, open_inspector

WHOLE = 8
"""Of fewer good images than this, tiles are counted instead."""
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


def calibrate(
    run: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    rate: float = 0.01,
    reject_rate: float = 0.001,
    pixel_rate: float = 0.05,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    rescale: bool = False,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
    console: Console | None = None,
) -> Calibration:
    """Fits thresholds to the normal images that training held back, or to those in the folder `good`, and stores them.

    The options from `info_bar` on must be those that images will be scored with. Raises ValueError where an image is
    missing, damaged or no longer the one that was held back, and leaves the old calibration as it was.
    """
    run, console = Path(run), console or Console(highlight=False)
    inspector = open_inspector(run, device=device, tile=tile, threads=threads, rescale=rescale, calibrated=False)
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    normals = held_back(run) if good is None else [Normal(path) for path in find_images(good)]
    if not normals:
        raise ValueError(
            f"{good} holds no image" if good is not None else f"{run} held no normal image back: give --good"
        )
    seen = trained_on(run) if good is not None else frozenset()
    few = good is not None and len(normals) < WHOLE
    rates = {"rate": rate, "reject_rate": reject_rate, "pixel_rate": pixel_rate}
    calibration = fit(inspector, normals, **rates, cut=few, seen=seen)
    calibration.save(run / CALIBRATION)
    explain(calibration, console, default=good is None)
    return calibration


def fit(
    inspector: Inspector,
    normals: Iterable[Normal],
    *,
    rate: float = 0.01,
    reject_rate: float = 0.001,
    pixel_rate: float = 0.05,
    cut: bool = False,
    seen: frozenset[str] = frozenset(),
) -> Calibration:
    """Thresholds from whole normal images or, with `cut` and where any is only a part, from tiles of up to TILE pixels.

    A file that comes twice counts once. `seen`: SHA-256 of training images; some among the normals are a warning.
    """
    normals = list(normals)
    whole = not cut and all(normal.box is None for normal in normals)
    scores: list[float] = []
    peaks: list[float] = []
    hashes: set[str | None] = set()
    notes: list[str] = []
    pixels = tiled = repeated = 0
    progress = Console(stderr=True)
    for normal in track(normals, "normal images", console=progress, transient=True, disable=not progress.is_terminal):
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
            cutter = Cutter(normal.box or (0, 0, picture.content, picture.width))
            inspection = inspector(picture, sink=_drop if whole else cutter)
        if whole:
            scores.append(inspection.score)
            peaks.append(inspection.peak)
        else:
            scores += cutter.scores
            peaks += cutter.peaks
            pixels += picture.content * picture.width
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


def held_back(run: Path) -> list[Normal]:
    """What training held back, as the run's split.json tells."""
    split = read_json(run / "split.json")
    try:
        return [
            Normal(Path(one["path"]), str(one["sha256"]), None if one["box"] is None else _box(one["box"]))
            for one in split["held"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run / 'split.json'} does not say what was held back ({error!r}): train again") from error


def trained_on(run: Path) -> frozenset[str]:
    """SHA-256 of the images of which pixels were trained on, as card.json tells."""
    card: dict[str, Any] = read_json(run / "card.json")
    unseen = {normal.sha256 for normal in held_back(run) if normal.box is None}
    return frozenset(image["sha256"] for image in card["data"]["images"]) - unseen


def explain(calibration: Calibration, console: Console, *, default: bool) -> None:
    """Prints the thresholds and what they mean."""
    table = Table("threshold", "value", "normal images above", box=None, pad_edge=False)
    table.add_row("review (image score)", f"{calibration.review:.4g}", f"{calibration.rate:.3%} wanted")
    table.add_row("reject (image score)", f"{calibration.reject:.4g}", f"{calibration.reject_rate:.3%} wanted")
    table.add_row("defect (map)", f"{calibration.pixel:.4g}", f"{calibration.pixel_rate:.3%} wanted")
    console.print(table)
    assuming = ", which assumes independent tiles" if calibration.unit == "tiles" else ""
    console.print(
        f"From {calibration.n} normal {calibration.unit}: they support a false-alarm rate of at most "
        f"{calibration.bound:.2%} at the review threshold (95 % confidence{assuming})."
    )
    for warning in calibration.warnings:
        console.print(f"Warning: {warning}.", markup=False)
    console.print(
        "An image that scores above the review threshold, or shows a region above the defect threshold, should be "
        "looked at; one above the reject threshold looks like hardly any good image did."
    )
    if default:
        console.print(
            "These thresholds come from images taken with the training images; good images from the line where the "
            "model will work are better: anomalib-gan calibrate RUN --good DIR."
        )


def _box(value: list[int]) -> Box:
    top, left, bottom, right = value
    return int(top), int(left), int(bottom), int(right)


def _drop(_top: int, _rows: NDArray[np.float32]) -> None:
    """A sink for those who only want the score."""


def command(
    run: Path = typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it."),
    good: Path | None = typer.Option(
        None, help="Folder of good images from the line where the model will work; default: what training held back."
    ),
    rate: float = typer.Option(
        0.01, help="Share of good images that may go to review by their score (0.01: one in a hundred)."
    ),
    reject_rate: float = typer.Option(0.001, help="Share of good images that may be rejected."),
    pixel_rate: float = typer.Option(0.05, help="Share of good images that may show any defect."),
    info_bar: str = typer.Option("auto", help="Rows at the bottom that are no image; `auto` reads or finds them."),
    bits: int | None = typer.Option(None, help="Significant bits, such as 12 for a 12-bit detector in 16-bit files."),
    white: float | None = typer.Option(None, help="Grey level of white; floating-point TIFFs need it."),
    rescale: bool = typer.Option(False, help="Resample images whose pixel size differs from the training images'."),
    device: str = typer.Option("auto", help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."),
    tile: int = typer.Option(1024, help="Side in pixels of the tiles that large images are cut into."),
    threads: int | None = typer.Option(None, help="Processor threads of the network."),
) -> None:
    """Set the thresholds of a trained model, from normal images only.

    Without `--good` it uses the normal images, or parts of them, that training held back. Good images from the line on
    which the model will work are better: they know its lighting, its charging and its operators. The thresholds are
    order statistics of the normal scores, so n images cannot support a rate much below 1/n; what they do support is
    told.

    Give the options from `--info-bar` on as you will give them to `score`.
    """
    calibrate(
        run,
        good=good,
        rate=rate,
        reject_rate=reject_rate,
        pixel_rate=pixel_rate,
        info_bar=rows_of_bar(info_bar),
        bits=bits,
        white=white,
        rescale=rescale,
        device=device,
        tile=tile,
        threads=threads,
    )


def rows_of_bar(text: str) -> Literal["auto"] | int:
    """The value of --info-bar."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither `auto` nor a number of rows", param_hint="--info-bar")
    return int(text)
