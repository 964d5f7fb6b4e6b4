"""Score a folder: every image gets a map, a score, a verdict, its defects and a row in the results database."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from anomalib_gan import terminal
from anomalib_gan.opening import card_folder, open_inspector
from anomalib_gan.records import scoring
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector
from pipelines import options


def score(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    db: str | os.PathLike[str] | None = None,
    maps: bool = True,
    masks: bool = True,
    overlays: bool = True,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    rescale: bool = False,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
    known: str | None = None,
) -> int:
    """Scores all images of `folder` with the model and the thresholds of `run`; see `score_folder`.

    `db` is the database that several folders share, a SQLite file or the URL of a PostgreSQL database.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; without the latter two those of the training
    hold. `rescale`, `device`, `tile`, `threads` and `known` are those of `open_inspector`.
    """
    # Between two images their files are decoded and written, which needs the processor.
    inspector = open_inspector(run, device=device, tile=tile, threads=threads, rescale=rescale, spin=False, known=known)
    if inspector.calibration is None:
        raise ValueError(f"{run} has no calibration, so no verdicts: run `anomalib-gan calibrate {run}` first")
    card = read_card(card_folder(run))
    bits, white = levels(card, bits, white, tell=terminal.note)
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    settings = {"info_bar": info_bar, "bits": bits, "white": white, "rescale": rescale}
    return score_folder(
        inspector, folder, out, maps=maps, masks=masks, overlays=overlays, card=card, settings=settings, database=db
    )


def score_folder(
    inspector: Inspector,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    maps: bool = True,
    masks: bool = True,
    overlays: bool = True,
    card: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    database: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> int:
    """`records.scoring.score_folder`, shown on the terminal.

    Returns 0 when all images are accepted, 1 when any is for review, rejected or invalid, 130 after Ctrl-C.
    """
    outcome = scoring.score_folder(
        inspector, folder, out, maps=maps, masks=masks, overlays=overlays, card=card, settings=settings,
        database=database, progress=terminal.scoring,
    )  # fmt: skip
    warnings = inspector.calibration.warnings if inspector.calibration else ()
    terminal.print_outcome(outcome, warnings, console or Console(highlight=False))
    return outcome.code


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a trained and calibrated model, as `train` and `calibrate` made it."
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the images to inspect, with all its sub-folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; given again, the job goes on where it ended.")],
    db: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_URL",
            help="Database that several folders share, a SQLite file or postgresql+psycopg://...; else OUT/results.db.",
        ),
    ] = None,
    maps: Annotated[bool, typer.Option(help="Write the maps: 16-bit TIFF on the fixed scale of normal images.")] = True,
    masks: Annotated[
        bool, typer.Option(help="Write the masks: 255 where the map is above the pixel threshold, else 0.")
    ] = True,
    overlays: Annotated[
        bool, typer.Option(help="Write the overlays: the image under its heat map, defects outlined.")
    ] = True,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    rescale: options.Rescale = False,
    device: options.Device = "auto",
    tile: options.Tile = 1024,
    threads: options.Threads = None,
    known: options.Class = None,
) -> None:
    """Inspect a folder of images: maps, scores, verdicts, defects, tables and a report.

    An image is **accepted**, left for **review** (its score is above the review threshold, or a region of it is above
    the pixel threshold) or **rejected** (its score is above the reject threshold). Open OUT/report.html first;
    results.csv and results.parquet hold a row per image, defects.csv a row per defect. Without `--bits` and `--white`
    those of the training hold.

    Exit code: 0 all accepted, 1 any review, reject or invalid file, 2 nothing could be run. A job that was stopped, by
    Ctrl-C (130) or a power cut, goes on when the same command is given again.
    """
    code = score(
        run, folder, out=out, db=db, maps=maps, masks=masks, overlays=overlays, info_bar=info_bar, bits=bits,
        white=white, rescale=rescale, device=device, tile=tile, threads=threads, known=known,
    )  # fmt: skip
    raise typer.Exit(code)
