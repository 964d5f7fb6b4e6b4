"""Paint: defects on the normal images of a folder, as a labelled data set in MVTec layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from anomalib_gan import checkpoint, data, terminal
from anomalib_gan.export import usable
from anomalib_gan.painting import PaintedSet, able, tasks
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.files import write_json
from anomalib_gan.runtime.image import open_image
from pipelines import options

TOLD = "painted.json"


def paint(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Paints with the mask_gan of `run` on the normal images of `folder`; what `PaintedSet` says of each, also in
    out/painted.json, which is written last.

    With `masks`, on the images that have one there; else on `count` images, each in turn and by default once, with a
    shape that is drawn. All that is drawn follows from `seed`. `info_bar`, `bits` and `white` are those of
    `runtime.image.open_image`; without the latter two those of the training hold. ValueError names what is wrong.
    """
    if masks is not None and count is not None:
        raise ValueError(f"--count {count} is for masks that are drawn: leave it or --masks out")
    if count is not None and count < 1:
        raise ValueError(f"{count} images are not possible: give at least 1")
    if threads:
        torch.set_num_threads(threads)
    model, state = checkpoint.load_model(run, usable(device), mapped=False)
    bits, white = levels(read_card(run), bits, white, tell=terminal.note)
    read = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    files, root = data.normal_files(folder), data.normal_folder(folder)
    todo = tasks(files, root, None if masks is None else Path(masks), count)
    if masks is not None and len(todo) < len(files):
        terminal.note(f"{len(files) - len(todo)} of {len(files)} images have no mask in {masks} and are left out")
    painter = PaintedSet(able(model, run, state["spec"]["name"]), Path(out), read, seed)
    found = [painter(task, number) for number, task in enumerate(terminal.track(todo))]
    told = {"run": str(Path(run).absolute()), "hash": state["hash"], "seed": seed, "images": found}
    write_json(Path(out) / TOLD, told)
    return found


def mean(found: Sequence[dict[str, Any]], key: str) -> float:
    """The mean of a figure over the images that have it."""
    return float(np.mean([one[key] for one in found if one[key] is not None] or [0.0]))


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained mask_gan.")],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NORMAL_DIR",
            help="Folder of normal images; of a data set in MVTec layout its train/good, or train.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of masks, called as their images; other images are left out."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Without --masks: how many images to paint; default: each once.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the masks that are drawn and of what is painted.")] = 0,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Paint defects on normal images: a labelled data set, in MVTec layout, without a single real defect.

    A mask says where; what the defect looks like is the model's, another for each connected part of the mask and for
    each seed. Writes test/painted, ground_truth/painted and, as they were, test/good, as 8-bit PNG; `evaluate` reads
    them. They are as real as the model: figures on them compare detectors, and are no promise for real defects.
    """
    found = paint(
        run, folder, out=out, masks=masks, count=count, seed=seed, info_bar=info_bar, bits=bits, white=white,
        device=device, threads=threads,
    )  # fmt: skip
    terminal.plain().print(
        f"{len(found)} images painted into {out}: mean change {mean(found, 'inside'):.1f} grey levels of 255 where the "
        f"masks are, {mean(found, 'outside'):.2f} elsewhere"
    )
