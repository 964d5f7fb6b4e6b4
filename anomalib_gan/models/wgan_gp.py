"""Wasserstein GAN with gradient penalty: the critic is kept Lipschitz by what it pays for another slope than 1.

    min over D of  E D(G(z)) - E D(x) + lambda E (||grad D(x^)||_2 - 1)^2,   x^ between x and G(z)

Improved Training of Wasserstein GANs (Gulrajani et al., 2017), Algorithm 1. D has no batch norm: the penalty is on each
image's own slope.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from anomalib_gan.model import About, Move
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.nets import Critic, strided, transposed
from anomalib_gan.penalties import gradient_penalty


class WGANGP(DCGAN):
    """`penalty`: lambda. `common`: the keywords of `GAN`."""

    about = About("an earth mover's distance; a penalty on the critic's slope", "Gulrajani et al., 2017", "implicit")
    betas = (0.0, 0.9)

    def __init__(
        self, objective: str = "wasserstein", critic_steps: int = 5, penalty: float = 10.0, **common: Any
    ) -> None:
        super().__init__(objective=objective, critic_steps=critic_steps, **common)
        self.penalty = penalty

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return transposed(self.code, width, self.channels), strided(self.channels, width, norm=False)

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for x, fake in self.opposed(batches):
            yield (
                "critic",
                {
                    "adv": self.objective.critic(self.D(x), self.D(fake)),
                    "gp": self.penalty * gradient_penalty(self.D, x, fake),
                    **self.flat(self.D, x),
                },
            )
        yield "generator", {"adv": self.objective.generator(self.D(self.G(self.prior(x))))}
