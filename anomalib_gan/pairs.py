"""Images of two domains, for translators: folders whose files are partners by their names, or folders of any images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_gan.data import BUDGET, Crops, Normal, alike, read_normals
from anomalib_gan.holding import Held, hold_out
from anomalib_gan.model import Pair
from anomalib_gan.runtime.image import ImageError, find_images
from anomalib_gan.training import derive_seed

Domain = list[Normal]


def read_domains(
    folder: str | os.PathLike[str],
    wanted: str | os.PathLike[str],
    *,
    paired: bool,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    budget: int = BUDGET,
) -> tuple[Domain, Domain, list[str]]:
    """The images of `folder` and of `wanted`, with their sub-folders, and what to tell the user about them.

    `paired`: the i-th of both are partners, of the same name below their folder, whatever its suffix, and of the same
    size. `info_bar` to `budget` are those of `read_normals`. An ImageError names the file that has no partner, or one
    of another size, or two that have one name.
    """
    places = Path(folder), Path(wanted)
    one, other = (place.resolve() for place in places)
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ImageError(f"{folder} and {wanted} are one folder or lie within each other: give two that are apart")
    files = partners(*places) if paired else tuple(images_in(place) for place in places)
    found = [read_normals(some, info_bar=info_bar, bits=bits, white=white, budget=budget // 2) for some in files]
    (x, notes), (y, more) = found
    if paired:
        partner = dict(zip(*files, strict=True))
        read = {image.path: image for image in y}  # of a collection that is too large, each side keeps its own part
        x = [image for image in x if partner[image.path] in read]
        y = [read[partner[image.path]] for image in x]
        for here, there in zip(x, y, strict=True):
            if here.size != there.size:
                raise ImageError(
                    f"{here.path} has {here.size} px and its partner {there.path} {there.size}, info bars left out: "
                    "make both of one size, or take them out"
                )
    return x, y, [*notes, *more]


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and its sub-folders; an ImageError where there are none."""
    if files := find_images(folder):
        return files
    raise ImageError(f"{folder} holds no image: give the folder with the images")


def partners(folder: Path, wanted: Path) -> tuple[list[Path], list[Path]]:
    """The files of both folders, partners at the same place; an ImageError names the first that has none."""
    here, there = named(folder), named(wanted)
    for have, others, place in ((here, there, wanted), (there, here, folder)):
        if alone := [path for name, path in have.items() if name not in others]:
            raise ImageError(
                f"{alone[0]} has no partner of that name in {place}: add it, or take the file out "
                f"({len(alone)} such in all)"
            )
    return list(here.values()), [there[name] for name in here]


def named(folder: Path) -> dict[PurePath, Path]:
    """The images in a folder by their names below it, without suffix."""
    found: dict[PurePath, Path] = {}
    for path in images_in(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in found:
            raise ImageError(f"{found[name]} and {path} have one name, so it is open which of them is meant: keep one")
        found[name] = path
    return found


def hold_pairs_out(x: Domain, y: Domain, patch: int, seed: int, *, paired: bool) -> list[Held]:
    """What training must not see of both domains; of partners the same part."""
    held = hold_out(x, patch, seed)
    if not paired:
        return held + hold_out(y, patch, seed)
    partner = {str(here.path.absolute()): there for here, there in zip(x, y, strict=True)}
    beside = [(one, partner[one.path]) for one in held]
    return held + [replace(one, path=str(there.path.absolute()), sha256=there.sha256) for one, there in beside]


class PairCrops:
    """Batches of `Pair`, x and y each (batch, C, patch, patch) in [-1, 1]: a pure function of (seed, n), as `Crops`.

    `paired`: images at the same place of `x` and `y` are partners, each (C, H, W) of one size, and so are the crops,
    which are flipped and magnified together. Else each is drawn by itself. Brightness and contrast stay as they are,
    for what they are to become is what is learnt. `options`: those of `Crops`, but for `jitter` and `labels`.
    """

    def __init__(
        self,
        x: Sequence[Tensor],
        y: Sequence[Tensor],
        patch: int,
        batch: int,
        *,
        paired: bool,
        channels: int,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.paired, self.channels = paired, channels
        if paired:  # cut as one image of twice as many channels
            both = [joined(here, there, channels) for here, there in zip(x, y, strict=True)]
            self.drawn = [Crops(both, patch, batch, seed=seed, jitter=0, channels=2 * channels, **options)]
        else:
            self.drawn = [
                Crops(images, patch, batch, seed=its, jitter=0, channels=channels, **options)
                for images, its in ((x, seed), (y, derive_seed(seed, "wanted")))
            ]

    def __call__(self, n: int) -> Pair:
        found: list[Any] = [one(n) for one in self.drawn]
        return Pair(*(found[0].chunk(2, 1) if self.paired else found))

    @property
    def images(self) -> list[Tensor]:
        """The regions of x, mirrored out to a patch where they are smaller."""
        return [image[: self.channels] for image in self.drawn[0].images]

    @property
    def wanted(self) -> list[Tensor]:
        """The same of y."""
        if self.paired:
            return [image[self.channels :] for image in self.drawn[0].images]
        return self.drawn[1].images


def joined(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """Grey levels (C, H, W) as in `Normal.grey`, of one size -> (2 `channels`, H, W), bytes where both are."""
    return torch.cat([one.expand(channels, -1, -1) for one in alike((x, y))])
