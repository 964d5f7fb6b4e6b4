"""A trained translator at work: on an image of any size, by tiles whose seams do not show, and on a folder of them."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_gan.checkpoint import load_model
from anomalib_gan.export import memory_told, scaled, usable
from anomalib_gan.model import Model
from anomalib_gan.runtime.files import sha256_file, write_bytes
from anomalib_gan.runtime.fitting import framed
from anomalib_gan.runtime.image import ImageError, Picture, find_images
from anomalib_gan.runtime.inspector import Opener
from anomalib_gan.runtime.tiling import Grid

LARGEST = 2**31  # bytes of a picture that is written in one piece
HEAD = 33  # bytes of a PNG before its second chunk
LABEL = b"anomalib_gan\0"  # of the chunk that says what a picture was made from


class Translator:
    """Images of the second domain from those of the first. The network sees a bounded neighbourhood, and tiles overlap
    by it: a tiled image equals the whole one.

    `grey`: what comes out has one channel, whatever the model has. `hash`: SHA-256 of the model. `tile`: side in px.
    """

    def __init__(
        self, model: Model, *, hash: str = "", grey: bool = False, device: str = "auto", tile: int = 1024
    ) -> None:
        self.device, self.hash = usable(device), hash
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.channels = 1 if grey else model.channels
        self.smallest = max(model.stride, model.smallest)
        # A window holds the whole image, or a core of one stride and a halo: none is below the model's smallest image.
        self.grid = Grid(tile, max(model.halo, self.smallest - model.stride), model.stride)

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, device: str = "auto", tile: int = 1024) -> Translator:
        """That of a run; a ValueError says what is wrong with the run folder, or that it holds another model."""
        model, stored = load_model(Path(run), mapped=False)
        if not model.pairs:
            raise ValueError(
                f"the {stored['spec']['name']} in {run} is no translator: "
                "train one with `anomalib-gan train INPUT_DIR --to WANTED_DIR`"
            )
        grey = stored["card"]["data"]["to"]["channels"] == 1
        return cls(model, hash=stored["hash"], grey=grey, device=device, tile=tile)

    def __call__(self, picture: Picture) -> NDArray[np.uint8]:
        """(content, width), or (content, width, 3) where it has colours; without the info bar. Raises ImageError."""
        height, width = picture.content, picture.width
        if height * width * self.channels > LARGEST:
            raise ImageError(f"{picture.name}: {height}x{width} px cannot be written as one PNG: cut the image")
        levels = np.empty((height, width, self.channels), np.uint8)
        top = 0
        for rows in self.bands(picture):
            levels[top : top + len(rows)] = np.rint(np.clip(rows, 0, 1) * 255)
            top += len(rows)
        return levels[..., 0] if self.channels == 1 else levels

    def bands(self, picture: Picture) -> Iterator[NDArray[np.float32]]:
        """The translated content in strips (n, width, channels) from the top; 0 is black and 1 white."""
        height, width = picture.content, picture.width
        if min(height, width) < self.smallest:
            raise ImageError(
                f"{picture.name}: image {height}x{width} is smaller than the model's smallest image, "
                f"{self.smallest}x{self.smallest} px: pad or enlarge it"
            )
        for band in self.grid.bands(height, width):
            core, window = band[0]
            pixels = picture.rows(window.top, min(window.bottom, height))
            rows = np.empty((min(core.bottom, height) - core.top, width, self.channels), np.float32)
            for core, window in band:
                size = window.bottom - window.top, window.right - window.left
                image = framed(picture.name, pixels[:, window.left : window.right], self.model.channels, *size)
                found = self._run(image, picture.white)[:, core.top - window.top :, core.left - window.left :]
                right = min(core.right, width)
                rows[:, core.left : right] = np.moveaxis(found[:, : len(rows), : right - core.left], 0, -1)
            yield rows

    @torch.inference_mode()
    def _run(self, image: NDArray[np.float32], white: float) -> NDArray[np.float32]:
        """Raw grey levels (C, h, w) -> (`channels`, h, w) between 0 and 1."""
        with memory_told(self.device, *image.shape[1:]):
            x = scaled(torch.from_numpy(image)[None].to(self.device), white)
            found = (self.model.translate(x)[0].float() + 1) / 2  # type: ignore[operator]
            return (found if self.channels > 1 else found.mean(0, keepdim=True)).cpu().numpy()


Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]
"""Called with the number of images: a context whose value is called with what became of each."""


@dataclass
class Outcome:
    """What became of a folder: images translated now, those that were there already, and why others failed."""

    translated: int = 0
    there: int = 0
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def code(self) -> int:
        """The exit code of a command: 0 all are translated, 1 not all, 130 after Ctrl-C."""
        return 130 if self.interrupted else int(bool(self.failed))


def translate_folder(
    translator: Translator,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    opener: Opener,
    settings: dict[str, Any] | None = None,
    progress: Progress = lambda _images: nullcontext(lambda _what: None),
) -> Outcome:
    """Writes every image below `folder` translated into `out`, under its relative name, as PNG of 8 bits.

    Stopped and called again it goes on: each picture says what it was made from, and what was made from the same file
    by the same model with the same `settings` (those of `opener`) is not made again. A picture that says nothing of the
    kind is left alone. Raises ValueError when nothing could be run and OSError when a picture cannot be written.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if out == folder:
        raise ValueError(f"the translations would lie among the images of {folder}: choose another --out")
    images = [path for path in find_images(folder) if not path.is_relative_to(out)]
    if not images:
        raise ValueError(f"{folder} holds no image")
    outcome, taken = Outcome(), dict[Path, Path]()
    with progress(len(images)) as tell:
        try:
            for path in images:
                target = out / path.relative_to(folder).with_suffix(".png")
                try:
                    if (other := taken.setdefault(target, path)) != path:
                        raise ImageError(f"{path}: its translation would have the name of that of {other}: rename one")
                    fresh = _translate(translator, path, target, opener, settings or {})
                except (ImageError, MemoryError) as error:
                    outcome.failed.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                    tell("failed")
                else:
                    outcome.translated += fresh
                    outcome.there += not fresh
                    tell("translated" if fresh else "there already")
        except KeyboardInterrupt:
            outcome.interrupted = True
    return outcome


