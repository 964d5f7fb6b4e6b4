"""Wasserstein GAN: the critic measures how far the generated images are from the normal ones, as earth is moved.

    W(p, q) = sup over ||D||_L <= 1 of  E_p D(x) - E_q D(G(z)),   min over G of W

Wasserstein GAN (Arjovsky et al., 2017), Algorithm 1: D is kept Lipschitz by clipping its weights to [-c, c], so what it
measures is a multiple of W. It is trained near its optimum, k steps to one of G, and without momentum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from anomalib_gan.model import About, Move
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.nets import Critic, strided, transposed
from anomalib_gan.penalties import clip


class WGAN(DCGAN):
    """`clip`: c, larger than the paper's 0.01 since D has no batch norm, which would undo the bound on its slope.
    `common`: the keywords of `GAN`.
    """

    about = About("the critic measures an earth mover's distance; clipped weights", "Arjovsky et al., 2017", "implicit")
    betas = (0.0, 0.9)

    def __init__(
        self, objective: str = "wasserstein", critic_steps: int = 5, clip: float = 0.05, **common: Any
    ) -> None:
        super().__init__(objective=objective, critic_steps=critic_steps, **common)
        self.clip = clip

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return transposed(self.code, width, self.channels), strided(self.channels, width, norm=False)

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for x, fake in self.opposed(batches):
            yield "critic", {"adv": self.objective.critic(self.D(x), self.D(fake)), **self.flat(self.D, x)}
            clip(self.D, self.clip)
        yield "generator", {"adv": self.objective.generator(self.D(self.G(self.prior(x))))}
