"""Draws crops of defects in class folders, each with one defect of one kind around its middle, to learn kinds from.

    python data_samples/defects.py --out crops --each 60 --seed 1

Each is cut from a picture of its own that `generate.py` draws, around a random pixel of the defect's mask. Everything
is a function of the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from generate import DEFECTS, Array, draw_defect, to_8_bit

PICTURE = 176  # px, side of the picture that a crop is cut from
TRIES = 20  # pictures, for in some no fibre lies where the defect needs one
SIZES = (0.8, 1.2)  # of a defect: 1 is obvious


def crops(kind: str, count: int, seed: int = 0, side: int = 96) -> Iterator[Array]:
    """uint8 (side, side), so many of a kind of defect, a key of DEFECTS."""
    for rng in np.random.default_rng([seed, list(DEFECTS).index(kind)]).spawn(count):
        image, mask = spoilt(rng, kind)
        places = np.argwhere(mask)
        top, left = np.clip(places[rng.integers(len(places))] - side // 2, 0, PICTURE - side)
        yield to_8_bit(image[top : top + side, left : left + side])


def spoilt(rng: np.random.Generator, kind: str) -> tuple[Array, Array]:
    """A picture with a defect, and its mask."""
    for _ in range(TRIES):
        try:
            image, _, mask = draw_defect(rng, kind, PICTURE, PICTURE, size=rng.uniform(*SIZES))
        except ValueError as error:
            reason = error
        else:
            return image, mask
    raise ValueError(f"none of {TRIES} pictures has room for a defect of kind {kind!r}") from reason


def write(out: Path, each: int, seed: int = 0, side: int = 96) -> None:
    """out/<kind>/<number>.png."""
    for kind in DEFECTS:
        (out / kind).mkdir(parents=True, exist_ok=True)
        for n, crop in enumerate(crops(kind, each, seed, side)):
            (out / kind / f"{n:03d}.png").write_bytes(cv2.imencode(".png", crop)[1].tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--each", type=int, default=60, help="crops of each kind")
    parser.add_argument("--side", type=int, default=96, help=f"their side in px, at most {PICTURE}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.each, given.seed, given.side)
    print(f"{len(DEFECTS) * given.each} crops in {given.out}")


if __name__ == "__main__":
    main()
