"""Defects painted on normal images: masks, given or drawn, and what a model that paints makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from anomalib_gan.corruption import SHAPES, SPOILT, choice, uniform
from anomalib_gan.labelled import read_mask
from anomalib_gan.model import Model
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.image import Picture, find_images
from anomalib_gan.training import derive_seed

SEEN = 6  # px at working scale, least area of a mask that is drawn
LEAST = 16  # px at working scale, side of a square that a shape is drawn in
TRIES = 20  # shapes that are drawn until one covers that
EXAMPLES = 4  # normal patches that a picture of a painter shows, and codes for each


@contextmanager
def seeded(device: torch.device, *parts: object) -> Iterator[None]:
    """Randomness that depends on the parts alone; that outside is left alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(*parts))
        yield


def drawn_mask(side: int, scale: int) -> Tensor:
    """(1, 1, side, side) of 0 and 1: one of the shapes that corruption draws, as large as at 1/scale of the image.

    `side` is a multiple of `scale`. ValueError where none of TRIES shapes covers SEEN pixels.
    """
    blank = torch.zeros(1, 1, side // scale, side // scale)
    for _ in range(TRIES):
        mask = (SHAPES[choice(len(SHAPES))](blank) * uniform(0.5, 1.0) > SPOILT).float()
        if mask.sum() >= SEEN:
            return mask.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    raise ValueError(f"none of {TRIES} shapes covers {SEEN} pixels of a square of {side} px: it is too small for one")


@torch.no_grad()
def painted(model: Any, x: Tensor, mask: NDArray[np.bool_]) -> Tensor:
    """x (1, C, H, W) in [-1, 1] with a defect in each connected part of the mask (H, W), each by a code of its own.

    Computed is a window around each part, as far as G sees, so that memory does not grow with the image. All randomness
    is torch's global generator.
    """
    height, width = mask.shape
    tall, wide = (-(-side // model.stride) * model.stride for side in mask.shape)
    image = pad(x, (0, wide - width, 0, tall - height), mode="replicate").clone()
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    reach = -(-model.halo // model.stride) * model.stride
    for number in range(1, count):
        left, top, across, down = (int(one) for one in boxes[number][:4])
        above, before = (max(0, begin // model.stride * model.stride - reach) for begin in (top, left))
        below, behind = (
            min(most, -(-end // model.stride) * model.stride + reach)
            for most, end in ((tall, top + down), (wide, left + across))
        )
        here = np.zeros((below - above, behind - before), np.float32)
        part = labels[above:below, before:behind] == number
        here[: part.shape[0], : part.shape[1]] = part
        place = (..., slice(above, below), slice(before, behind))
        image[place] = model.paint(image[place], torch.from_numpy(here)[None, None].to(x), model.prior(1))
    return image[..., :height, :width]


def able(model: Model, run: object, name: str) -> Any:
    """The model of a run, if it paints; a ValueError names one that does not."""
    if not hasattr(model, "paint"):
        raise ValueError(f"{run} is a run of {name}, which paints nothing: train one with --model mask_gan")
    return model


@torch.no_grad()
def examples(model: Any, normals: Sequence[Tensor], seed: int = 0) -> list[list[Tensor]]:
    """Rows of pictures (C, h, w) in [-1, 1]: a normal patch, a mask that was drawn, and defects by several codes."""
    large = [x for x in normals if min(x.shape[-2:]) >= model.patch]
    rows = []
    for i in range(EXAMPLES if large else 0):
        x = large[i % len(large)]
        top, left = ((size - model.patch) // 2 for size in x.shape[-2:])
        x = x[..., top : top + model.patch, left : left + model.patch]
        with seeded(x.device, seed, "examples", i):
            mask = drawn_mask(model.patch, model.shrink).to(x)
            copies = x.expand(EXAMPLES, -1, -1, -1)
            made = model.paint(copies, mask.expand(EXAMPLES, -1, -1, -1), model.prior(EXAMPLES))
        rows.append([one.float().cpu() for one in (x[0], 2 * mask[0].expand_as(x[0]) - 1, *made)])
    return rows


# --- data sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One image to paint: the file, the mask's file, None where one is to be drawn, and the names, without suffix, of
    what is painted and of the image as it was.
    """

    image: Path
    mask: Path | None
    name: str
    source: str


def tasks(images: Sequence[Path], root: Path, masks: Path | None, count: int | None) -> list[Task]:
    """What to paint: each image under `root` that has a mask of its name under `masks`, or `count` times one in turn.

    A mask is called as its image, or with _mask after that, in the same sub-folder. ValueError where no image has one,
    or where one has two.
    """
    if masks is None:
        count = len(images) if count is None else count
        turns = [images[i % len(images)] for i in range(count)]
        return [Task(path, None, f"{i:04d}_{called(path, root)}", called(path, root)) for i, path in enumerate(turns)]
    by_stem: dict[Path, list[Path]] = {}
    for path in find_images(masks):
        relative = path.relative_to(masks)
        by_stem.setdefault(relative.with_name(relative.stem.removesuffix("_mask")), []).append(path)
    found = []
    for path in images:
        stem = path.relative_to(root).with_suffix("")
        mine = by_stem.get(stem, [])
        if len(mine) > 1:
            raise ValueError(f"{path} has two masks, {mine[0]} and {mine[1]}: keep one")
        found += [Task(path, mask, *2 * (called(path, root),)) for mask in mine]
    if not found:
        raise ValueError(f"no image of {root} has a mask in {masks}: expected names such as {images[0].stem}_mask.png")
    return found


def called(path: Path, root: Path) -> str:
    return "_".join(path.relative_to(root).with_suffix("").parts)


class PaintedSet:
    """What `painted` makes of files: a data set in MVTec layout in the folder `out`, image after image.

    `read` opens images, `seed` decides all that is drawn, image by image, so that a job that was stopped can be done
    again. ValueError: the model does not paint, or `out` holds something.
    """

    def __init__(self, model: Any, out: Path, read: Callable[[Path], Picture], seed: int = 0) -> None:
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty: choose another --out")
        self.model, self.out, self.read, self.seed = model, out, read, seed
        self.device = next(model.buffers()).device

    def __call__(self, task: Task, number: int) -> dict[str, Any]:
        """Writes test/painted/NAME.png, its mask, and the image as it was to test/good; says what was changed.

        "inside", "outside": mean absolute change where the mask is 1 and where it is 0, in 8-bit grey levels.
        """
        with self.read(task.image) as picture:
            pixels = picture.rows(0, picture.content).astype(np.float32) / picture.white
            height, width = pixels.shape[:2]
            channels = self.model.channels
            if pixels.shape[2] > channels and not (pixels[..., :1] == pixels).all():
                raise ValueError(f"{task.image} has colours and the model was trained on grey: convert it")
            with seeded(self.device, self.seed, "paint", number):
                mask = self.mask(task, picture, height, width)
                x = torch.from_numpy(pixels[..., :channels].transpose(2, 0, 1).copy())[None].to(self.device) * 2 - 1
                y = painted(self.model, x.expand(-1, channels, -1, -1), mask)
        before, after = (levels(one) for one in (x.expand_as(y), y))
        change = np.abs(after.astype(np.float32) - before).mean(2)
        name = f"{task.name}.png"
        write_png(self.out / "ground_truth" / "painted" / f"{task.name}_mask.png", mask.astype(np.uint8) * 255)
        write_png(self.out / "test" / "painted" / name, after)
        write_png(self.out / "test" / "good" / f"{task.source}.png", before)
        return {
            "image": str(task.image), "name": name, "pixels": int(mask.sum()),
            "inside": float(change[mask].mean()) if mask.any() else None,
            "outside": float(change[~mask].mean()) if not mask.all() else None,
        }  # fmt: skip

    def mask(self, task: Task, picture: Picture, height: int, width: int) -> NDArray[np.bool_]:
        """The mask of a task, (height, width): that of its file, or a shape at a random place."""
        if task.mask is not None:
            return read_mask(task.mask, task.image, picture.height, picture.width)[:height]
        scale = self.model.shrink
        side = min(self.model.patch, height, width) // scale * scale
        if side < LEAST * scale:
            raise ValueError(f"{task.image} is {height}x{width} px, too small to draw a mask on: give one by --masks")
        top, left = (choice(size - side + 1) for size in (height, width))
        found = np.zeros((height, width), bool)
        found[top : top + side, left : left + side] = drawn_mask(side, scale)[0, 0].numpy() > 0
        return found


def levels(x: Tensor) -> NDArray[np.uint8]:
    """(1, C, H, W) in [-1, 1] -> 8-bit grey levels (H, W, C)."""
    return ((x[0].float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes (H, W), (H, W, 1) or (H, W, RGB), atomically."""
    coloured = picture[..., ::-1] if picture.ndim == 3 and picture.shape[2] == 3 else picture
    write_bytes(path, cv2.imencode(".png", np.ascontiguousarray(coloured))[1].tobytes())
