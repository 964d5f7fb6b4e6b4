"""The whole abstraction: a model of normal parts is a game between players, and the map of surprise it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anomalib_gan.scale import working_scale

Move = tuple[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Player:
    """Networks that move together, and how: learning rate, Adam's betas, decoupled weight decay.

    `turn`: the share of its length by which a move turns each weight matrix that a norm layer follows, at the peak of
    the schedule; see `Muon`. 0: they move by Adam like all else.
    """

    nets: tuple[nn.Module, ...]
    lr: float
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    turn: float = 0.0

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for net in self.nets for parameter in net.parameters()]


@dataclass(frozen=True)
class Spec:
    """What rebuilds a model: its name in MODELS and its constructor's keywords, JSON-able."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)


class Labelled(NamedTuple):
    """Images x (N, C, H, W) and the number y (N,) of each one's class: what a model with `classes` gets for images."""

    x: Tensor
    y: Tensor


class Pair(NamedTuple):
    """Images x and y (N, C, H, W) of two domains: what a translator gets for images. Where its folders are paired, x[i]
    and y[i] show the same place.
    """

    x: Tensor
    y: Tensor


class Defective(NamedTuple):
    """Normal images x (N, C, H, W), and images y (M, C, H, W) with defects where their masks (M, 1, H, W) are 1: what a
    model with `defects` may get for images.
    """

    x: Tensor
    y: Tensor
    mask: Tensor


def normals_of(batch: Any) -> Tensor:
    """The normal images of a batch that may bring more than these."""
    return batch.x if isinstance(batch, Defective) else batch


@dataclass(frozen=True)
class About:
    """What the list of the zoo tells of a model: one line, its paper, and how it knows the density of normal images.

    `density`: "explicit", it can be computed; "bound", a bound on it can; "implicit", it only draws samples; "none".
    """

    line: str
    paper: str
    density: Literal["explicit", "bound", "implicit", "none"]


