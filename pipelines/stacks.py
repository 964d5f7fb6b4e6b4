"""Stacks of slices: what calibrate, score and evaluate are to images, for models of volumes."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from anomalib_gan import labelled, terminal
from anomalib_gan.opening import open_volumes, store_calibration
from anomalib_gan.records.stacks import score_stacks
from anomalib_gan.runtime import calibrating
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.image import find_images
from anomalib_gan.runtime.stack import open_stack
from anomalib_gan.runtime.volume import TILE, VolumeInspector
from pipelines import options
from pipelines.evaluate import place_of

Bar = Literal["auto"] | int
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model of volumes, as `train` made it.")]
Tile = Annotated[int, typer.Option(help="Side in voxels of the blocks that large stacks are cut into.")]

app = typer.Typer(no_args_is_help=True, help="Calibrate, score and evaluate a model of volumes, on stacks of slices.")


@app.callback()
def stacks() -> None:
    """Calibrate, score and evaluate a model of volumes, such as `gan3d`, on stacks of slices.

    A stack is a multi-page TIFF with a page for every slice of a tomogram or a FIB-SEM series.
    """


def opened(
    run: str | os.PathLike[str],
    device: str,
    tile: int,
    threads: int | None,
    info_bar: Bar,
    bits: int | None,
    white: float | None,
    calibrated: bool = True,
) -> VolumeInspector:
    """The run's inspector, which reads stacks with these options; without `bits` and `white` those of the training."""
    inspector = open_volumes(run, device=device, tile=tile, threads=threads, calibrated=calibrated)
    bits, white = levels(read_card(run), bits, white, tell=terminal.note)
    inspector.opener = partial(open_stack, info_bar=info_bar, bits=bits, white=white)
    return inspector


def calibrate(
    run: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    rate: float = 0.01,
    reject_rate: float = 0.001,
    pixel_rate: float = 0.05,
    info_bar: Bar = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
) -> Calibration:
    """`pipelines.calibrate` for a model of volumes: thresholds from the normal stacks that training held back, or from
    those in the folder `good`; of fewer than `calibrating.WHOLE`, from blocks of them.
    """
    inspector = opened(run, device, tile, threads, info_bar, bits, white, calibrated=False)
    seen = frozenset() if good is None else calibrating.trained_on(run)
    normals = calibrating.held_back(run) if good is None else [calibrating.Normal(path) for path in find_images(good)]
    if not normals:
        raise ValueError(f"{run} held no normal stack back: give --good" if good is None else f"{good} holds no stack")
    calibration = calibrating.fit(
        inspector, normals, rate=rate, reject_rate=reject_rate, pixel_rate=pixel_rate,
        cut=good is not None and len(normals) < calibrating.WHOLE, seen=seen,
        progress=partial(terminal.track, what="stacks"),
    )  # fmt: skip
    store_calibration(run, calibration)
    return calibration


def score(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    maps: bool = True,
    overlays: bool = True,
    info_bar: Bar = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
) -> Counter[str]:
    """`records.stacks.score_stacks` with the model and the thresholds of a run."""
    inspector = opened(run, device, tile, threads, info_bar, bits, white)
    if inspector.calibration is None:
        raise ValueError(f"{run} has no calibration, so no verdicts: run `anomalib-gan stacks calibrate {run}` first")
    settings = {"info_bar": info_bar, "bits": bits, "white": white}
    return score_stacks(
        inspector, folder, out, maps=maps, overlays=overlays, settings=settings,
        progress=partial(terminal.track, what="stacks"),
    )  # fmt: skip


def evaluate(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    info_bar: Bar = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
) -> dict[str, Any]:
    """`labelled.evaluate` for a model of volumes, on a set in MVTec layout whose images and masks are stacks."""
    inspector = opened(run, device, tile, threads, info_bar, bits, white)
    progress = partial(terminal.track, what="stacks")
    return labelled.evaluate(inspector, dataset, out or place_of(run, dataset), progress=progress)


@app.command("calibrate")
def calibrate_command(
    run: Run,
    good: Annotated[Path | None, typer.Option(help="Folder of good stacks; default: what training held back.")] = None,
    rate: Annotated[float, typer.Option(help="Share of good stacks that may go to review by their score.")] = 0.01,
    reject_rate: Annotated[float, typer.Option(help="Share of good stacks that may be rejected.")] = 0.001,
    pixel_rate: Annotated[float, typer.Option(help="Share of good stacks that may show any defect.")] = 0.05,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    tile: Tile = TILE,
    threads: options.Threads = None,
) -> None:
    """Set the thresholds of a model of volumes, from normal stacks only. Few stacks are counted by blocks of them."""
    calibration = calibrate(
        run, good=good, rate=rate, reject_rate=reject_rate, pixel_rate=pixel_rate, info_bar=info_bar, bits=bits,
        white=white, device=device, tile=tile, threads=threads,
    )  # fmt: skip
    terminal.print_calibration(calibration, Console(highlight=False), default=good is None)


@app.command("score")
def score_command(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the stacks, with all its sub-folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; given again, the job goes on where it ended.")],
    maps: Annotated[bool, typer.Option(help="Write the maps: 16-bit TIFF, a page for every slice.")] = True,
    overlays: Annotated[bool, typer.Option(help="Write the worst slice of each stack under its heat map.")] = True,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    tile: Tile = TILE,
    threads: options.Threads = None,
) -> None:
    """Inspect a folder of stacks: verdicts, maps of voxels, defects with their boxes and volumes.

    OUT/results.csv holds a row per stack, defects.csv a row per defect (front, top, left, back, bottom, right; voxels,
    half-open). Exit code: 0 all accepted, 1 any review, reject or invalid file, 2 nothing could be run.
    """
    counts = score(
        run, folder, out=out, maps=maps, overlays=overlays, info_bar=info_bar, bits=bits, white=white, device=device,
        tile=tile, threads=threads,
    )  # fmt: skip
    console = terminal.plain()
    for verdict, count in sorted(counts.items()):
        console.print(f"{verdict}: {count}")
    console.print(f"written to {out}")
    raise typer.Exit(int(set(counts) != {"accept"}))


@app.command("evaluate")
def evaluate_command(
    run: Run,
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Stacks in MVTec layout: test/good/\\*, test/KIND/\\*, ground_truth/KIND/NAME_mask.tif.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; default RUN/evaluation/DATASET.")] = None,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    tile: Tile = TILE,
    threads: options.Threads = None,
) -> None:
    """Measure a model of volumes on stacks with masks; pixel figures are of voxels, image figures of stacks."""
    report = evaluate(
        run, dataset, out=out, info_bar=info_bar, bits=bits, white=white, device=device, tile=tile, threads=threads
    )
    terminal.print_evaluation(report, out or place_of(run, dataset), Console())
