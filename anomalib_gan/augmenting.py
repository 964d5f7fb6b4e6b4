"""What a training may be fed with beside normal images: what another run generates or paints, and real defects.

Each of these wraps the batches of a training and leaves them as pure a function of (seed, n) as they were.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan import checkpoint, data, holding
from anomalib_gan.corruption import noise, visible
from anomalib_gan.labelled import find_samples, read_mask
from anomalib_gan.model import Defective, Model
from anomalib_gan.painting import drawn_mask, seeded
from anomalib_gan.proxy import TRIALS, effort, proxy
from anomalib_gan.runtime.calibrating import held_back
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.image import open_image
from anomalib_gan.training import Batches, derive_seed

SHARE = 0.25  # of each batch, by default
SAMPLED, PAINTED = "samples among the normal patches", "painted defects among the spoilt patches"


@dataclass(frozen=True)
class Helper:
    """A finished run that feeds a training with what its `model` generates; `hash` is that of the model."""

    run: Path
    hash: str
    model: Any
    share: float

    @classmethod
    def load(cls, run: str | os.PathLike[str], share: float, net: Model, called: str, device: torch.device) -> Helper:
        """A ValueError says why the run cannot feed the training of `net`, the model that is `called` so."""
        model, state = checkpoint.load_model(run, device, mapped=False)
        name, batch = state["spec"]["name"], net.batch
        if not net.players():
            raise ValueError(f"{called} is fitted in closed form: leave --augment-with out")
        if net.mapped is not True or net.classes:
            which = "tells classes apart" if net.classes else "gives no map, so nothing of it could be compared"
            raise ValueError(f"{called} {which}: leave --augment-with out")
        if not 1 <= round(share * batch) < batch:
            raise ValueError(f"a share of {share:g} of {batch} patches is none or all: give one in between")
        if not (hasattr(model, "paint") or hasattr(model, "sample")):
            raise ValueError(
                f"{run} is a run of {name}, which neither generates nor paints: give one of dcgan, mask_gan"
            )
        if model.classes:
            raise ValueError(f"{run} is a run of {name} for several materials: give a run of one")
        if model.channels != net.channels:
            raise ValueError(f"{run} has {model.channels} channels and the images {net.channels}: give a run of such")
        if hasattr(model, "paint") and not net.defects:
            raise ValueError(
                f"{run} paints defects, and {called} as it is learns from none: give a run that generates "
                "normal images, or train fcbigan with its negatives"
            )
        if hasattr(model, "paint") and net.patch % model.stride:
            raise ValueError(f"a patch of {net.patch} px cannot be painted: {model.stride} must divide it")
        return cls(Path(run).absolute(), state["hash"], model, share)

    def told(self) -> dict[str, Any]:
        """What the card says of it."""
        what = PAINTED if hasattr(self.model, "paint") else SAMPLED
        return {"run": str(self.run), "hash": self.hash, "what": what, "share": self.share}

    def feed(self, batches: Batches, seed: int, rank: int = 0) -> Batches:
        kind = Painting if hasattr(self.model, "paint") else Sampling
        return kind(batches, self.model, self.share, seed, rank)

    def leaks(self, held: Sequence[holding.Held]) -> list[str]:
        """A warning where the run saw pixels that this training holds back."""
        seen = {image["sha256"] for image in read_card(self.run)["data"]["images"]}
        kept = {one.sha256: one.box for one in held_back(self.run)}
        leaky = [one for one in held if one.sha256 in seen and kept.get(one.sha256, ()) not in (None, one.box)]
        if not leaky:
            return []
        return [
            f"{self.run} was trained on pixels that are held back here, such as of {leaky[0].path}: what is "
            "measured on them is too good; train both with the same images and --seed"
        ]


@dataclass(frozen=True)
class Sampling:
    """Batches whose last patches, a share of them, a generator drew."""

    batches: Batches
    model: Any
    share: float
    seed: int
    rank: int = 0

    def __call__(self, n: int) -> Tensor:
        x = self.batches(n)
        assert isinstance(x, Tensor)
        count, side = round(self.share * len(x)), x.shape[-1]
        drawn = max(math.ceil(side / self.model.stride) * self.model.stride, self.model.smallest)
        with seeded(x.device, self.seed, "augmented", n, self.rank), torch.no_grad():
            more = self.model.sample(count, drawn, drawn)[..., :side, :side]
        return torch.cat((x[:-count], more.to(x).clamp(-1, 1)))


@dataclass(frozen=True)
class Painting:
    """Batches with, beside them, their last patches with painted defects; where nobody could see a defect, there is
    none.
    """

    batches: Batches
    model: Any
    share: float
    seed: int
    rank: int = 0

    def __call__(self, n: int) -> Defective:
        x = self.batches(n)
        assert isinstance(x, Tensor)
        count, side = round(self.share * len(x)), x.shape[-1]
        base = x[-count:]
        with seeded(x.device, self.seed, "augmented", n, self.rank), torch.no_grad():
            mask = torch.cat([drawn_mask(side, self.model.shrink) for _ in range(count)]).to(x)
            y = self.model.paint(base, mask, self.model.prior(count))
        return Defective(x, y, mask * visible(y - base, mask, noise(base)))


class WithDefects:
    """Batches with, beside them, as many patches of images with defects, and where these are.

    `images`: (C, H, W) as in `data.Normal.grey`, each with its mask (H, W). The middle of a patch lies within half a
    patch of a pixel of a defect, any of an image being as likely, and any image.
    """

    def __init__(self, crops: data.Crops, images: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.crops = crops
        self.images = [(data.fill(x, crops.patch), data.fill(mask[None], crops.patch)[0]) for x, mask in images]
        self.places = [mask.nonzero() for _, mask in self.images]

    def __call__(self, n: int) -> Defective:
        x, crops = self.crops(n), self.crops
        assert isinstance(x, Tensor)
        generator = torch.Generator().manual_seed(derive_seed(crops.seed, "defects", n, crops.share[0]))
        patches, masks = [], []
        for _ in range(len(x)):
            i = int(torch.randint(len(self.images), (), generator=generator))
            image, mask = self.images[i]
            place = self.places[i][int(torch.randint(len(self.places[i]), (), generator=generator))]
            begin = place - torch.randint(crops.patch, (2,), generator=generator)
            top, left = (min(max(int(at), 0), size - crops.patch) for at, size in zip(begin, mask.shape, strict=True))
            here = (..., slice(top, top + crops.patch), slice(left, left + crops.patch))
            flips = [axis for axis in (-1, -2) if crops.flips and torch.rand((), generator=generator) < 0.5]
            patches.append(data.signed(image[here]).expand(crops.channels, -1, -1).flip(flips))
            masks.append(mask[here].float()[None].flip(flips))
        return Defective(x, torch.stack(patches).to(x), torch.stack(masks).to(x))


def read_defects(folder: str | os.PathLike[str], settings: Any) -> tuple[list[data.Normal], list[Tensor]]:
    """The images of a data set in MVTec layout that have masks, and these, (H, W) of bool; read as `settings` says.

    ValueError where there is none, or where a mask marks no pixel.
    """
    samples, _ = find_samples(folder)
    masks = {one.image: one.mask for one in samples if one.mask is not None}
    if not masks:
        raise ValueError(f"{folder} has no image with a mask: expected ground_truth/<defect>/<name>_mask.png")
    levels = {"info_bar": settings.info_bar, "bits": settings.bits, "white": settings.white}
    images, _ = data.read_normals(list(masks), **levels)
    found = []
    for image in images:
        mask = masks[image.path]
        assert mask is not None
        with open_image(image.path, **levels) as picture:
            marked = read_mask(mask, image.path, picture.height, picture.width)
        found.append(torch.from_numpy(np.ascontiguousarray(marked[: image.grey.shape[1]])))
        if not found[-1].any():
            raise ValueError(f"{mask} marks no pixel: leave it and its image out")
    return images, found


def defects_told(folder: str | os.PathLike[str], images: Sequence[data.Normal]) -> dict[str, Any]:
    """What the card says of them."""
    hashes = sorted(image.sha256 for image in images)
    return {"folder": str(Path(folder).absolute()), "images": len(images), "sha256": hashes}


@dataclass(frozen=True)
class Feed:
    """The batches of a training; what its card says they are fed with, under "augmented" and "defects"; warnings."""

    batches: Batches
    told: dict[str, Any]
    warnings: list[str]


def feed(settings: Any, net: Model, crops: data.Crops, held: Sequence[holding.Held]) -> Feed:
    """The batches that `settings`, those of a run, ask for. A ValueError says what cannot be."""
    batches: Batches = crops
    told: dict[str, Any] = {"augmented": None, "defects": None}
    warnings: list[str] = []
    if settings.defects is not None:
        if net.mapped is True or not net.defects:
            raise ValueError(f"{settings.model} learns from normal images alone: leave --defects out")
        images, masks = read_defects(settings.defects, settings)
        if images[0].grey.shape[0] > net.channels:
            raise ValueError(f"{images[0].path} is a colour image and the normal ones are grey: convert it")
        batches = WithDefects(crops, [(one.grey, mask) for one, mask in zip(images, masks, strict=True)])
        told["defects"] = defects_told(settings.defects, images)
    if settings.augment_with is not None:
        helper = Helper.load(settings.augment_with, settings.augment_share, net, settings.model, crops.device)
        batches, told["augmented"] = helper.feed(crops, settings.seed, crops.share[0]), helper.told()
        warnings = helper.leaks(held)
    elif settings.compare_with is not None:
        raise ValueError("--compare-with tells what --augment-with changed: give that, too")
    return Feed(batches, told, warnings)


# --- before and after ------------------------------------------------------------------------------------------------


def check_comparable(run: str | os.PathLike[str], card: Mapping[str, Any], held: Sequence[holding.Held]) -> None:
    """A ValueError where a run cannot be compared with a training: other images, other pixels held back, or no map."""
    checkpoint.load_model(run)
    if read_card(run)["data"]["fingerprint"] != card["data"]["fingerprint"]:
        raise ValueError(f"{run} was trained on other images: leave --compare-with out, or give a run of the same")
    mine = {(one.sha256, one.box) for one in held}
    if {(one.sha256, one.box) for one in held_back(run)} != mine:
        raise ValueError(f"{run} held other pixels back: train both with the same --seed and patch")


def compared(model: Model, kept: Sequence[Tensor], other: str | os.PathLike[str] | None) -> dict[str, float] | None:
    """What of synthetic defects on held-back pixels `kept`, (C, H, W) as in `data.Normal.grey`, the map of a model
    finds: pooled pixel AUROC "with" what it was fed with and, by the map of a run `other`, "without". None where
    nothing was held back.
    """
    if not kept:
        return None
    device = next(model.buffers()).device
    models = {"with": model} | ({} if other is None else {"without": checkpoint.load_model(other, device)[0]})
    least = max(max(one.stride, one.smallest) for one in models.values())
    filled = [data.signed(data.fill(region, least)) for region in kept]
    normals = [x.expand(model.channels, -1, -1)[None].contiguous() for x in filled]
    trials, side = (min(both) for both in zip(*(effort(one) for one in models.values()), strict=True))
    return {name: proxy(one, normals, trials=min(trials, TRIALS), side=side)["map"] for name, one in models.items()}


def verdict(found: Mapping[str, float] | None, told: Mapping[str, Any], other: str | None) -> str:
    """What to say of `compared`."""
    what = f"{told['share']:.0%} {told['what']}"
    if found is None:
        return f"what {what} changed was not measured: no pixels were held back"
    figure = f"pixel AUROC {found['with']:.4f} on synthetic defects"
    if "without" not in found:
        return f"with {what}: {figure}; how much they changed only a run without them tells (--compare-with RUN)"
    return f"with {what}: {figure}, without ({other}) {found['without']:.4f}: {found['with'] - found['without']:+.4f}"
