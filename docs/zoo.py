"""Draws zoo/NAME.png beside this file, a row for each model of the zoo that was run on data_samples: the input, its
reconstruction or what inversion found, where the model has one, and the map on the fixed scale of its normal images.

python docs/zoo.py runs/zoo/data_samples
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from picture import TEST, reconstruction
from PIL import Image

from anomalib_gan.export import TorchBackend
from anomalib_gan.models import MODELS
from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.heat import heat_range
from anomalib_gan.runtime.image import open_image

HERE = Path(__file__).resolve().parent
IMAGE = TEST / "bead" / "000.png"
HEIGHT, GAP = 168, 6  # px, of a row and between its panels
SHADES = 32  # of grey and of heat, that a noisy picture may compress
LARGEST = 60_000  # bytes

Levels = NDArray[np.uint8]


def draw(run: Path, image: Path, out: Path) -> None:
    """One row. ValueError where it is too large a file, as for a much larger `image`."""
    inspector = open_inspector(run, device="cpu")
    with open_image(image) as picture:
        found = inspector(picture)
        pixels, white = picture.rows(0, picture.content), picture.white
    assert found.map is not None and isinstance(inspector.backend, TorchBackend)
    low, high = heat_range(inspector.backend.scale)
    shown = [shades(pixels.mean(-1) / white, pixels.shape)]
    if hasattr(inspector.backend.graph.model, "reconstruct"):
        shown.append(shades(reconstruction(inspector.backend, pixels, white).mean(-1), pixels.shape))
    shown.append(SHADES + shades((found.map[: found.content] - low) / (high - low), pixels.shape))
    gap = np.full((HEIGHT, GAP), SHADES - 1, np.uint8)
    row = np.hstack([part for one in shown for part in (one, gap)][:-1])
    file = io.BytesIO()
    drawn = Image.fromarray(row, "P")
    drawn.putpalette(palette().tobytes())
    drawn.save(file, "PNG", optimize=True)
    if file.tell() > LARGEST:
        raise ValueError(f"{out.name} has {file.tell()} bytes, more than {LARGEST}: take a smaller image")
    write_bytes(out, file.getvalue())


def shades(values: NDArray[np.floating], shape: tuple[int, ...]) -> Levels:
    """Values in [0, 1] as numbers of SHADES, HEIGHT px high; of what is missing of `shape` (height, width) white."""
    whole = np.ones(shape[:2], np.float32)
    whole[: values.shape[0], : values.shape[1]] = np.clip(values, 0, 1)
    size = (round(shape[1] * HEIGHT / shape[0]), HEIGHT)
    small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    return np.rint(small * (SHADES - 1)).astype(np.uint8)


def palette() -> Levels:
    """(2 SHADES, 3): greys, then heat."""
    ramp = np.linspace(0, 255, SHADES).round().astype(np.uint8)[:, None]
    heat = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return np.ascontiguousarray(np.vstack([np.repeat(ramp, 3, 1), heat]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, help="folder of runs NAME-SEED, as `benchmark accuracy` makes them")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in MODELS:
        run = given.runs / f"{name}-{given.seed}"
        if not run.is_dir():
            print(f"{name}: {run} is not there, so there is no picture")
            continue
        draw(run, IMAGE, HERE / "zoo" / f"{name}.png")
        print(HERE / "zoo" / f"{name}.png")
