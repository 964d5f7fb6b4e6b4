"""Benchmark: the commands whose tables say what a detector is worth; and speed, generation and records themselves."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer

from anomalib_gan import speed_report, terminal
from anomalib_gan.benchmarking import between, generation_table, held_pixels, opener_of, put, sheet
from anomalib_gan.machine import machine
from anomalib_gan.opening import card_folder, open_inspector
from anomalib_gan.records.database import exclusive
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import find_images
from anomalib_gan.speed import Plan, measure
from anomalib_gan.speed_images import read_pictures
from pipelines import load, options
from pipelines.accuracy import DEFAULT, accuracy, dirty, proxy, robustness


def speed(
    paths: Sequence[str | os.PathLike[str]],
    plan: Plan = Plan(),  # noqa: B008
    *,
    images: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs/benchmark",
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """How fast bundles and runs are here, and `score` with the bundles: out/speed.md, .csv and .json.

    `score` gets images made of those in the folder `images` or, without it, of those that the training knew, where they
    still are. With `readme` the first rows also go between that file's markers. Returns the Markdown's path. ValueError
    where a path is neither a run nor a bundle.
    """
    folders, out = [Path(path) for path in paths], Path(out)
    for folder in folders:
        open_inspector(folder, device="cpu")
    if readme is not None:  # before minutes are spent
        between(Path(readme).read_text(encoding="utf-8"), "speed", "")
    card = read_card(card_folder(folders[0]))
    known = [Path(one["path"]) for one in card.get("data", {}).get("images", ())]
    files = [path for path in known if path.is_file()] if images is None else find_images(images)
    pictures = read_pictures(files, opener_of(card, terminal.note))
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".speed"
    with exclusive(out):
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        try:
            start = [sys.executable, "-m", "pipelines.cli"]
            report = measure(folders, plan, pictures, scratch, start, terminal.note)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        report["command"] = retold(folders, plan, images)
        write_json(out / "speed.json", report)
        write_bytes(out / "speed.csv", speed_report.csv_of(report["rows"]).encode())
        text = speed_report.text(report)
        write_bytes(out / "speed.md", text.encode())
    put(readme, "speed", speed_report.text(report, short=True))
    print(text)
    return out / "speed.md"


def retold(folders: Sequence[Path], plan: Plan, images: str | os.PathLike[str] | None) -> str:
    """The command that measures this."""
    words = ["anomalib-gan", "benchmark", "speed", *(folder.name for folder in folders)]
    words += ["--minutes", f"{plan.minutes:g}"]
    words += [] if images is None else ["--images", Path(images).name]
    words += ["--threads", str(plan.threads[-1])] if plan.threads else []
    words += ["--device", plan.devices[0]] if plan.devices else []
    words += ["--no-large"] if plan.large is None else []
    return shlex.join(words)


def generation(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    size: tuple[int, int] = (704, 1024),
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """Is what a run generates its material, or noise of the right colour? Writes out/generation.md, returns its path.

    Samples of 64 x 64 and of `size` (height, width) are compared with the normal pixels that training held back; beside
    them each normal image, and each with its phases shuffled, compared with the others. The samples of both sizes lie
    beside the table as PNG.
    """
    import torch

    from anomalib_gan import checkpoint

    model, _ = checkpoint.load_model(run, mapped=False)
    if not hasattr(model, "sample"):
        raise ValueError(f"{run} holds a model that generates nothing: train one that has a generator")
    normals = [pixels.mean(-1) for pixels in held_pixels(run, terminal.note)]
    torch.manual_seed(0)
    drawn = []
    for batches, count, height, width, across in ((16, 16, 64, 64, 4), (1, 4, *size, 1)):
        with torch.inference_mode():
            some = [model.sample(count, height, width) for _ in range(batches)]  # type: ignore[operator]
            drawn.append(torch.cat(some).mean(1).double().numpy())
        picture = cv2.imencode(".png", sheet(drawn[-1], across))[1].tobytes()
        write_bytes(Path(out) / f"samples-{width}x{height}.png", picture)
    text = generation_table(drawn, normals)
    write_bytes(Path(out) / "generation.md", text.encode())
    put(readme, "generation", text)
    print(text)
    return Path(out) / "generation.md"


def records(
    *,
    number: int = 1_000_000,
    repeats: int = 5,
    out: str | os.PathLike[str] = "runs/benchmark",
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """How long a results database with `number` inspections takes to answer: out/records.md.

    The SQLite file is made anew in `out`, about a gigabyte for a million, and removed afterwards. With `readme` the
    table also goes between that file's markers. Returns the Markdown's path.
    """
    from anomalib_gan.records.benchmark import make, markdown, measure

    if readme is not None:  # before minutes are spent
        between(Path(readme).read_text(encoding="utf-8"), "records", "")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".records"
    with exclusive(out):
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        try:
            calibrations = make(scratch / "results.db", number)
            measured = measure(scratch / "results.db", calibrations[-1], repeats)
            bytes = (scratch / "results.db").stat().st_size
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    text = markdown(number, bytes, speed_report.origin(machine()), measured)
    write_bytes(out / "records.md", text.encode())
    put(readme, "records", text)
    print(text)
    return out / "records.md"


# --- the commands ----------------------------------------------------------------------------------------------------

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure what a detector is worth, into tables that a README can hold.

    `accuracy` trains and evaluates on labelled data, `speed` times bundles and runs, `generation` compares what a run
    draws with its material, `robustness` changes light, noise, focus and magnification, `dirty` spoils the training
    images, `stability` trains often and briefly with settings drawn at random, `proxy` judges the maps of a run where
    there is no real defect. `records` times the questions that pages and tables put to a large results database,
    `dashboard` the pages while many people work with them.
    """


Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it.")]
Readme = Annotated[Path | None, typer.Option(help="File between whose markers the table also goes.")]
Out = Annotated[Path, typer.Option(help="Folder for the table.")]
OUT = Path("runs/benchmark")


