"""Which normal pixels training never sees, so that thresholds come from what is new to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan.data import Normal, flat
from anomalib_gan.likeness import same_things
from anomalib_gan.training import derive_seed

WHOLE_IMAGES = 8  # from so many normal images on, whole images are held back
HELD_SHARE = 0.2
HELD_COLUMNS = 128  # px, least width of a held-back strip

Box = tuple[int, int, int, int]  # top, left, bottom, right, half-open, px of the image without its info bar


@dataclass(frozen=True)
class Held:
    """Pixels that training never sees: the box of an image, or with None the whole image."""

    path: str
    sha256: str
    box: Box | None


@dataclass(frozen=True)
class Before:
    """What an earlier training did with images whose weights a new one begins with, by the SHA-256 of their files.

    trained: pixels of them were trained on · held: what was held back of an image, with None all of it.
    """

    trained: frozenset[str]
    held: Mapping[str, Box | None]


NOTHING = Before(frozenset(), {})


def hold_out(images: Sequence[Normal], patch: int, seed: int, before: Before = NOTHING) -> list[Held]:
    """What training must not see, so that thresholds come from pixels that are new to the model.

    Of WHOLE_IMAGES or more, a fifth of the images, those of one thing together (see `same_things`); of fewer, the
    right-most fifth of each image's columns, at least HELD_COLUMNS (of each slice of a stack, a patch) as far as one
    patch is left for training. An image that is too narrow gives none.

    What the weights saw `before` is not new to them, whatever is held back now: it is trained on again, what was held
    back stays so, and other shots of the same things go with them. Of what is new, a fifth is held back likewise.
    """
    if any(before.held.values()) if before.held else len(images) < WHOLE_IMAGES:
        boxes = [_strip(image, patch, before) for image in images]
        parts = zip(images, boxes, strict=True)
        return [Held(str(image.path.absolute()), image.sha256, box) for image, box in parts if box is not None]
    greys = [flat(image.grey) for image in images]
    chosen = _drawn(greys, derive_seed(seed, "hold out")) if before == NOTHING else _drawn_again(images, seed, before)
    return [Held(str(images[i].path.absolute()), images[i].sha256, None) for i in sorted(chosen)]


def _strip(image: Normal, patch: int, before: Before) -> Box | None:
    if image.sha256 in before.held or image.sha256 in before.trained:
        return before.held.get(image.sha256)
    height, width = image.grey.shape[-2:]
    least = HELD_COLUMNS if image.grey.dim() == 3 else patch
    columns = min(max(round(HELD_SHARE * width), least), width - patch)
    return (0, width - columns, height, width) if columns > patch // 2 else None  # else `fill` could not mirror it


def _drawn(images: Sequence[Tensor], seed: int) -> list[int]:
    """About HELD_SHARE of the images, by whole things. Where most images look alike, as those of one part that always
    lies the same way do, that says nothing, and single images are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = max(1, round(HELD_SHARE * len(images)))
    chosen = _by_things(same_things(images), wanted, generator)
    return chosen if 2 * len(chosen) > wanted else torch.randperm(len(images), generator=generator)[:wanted].tolist()


def _drawn_again(images: Sequence[Normal], seed: int, before: Before) -> list[int]:
    """What was held back before, with new shots of it, and about HELD_SHARE of what shows a new thing."""
    things = same_things([flat(image.grey) for image in images])
    trained = {thing for image, thing in zip(images, things, strict=True) if image.sha256 in before.trained}
    held = {thing for image, thing in zip(images, things, strict=True) if image.sha256 in before.held}
    chosen, free = [], []
    for i, image in enumerate(images):
        if image.sha256 in before.held or (image.sha256 not in before.trained and things[i] in held - trained):
            chosen.append(i)
        elif things[i] not in trained:
            free.append(i)
    generator = torch.Generator().manual_seed(derive_seed(seed, "hold out"))
    drawn = _by_things(things[free], round(HELD_SHARE * len(free)), generator) if free else []
    return chosen + [free[i] for i in drawn]


def _by_things(things: NDArray[np.int32], wanted: int, generator: torch.Generator) -> list[int]:
    """At most `wanted` images, drawn by whole things; `things` has a number for each image."""
    chosen: list[int] = []
    for thing in torch.randperm(int(things.max()) + 1, generator=generator).tolist():
        members = np.flatnonzero(things == thing).tolist()
        if len(chosen) + len(members) <= wanted:
            chosen += members
    return chosen


def write_split(seed: int, held: Sequence[Held]) -> dict[str, Any]:
    """The JSON value of split.json."""
    return {"seed": seed, "held": [asdict(one) for one in held]}


def regions(images: Sequence[Normal], held: Sequence[Held]) -> tuple[list[Tensor], list[Tensor]]:
    """The pixels to train on and the pixels held back, each as in `Normal.grey`."""
    boxes = {one.path: one.box for one in held}
    training, kept = [], []
    for image in images:
        path = str(image.path.absolute())
        box = boxes.get(path)
        if path not in boxes:
            training.append(image.grey)
        elif box is None:
            kept.append(image.grey)
        else:
            training.append(image.grey[..., : box[1]])
            kept.append(image.grey[..., box[0] : box[2], box[1] : box[3]])
    return training, kept
