"""benchmark: train, calibrate and evaluate several rows on equal budget; one resumable table per data set."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console

from anomalib_gan.runtime.files import read_json, write_bytes, write_json

# A row of the table: the model of the zoo and the constructor's keywords that differ from its defaults.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "detector": ("fcbigan", {}),
    "adversarial weight 0": ("fcbigan", {"adversarial": 0.0}),
    "source mode": ("fcbigan_source", {}),
}
ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FIGURES = {"auroc": "pixel AUROC", "ap": "AP", "aupro": "AUPRO", "f1_max": "F1-max", "tpr_at_5_fpr": "TPR at 5 % FPR"}


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
) -> Path:
    """Trains and evaluates every row with every seed on every data set (MVTec layout): out/accuracy.md and .csv.

    `minutes` (or `steps`) is each training's budget. What is finished is not done again: called again after a kill, it
    goes on. `sweep` also evaluates source mode at every alpha of ALPHAS, for its source gives none. Returns the
    Markdown's path.
    """
    from anomalib_gan.runtime.calibration import Calibration
    from pipelines.calibrate import calibrate
    from pipelines.evaluate import evaluate_dataset
    from pipelines.opening import open_inspector
    from pipelines.train import train

    if unknown := set(rows) - set(ROWS):
        raise ValueError(f"no row is called {sorted(unknown)[0]!r}: choose from {', '.join(ROWS)}")
    console, out, found = Console(highlight=False), Path(out), []
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
                            "threads": card["settings"]["threads"],
                            "machine": card["machine"],
                            "alphas": alphas,
                            "ms_per_megapixel": per_megapixel(inspector),
                        },
                    )
                found.append(read_json(done))
    text = markdown(found, " ".join(["anomalib-gan", *map(quoted, sys.argv[1:])]))
    write_bytes(out / "accuracy.md", text.encode())
    write_bytes(out / "accuracy.csv", csv_of(found).encode())
    console.print(text, markup=False)
    return out / "accuracy.md"


def quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


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


def markdown(found: Sequence[dict[str, Any]], command: str) -> str:
    """One table per data set: mean over seeds and, from two seeds on, the spread (largest minus smallest)."""
    lines = []
    for data in dict.fromkeys(one["data"] for one in found):
        here = [one for one in found if one["data"] == data]
        lines += [f"**{data}**", "", f"| row | seeds | {' | '.join(FIGURES.values())} | mean over images | "
                  "training | steps | ms per Mpx |", "|" + "---|" * (len(FIGURES) + 6)]  # fmt: skip
        for row in dict.fromkeys(one["row"] for one in here):
            group = [one for one in here if one["row"] == row]
            cells = [figure([one["pixel"][key] for one in group]) for key in FIGURES]
            cells.append(figure([one["per_image"]["auroc"] for one in group]))
            cells.append(f"{mean(one['seconds'] for one in group) / 60:.1f} min, {group[0]['threads']} threads")
            cells.append(f"{mean(one['steps'] for one in group):.0f}")
            cells.append(f"{mean(one['ms_per_megapixel'] for one in group):.0f}")
            lines.append(f"| {row} | {', '.join(str(one['seed']) for one in group)} | {' | '.join(cells)} |")
        for one in here:
            if one["alphas"]:
                each = ", ".join(f"{alpha}: {figure([value])}" for alpha, value in one["alphas"].items())
                lines += ["", f"Pixel AUROC of {one['row']}, seed {one['seed']}, by alpha: {each}."]
        lines.append("")
    machine = found[0]["machine"]
    told = ", ".join(f"{key} {value}" for key, value in machine.items()) if isinstance(machine, dict) else machine
    lines += [f"`{command}`, {datetime.now(UTC).date()}; machine: {told}.", ""]
    return "\n".join(lines)


def figure(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    spread = f" (spread {max(known) - min(known):.4f})" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def csv_of(found: Sequence[dict[str, Any]]) -> str:
    lines = [",".join(["data", "row", "seed", *FIGURES, "per_image_auroc", "image_auroc", "seconds", "steps"])]
    for one in found:
        values = [one["data"], one["row"], one["seed"], *(one["pixel"][key] for key in FIGURES)]
        values += [one["per_image"]["auroc"], one["image_auroc"], one["seconds"], one["steps"]]
        lines.append(",".join("" if value is None else str(value) for value in values))
    return "\n".join(lines) + "\n"


def speed(
    run: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    device: str = "auto",
    threads: int | None = None,
    repeats: int = 20,
) -> Path:
    """Times one image file from its bytes to verdict and defects: in a warm process, and as a cold command.

    Writes out/speed.md with median and 95th percentile of `repeats` calls, and their parts. Returns its path.
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
    folder = Path(out) / "cold"
    folder.mkdir(parents=True, exist_ok=True)
    one = folder / Path(image).name
    write_bytes(one, data)
    begin = time.perf_counter()
    cold = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "score", str(run), str(folder), "--out", str(folder / "results")],
        capture_output=True,
    )
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
        f"{took:.1f} s | {row['threads']} |\n"
    )
    write_bytes(Path(out) / "speed.md", text.encode())
    print(text + json.dumps({key: row[key] for key in ("device", "machine", "date")}))
    return Path(out) / "speed.md"


def command(
    what: Annotated[Literal["accuracy", "speed"], typer.Argument(help="Which table to write.")],
    data: Annotated[list[Path], typer.Option(help="accuracy: data set in MVTec layout; may be repeated.")] = [],  # noqa: B006
    rows: Annotated[str, typer.Option(help="accuracy: rows of the table, separated by commas.")] = ",".join(ROWS),
    seeds: Annotated[str, typer.Option(help="accuracy: seeds, separated by commas.")] = "0",
    minutes: Annotated[float | None, typer.Option(help="accuracy: each training's budget.")] = None,
    steps: Annotated[int | None, typer.Option(help="accuracy: the same in steps.")] = None,
    run: Annotated[Path | None, typer.Option(help="speed: folder of a trained run.")] = None,
    image: Annotated[Path | None, typer.Option(help="speed: the image to score.")] = None,
    out: Annotated[
        Path, typer.Option(help="Where runs and tables go; what is finished there is not done again.")
    ] = Path("runs/benchmark"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Processor threads of torch.")] = None,
) -> None:
    """Measure accuracy on labelled data sets, or the speed of a run; the README's tables come from here."""
    if what == "accuracy":
        if not data:
            raise typer.BadParameter("give at least one --data DIR")
        chosen = [row.strip() for row in rows.split(",")]
        accuracy(
            data, out=out, rows=chosen, seeds=[int(seed) for seed in seeds.split(",")], minutes=minutes, steps=steps,
            device=device, threads=threads,
        )  # fmt: skip
    elif run is None or image is None:
        raise typer.BadParameter("give --run RUN and --image FILE")
    else:
        speed(run, image, out=out, device=device, threads=threads)
