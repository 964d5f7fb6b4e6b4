"""InfoGAN: part of the code is tied to what can be read off the image.

    min over G and Q, max over D of  V(D, G) - lambda L_I(G, Q),   L_I = E log Q(c|G(z)) + H(c) <= I(c; G(z))

Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets (Chen et al., 2016). c, the
first channels of z, is one for the whole image and normal like the rest, where the paper has uniform ones and classes;
Q reads it off D's features at every place, a mean and a spread for each number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from anomalib_gan.model import About, Move, Player
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.penalties import mutual_information


class InfoGAN(DCGAN):
    """`told`: how many numbers c has. `weight`: lambda. `common`: the keywords of `GAN`."""

    about = About("part of the code can be read off the image", "Chen et al., 2016", "implicit")

    def __init__(self, told: int = 2, weight: float = 0.1, **common: Any) -> None:
        self.told, self.weight = told, weight
        super().__init__(**common)
        assert isinstance(self.D.head, nn.Conv2d)
        self.Q = nn.Conv2d(self.D.head.in_channels, 2 * told, 1)

    def players(self) -> dict[str, Player]:
        """Q shares D's features and moves with it."""
        return {**super().players(), "critic": Player((self.D, self.Q), self.lr, self.betas)}

    def prior(self, like: Tensor) -> Tensor:
        z = super().prior(like)
        c, noise = z[:, : self.told], z[:, self.told :]
        return torch.cat((c[..., :1, :1].expand_as(c), noise), 1)

    def posterior(self, features: Tensor) -> Normal:
        """Q(c|x) at every place of D's features (N, f, h, w), of (N, told, h, w)."""
        mean, log_spread = self.Q(features).float().chunk(2, 1)
        return Normal(mean, log_spread.clamp(-4, 2).exp())

    def information(self, features: Tensor, z: Tensor) -> Tensor:
        """L_I in nats."""
        posterior = self.posterior(features)
        c = z[:, : self.told, :1, :1].expand_as(posterior.mean)
        return mutual_information(posterior, Normal(torch.zeros_like(c), 1.0), c)

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, G = self.D, self.G
        for _ in range(self.critic_steps):
            x = self.real(batches)
            z = self.prior(x)
            with torch.no_grad():
                fake = G(z)
            f = D.features(fake)
            yield (
                "critic",
                {
                    "adv": self.objective.critic(D(x), D.head(f)),
                    "info": -self.weight * self.information(f, z),
                    **self.flat(D, x),
                },
            )
        z = self.prior(x)
        f = D.features(G(z))
        yield (
            "generator",
            {
                "adv": self.objective.generator(D.head(f)),
                "info": -self.weight * self.information(f, z),
            },
        )
