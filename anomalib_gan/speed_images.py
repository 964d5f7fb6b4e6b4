"""Images for the speed benchmark: normal ones of the material, continued by reflection to any size and number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.image import Picture

Size = tuple[int, int]
"""Height and width in px."""
Image = NDArray[np.uint8]
"""(height, width, channels), white = 255."""

TILE = 256
PICTURES = 8


def read_pictures(files: Sequence[Path], opener: Callable[[Path], Picture]) -> list[Image]:
    """At most PICTURES of the files, evenly spread, in 8 bits."""
    found = []
    for index in sorted({round(k) for k in np.linspace(0, len(files) - 1, PICTURES)}) if files else ():
        with opener(files[index]) as picture:
            grey = picture.rows(0, picture.content).astype(np.float32) * (255 / picture.white)
        found.append(np.rint(grey.clip(0, 255)).astype(np.uint8))
    return found


@lru_cache
def channels_of(path: Path) -> int:
    return open_inspector(path, device="cpu").backend.channels


def adapted(image: Image, path: Path) -> Image:
    """The image as a detector takes it: grey, or with three channels."""
    channels = channels_of(path)
    return image.mean(-1, keepdims=True).astype(np.uint8) if channels == 1 else np.repeat(image, 3 // image.shape[2], 2)


def images_for(path: Path, count: int, size: Size, pictures: Sequence[Image], scratch: Path) -> Path:
    """A folder of `count` 8-bit PNG images, each another piece of a picture continued by reflection."""
    folder = scratch / f"images-{channels_of(path)}"
    for number in range(0 if folder.exists() else count):
        image = adapted(pictures[number % len(pictures)], path)
        piece = mirrored(image, 37 * number, 53 * number, *size)[:, :, ::-1]  # OpenCV's order of channels
        encoded, data = cv2.imencode(".png", np.ascontiguousarray(piece))
        assert encoded
        write_bytes(folder / f"{number:04}.png", data.tobytes())
    return folder


def write_large(image: Image, path: Path, size: Size) -> None:
    """An 8-bit TIFF in uncompressed tiles, written tile by tile."""
    height, width = size

    def tiles() -> Iterator[Image]:
        for top in range(0, height, TILE):
            band = mirrored(image, top, 0, TILE, width + TILE)
            for left in range(0, width, TILE):
                yield band[:, left : left + TILE].squeeze()

    path.parent.mkdir(parents=True, exist_ok=True)
    colour = image.shape[2] == 3
    tifffile.imwrite(
        path, tiles(), shape=(*size, 3) if colour else size, dtype=np.uint8, tile=(TILE, TILE), metadata=None,
        photometric="rgb" if colour else "minisblack",
    )  # fmt: skip


def mirrored(image: Image, top: int, left: int, height: int, width: int) -> Image:
    """A piece of the image continued by reflection in all directions."""

    def places(start: int, count: int, length: int) -> NDArray[np.int64]:
        place = np.arange(start, start + count) % (2 * length)
        return np.minimum(place, 2 * length - 1 - place)

    rows = image[places(top, height, image.shape[0])]
    return np.ascontiguousarray(rows[:, places(left, width, image.shape[1])])
