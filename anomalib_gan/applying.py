"""Networks that make images of images, applied to whole ones tile by tile, and to the images of a folder.

Results are PNG files that tell what they were made of and by what, so a job that was stopped goes on where it ended.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan.export import memory_told, scaled
from anomalib_gan.runtime.files import sha256_file, write_bytes
from anomalib_gan.runtime.image import ImageError, find_images
from anomalib_gan.runtime.inspector import SCALE_TOLERANCE, Opener
from anomalib_gan.runtime.tiling import Grid

TILE = 512  # px, of what a network is given
SIGNATURE, HEADER = 8, 33  # bytes of a PNG up to its first chunk, and up to its second
KEYWORD = b"anomalib_gan\0"  # of the text in which a PNG tells what it was made of
LOOKED_AT = 2**16  # bytes of a file in which that is looked for
MADE, KEPT, INVALID = "made", "kept", "invalid"

Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]
"""Called with the number of images: a context whose value is called with MADE, KEPT or INVALID for each of them."""


@dataclass(frozen=True)
class Operator:
    """What is done to images: `net` makes (1, C, factor H, factor W) of (1, C, H, W), both in [-1, 1].

    `channels`: C. `halo`, `stride`, `smallest`: as of a Model, in px of what the net is given. `mark`: what its results
    say they were made by, JSON-able; another mark is another operator. `pixel_size`: um, of the images that it suits,
    where it is known.
    """

    net: Callable[[Tensor], Tensor]
    channels: int
    halo: int
    mark: Mapping[str, Any] = field(default_factory=dict)
    factor: int = 1
    stride: int = 1
    smallest: int = 1
    pixel_size: float | None = None
    device: str = "cpu"
    tile: int = TILE

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any], white: float, name: str = "<array>") -> NDArray[Any]:
        """Grey levels (height, width, 1 or 3) in [0, white] -> (factor height, factor width, 1 or 3) of the same type;
        of floats 16 bits, up to 65535.

        Computed tile by tile, which gives what the whole image at once would. `name`: what errors call the image.
        ImageError: it is too small, or has colours that the net knows nothing of, or what the net gives is not finite.
        MemoryError: the device cannot hold a tile.
        """
        height, width, given = pixels.shape
        if min(height, width) < self.smallest:
            raise ImageError(
                f"{name}: image {height}x{width} is smaller than the model's smallest image, "
                f"{self.smallest}x{self.smallest} px: pad or enlarge it"
            )
        if given > self.channels:
            if not (pixels == pixels[..., :1]).all():
                raise ImageError(
                    f"{name}: the image has colours but the model was trained on grey images: convert it to grey"
                )
            pixels = pixels[..., :1]
        kind = np.dtype(np.uint16) if pixels.dtype.kind == "f" else pixels.dtype
        level = 65535.0 if pixels.dtype.kind == "f" else white
        found = np.empty((self.factor * height, self.factor * width, pixels.shape[2]), kind)
        grid = Grid(self.tile, max(self.halo, self.smallest - self.stride), self.stride)
        for core, window in grid.split(height, width):
            seen = pixels[window.top : window.bottom, window.left : window.right]
            below, beside = window.bottom - window.top - len(seen), window.right - window.left - seen.shape[1]
            padded = np.pad(seen, ((0, below), (0, beside), (0, 0)), mode="edge")
            x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(padded, -1, 0)[None], np.float32))
            with memory_told(self.device, *x.shape[2:]):
                y = self.net(scaled(x.to(self.device).expand(-1, self.channels, -1, -1), white))[0].float().cpu()
            if not y.isfinite().all():
                raise ImageError(f"{name}: what the model makes of it is not finite: train it again")
            if len(y) > found.shape[2]:  # a grey image through a net of colours
                y = y.mean(0, keepdim=True)
            part = ((y + 1) * (level / 2)).round().clamp(0, level).movedim(0, -1).numpy().astype(kind)
            top, left = core.top - window.top, core.left - window.left
            bottom, right = min(core.bottom, height) - window.top, min(core.right, width) - window.left
            found[
                self.factor * core.top : self.factor * (window.top + bottom),
                self.factor * core.left : self.factor * (window.left + right),
            ] = part[self.factor * top : self.factor * bottom, self.factor * left : self.factor * right]
        return found


@dataclass
class Outcome:
    """What became of the images of a folder, by their relative paths: how many were made now, or kept as they were;
    the reasons of those that could not be made; and the pixel sizes, in um, of those that the operator does not suit.
    """

    counts: Counter[str] = field(default_factory=Counter)
    invalid: dict[str, str] = field(default_factory=dict)
    unlike: dict[str, float] = field(default_factory=dict)


def apply(
    operator: Operator,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    opener: Opener,
    progress: Progress = lambda _images: nullcontext(lambda _what: None),
) -> Outcome:
    """Makes a PNG in `out` of every image of `folder`, under the same relative name.

    What is there already, made by the same operator of the same bytes, is kept; so a job that was killed goes on. A
    file that says nothing of the kind is left alone, and its image counts as invalid, as does one that cannot be read
    or not be held in memory; the others are made. ValueError: there is no image, or `out` is the folder itself.
    OSError: a result cannot be written.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    outcome = Outcome()
    places = targets(folder, out)
    for torn in out.rglob(".tmp-*.part"):  # what a kill left of an atomic write
        torn.unlink(missing_ok=True)
    with progress(len(places)) as tell:
        for path, place in places.items():
            name = path.relative_to(folder).as_posix()
            try:
                what = _make(operator, path, place, name, opener, outcome)
            except (ImageError, MemoryError) as error:
                reason = f"not enough memory: {error}" if isinstance(error, MemoryError) else str(error)
                what, outcome.invalid[name] = INVALID, reason
            outcome.counts[what] += 1
            tell(what)
    return outcome


