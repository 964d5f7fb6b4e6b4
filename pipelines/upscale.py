"""Upscale: the images of a folder, enlarged by a run that has learnt to; or runs compared with interpolation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from anomalib_gan import terminal
from anomalib_gan.applying import INVALID, TILE, Operator, Outcome, apply
from anomalib_gan.benchmarking import between, put
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import find_images, open_image
from anomalib_gan.runtime.inspector import Opener
from anomalib_gan.upscaling import compare, table, upscaler
from pipelines import options

LISTED = 10  # images with a reason that are named one by one


def upscale(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
) -> Outcome:
    """Enlarges all images of `folder` by the run's factor into `out`; see `applying.apply`, which says what it raises.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; without the latter two those of the training
    hold. `tile`: px of the image that are enlarged at a time.
    """
    operator, opener = prepared(run, info_bar, bits, white, device, tile, threads)
    return apply(operator, folder, out, opener=opener, progress=partial(terminal.scoring, what="enlarging"))


def comparison(
    runs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    device: str = "auto",
    tile: int = TILE,
    threads: int | None = None,
    readme: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """`upscaling.compare` of the runs on all images of `folder`: `out`/compare.json and compare.md.

    With `readme` the table is also put between that file's markers. Other options as for `upscale`.
    """
    if readme is not None:  # before minutes are spent
        between(Path(readme).read_text(encoding="utf-8"), "upscale", "")
    made = {Path(run).resolve().name: prepared(run, info_bar, bits, white, device, tile, threads) for run in runs}
    if len(made) < len(runs):
        raise ValueError("two of the runs have the same name, by which the table tells them apart: rename one")
    folder, out = Path(folder), Path(out)
    images = {path.relative_to(folder).as_posix(): path for path in find_images(folder)}
    if not images:
        raise ValueError(f"{folder} holds no image: give the folder with the images")
    operators = {name: operator for name, (operator, _) in made.items()}
    opener = next(opener for _, opener in made.values())
    report = compare(operators, images, opener=opener, track=terminal.track)
    text = table(report)
    write_json(out / "compare.json", report)
    write_bytes(out / "compare.md", text.encode())
    put(readme, "upscale", text)
    return report


def prepared(
    run: str | os.PathLike[str],
    info_bar: Literal["auto"] | int,
    bits: int | None,
    white: float | None,
    device: str,
    tile: int,
    threads: int | None,
) -> tuple[Operator, Opener]:
    """The run as an operator, and what opens images as its training did."""
    if threads:
        torch.set_num_threads(threads)
    bits, white = levels(read_card(run), bits, white, tell=terminal.note)
    seen = {"info_bar": info_bar, "bits": bits, "white": white}
    return upscaler(run, device=device, tile=tile, mark=seen), partial(
        open_image, info_bar=info_bar, bits=bits, white=white
    )


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folder of a trained model that enlarges; with --compare several."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the images, with all its sub-folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; given again, the job goes on where it ended.")],
    comparing: Annotated[
        bool,
        typer.Option("--compare", help="Make every image smaller first, and tell how near the restored one comes."),
    ] = False,
    readme: Annotated[
        Path | None, typer.Option(help="With --compare, also put the table between the markers of this file.")
    ] = None,
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    device: options.Device = "auto",
    tile: options.Tile = TILE,
    threads: options.Threads = None,
) -> None:
    """Enlarge the images of a folder, 2 or 4 times, by a model that has learnt how the material looks (srgan).

    It has learnt to restore images that are that much coarser than those of its training, so give it images of that
    lower magnification; at the training's own, nobody has ever seen what it draws. **What is drawn is likely, and not
    measured**: do not look for defects in it. Results are PNG files under the same relative names, of 16 bits where the
    image had more than 8, and with the pixel size where it is known.

    With `--compare` nothing is enlarged for keeps: a table, OUT/compare.md and .json, tells PSNR and SSIM of bicubic
    interpolation and of the runs.

    Exit code: 0 done, 1 some images could not be enlarged, 2 nothing could be run, 130 stopped by Ctrl-C; the same
    command goes on.
    """
    given = {"info_bar": info_bar, "bits": bits, "white": white, "device": device, "tile": tile, "threads": threads}
    if comparing:
        report = comparison(runs, folder, out=out, readme=readme, **given)
        terminal.plain().print(table(report), end="")
        tell(report["invalid"], "could not be compared")
        raise typer.Exit(int(bool(report["invalid"])))
    if len(runs) > 1:
        raise ValueError(f"{len(runs)} runs are given, and one enlarges: give one, or --compare them")
    if readme is not None:
        raise ValueError(f"--readme {readme} takes the table of --compare: add that, or leave it out")
    try:
        outcome = upscale(runs[0], folder, out=out, **given)
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on", err=True)
        raise typer.Exit(130) from None
    terminal.plain().print(", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items())) + f": {out}")
    if outcome.unlike:
        first, size = next(iter(outcome.unlike.items()))
        terminal.note(
            f"warning: {len(outcome.unlike)} images are not of the magnification that the run has learnt to enlarge, "
            f"such as {first} of {size:.4g} um per pixel: what is drawn there is a guess"
        )
    tell(outcome.invalid, "could not be enlarged")
    raise typer.Exit(int(outcome.counts[INVALID] > 0))


def tell(invalid: dict[str, str], what: str) -> None:
    """Names what went wrong, on standard error."""
    if invalid:
        terminal.note(f"{len(invalid)} {what}:")
    for reason in list(invalid.values())[:LISTED]:
        terminal.note(f"  {reason}")
    if len(invalid) > LISTED:
        terminal.note(f"  and {len(invalid) - LISTED} more")
