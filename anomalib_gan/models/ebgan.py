"""Energy-based GAN: the critic is an autoencoder, and what it rebuilds badly has a high energy.

    D(x) = ||Dec(Enc(x)) - x||^2,   min over D of  E D(x) + E max(0, m - D(G(z)))
    min over G of  E D(G(z)) + w PT(Enc(G(z)))

Energy-based Generative Adversarial Network (Zhao et al., 2017). PT pulls the codes of a batch away from each other: the
mean squared cosine between them. Here the net answers -D / m, so that the larger answer is the more real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from anomalib_gan.model import About, Move
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.nets import AutoencodingCritic, Critic, strided, transposed
from anomalib_gan.penalties import pull_away


class EBGAN(DCGAN):
    """`margin`: m, in squared units of [-1, 1]. `apart`: w, the weight of pulling away. `common`: those of `GAN`."""

    about = About("the critic is an autoencoder, its residual an energy", "Zhao et al., 2017", "implicit")

    def __init__(self, objective: str = "energy", margin: float = 0.5, apart: float = 0.1, **common: Any) -> None:
        self.margin, self.apart = margin, apart
        super().__init__(objective=objective, **common)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        encoder, decoder = strided(self.channels, width).features, transposed(4 * width, width, self.channels)
        return (
            transposed(self.code, width, self.channels),
            AutoencodingCritic(encoder, decoder, self.margin, self.cell),
        )

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for x, fake in self.opposed(batches):
            yield "critic", {"adv": self.objective.critic(self.D(x), self.D(fake)), **self.flat(self.D, x)}
        fake = self.G(self.prior(x))
        codes = self.D.features(fake)  # (N, 4 width, h, w)
        yield (
            "generator",
            {
                "adv": self.objective.generator(self.D(fake, codes)),
                "apart": self.apart * pull_away(codes),
            },
        )
