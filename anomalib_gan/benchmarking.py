"""What the benchmarks share, and their tables: accuracy by row, seed and data set, and the samples of a generator."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.generation import table
from anomalib_gan.runtime.calibrating import held_back
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.image import Picture, open_image
from anomalib_gan.runtime.inspector import Inspector

FIGURES = {"auroc": "pixel AUROC", "ap": "AP", "aupro": "AUPRO", "f1_max": "F1-max", "tpr_at_5_fpr": "TPR at 5 % FPR"}


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """One table per data set, with the commands that give its rows: mean over seeds and, from two seeds on, the spread
    (largest minus smallest). `found`: what each run measured, and its card under "card".
    """
    lines = []
    for data in dict.fromkeys(one["data"] for one in found):
        here = [one for one in found if one["data"] == data]
        heads = ["row", "seeds", *FIGURES.values(), "AUROC, mean over images", "training", "steps", "ms per Mpx"]
        lines += [f"**{data}**", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        commands = []
        for row in dict.fromkeys(one["row"] for one in here):
            group = [one for one in here if one["row"] == row]
            settings = group[0]["card"]["settings"]
            threads = settings["threads"]
            cells = [row, ", ".join(str(one["seed"]) for one in group)]
            cells += [figure([one["pixel"][key] for one in group]) for key in FIGURES]
            cells.append(figure([one["per_image"]["auroc"] for one in group]))
            cells.append(f"{mean(one['seconds'] for one in group) / 60:.1f} min, {threads} thread{'s' * (threads > 1)}")
            cells.append(f"{mean(one['steps'] for one in group):.0f}")
            cells.append(f"{mean(one['ms_per_megapixel'] for one in group):.0f}")
            lines.append("| " + " | ".join(cells) + " |")
            length = f"--steps {settings['steps']}" if settings["steps"] else f"--minutes {settings['minutes']:g}"
            seeds = ",".join(str(one["seed"]) for one in group)
            commands.append(
                f"    anomalib-gan benchmark accuracy --data {data} --rows '{row}' --seeds {seeds} {length}"
            )
            commands[-1] += f" --threads {threads}"
        for one in here:
            if one["alphas"]:
                each = ", ".join(f"{alpha}: {figure([value])}" for alpha, value in one["alphas"].items())
                lines += ["", f"Pixel AUROC of {one['row']}, seed {one['seed']}, by alpha: {each}."]
        machine = here[0]["card"]["machine"]
        told = f"{machine['processor']}, {machine['cores']} cores, " + (machine["gpu"] or "no GPU")
        dates = sorted({str(one["card"]["started"])[:10] for one in here})
        lines += ["", *commands, "", f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {told}.", ""]
    return "\n".join(lines)


def put(readme: str | os.PathLike[str] | None, name: str, table: str) -> None:
    """The table goes between that file's markers; without a file nowhere."""
    if readme is not None:
        write_bytes(readme, between(Path(readme).read_text(encoding="utf-8"), name, table).encode())


def between(text: str, name: str, table: str) -> str:
    """`text` with `table` between the markers <!-- name --> and <!-- /name -->; a ValueError where they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the markers {begin.strip()} and {end} are missing: put them where the table belongs")
    return head + begin + table.strip() + "\n" + end + tail


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


def per_megapixel(inspector: Inspector, repeats: int = 5) -> float:
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


def opener_of(card: Mapping[str, Any], tell: Callable[[str], None]) -> Callable[[Path], Picture]:
    """Opens images as the training did that a run's card tells of: its range of grey levels, its info bar."""
    bits, white = levels(card, None, None, tell=tell)
    info_bar = card.get("settings", {}).get("info_bar", "auto")
    return partial(open_image, info_bar=info_bar, bits=bits, white=white)


def held_pixels(run: str | os.PathLike[str], tell: Callable[[str], None]) -> list[NDArray[np.float64]]:
    """The normal pixels that training held back, (height, width, channels) in [-1, 1]."""
    opener, found = opener_of(read_card(run), tell), []
    for normal in held_back(run):
        with opener(normal.path) as picture:
            top, left, bottom, right = normal.box or (0, 0, picture.content, picture.width)
            found.append(picture.rows(top, bottom)[:, left:right].astype(np.float64) * (2 / picture.white) - 1)
    if not found:
        raise ValueError(f"{run} held no normal image back: train on larger images, or on more")
    return found


def generation_table(drawn: Sequence[NDArray[np.float64]], normals: Sequence[NDArray[np.float64]]) -> str:
    """How near samples, (n, height, width) for each size, are to normal images: see `generation.table`."""
    lines = ["| picture | size | spectrum | grey levels |", "|---|---|---|---|"]
    for samples in drawn:
        height, width = samples.shape[1:]
        for key, means in table(list(samples), normals).items():
            lines.append(f"| {key} | {width}x{height} | {means['spectrum']:.3f} | {means['histogram']:.3f} |")
    lines += [
        "",
        "Distance from held-back normal pixels; smaller is nearer. Spectrum: root mean square difference of the",
        "radial log spectra. Grey levels: earth mover's distance in half ranges.",
    ]
    return "\n".join(lines) + "\n"


def sheet(drawn: NDArray[np.float64], across: int) -> NDArray[np.uint8]:
    """The first across x across of the (n, height, width) images in [-1, 1], side by side in 8 bits."""
    _, height, width = drawn.shape
    grey = np.clip(np.rint((drawn[: across**2] + 1) * 127.5), 0, 255).astype(np.uint8)
    return grey.reshape(across, across, height, width).swapaxes(1, 2).reshape(across * height, across * width)
