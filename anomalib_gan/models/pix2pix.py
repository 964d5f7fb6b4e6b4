"""pix2pix: an image from its counterpart, by a critic that is shown both.

    min over G, max over D of  E log D(x, y) + E log(1 - D(x, G(x))) + lambda E ||y - G(x)||_1

Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017): G is a U-Net, D answers for every
patch. Two uses. As a translator it is given pairs of images. As a detector it makes its pairs itself: y is a normal
image and x the same image with some squares hidden. What is usual can be told from what is around it, so

    map = r(y^, y),   where each pixel of y^ is that of G(x) for the one x in which it is hidden

(Reconstruction by Inpainting for Visual Anomaly Detection, Zavrtanik et al., 2021). The paper's noise z, which is
dropout that stays on, is left out: it changes little there, and here one image has to have one map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_gan.compared import Translating
from anomalib_gan.model import About, Move, Pair, Player
from anomalib_gan.nets import shrink, strided
from anomalib_gan.nets_translation import Squares, UNet
from anomalib_gan.objectives import objective_of
from anomalib_gan.scale import SIDE_OF_PATCH


class Pix2Pix(Translating):
    """G: image -> image, D: (image, image) -> an answer for every patch of 38 working pixels.

    `translator`: translates from pairs, and has no map; else it restores squares of `hidden` working pixels, and their
    residual is the map. `objective`: one of OBJECTIVES. `l1`: lambda. `shrink`: the working scale is 1/shrink of the
    image. `residual`: r, "ssim", "l1" or "l2": what cannot be foretold of a texture is large by the latter wherever its
    contrast is. `smoothing` of the map: sigma in working pixels. `width`: of the layers.
    """

    about = About("restores what is hidden of an image; or translates images, from pairs", "Isola et al., 2017", "none")
    side_at_scale = SIDE_OF_PATCH

    def __init__(
        self,
        channels: int = 1,
        translator: bool = False,
        width: int = 32,
        patch: int = SIDE_OF_PATCH,
        batch: int = 8,
        shrink: int = 1,
        objective: str = "non-saturating",
        l1: float = 100.0,
        hidden: int = 8,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        smoothing: float = 4.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        if hidden < 4 or hidden % 4:
            raise ValueError(f"squares of {hidden} px do not lie on the lattice of the U-Net: give a multiple of 4")
        self.channels, self.translator, self.patch, self.batch, self.shrink = channels, translator, patch, batch, shrink
        self.objective, self.l1, self.lr = objective_of(objective), l1, lr
        self.G, self.D = UNet(channels, width), strided(2 * channels, width)
        self.squares = Squares(hidden, channels)
        if translator:
            self.translates("paired")
        self.stride = shrink * (self.G.stride if translator else self.squares.period)
        self.compare(residual, smoothing, self.G.reach)
        if patch % self.stride:
            raise ValueError(f"a patch of {patch} px is not cut along the lattice: let {self.stride} divide it")

    def players(self) -> dict[str, Player]:
        return {"critic": Player((self.D,), self.lr), "generator": Player((self.G,), self.lr)}

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        x, y = self.pair(next(batches))
        fake = self.G(x)
        yield "critic", {"adv": self.objective.critic(self.answer(x, y), self.answer(x, fake.detach()))}
        adv = self.objective.generator(self.answer(x, fake))
        yield "generator", {"adv": adv, "l1": self.l1 * (y - fake).abs().mean()}

    def pair(self, batch: Tensor | Pair) -> tuple[Tensor, Tensor]:
        """x and y at the working scale: a translator's are given, else x is y with a set of squares hidden."""
        if isinstance(batch, Pair):
            return shrink(batch.x, self.shrink), shrink(batch.y, self.shrink)
        y = shrink(batch, self.shrink)
        sets = torch.randint(self.squares.PASSES, (len(y),)).to(y.device)
        return self.squares.hidden(y, sets), y

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """D(x, y), (N, 1, h, w): the larger, the more real."""
        return self.D(torch.cat((x, y), 1))

    def rebuilt(self, s: Tensor) -> Tensor:
        """Every pixel as G tells it from the image in which it is hidden; all (N, C, h, w)."""
        if self.mapped is not True:
            raise ValueError(f"there is no map: {self.mapped}")
        again = torch.zeros_like(s)
        for k in range(self.squares.PASSES):
            one = slice(k, k + 1)
            again = again + self.squares.only(self.G(self.squares.hidden(s, one)), one)
        return again

    def coded(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return self.G.code(s)[-1], self.rebuilt(s)  # G's features at stride 8, (N, 3 width, h / 8, w / 8)

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """D's, of images and of what G makes of them, each beside the same image with squares hidden."""
        hidden, y = self.pair(x)
        return self.answer(hidden, y), self.answer(hidden, self.G(hidden))