def targets(folder: Path, out: Path) -> dict[Path, Path]:
    """Where the result of each image of `folder` goes: its relative name with the suffix .png.

    Where an image that is a PNG itself, or an earlier one, has that name, .png is appended instead.
    """
    if out == folder:
        raise ValueError(f"the results would lie among the images of {folder}: choose another --out")
    images = [path for path in find_images(folder) if not path.is_relative_to(out)]
    if not images:
        raise ValueError(f"{folder} holds no image: give the folder with the images")
    found: dict[Path, Path] = {}
    taken = {path for path in images if path.suffix == ".png"}
    for path in images:
        renamed = path.with_suffix(".png")
        if path.suffix != ".png" and renamed in taken:
            renamed = path.with_name(f"{path.name}.png")
        taken.add(renamed)
        found[path] = out / renamed.relative_to(folder)
    return found


def _make(operator: Operator, path: Path, place: Path, name: str, opener: Opener, outcome: Outcome) -> str:
    mark = dict(operator.mark)
    known = mark_of(place) if place.is_file() else None
    if known is None and os.path.lexists(place):
        raise ImageError(f"{path}: {place} is there and no result: choose another --out, or take it away")
    try:
        if known == {**mark, "source": sha256_file(path)}:
            return KEPT
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}): check its rights") from error
    with opener(path) as picture:
        made = operator(picture.rows(0, picture.content), picture.white, picture.name)
        if picture.changed():
            raise ImageError(f"{path}: the file changed while it was read: start again once it is complete")
        size, ours = picture.pixel_size, operator.pixel_size
        if size and ours and abs(size / ours - 1) > SCALE_TOLERANCE:
            outcome.unlike[name] = size
        mark["source"] = picture.sha256
    write_bytes(place, png(made, mark, size and size / operator.factor))
    return MADE


# --- PNG -----------------------------------------------------------------------------------------------------------


def png(pixels: NDArray[Any], mark: Mapping[str, Any], pixel_size: float | None = None) -> bytes:
    """Grey or RGB (height, width, 1 or 3), uint8 or uint16, as a PNG that holds the JSON of `mark` and the pixel size,
    in um.
    """
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    if not encoded:
        raise ValueError(f"OpenCV cannot encode {pixels.shape} of {pixels.dtype} as PNG")
    body = data.tobytes()
    added = _chunk(b"tEXt", KEYWORD + json.dumps(dict(mark), sort_keys=True).encode("ascii"))
    per_metre = round(1e6 / pixel_size) if pixel_size else 0
    if 0 < per_metre < 2**31:
        added += _chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))
    return body[:HEADER] + added + body[HEADER:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mark_of(path: str | os.PathLike[str]) -> Any:
    """What a file that `png` made says of itself; None of another file."""
    with open(path, "rb") as file:
        head = file.read(LOOKED_AT)
    for kind, data in _chunks(head):
        if kind == b"tEXt" and data.startswith(KEYWORD):
            try:
                return json.loads(data[len(KEYWORD) :])
            except ValueError:
                return None
    return None


def _chunks(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = SIGNATURE
    while at + 12 <= len(head):
        end = at + 12 + int.from_bytes(head[at : at + 4], "big")
        if end > len(head):
            return
        yield head[at + 4 : at + 8], head[at + 8 : end - 4]
        at = end
