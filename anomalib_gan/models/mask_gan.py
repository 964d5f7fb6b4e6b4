"""Mask to image: paint where a defect shall be, and a generator makes a plausible one there, on a normal image.

    D: (y, m) real, (G(x, m, z), m) and (x, m) fake,   z ~ N(0, I),   y: images with defects, m: where these are
    G besides:  lambda |(1 - m)(G(x, m, z) - x)|_1  -  mu min(|m (G(x, m, z) - G(x, m, z'))|_1 / |z - z'|_1, tau)

Semantic Image Synthesis with Spatially-Adaptive Normalization (Park et al., 2019): what the mask says of a place
modulates the normalised features there; with batch norm's statistics, so that G is local. Its critic sees (image,
mask), patch-wise, by the hinge; that a mask without a defect is not real has to be shown to it, as in Generative
Adversarial Text to Image Synthesis (Reed et al., 2016). Here G begins with a normal image instead of nothing, which has
to stay where nothing is painted (lambda), and other codes must give other defects (mu: Diversity-Sensitive Conditional
Generative Adversarial Networks, Yang et al., 2019).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from anomalib_gan.corruption import SPOILT, corrupt
from anomalib_gan.model import About, Defective, Model, Move, Player
from anomalib_gan.nets import enlarge, normalised, shrink, strided
from anomalib_gan.nets_painting import Painter
from anomalib_gan.objectives import objective_of
from anomalib_gan.scale import SIDE_OF_PATCH

TAU = 0.25  # difference of two defects, by that of their codes, from which on it is enough


class MaskGAN(Model):
    """G: (image, mask, code) -> image, D: (image, mask) -> an answer for every place of 8 x 8 working pixels.

    `shrink`: the working scale is 1/shrink of the image; what lies below stays as it is. `objective`: one of
    OBJECTIVES. `outside`, `diversity`: lambda and mu. Of normal images alone those with defects are made by
    `corruption.corrupt`; batches of `Defective` bring them.
    """

    about = About("paint a mask, get a defect: a tool without a map", "Park et al., 2019", "none")
    mapped = exportable = "it paints defects and finds none; `anomalib-gan paint` applies it"
    defects = True
    side_at_scale = SIDE_OF_PATCH
    lr = 1e-3
    ahead = 4.0  # times as fast as G learns D
    betas = (0.0, 0.9)

    def __init__(
        self,
        channels: int = 1,
        code: int = 8,
        width: int = 32,
        patch: int = 2 * SIDE_OF_PATCH,
        batch: int = 8,
        shrink: int = 2,
        objective: str = "hinge",
        outside: float = 3.0,
        diversity: float = 1.0,
    ) -> None:
        super().__init__()
        if batch < 2:
            raise ValueError(f"a batch of {batch} patch has no second code for a mask: give at least 2")
        self.channels, self.code, self.patch, self.batch, self.shrink = channels, code, patch, batch, shrink
        self.objective, self.outside, self.diversity = objective_of(objective), outside, diversity
        self.G = Painter(channels, code, width)
        self.D = normalised(strided(channels + 1, width, norm=False))
        self.stride = self.smallest = self.G.stride * shrink
        self.halo = self.G.reach * shrink

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player((self.D,), self.ahead * self.lr, self.betas),
            "generator": Player((self.G,), self.lr, self.betas),
        }

    def prior(self, n: int) -> Tensor:
        """z ~ N(0, I): a code for each of n images, (n, code, 1, 1)."""
        return torch.randn(n, self.code, 1, 1, device=next(self.G.parameters()).device)

    def shown(self, batch: Tensor | Defective) -> tuple[Tensor, Tensor, Tensor]:
        """At working scale: normal images s, images with defects (N, C, h, w), and where these are, (N, 1, h, w)."""
        if isinstance(batch, Defective):
            return shrink(batch.x, self.shrink), shrink(batch.y, self.shrink), self.masked(batch.mask)
        s = shrink(batch, self.shrink)
        spoilt, opacity = corrupt(s)
        return s, spoilt, (opacity > SPOILT).to(s.dtype)

    def masked(self, mask: Tensor) -> Tensor:
        """A mask at working scale, where a pixel is painted if any of its pixels is."""
        return max_pool2d(mask, self.shrink)

    def answered(self, y: Tensor, m: Tensor) -> Tensor:
        return self.D(torch.cat((y, m), 1))

    def play(self, batches: Iterator[Tensor | Defective], progress: float) -> Iterator[Move]:
        s, y, m = self.shown(next(batches))
        with torch.no_grad():
            fake = self.G(s, m, self.prior(len(s)))
        real, *fakes = self.answered(torch.cat((y, fake, s)), m.repeat(3, 1, 1, 1)).chunk(3)
        yield "critic", {"adv": self.objective.critic(real, torch.cat(fakes))}

        s, _, m = (one[: len(one) // 2].repeat(2, 1, 1, 1) for one in self.shown(next(batches)))
        z = self.prior(len(s))  # two for each image and mask
        painted = self.G(s, m, z)
        one, other = painted.chunk(2)
        inside = m[: len(one)]
        apart = ((one - other).abs() * inside).sum((1, 2, 3)) / (self.channels * inside.sum((1, 2, 3))).clamp_min(1)
        codes = (z[: len(one)] - z[len(one) :]).abs().mean((1, 2, 3))
        yield (
            "generator",
            {
                "adv": self.objective.generator(self.answered(painted, m)),
                "rec": self.outside * ((1 - m) * (painted - s)).abs().mean(),
                "div": -self.diversity * (apart / codes).clamp_max(TAU).mean(),
            },
        )

    def paint(self, x: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        """x (N, C, H, W) in [-1, 1] with a defect where the mask (N, 1, H, W) is 1, by codes z (N, code, 1, 1).

        H and W are multiples of `stride`; no pixel depends on anything farther than `halo`.
        """
        s = shrink(x, self.shrink)
        return (x + enlarge(self.G(s, self.masked(mask), z) - s, self.shrink)).clamp(-1, 1)
