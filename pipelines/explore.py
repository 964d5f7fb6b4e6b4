"""What a trained generator is good for: a sub-command for each use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines import options

app = typer.Typer(
    no_args_is_help=True, help="See what a trained generator can do, measured: a sub-command for each use."
)


@app.callback()
def explore() -> None:
    """See what a trained generator can do, measured: a sub-command for each use."""


Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it.")]
Out = Annotated[
    Path, typer.Option(help="Folder for the sheet of pictures, .png, the figures, .json, and the page, .md.")
]
Size = Annotated[
    Any, typer.Option(parser=options.height_and_width, metavar="WIDTHxHEIGHT", help="Size of each picture, in px.")
]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
Count = Annotated[int, typer.Option(min=1, help="Pictures in a row.")]
Samples = Annotated[int, typer.Option(min=10, help="Samples whose properties are measured.")]
Progress = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON file to tell other programs how far it is: step, steps, seconds_left."),
]


# --- what the codes are good for --------------------------------------------------------------------------------------


@app.command("sample")
def sample_command(
    run: Run,
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 16,
    size: Size = "256x256",
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images of the material, whose properties stand beside.")
    ] = None,
    seed: Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Draw samples of any size, and measure them: thickness, density and orientation of the fibres, brightness.

    Writes OUT/samples/000.png and so on, and sample.png, .json, .md.
    """
    from pipelines.exploring import How
    from pipelines.latent import sample

    typer.echo(sample(run, How(out, size, seed, device, threads, known, progress), count=count, against=against))


@app.command("interpolate")
def interpolate_command(
    run: Run,
    out: Out,
    image: Annotated[
        list[Path], typer.Option(help="Go between the codes of images, two or four; by default between samples.")
    ] = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=2, help="Pictures on the way, with both ends.")] = 9,
    side: Annotated[int, typer.Option(min=2, help="Pictures along each side of the grid between four codes.")] = 5,
    size: Size = "128x128",
    seed: Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Go from one code to another, straight and on a sphere, and over a grid between four.

    Tabulates the length of the codes, the contrast and how evenly the picture changes. The code of an image is its
    encoder's or, of a model without one, found by inversion; the middle of the image is taken. Writes
    interpolation.png, .json, .md.
    """
    from pipelines.exploring import How
    from pipelines.latent import interpolate

    how = How(out, size, seed, device, threads, known, progress)
    typer.echo(interpolate(run, how, images=image, count=count, side=side))


SET = "a set of codes: `all` samples, the highest fifth of them in a PROPERTY, `PROPERTY:high`, the lowest, "
SET += "`PROPERTY:low`, or a folder of images."


@app.command("arithmetic")
def arithmetic_command(
    run: Run,
    out: Out,
    a: Annotated[str, typer.Option("--a", metavar="SET", help=f"A, {SET}")] = "density:high",
    b: Annotated[str, typer.Option("--b", metavar="SET", help="B, likewise.")] = "density:low",
    c: Annotated[str, typer.Option("--c", metavar="SET", help="C, likewise.")] = "all",
    jitter: Annotated[
        float | None,
        typer.Option(min=0, help="How much of the prior is added to a mean code at every place; default: 0.71."),
    ] = None,
    count: Count = 5,
    samples: Samples = 256,
    size: Size = "192x192",
    seed: Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Reckon with codes: the mean of A less the mean of B plus the mean of C, drawn several times with jitter.

    Tabulates the properties of all four, and how far C was moved beside how far A is from B. Writes arithmetic.png,
    .json, .md.
    """
    from pipelines.exploring import How
    from pipelines.latent import arithmetic

    how = How(out, size, seed, device, threads, known, progress)
    typer.echo(arithmetic(run, how, a=a, b=b, c=c, jitter=jitter, count=count, samples=samples))


@app.command("traverse")
def traverse_command(
    run: Run,
    out: Out,
    channel: Annotated[
        list[int], typer.Option(help="Channel of the code, from 0; may be repeated. Default: those that do most.")
    ] = [],  # noqa: B006
    reach: Annotated[float, typer.Option(min=0, help="From minus this to this; the prior's spread is 1.")] = 2.5,
    count: Count = 7,
    size: Size = "128x128",
    seed: Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Change one channel of the code at all places, and leave the others.

    Tabulates what a step of 1 does to each property. Writes traversal.png, .json, .md.
    """
    from pipelines.exploring import How
    from pipelines.latent import traverse

    how = How(out, size, seed, device, threads, known, progress)
    typer.echo(traverse(run, how, channels=channel, reach=reach, count=count))


@app.command("directions")
def directions_command(
    run: Run,
    out: Out,
    property: Annotated[
        list[str],
        typer.Option(help="What the sheet moves: thickness, density, orientation, brightness; may be repeated."),
    ] = [],  # noqa: B006
    having: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images with something, for one more direction; see --lacking.")
    ] = None,
    lacking: Annotated[Path | None, typer.Option(metavar="DIR", help="Images without it.")] = None,
    reach: Annotated[float, typer.Option(min=0, help="From minus this to this; the prior's spread is 1.")] = 2.0,
    count: Count = 5,
    samples: Samples = 256,
    size: Size = "192x192",
    seed: Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    known: options.Class = None,
    progress: Progress = None,
) -> None:
    """Find the direction of the code in which each property rises, and what else moves with it.

    Directions are differences of mean codes, regressions on what is measured on samples, and these at right angles to
    each other. The table of entanglement says how far each moves every property; another, what is left free in the
    code. Writes directions.png, .json with the vectors, .md.
    """
    from pipelines.exploring import How
    from pipelines.latent import directions

    how = How(out, size, seed, device, threads, known, progress)
    typer.echo(
        directions(
            run, how, properties=property, having=having, lacking=lacking, samples=samples, reach=reach, count=count
        )
    )


# --- a real image in the generator's terms ----------------------------------------------------------------------------


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


# --- what its networks are good for ----------------------------------------------------------------------------------


@app.command("transfer")
def transfer_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model with an encoder or a critic.")],
    labelled: Annotated[Path, typer.Option(metavar="DIR", help="A folder of crops for each class of defects.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where transfer.md and transfer.json go.")],
    labels: Annotated[str, typer.Option(metavar="N,N,...", help="Labels a class.")] = "5,10,20",
    repeats: Annotated[int, typer.Option(min=2, help="Draws of labels.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fine-tuning.")] = 60,
    seed: Annotated[int, typer.Option(help="Of draws, untrained networks and fine-tuning.")] = 0,
    threads: options.Threads = None,
) -> None:
    """Compare a trained encoder and critic with untrained ones as features for naming defects from few labels.

    Each network is used as it is, with a logistic regression on its features, and then trained on a little further;
    the same network untrained goes the same two ways on the same labels. Cut the crops about as large as
    a training patch, with the defect in their middle, which is all that is named.
    """
    from anomalib_gan import terminal
    from pipelines.transferring import transfer

    counts = [int(one) if one.strip().isdecimal() else 0 for one in labels.split(",")]
    if min(counts) < 1:
        raise typer.BadParameter(
            f"{labels!r} is no list of numbers above 0: write such as 5,10,20", param_hint="--labels"
        )
    transfer(run, labelled, out=out, labels=counts, repeats=repeats, steps=steps, seed=seed, threads=threads)
    console = terminal.plain()
    console.print((out / "transfer.md").read_text(encoding="utf-8"), markup=False)
    console.print(f"written to {out}")
