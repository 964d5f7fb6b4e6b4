"""Translate: a folder of images -> the same images as those of the second domain of a trained translator."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from anomalib_gan import terminal
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.image import open_image
from anomalib_gan.translation import Outcome, Translator, translate_folder
from pipelines import options


def translate(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
) -> Outcome:
    """Translates all images of `folder` with the translator of `run` into `out`; see `translate_folder`.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; without the latter two those of the training
    hold. `tile` is the side in px of the pieces that large images are cut into.
    """
    if threads:
        torch.set_num_threads(threads)
    translator = Translator.load(run, device=device, tile=tile)
    bits, white = levels(read_card(run), bits, white, tell=terminal.note)
    settings = {"info_bar": info_bar, "bits": bits, "white": white}
    return translate_folder(
        translator, folder, out,
        opener=partial(open_image, info_bar=info_bar, bits=bits, white=white), settings=settings,
        progress=partial(terminal.scoring, what="translating"),
    )  # fmt: skip


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a translator, as `train --to` made it.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the images to translate, with all its sub-folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the translations; given again, the job goes on.")],
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    tile: options.Tile = 1024,
    threads: options.Threads = None,
) -> None:
    """Translate a folder of images with a trained translator.

    Every image becomes a PNG of 8 bits under the same relative name in OUT, without its info bar. Large images are
    worked through in tiles that overlap by all that the network sees, so no seam shows. What cannot be read is told,
    and the others are translated. Without `--bits` and `--white` those of the training hold.

    Exit code: 0 all translated, 1 some could not be, 2 nothing could be run. A job that was stopped, by Ctrl-C (130)
    or a power cut, goes on when the same command is given again.
    """
    found = translate(
        run, folder, out=out, info_bar=info_bar, bits=bits, white=white, device=device, tile=tile, threads=threads
    )
    for reason in found.failed:
        terminal.note(f"failed: {reason}")
    there = f", {found.there} were there already" if found.there else ""
    failed = f", {len(found.failed)} failed" if found.failed else ""
    console = terminal.plain()
    console.print(f"{found.translated} images translated{there}{failed}: {out}")
    if found.interrupted:
        console.print("Interrupted: run the same command again to go on where this ended.")
    raise typer.Exit(found.code)
