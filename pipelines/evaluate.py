"""Evaluate: how well a trained run finds the defects of a labelled dataset in MVTec layout."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from anomalib_gan import labelled, terminal
from anomalib_gan.opening import card_folder, open_inspector
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.image import open_image
from pipelines import options

evaluate_dataset = partial(labelled.evaluate, progress=terminal.track)
"""`labelled.evaluate` with a bar on the terminal."""


def evaluate(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    rescale: bool = False,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
    known: str | None = None,
) -> dict[str, Any]:
    """`labelled.evaluate` for a run's folder; `out` defaults to run/evaluation/<dataset name>.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; without the latter two those of the training
    hold. `rescale`, `device`, `tile`, `threads` and `known` are those of `open_inspector`.
    """
    inspector = open_inspector(run, device=device, tile=tile, threads=threads, rescale=rescale, known=known)
    bits, white = levels(read_card(card_folder(run)), bits, white, tell=terminal.note)
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    return evaluate_dataset(inspector, dataset, out or place_of(run, dataset))


def place_of(run: str | os.PathLike[str], dataset: str | os.PathLike[str]) -> Path:
    """Where the evaluation of a run on a data set goes."""
    return Path(run) / "evaluation" / Path(dataset).resolve().name


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model; calibrated, for defects hit.")],
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Labelled images in MVTec layout: test/good/\\*, test/KIND/\\*, ground_truth/KIND/NAME_mask.png.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; default RUN/evaluation/DATASET.")] = None,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    rescale: options.Rescale = False,
    device: options.Device = "auto",
    tile: options.Tile = 1024,
    threads: options.Threads = None,
    known: options.Class = None,
) -> None:
    """Measure a run on images with masks: AUROC, AP, AUPRO, F1-max, defects hit, plots, best and worst image.

    Without `--bits` and `--white` those of the training hold.
    """
    report = evaluate(
        run, dataset, out=out, info_bar=info_bar, bits=bits, white=white, rescale=rescale, device=device, tile=tile,
        threads=threads, known=known,
    )  # fmt: skip
    terminal.print_evaluation(report, out or place_of(run, dataset), Console())