@app.command("accuracy")
def accuracy_command(
    data: Annotated[list[Path], typer.Option(help="Data set in MVTec layout; may be repeated.")],
    models: Annotated[
        str,
        typer.Option(
            help="Rows of the table, separated by commas: models by their name, and variations of the detector; a name "
            "that is none lists them all."
        ),
    ] = ",".join(DEFAULT),
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    minutes: Annotated[float | None, typer.Option(help="Minutes of each training; default: as `train`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of each training in steps, instead of minutes.")] = None,
    out: Annotated[
        Path, typer.Option(help="Where runs and tables go; what is finished there is not done again.")
    ] = OUT,
    device: options.Device = "auto",
    threads: options.Threads = None,
    readme: Readme = None,
    record: Annotated[
        Path | None,
        typer.Option(help="JSON file of what was measured, here or before: it is not done again, and more is added."),
    ] = None,
) -> None:
    """Train, calibrate and evaluate several rows on equal budget, into one table.

    A row is a model, or a change of its settings, each with every seed on every data set. Given again, an interrupted
    benchmark goes on where it ended. The table, OUT/accuracy.md and .csv, holds all that OUT holds.
    """
    chosen = [row.strip() for row in models.split(",")]
    accuracy(
        data, out=out, models=chosen, seeds=[int(seed) for seed in seeds.split(",")], minutes=minutes, steps=steps,
        device=device, threads=threads, readme=readme, record=record,
    )  # fmt: skip


