"""Train: a folder of normal images -> a run folder with a finished model, its curves, pictures and card."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from anomalib_gan import augmenting, models, terminal
from anomalib_gan.records.reviewed import located
from anomalib_gan.run_settings import JITTER, MINUTES, ZOOM, Settings, processes
from anomalib_gan.running import Job
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.specs import parse_params
from anomalib_gan.starting import Reviewed
from anomalib_gan.translating import Translation
from pipelines import options
from pipelines.records import opened

MODEL = "fcbigan"


def train(
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    model: str | None = None,
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    params: dict[str, Any] | None = None,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    flips: bool = True,
    jitter: float | None = None,
    zoom: float = ZOOM,
    checkpoint_every: float = 60.0,
    init_from: str | os.PathLike[str] | None = None,
    add_reviewed: str | os.PathLike[str] | None = None,
    augment_with: str | os.PathLike[str] | None = None,
    augment_share: float = augmenting.SHARE,
    compare_with: str | os.PathLike[str] | None = None,
    defects: str | os.PathLike[str] | None = None,
    progress: str | os.PathLike[str] | None = None,
) -> Path:
    """Trains `model` (MODEL, or that of `init_from`) on the normal images of `folder` and returns the run `out`.

    The length is `steps`, or else what fits into `minutes`: the speed is measured over the first rounds, then the
    number of steps is planned, and anew where the speed has changed, up to the middle; a resumed run keeps its
    plan. With `resume` an interrupted run goes on with the settings it was started with; `folder` may have moved.
    `params` are keywords of the model's constructor, `info_bar` the rows at the bottom of every image that are no
    image, `bits` and `white` the range of grey levels where the files do not state it
    (`runtime.image.open_image`). `checkpoint_every` is in seconds. `init_from` is a finished run of the same model,
    with whose weights the training begins; what that run held back stays held back. `add_reviewed` is a results
    database, a file or a URL: images that all who reviewed them call normal are trained on, too. `augment_with` is a
    finished run that feeds the training: of one that generates `augment_share` of each batch is generated patches, of
    one that paints as many defects join those that the model learns from; what that changed is told by synthetic
    defects, beside the figure of the run `compare_with`. `defects` is a data set in MVTec layout whose images with
    masks a model that paints learns from. `progress` is a file that tells how far the training is
    (`terminal.told_in`). With `to`, a folder of what the images of `folder` are to become, the model becomes a
    translator (`translating.Translation`). `jitter` is JITTER where it is None, and nothing for a translator. Errors:
    ValueError, OSError.
    """
    if to is not None and (jitter or init_from is not None or add_reviewed is not None):
        raise ValueError(
            "a translator learns from its two folders as they are: leave --jitter, --init-from and --add-reviewed out"
        )
    run, console = Path(out), terminal.plain()
    given = Settings(
        model=chosen(model, init_from), params=params or {}, seed=seed, minutes=None if steps else minutes,
        steps=steps, device=device, threads=threads, info_bar=info_bar, bits=bits, white=white, flips=flips,
        jitter=(JITTER if to is None else 0.0) if jitter is None else jitter, zoom=zoom, to=absolute(to),
        init_from=absolute(init_from), augment_with=absolute(augment_with), augment_share=augment_share,
        compare_with=absolute(compare_with), defects=absolute(defects),
    )  # fmt: skip
    settings = given.for_run(run, resume=resume, dry_run=dry_run)
    if settings is None:
        console.print(f"{run} is finished: nothing to resume")
        return run
    with processes(settings.device) as place, terminal.told_in(None if dry_run or place.rank else progress) as tell:
        console.quiet = place.rank > 0
        if settings is given:  # a run that is resumed goes on with what it has
            if init_from is not None:
                bits, white = levels(read_card(init_from), bits, white, tell=console.print)
                settings = replace(settings, bits=bits, white=white)
            if add_reviewed is not None:
                settings = replace(settings, reviewed=asdict(reviewed(add_reviewed, console.print)))
        elif given.to and settings.to:  # that folder may have moved, too
            settings = replace(settings, to=given.to)
        kind = Translation if settings.to else Job
        job = kind.prepare(Path(folder), run, settings, place, console.print)
        if dry_run:
            job.describe()
            return run
        job.begin()
        last = None  # a model that is fitted in closed form has no rounds
        with terminal.training(console) as show:
            for last in job.play(checkpoint_every):
                show(last)
                tell("training", last)
        tell("finishing", last)
        job.finish()
    return run


def absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def chosen(model: str | None, init_from: str | os.PathLike[str] | None) -> str:
    """The model's name: as asked for, that of the run to begin with, or MODEL."""
    card = {} if init_from is None else read_card(init_from)
    return model or card.get("spec", {}).get("name", MODEL)