class Model(nn.Module):
    """A game between players; see `play`. All lengths are in pixels of the full-resolution image.

    What is said of images (N, C, H, W) holds for volumes (N, C, D, H, W) where `dim` is 3, and of pixels for voxels.

    Attributes: `dim`, 2 for images, 3 for volumes; `channels` of the image; `stride`, which height and width must be
    multiples of; `halo`, the radius outside of which a pixel cannot influence the map; `smallest`, which height and
    width must reach where that is more than a stride; `patch`, the side of the square training crops; `batch`, crops
    per batch; `exportable`, True or the reason why the model cannot leave as an ONNX graph; `mapped`, True or the
    reason why it has no map; `looked_at`, the normal images on which it is settled, and as many of those held back,
    fewer where they are large or where a map takes long; `about`, what the list of the zoo tells of it; `classes`, the
    names of the materials that it tells apart: where there are any, what it plays with and settles on is `Labelled`;
    `defects`: what it plays with may be `Defective`; `side_at_scale`, px of a training crop's side at the working
    scale, where `patch` and the scale's `shrink` shall suit the material, else 0.

    Optional, for bundles: `parts(x)`, what the map is made of, as a dict of "reconstruction" (N, C, H, W) in [-1, 1],
    "code" (N, c, h, w) and, by its name, each component (N, 1, H, W) as it is mixed; `generate(z)`, an image (N, C, H,
    W) in [-1, 1] from codes (N, `code`, h, w). For `explore`: that, and `codes(n, rows, columns)`, random codes where
    these are not of N(0, I), with their mean `middle` (`code`,) where it is not 0. For the card: `found`, the settings
    that `settle` found, by name.

    Optional, for translation: `pairs`, "paired" or "unpaired" where what it plays with and settles on is `Pair`, else
    ""; and `translate(x)`, images (N, C, H, W) of the second domain from those of the first, both in [-1, 1], local as
    a map is. Such a model has a keyword `translator`, which `train --to` sets.

    Optional, for `paint`: `paint(x, mask, z)`, images with a defect where the mask (N, 1, H, W) is 1, by codes z, which
    `prior(N)` draws; `shrink`, 1 over the scale that it works at.

    Optional, for enlarging: `factor`, `upscale(x)`, images (N, C, factor H, factor W) from (N, C, H, W), both in
    [-1, 1], and `reach`, px of x from a place to what it can change there.

    Optional, for `explore transfer`: `trunks()`, its networks that see images alone, by what they are in the game
    ("encoder", "critic"), each from the working scale (N, C, h, w) to a field of features.

    Optional, for `diagnose`: `sample(n, height, width)`, generated images; `reconstruct(x)`, both in [-1, 1];
    `posterior(s)`, the distribution q(z|s) of an image at the working scale, 1 / `shrink`, over (N, `code`, h, w);
    `answers(x)`, what a critic answers in the game, raw, on (N, C, H, W) and on as many generated images, and
    `objective`, that of its game.
    """

    about: ClassVar[About]
    dim: ClassVar[Literal[2, 3]] = 2
    channels: int
    stride: int
    halo: int
    smallest: int = 1
    patch: int
    batch: int
    exportable: bool | str = True
    mapped: bool | str = True
    defects: bool = False
    classes: Sequence[str] = ()
    pairs: Literal["", "paired", "unpaired"] = ""
    looked_at: int = 48
    side_at_scale: ClassVar[int] = 0

    @classmethod
    def suggest(cls, normals: Sequence[Tensor], flips: bool = True) -> dict[str, Any]:
        """Constructor keywords that suit these normal images, (1, C, H, W) in [-1, 1], where the user gives none.

        Without `flips` it matters which way up the material lies, and training does not flip it.
        """
        if not cls.side_at_scale:
            return {}
        scale = working_scale(normals)
        return {"shrink": scale, "patch": cls.side_at_scale * scale}

    def prepare(self) -> list[str]:
        """As a training begins: looks for what it needs beside the images, and gives what the user should be told.

        ValueError: something is missing or wrong.
        """
        return []

    def players(self) -> dict[str, Player]:
        """Every parameter belongs to exactly one player; a closed-form model has none."""
        raise NotImplementedError

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        """One round of the game.

        `yield who, {term: tensor}` means that this player now descends the sum of its named terms; the code after the
        yield runs once the player has moved. Each of `batches` is (N, C, patch, patch) in [-1, 1]; `progress` runs
        from 0 to 1, and falls back where the training turns out to have time for more rounds.
        """
        raise NotImplementedError

    def anomaly_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], H and W multiples of `stride` -> (N, 1, H, W), larger where less normal."""
        if self.mapped is not True:
            raise ValueError(f"there is no map: {self.mapped}")
        raise NotImplementedError

    def settle(self, normals: Sequence[Tensor]) -> None:
        """After training: fits what the map needs from normal images, each (1, C, H, W) in [-1, 1], into buffers.

        Of every model with batch norm, these are its statistics: see `refresh`.
        """
        refresh(self, normals)


def whole_strides(length: float, stride: int) -> int:
    """The least multiple of `stride` that is not below `length`, both in px.

    >>> whole_strides(17, 8), whole_strides(16.0, 8)
    (24, 16)
    """
    return stride * -int(-length // stride)


def refresh(model: Model, normals: Sequence[Tensor], rounds: int = 16) -> None:
    """Batch-norm statistics that belong to the weights as they are.

    Rounds of the game are played without moving anybody, on crops of the normal images, and the statistics of all
    rounds are averaged: the networks see the mixture of real, spoilt and generated patches that they were trained on.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # a cumulative average, which the first batch begins; until then the old statistics serve
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        batches = played_with(model, normals)
        model.train()
        for _ in range(rounds):
            for _ in model.play(batches, 1.0):
                pass
        model.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def played_with(model: Model, normals: Sequence[Any]) -> Iterator[Any]:
    """Batches such as the training played with, for ever: crops of images (1, C, H, W), or of `Labelled` or `Pair`."""
    if not model.pairs:
        return crops(normals, model.patch, model.batch)
    if model.pairs == "paired":  # one place for both: they are cut as one image of twice as many channels
        both = crops([torch.cat(one, 1) for one in normals], model.patch, model.batch)
        return (Pair(*one.chunk(2, 1)) for one in both)
    return map(Pair, *(crops(one, model.patch, model.batch) for one in zip(*normals, strict=True)))


def crops(normals: Sequence[Any], patch: int, batch: int) -> Iterator[Any]:
    """Random square crops of images (1, C, H, W), or cubes of volumes, for ever, as often at edges as training takes
    them; an image smaller than `patch` gives none. Where images bring more than themselves (`Labelled`, `Defective`),
    so do the crops.
    """
    images = [one if isinstance(one, tuple) else (one,) for one in normals]
    large = [one for one in images if min(one[0].shape[2:]) >= patch]
    if not large:
        raise ValueError(
            f"no normal image is at least {patch} pixels along every axis: give larger images or a smaller patch"
        )
    while True:
        taken = []
        for _ in range(batch):
            one = large[int(torch.randint(len(large), ()))]
            sizes = one[0].shape[2:]
            middle = (int(torch.randint(size, ())) for size in sizes)
            corner = [min(max(m - patch // 2, 0), s - patch) for m, s in zip(middle, sizes, strict=True)]
            here = (..., *(slice(begin, begin + patch) for begin in corner))
            taken.append([field[here] if field.dim() == one[0].dim() else field for field in one])
        fields = [torch.cat(field) for field in zip(*taken, strict=True)]
        yield type(normals[0])(*fields) if isinstance(normals[0], tuple) else fields[0]


def over_processes(value: Tensor) -> Tensor:
    """The mean of a number over the processes of a training, so that what depends on it goes alike in all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
