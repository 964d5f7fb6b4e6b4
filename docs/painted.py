"""Draws painted.png beside this file: normal patches of data_samples, masks, and what a mask_gan makes of them.

python docs/painted.py runs/augmenting/data_samples/mask_gan-0
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_gan.checkpoint import load_model
from anomalib_gan.data import normal_files, read_normals, signed
from anomalib_gan.painting import able, examples
from anomalib_gan.runtime.files import write_bytes

HERE = Path(__file__).resolve().parent
GOOD = HERE.parent / "data_samples/test/good"
SHADES, GAP = 32, 4  # of grey, that the picture may compress; px between patches


def draw(run: Path, out: Path) -> None:
    """A row for each patch."""
    model, stored = load_model(run)
    images, _ = read_normals(normal_files(GOOD))
    rows = examples(able(model, run, stored["spec"]["name"]), [signed(one.grey)[None] for one in images], seed=1)
    levels = [[np.rint((one[0].numpy() + 1) / 2 * (SHADES - 1)).astype(np.uint8) for one in row] for row in rows]
    framed = [[np.pad(one, GAP // 2, constant_values=SHADES - 1) for one in row] for row in levels]
    picture = Image.fromarray(np.vstack([np.hstack(row) for row in framed]), "P")
    picture.putpalette(np.repeat(np.linspace(0, 255, SHADES).round().astype(np.uint8), 3).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    write_bytes(out, file.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a trained run of mask_gan")
    draw(parser.parse_args().run, HERE / "painted.png")
    print(HERE / "painted.png")
