"""Calibrate: thresholds for verdicts and defects, from normal images that the model never saw."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from anomalib_gan import terminal
from anomalib_gan.opening import card_folder, open_inspector, store_calibration
from anomalib_gan.records.reviewed import located
from anomalib_gan.runtime.calibrating import WHOLE, Normal, fit, held_back, trained_on
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.image import find_images, open_image
from pipelines import options
from pipelines.records import opened


def calibrate(
    run: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    add_reviewed: str | os.PathLike[str] | None = None,
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
    known: str | None = None,
    console: Console | None = None,
) -> Calibration:
    """Fits thresholds to the normal images that training held back, or to good ones from elsewhere, and stores them.

    Those are the images in the folder `good` and, of the results database `add_reviewed` (a file or a URL), those that
    all who reviewed them call normal, but for those that the model was trained on.

    The options from `info_bar` on must be those that images will be scored with; without `bits` and `white` those of
    the training hold. `known`: see `open_inspector`; of the images held back those of this class are then taken. A run
    has one calibration at a time. Raises ValueError where an image is missing, damaged or no longer the one that was
    held back, and leaves the old calibration as it was.
    """
    inspector = open_inspector(
        run, device=device, tile=tile, threads=threads, rescale=rescale, calibrated=False, known=known
    )
    trained = card_folder(run)
    card = read_card(trained)
    bits, white = levels(card, bits, white, tell=terminal.note)
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    console = console or Console(highlight=False)
    default = good is None and add_reviewed is None
    seen = frozenset() if default else trained_on(trained)
    normals = held_back(trained) if default else good_images(good, add_reviewed, seen, console)
    if known is not None and default:
        kinds = {image["path"]: image.get("class") for image in card["data"]["images"]}
        normals = [normal for normal in normals if kinds.get(str(normal.path)) == known]
    if not normals:
        raise ValueError(f"{run} held no normal image back: give --good")
    calibration = fit(
        inspector, normals, rate=rate, reject_rate=reject_rate, pixel_rate=pixel_rate,
        cut=not default and len(normals) < WHOLE, seen=seen, progress=terminal.track,
    )  # fmt: skip
    if add_reviewed is not None:
        reviewed = sum(one.sha256 is not None for one in normals)
        biased = (
            f"{reviewed} of the good images come from reviews, which look at alarms more than at other images: fewer "
            f"than {rate:.2%} of good images will go to review, and more defects may be missed"
        )
        calibration = replace(calibration, warnings=(*calibration.warnings, biased))
    store_calibration(run, calibration)
    terminal.print_calibration(calibration, console, default=default)
    return calibration


def good_images(
    good: str | os.PathLike[str] | None,
    database: str | os.PathLike[str] | None,
    seen: frozenset[str],
    console: Console,
) -> list[Normal]:
    """The images of the folder `good`, without a hash, and with theirs those of the database that all who reviewed them
    call normal, but for those `seen` in training. ValueError where either gives nothing.
    """
    normals = [] if good is None else [Normal(path) for path in find_images(good)]
    if good is not None and not normals:
        raise ValueError(f"{good} holds no image")
    if database is None:
        return normals
    with opened(database) as archive:
        found, name = archive.reviewed().normal, archive.name
    files, problems = located(one for one in found if one.sha256 not in seen)
    for problem in problems:
        console.print(f"Warning: left out: {problem}.", markup=False)
    known = sum(one.sha256 in seen for one in found)
    if not files:
        raise ValueError(
            f"{name} has no good image: of {len(found)} that are normal by their reviews, {known} were trained on and "
            f"{len(problems)} cannot be had; review others, or calibrate with --good alone"
        )
    told = f"; {known} others are left out, for the model was trained on them" if known else ""
    console.print(f"{len(files)} good images are normal by their reviews in {name}{told}.", markup=False)
    return normals + [Normal(path, sha256) for sha256, path in files.items()]


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it.")],
    good: Annotated[
        Path | None,
        typer.Option(
            help="Folder of good images from the line where the model will work; default: what training held back."
        ),
    ] = None,
    add_reviewed: options.AddReviewed = None,
    rate: Annotated[
        float, typer.Option(help="Share of good images that may go to review by their score (0.01: one in a hundred).")
    ] = 0.01,
    reject_rate: Annotated[float, typer.Option(help="Share of good images that may be rejected.")] = 0.001,
    pixel_rate: Annotated[float, typer.Option(help="Share of good images that may show any defect.")] = 0.05,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    rescale: options.Rescale = False,
    device: options.Device = "auto",
    tile: options.Tile = 1024,
    threads: options.Threads = None,
    known: options.Class = None,
) -> None:
    """Set the thresholds of a trained model, from normal images only.

    Without `--good` it uses the normal images, or parts of them, that training held back. Good images from the line on
    which the model will work are better: they know its lighting, its charging and its operators. With `--add-reviewed`
    the images of earlier results that people called normal are good images, too, but for those it was trained on; they
    stand out more than most, so give them beside `--good`. The thresholds are
    order statistics of the normal scores, so n images cannot support a rate much below 1/n; what they do support is
    told.

    Give the options from `--info-bar` on as you will give them to `score`, also `--class`. Without `--bits` and
    `--white` those of the training hold.
    """
    calibrate(
        run, good=good, add_reviewed=add_reviewed, rate=rate, reject_rate=reject_rate, pixel_rate=pixel_rate,
        info_bar=info_bar, bits=bits, white=white, rescale=rescale, device=device, tile=tile, threads=threads,
        known=known,
    )  # fmt: skip
