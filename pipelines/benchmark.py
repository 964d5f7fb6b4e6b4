"""benchmark: train, calibrate and evaluate several rows on equal budget; one resumable table per data set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console

from anomalib_gan.benchmarking import between, csv_of, markdown
from anomalib_gan.runtime.files import read_json, write_bytes, write_json

# A row of the table: the model of the zoo and the constructor's keywords that differ from its defaults.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "detector": ("fcbigan", {}),
    "adversarial weight 0": ("fcbigan", {"adversarial": 0.0}),
    "source mode": ("fcbigan_source", {}),
}
ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def accuracy(
    data: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = (0,),
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    sweep: bool = True,
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """Trains and evaluates every row with every seed on every data set (MVTec layout): out/accuracy.md and .csv.

    `minutes` (or `steps`) is each training's budget. What is finished is not done again: called again after a kill, it
    goes on. The table holds all that `out` holds; with `readme` it is also put between that file's markers. `sweep`
    also evaluates source mode at every alpha of ALPHAS, for its source gives none. Returns the Markdown's path.
    """
    from anomalib_gan.runtime.calibration import Calibration
    from pipelines.calibrate import calibrate
    from pipelines.evaluate import evaluate_dataset
    from pipelines.opening import open_inspector
    from pipelines.train import train

    if unknown := set(rows) - set(ROWS):
        raise ValueError(f"no row is called {sorted(unknown)[0]!r}: choose from {', '.join(ROWS)}")
    console, out = Console(highlight=False), Path(out)
    budget: dict[str, Any] = {"steps": steps} if steps else ({"minutes": minutes} if minutes else {})
    for folder in map(Path, data):
        for row in rows:
            name, params = ROWS[row]
            for seed in seeds:
                run = out / folder.name / f"{row.replace(' ', '-')}-{seed}"
                done = run / "benchmark.json"
                if not done.exists():
                    console.print(f"{folder.name}: {row}, seed {seed}")
                    train(
                        folder, out=run, model=name, params=params, seed=seed, device=device, threads=threads,
                        resume=run.exists(), **budget,
                    )  # fmt: skip
                    calibrate(run, device=device, threads=threads, console=Console(quiet=True))
                    inspector = open_inspector(run, device=device, threads=threads)
                    report = evaluate_dataset(inspector, folder, run / "evaluation")
                    alphas = {}
                    if sweep and row == "source mode":
                        model = inspector.backend.graph.model  # type: ignore[attr-defined]
                        assert isinstance(inspector.calibration, Calibration)
                        for alpha in ALPHAS:
                            model.alpha = alpha
                            each = evaluate_dataset(inspector, folder, run / f"evaluation-alpha-{alpha}")
                            alphas[str(alpha)] = each["overall"]["pixel"]["auroc"]
                    card = read_json(run / "card.json")
                    write_json(
                        done,
                        {
                            "data": folder.name,
                            "row": row,
                            "seed": seed,
                            "pixel": report["overall"]["pixel"],
                            "per_image": report["overall"]["per_image"],
                            "image_auroc": report["overall"]["image_auroc"],
                            "steps": card["steps"],
                            "seconds": card["duration_s"],
                            "alphas": alphas,
                            "ms_per_megapixel": per_megapixel(inspector),
                        },
                    )
    order = {row: place for place, row in enumerate(ROWS)}
    finished = list(out.glob("*/*/benchmark.json"))
    found = [{**read_json(done), "card": read_json(done.parent / "card.json")} for done in finished]
    found.sort(key=lambda one: (one["data"], order[one["row"]], one["seed"]))
    text = markdown(found)
    write_bytes(out / "accuracy.md", text.encode())
    write_bytes(out / "accuracy.csv", csv_of(found).encode())
    if readme is not None:
        write_bytes(readme, between(Path(readme).read_text(encoding="utf-8"), "accuracy", text).encode())
    console.print(text, markup=False)
    return out / "accuracy.md"


def per_megapixel(inspector: Any, repeats: int = 5) -> float:
    """Median milliseconds that a warm inspector needs per megapixel of a 1024 x 696 image, all but decoding."""
    shape = (696, 1024) if inspector.backend.channels == 1 else (696, 1024, inspector.backend.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inspector(image)
    spent = []
    for _ in range(repeats):
        begin = time.perf_counter()
        inspector(image)
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)) * 1e9 / (696 * 1024)


def speed(
    run: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    device: str = "auto",
    threads: int | None = None,
    repeats: int = 20,
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """Times one image file from its bytes to verdict and defects: in a warm process, and as a cold command.

    Writes out/speed.md with median and 95th percentile of `repeats` calls, and their parts; with `readme` also between
    that file's markers. Returns the Markdown's path.
    """
    import torch

    from pipelines.opening import open_inspector

    inspector = open_inspector(run, device=device, threads=threads)
    data, results = Path(image).read_bytes(), []
    inspector(data)
    spent = []
    for _ in range(repeats):
        begin = time.perf_counter()
        results.append(inspector(data))
        spent.append(time.perf_counter() - begin)
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "new"
        write_bytes(new / Path(image).name, data)
        order = ["score", str(run), str(new), "--out", str(Path(scratch) / "results"), "--device", device]
        begin = time.perf_counter()
        cold = subprocess.run([sys.executable, "-m", "pipelines.cli", *order], capture_output=True)
        took = time.perf_counter() - begin
    if cold.returncode not in (0, 1):
        raise ValueError(f"the cold command failed: {cold.stderr.decode(errors='replace')}")
    first = results[0]
    parts = {key: float(np.median([one.timing[key] for one in results])) for key in first.timing}
    row: dict[str, Any] = {
        "image": f"{first.width}x{first.height}",
        "median_s": float(np.median(spent)),
        "p95_s": float(np.percentile(spent, 95)),
        "cold_s": took,
        "parts_s": parts,
        "threads": torch.get_num_threads(),
        "device": inspector.backend.device,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": str(datetime.now(UTC).date()),
    }
    write_json(Path(out) / "speed.json", row)
    told = ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in parts.items())
    text = (
        "| image | warm, median | warm, 95th percentile | parts of the warm call | cold command | threads |\n"
        "|---|---|---|---|---|---|\n"
        f"| {row['image']} | {1000 * row['median_s']:.0f} ms | {1000 * row['p95_s']:.0f} ms | {told} | "
        f"{took:.1f} s | {row['threads']} |\n\n"
        f"    anomalib-gan benchmark speed --run RUN --image {Path(image).name}\n\n"
        f"{row['date']}; {row['machine']}, on {row['device']}.\n"
    )
    write_bytes(Path(out) / "speed.md", text.encode())
    if readme is not None:
        write_bytes(readme, between(Path(readme).read_text(encoding="utf-8"), "speed", text).encode())
    print(text)
    return Path(out) / "speed.md"


def generation(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    size: tuple[int, int] = (704, 1024),
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """Is what a run generates its material, or noise of the right colour? Writes out/generation.md, returns its path.

    Samples of 64 x 64 and of `size` (height, width), from the codes' Gaussian and from N(0, I), are compared at the
    model's working scale with the normal pixels that training held back; beside them a normal image, and a normal image
    with its phases shuffled. The samples of both sizes lie beside the table as PNG.
    """
    import cv2
    import torch

    from anomalib_gan import checkpoint
    from anomalib_gan.generation import distances, phase_shuffled
    from anomalib_gan.runtime.image import open_image
    from pipelines.calibrate import held_back

    model, _ = checkpoint.load_model(run)
    if not hasattr(model, "sample"):
        raise ValueError(f"{run} holds a model that generates nothing: train one that has a generator")
    shrunk = getattr(model, "shrunk", lambda x: x)

    def grey(images: torch.Tensor) -> list[np.ndarray]:
        return [image.mean(0).double().numpy() for image in shrunk(images)]

    normals = []
    for normal in held_back(Path(run)):
        with open_image(normal.path) as picture:
            top, left, bottom, right = normal.box or (0, 0, picture.content, picture.width)
            pixels = picture.rows(top, bottom)[:, left:right].astype(np.float32) * (2 / picture.white) - 1
        pixels = pixels[: len(pixels) // model.stride * model.stride, : pixels.shape[1] // model.stride * model.stride]
        normals += grey(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.manual_seed(0)
    lines = ["| picture | size | spectrum | grey levels |", "|---|---|---|---|"]
    for name, count, height, width in (("64x64", 16, 64, 64), (f"{size[1]}x{size[0]}", 1, *size)):
        with torch.inference_mode():
            drawn = {
                "sample": model.sample(count, height, width),  # type: ignore[operator]
                "sample, z ~ N(0, I)": model.sample(count, height, width, prior=True),  # type: ignore[operator]
            }
        cells = {key: grey(images) for key, images in drawn.items()}
        rows, columns = (
            min(sizes) for sizes in zip(*(one.shape for one in [cells["sample"][0], *normals]), strict=True)
        )
        crops = [n[:rows, :columns] for n in normals]
        cells["normal image"] = crops[:1]
        cells["normal image, phases shuffled"] = [phase_shuffled(crops[0])]
        others = crops[1:] or crops
        for key, images in cells.items():
            each = [distances(image[:rows, :columns], others) for image in images]
            means = {term: mean(one[term] for one in each) for term in each[0]}
            lines.append(f"| {key} | {name} | {means['spectrum']:.3f} | {means['histogram']:.3f} |")
        sheet = drawn["sample"].mean(1).add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
        if count > 1:
            sheet = sheet.reshape(4, 4, height, width).transpose(0, 2, 1, 3).reshape(1, 4 * height, 4 * width)
        write_bytes(Path(out) / f"samples-{name}.png", cv2.imencode(".png", sheet[0])[1].tobytes())
    lines += [
        "",
        "Distance from held-back normal pixels; smaller is nearer. Spectrum: root mean square difference of the",
    ]
    lines += ["radial log spectra. Grey levels: earth mover's distance in half ranges."]
    text = "\n".join(lines) + "\n"
    write_bytes(Path(out) / "generation.md", text.encode())
    if readme is not None:
        write_bytes(readme, between(Path(readme).read_text(encoding="utf-8"), "generation", text).encode())
    print(text)
    return Path(out) / "generation.md"


def command(
    what: Annotated[
        Literal["accuracy", "speed", "generation"], typer.Argument(metavar="WHAT", help="Which table to write.")
    ],
    data: Annotated[list[Path], typer.Option(help="accuracy: data set in MVTec layout; may be repeated.")] = [],  # noqa: B006
    rows: Annotated[str, typer.Option(help="accuracy: rows of the table, separated by commas.")] = ",".join(ROWS),
    seeds: Annotated[str, typer.Option(help="accuracy: seeds, separated by commas.")] = "0",
    minutes: Annotated[
        float | None, typer.Option(help="accuracy: minutes of each training; default: as `train`.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="accuracy: length of each training in steps, instead of minutes.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="speed, generation: folder of a trained run.")] = None,
    image: Annotated[Path | None, typer.Option(help="speed: the image to score.")] = None,
    out: Annotated[
        Path, typer.Option(help="Where runs and tables go; what is finished there is not done again.")
    ] = Path("runs/benchmark"),
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="Processor threads of the network.")] = None,
    readme: Annotated[Path | None, typer.Option(help="File between whose markers the table also goes.")] = None,
) -> None:
    """Measure accuracy on labelled data sets, the speed of a run, or what it generates, into tables."""
    if what == "accuracy":
        if not data:
            raise typer.BadParameter("give at least one --data DIR")
        chosen = [row.strip() for row in rows.split(",")]
        accuracy(
            data, out=out, rows=chosen, seeds=[int(seed) for seed in seeds.split(",")], minutes=minutes, steps=steps,
            device=device, threads=threads, readme=readme,
        )  # fmt: skip
    elif what == "generation":
        if run is None:
            raise typer.BadParameter("give --run RUN")
        generation(run, out=out, readme=readme)
    elif run is None or image is None:
        raise typer.BadParameter("give --run RUN and --image FILE")
    else:
        speed(run, image, out=out, device=device, threads=threads, readme=readme)
