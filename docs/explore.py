"""Copies sheets of `anomalib-gan explore` into explore/ beside this file, in 16 greys, so that they are small files.

python docs/explore.py FOLDER
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_gan.runtime.files import write_bytes

SHEETS = ("sample", "interpolation", "arithmetic", "traversal", "directions")
GREYS = 16


def reduce(sheet: Path, out: Path) -> None:
    levels = np.asarray(Image.open(sheet).convert("L")) // (256 // GREYS)
    picture = Image.fromarray(levels, "P")
    picture.putpalette([round(i * 255 / (GREYS - 1)) for i in range(GREYS) for _ in range(3)])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, bits=4)
    write_bytes(out, file.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what was given to `explore` as --out")
    given = parser.parse_args()
    for name in SHEETS:
        reduce(given.folder / f"{name}.png", Path(__file__).resolve().parent / "explore" / f"{name}.png")
