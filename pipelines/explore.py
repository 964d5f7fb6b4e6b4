"""What a trained generator is good for: a sub-command for each use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines import options

app = typer.Typer(
    no_args_is_help=True, help="See what a trained generator can do, measured: a sub-command for each use."
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model that draws images from codes.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Progress = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON file to tell other programs how far it is: step, steps, seconds_left."),
]


@app.callback()
def explore() -> None:
    """See what a trained generator can do, measured: a sub-command for each use."""


@app.command("restore")
def restore_command(
    run: Run,
    out: Out,
    degradation: Annotated[str, typer.Option(help="`noise`, `blur` or `hole`.")],
    images: Annotated[
        Path | None,
        typer.Argument(metavar="[IMAGES]", help="Normal image, or a folder; default: what the training held back."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Of noise sigma as a share of white (0.1), of a blur sigma in px (2), of holes their diameter (24 px)."
        ),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Image that is white in the hole, instead of drawn holes.")] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="The images are degraded already, in this way: no figures, restored images.")
    ] = False,
    mu: Annotated[
        float | None, typer.Option(help="Weight of |z|^2; default: found on normal pixels of the training.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each search.")] = 300,
    most: Annotated[int, typer.Option(help="Images at most, evenly spread.")] = 8,
    side: Annotated[int | None, typer.Option(help="Only the middle of each image, of so many px.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and of drawn holes.")] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Restore images from a known degradation with the generator as prior, and measure it against plain filters.

    Normal images are degraded by noise, blur or holes. Of all images that the generator can draw, the one that would
    look like this is searched for: z* = argmin |A(G(z)) - y|^2 + mu |z|^2. PSNR and SSIM of that, of the same with a
    plain filter of what it leaves, and of the plain filter alone with its best setting, are written to OUT/restore.md
    and .json, with a picture of each image. Where the filter wins, the text says so.
    """
    from pipelines.restoring import restore

    text = restore(
        run, images, out=out, kind=degradation, strength=strength, mask=mask, as_is=as_is, mu=mu, steps=steps,
        most=most, side=side, seed=seed, device=device, threads=threads, known=known, progress=progress,
    )  # fmt: skip
    typer.echo(f"{text}\nwritten to {out}")


@app.command("invert")
def invert_command(
    run: Run,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    out: Out,
    move: Annotated[
        str | None,
        typer.Option(metavar="PROPERTY", help="Move the codes along this property, and draw what comes of it."),
    ] = None,
    directions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The directions.json of `explore directions`; without it they are found now."
        ),
    ] = None,
    by: Annotated[float, typer.Option(help="How far, in sigmas of the codes; negative for the other way.")] = 2.0,
    mu: Annotated[float, typer.Option(min=0, help="Weight of |z|^2: how much the prior has to say.")] = 0.003,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the search.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the samples that directions are found from.")] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Find the codes from which the generator draws a real image best, and edit the image by them.

    The search begins with the encoder's codes or, without an encoder, with those of each patch by itself. Of an edit
    both are shown: what the generator draws from the moved codes, and the image itself with only the difference that
    the move makes. Writes OUT/invert.md, .json and .png, drawn.png, codes.npz, edited.png and transferred.png.
    """
    from pipelines.inverting import invert

    text = invert(
        run, image, out=out, move=move, directions=directions, by=by, mu=mu, steps=steps, seed=seed, device=device,
        threads=threads, known=known, progress=progress,
    )  # fmt: skip
    typer.echo(f"{text}\nwritten to {out}")