@app.command("speed")
def speed_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Bundles, as `export` made them; of a run, PyTorch is measured."),
    ],
    minutes: Annotated[
        float, typer.Option(min=0, help="Time for the table of rows; the rest takes some minutes more.")
    ] = 5.0,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images of the material, to score; default: those of the training, if still there."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads beside 1; default: all.")] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda`, `cuda:1`, ...; `auto` measures on all there are.")
    ] = "auto",
    large: Annotated[bool, typer.Option(help="Also score a TIFF of 20,000 x 20,000 px (2 GB of disk in OUT).")] = True,
    out: Out = OUT,
    readme: Readme = None,
) -> None:
    """Time bundles and runs on this machine: leave it alone meanwhile.

    Inference by image size, batch and threads: median and 95th percentile, images and megapixels per second, memory,
    and the share of what the machine can do at best, with the arithmetic counted from the graph. Give a run beside its
    bundle and PyTorch is measured on the same work. With those that are calibrated also `score` on 200 images, and
    where its time goes; one image, warm and as a command; and a huge TIFF.

    Writes OUT/speed.md, .csv and .json. What does not fit into the time or the memory is named as left out.
    """
    plan = Plan(minutes, devices=() if device == "auto" else (device,))
    plan = replace(plan, threads=tuple(sorted({1, threads})) if threads else (), large=plan.large if large else None)
    speed(paths, plan, images=images, out=out, readme=readme)


@app.command("generation")
def generation_command(
    run: Run,
    size: Annotated[
        Any,
        typer.Option(parser=options.height_and_width, metavar="WIDTHxHEIGHT", help="Size of the large samples, in px."),
    ] = "1024x704",
    out: Out = OUT,
    readme: Readme = None,
) -> None:
    """Compare what a run generates with its material: power spectrum, grey levels, Frechet distance, precision, recall.

    The last three are of crops in the answers of a fixed bank of filters, not of a network trained on photographs. The
    measure is the normal pixels that training held back, at least two images. A generator that draws the material
    is as near to them as they are to each other, and nearer than they are with their phases shuffled. Writes
    OUT/generation.md and the samples as PNG.
    """
    generation(run, out=out, size=size, readme=readme)


@app.command("robustness")
def robustness_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a calibrated run, or a bundle.")],
    data: Annotated[list[Path], typer.Option(help="Data set in MVTec layout; may be repeated.")],
    out: Out = OUT,
    device: options.Device = "auto",
    threads: options.Threads = None,
    readme: Readme = None,
) -> None:
    """Measure what light, noise, focus, compression and magnification do to a detector.

    The test images are changed and evaluated as they are: pixel and image AUROC, and false alarms at the thresholds of
    the unchanged calibration. Writes OUT/robustness.md.
    """
    robustness(run, data, out=out, device=device, threads=threads, readme=readme)


@app.command("dirty")
def dirty_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set in MVTec layout.")],
    share: Annotated[float, typer.Option(help="Share of the training images that are defective.")] = 0.05,
    out: Out = OUT,
    seed: Annotated[int, typer.Option(help="Seed of the training and of which images are moved.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Minutes of each training; default: as `train`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of each training in steps, instead of minutes.")] = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Measure what defective images among the normal ones cost.

    Defective test images are moved to the training images, and the detector is trained with and without them; both are
    tested on the rest. Given again, an interrupted measurement goes on. Writes OUT/dirty-DATA/accuracy.md.
    """
    dirty(data, share=share, out=out, seed=seed, minutes=minutes, steps=steps, device=device, threads=threads)


@app.command("stability")
def stability_command(
    runs: Annotated[int, typer.Option(min=1, help="How many short trainings.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
) -> None:
    """Train the detector many times for a few rounds, with settings and materials drawn at random.

    Ends with 1 where a loss, a gradient or a map was not finite, and says with which settings.
    """
    from anomalib_gan.stability import short_runs

    bad = 0
    for number, short in enumerate(terminal.track(short_runs(runs, seed), runs, "trainings")):
        if short.trouble:
            bad += 1
            print(f"{number}: {short.material}, {short.params}: {short.trouble}")
    print(f"{runs} short trainings, {bad} with values that are not finite or other trouble")
    raise typer.Exit(1 if bad else 0)


@app.command("proxy")
def proxy_command(run: Run, threads: options.Threads = None) -> None:
    """Judge the maps of a run without a real defect.

    Normal images that training held back get synthetic defects of kinds that training leaves out. First densely, where
    the figures are pooled pixel AUROCs of the map and of its parts; then one an image, where the image's score is
    compared with those of the clean images as well, and a defect counts as hit where a fifth of its pixels is hotter
    than all of them. 0.5 is chance, 1 perfect. Good for comparing settings, no substitute for `evaluate`.
    """
    proxy(run, threads=threads)


@app.command("records")
def records_command(
    number: Annotated[int, typer.Option(min=100, help="Inspections in the database.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="How often each question is put.")] = 5,
    out: Out = OUT,
    readme: Readme = None,
) -> None:
    """Time every question that the dashboard and the tables put to a results database, in SQLite.

    Makes a database like half a year of a line, about a gigabyte in OUT for a million inspections, and removes it
    afterwards. Writes OUT/records.md.
    """
    records(number=number, repeats=repeats, out=out, readme=readme)


app.command("dashboard")(load.command)
