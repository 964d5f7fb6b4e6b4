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

from anomalib_gan.generation import table
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