def reviewed(database: str | os.PathLike[str], say: Callable[[str], None]) -> Reviewed:
    """What people agree on in a results database; `say` is told which images cannot be had."""
    with opened(database) as archive:
        found, name = archive.reviewed(), archive.name
    files, problems = located(found.normal)
    for problem in problems:
        say(f"warning: left out: {problem}")
    normal = [{"path": str(path), "sha256": sha256} for sha256, path in files.items()]
    return Reviewed(name, normal, [one.sha256 for one in found.defective])


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NORMAL_DIR",
            help="Folder of normal images, with sub-folders; of a data set in MVTec layout its train/good, or train.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the run: checkpoint, curves, pictures, card.")],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="WANTED_DIR",
            help="Train a translator: the images that those of the first folder are to become, of the same names and "
            "sizes for `pix2pix`, any for `cycle_gan`.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"What to train: {', '.join(sorted(models.MODELS))}; default: {MODEL}, or as --init-from."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(help="Length of the training in minutes; the number of steps is planned from the speed."),
    ] = MINUTES,
    steps: Annotated[int | None, typer.Option(help="Length of the training in steps, instead of minutes.")] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of everything random; with `--steps`, on a CPU and with as many threads, runs repeat."),
    ] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run with the settings it began with.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    param: Annotated[
        list[str], typer.Option(help="`key=value` for the model, such as `alpha=0.5`; may be repeated.")
    ] = [],  # noqa: B006
    info_bar: options.InfoBar = "auto",
    bits: options.Bits = None,
    white: options.White = None,
    flips: Annotated[
        bool, typer.Option(help="Also train on mirrored patches; off where the texture has a direction.")
    ] = True,
    jitter: Annotated[
        float | None,
        typer.Option(
            help="Random change of brightness and contrast of the patches, as a share; of a translator's 0.",
            show_default=str(JITTER),
        ),
    ] = None,
    zoom: Annotated[
        float, typer.Option(help="Random change of magnification of the patches: 0.3 is up to 1.3 times or 1/1.3.")
    ] = ZOOM,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 60.0,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Finished run of the same model, with whose weights the training begins."),
    ] = None,
    add_reviewed: options.AddReviewed = None,
    augment_with: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Finished run that feeds this one: generated patches, or of mask_gan painted defects to learn from.",
        ),
    ] = None,
    augment_share: Annotated[
        float, typer.Option(help="Share of each batch that comes from --augment-with.")
    ] = augmenting.SHARE,
    compare_with: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run of the same images without --augment-with, to say what that changed."),
    ] = None,
    defects: Annotated[
        Path | None,
        typer.Option(metavar="DATASET", help="For mask_gan: real defects with masks, in MVTec layout, to learn from."),
    ] = None,
    progress: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file to tell other programs how far it is: step, steps, seconds_left."),
    ] = None,
) -> None:
    """Learn what normal images look like: train a model on a folder of normal images, one or thousands.

    The images show one material at one magnification, and no defect. Some of their pixels are held back, for
    `calibrate`, which is the next step. `--dry-run` says what would be done and lists the images that look least like
    the rest; look at reconstructions.png and curves.png in the run's folder afterwards. With `--to` no detector is
    trained but a translator, for `translate`.

    Exit code: 0 done, 2 an error, 130 stopped by Ctrl-C; `--resume` goes on with a run that was stopped.
    """
    try:
        train(
            folder, out=out, to=to, model=model, minutes=minutes, steps=steps, seed=seed, device=device,
            threads=threads, resume=resume, dry_run=dry_run, params=parse_params(chosen(model, init_from), param),
            info_bar=info_bar, bits=bits, white=white, flips=flips, jitter=jitter, zoom=zoom,
            checkpoint_every=checkpoint_every, init_from=init_from, add_reviewed=add_reviewed,
            augment_with=augment_with, augment_share=augment_share, compare_with=compare_with, defects=defects,
            progress=progress,
        )  # fmt: skip
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{error}: start anew with smaller patches (--param patch=...), or with --device cpu"
        ) from error
    except KeyboardInterrupt:
        typer.echo(f"interrupted: continue with anomalib-gan train {folder} --out {out} --resume", err=True)
        raise typer.Exit(130) from None