def _translate(translator: Translator, path: Path, target: Path, opener: Opener, settings: dict[str, Any]) -> bool:
    """Writes one translation; False where it is there already."""
    try:
        origin = {"model": translator.hash, "input": sha256_file(path), **settings}
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from error
    made = made_from(target)
    if made == origin:
        return False
    if made is None and os.path.lexists(target):
        raise ImageError(f"{path}: {target} is there and no translation: choose another --out, or take it away")
    with opener(path) as picture:
        levels = translator(picture)
        if picture.sha256 != origin["input"] or picture.changed():
            raise ImageError(f"{path}: the file changed while it was read: translate it again once it is complete")
    write_bytes(target, png(levels, origin))
    return True


def png(levels: NDArray[np.uint8], origin: dict[str, Any]) -> bytes:
    """The bytes of a PNG that says, as JSON in a text chunk, what it was made from."""
    whole = bytes(imagecodecs.png_encode(levels))
    text = b"tEXt" + LABEL + json.dumps(origin).encode("ascii")
    return whole[:HEAD] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + whole[HEAD:]


def made_from(path: Path) -> dict[str, Any] | None:
    """What a picture of `png` says; None for any other file, and where there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        begin = file.read(HEAD + 8)[HEAD:]
        if begin[4:] != b"tEXt":
            return None
        label, _, text = file.read(min(int.from_bytes(begin[:4], "big"), 2**16)).partition(b"\0")
    if label + b"\0" != LABEL:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
