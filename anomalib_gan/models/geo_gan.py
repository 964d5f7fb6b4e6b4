"""GAN with a geometric regulariser: equal steps in z give equal change in the image.

    min over G of  L_adv + lambda Var log ||G(z + d) - G(z)||,   d of one length in random directions

The code then is a map that keeps distances, up to scale, so that walks in it are even and no part of it is crumpled. By
finite steps what the path length regulariser of Analyzing and Improving the Image Quality of StyleGAN (Karras et al.,
2020) does by derivatives; the logarithm frees it from a running mean of lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from anomalib_gan.model import About, Move
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.penalties import geometric


class GeoGAN(DCGAN):
    """`weight`: lambda. `common`: the keywords of `GAN`."""

    about = About("equal steps of the code give equal change of the image", "Karras et al., 2020", "implicit")

    def __init__(self, weight: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.weight = weight

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for x, fake in self.opposed(batches):
            yield "critic", {"adv": self.objective.critic(self.D(x), self.D(fake)), **self.flat(self.D, x)}
        z = self.prior(x)
        yield (
            "generator",
            {
                "adv": self.objective.generator(self.D(self.G(z))),
                "geometry": self.weight * geometric(self.G, z),
            },
        )
