"""What the benchmarks share, and the table of a generator's samples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.fidelity import SIDE
from anomalib_gan.generation import fidelities, table
from anomalib_gan.runtime.calibrating import held_back
from anomalib_gan.runtime.card import levels, read_card
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.image import Picture, open_image
from anomalib_gan.runtime.inspector import Inspector


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


SLOW = 2.0  # seconds for one image from which a second time has to do


def per_megapixel(inspector: Inspector, repeats: int = 5) -> float:
    """Median milliseconds that a warm inspector needs per megapixel of a 1024 x 696 image, all but decoding."""
    shape = (696, 1024) if inspector.backend.channels == 1 else (696, 1024, inspector.backend.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def seconds() -> float:
        begin = time.perf_counter()
        inspector(image)
        return time.perf_counter() - begin

    warm_up = seconds()
    spent = [seconds() for _ in range(1 if warm_up > SLOW else repeats)]
    return float(np.median(spent)) * 1e9 / (696 * 1024)


def opener_of(card: Mapping[str, Any], tell: Callable[[str], None]) -> Callable[[Path], Picture]:
    """Opens images as the training did that a run's card tells of: its range of grey levels, its info bar.

    ValueError for a run of stacks.
    """
    if any("depth" in image for image in card.get("data", {}).get("images", ())):
        raise ValueError("the run was trained on stacks, and this looks at images: use `anomalib-gan stacks`")
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


def training_pixels(
    run: str | os.PathLike[str], tell: Callable[[str], None], most: int = 16
) -> list[NDArray[np.float64]]:
    """Normal pixels that training saw, of at most so many images, evenly spread; as `held_pixels`.

    ValueError: a file is missing, or not what it was.
    """
    card = read_card(run)
    opener, boxes = opener_of(card, tell), {str(one.path): one.box for one in held_back(run)}
    images = [one for one in card["data"]["images"] if boxes.get(one["path"], ()) is not None]
    chosen = sorted({round(k) for k in np.linspace(0, len(images) - 1, min(len(images), most))})
    found = []
    for image in (images[i] for i in chosen):
        with opener(Path(image["path"])) as picture:
            if picture.sha256 != image["sha256"]:
                raise ValueError(
                    f"{image['path']} is not the file of the training (its SHA-256 is another): restore it"
                )
            box = boxes.get(image["path"])
            right = box[1] if box else picture.width  # the strip that was held back begins there
            found.append(picture.rows(0, picture.content)[:, :right].astype(np.float64) * (2 / picture.white) - 1)
    return found


def generation_table(drawn: Sequence[NDArray[np.float64]], normals: Sequence[NDArray[np.float64]]) -> str:
    """How near samples, (n, height, width) for each size, are to normal images: `table` and `fidelities` of them."""
    lines = [
        "| picture | size | spectrum | grey levels | Frechet | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    counts = []
    for samples in drawn:
        height, width = samples.shape[1:]
        near = table(list(samples), normals)
        for key, told in fidelities(list(samples), normals).items():
            means = near.get(key, {"spectrum": 0.0, "histogram": 0.0})
            counts.append(told.get("crops", 0.0))
            rest = [f"{told[name]:.3g}" if told else "undefined" for name in ("frechet", "precision", "recall")]
            cells = [key, f"{width}x{height}", f"{means['spectrum']:.3f}", f"{means['histogram']:.3f}", *rest]
            lines.append("| " + " | ".join(cells) + " |")
    number = " to ".join(f"{one:.0f}" for one in sorted({min(counts), max(counts)}))
    lines += [
        "",
        "Energy distance from held-back normal pixels; smaller is nearer, and normal images have 0 by definition.",
        "Spectrum: by the root mean square difference of radial log spectra. Grey levels: by the earth mover's",
        "distance in half ranges. Frechet distance, and precision and recall (of which 1 is the best), are of",
        f"{number} crops of {SIDE} px against as many of other normal images,",
        "in features of this project's own, the answers of a fixed bank of filters (`anomalib_gan/fidelity.py`):",
        "figures from elsewhere do not compare with them, nor those of other numbers of crops.",
    ]
    return "\n".join(lines) + "\n"


def sheet(drawn: NDArray[np.float64], across: int) -> NDArray[np.uint8]:
    """The first across x across of the (n, height, width) images in [-1, 1], side by side in 8 bits."""
    _, height, width = drawn.shape
    grey = np.clip(np.rint((drawn[: across**2] + 1) * 127.5), 0, 255).astype(np.uint8)
    return grey.reshape(across, across, height, width).swapaxes(1, 2).reshape(across * height, across * width)
