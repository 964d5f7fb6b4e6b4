"""Progressively grown GAN: first the coarse image, then ever finer detail, each step faded in.

    G_k(z) = (1 - alpha) up(image_{k-1}) + alpha image_k,   alpha from 0 to 1, and D likewise

Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2018); the game is that of
`wgan_gp`. One pixel for a code at first, then three doublings; each level is trained alone before the next fades in.
Nearest neighbours and means between sizes, and the norm of each pixel's channels, are as there; its equalised rates and
its spread over the batch are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_gan.model import About, Move
from anomalib_gan.models.wgan_gp import WGANGP
from anomalib_gan.nets import Critic
from anomalib_gan.nets_growing import Growing, GrowingFeatures, GrowingGenerator, coarse

GROWN = 0.6  # share of the training after which all levels are there
LEVELS = Growing.LEVELS


def level(progress: float) -> float:
    """How far the nets have grown: a level is trained alone for as long as the next is then faded in.

    >>> [round(level(GROWN * third / 3), 6) for third in (0, 0.5, 0.75, 1, 3)]
    [0.0, 0.0, 0.5, 1.0, 3.0]
    """
    grown = min(progress / GROWN, 1.0) * LEVELS
    whole = int(grown)
    return whole + max(0.0, 2 * (grown - whole) - 1)


class ProGAN(WGANGP):
    """`common`: the keywords of `GAN`; see also `WGANGP`."""

    about = About("resolution grows during the training", "Karras et al., 2018", "implicit")
    betas = (0.0, 0.99)
    G: GrowingGenerator

    def __init__(self, critic_steps: int = 1, **common: Any) -> None:
        super().__init__(critic_steps=critic_steps, **common)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        features = GrowingFeatures(self.channels, width)
        return GrowingGenerator(self.code, width, self.channels), Critic(
            features, nn.Conv2d(2 * width, 1, 1, bias=False)
        )

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for net in self.modules():
            if isinstance(net, Growing):
                net.level.fill_(level(progress))
        # Low levels cost less and are played more often, so that a round takes about as long at any level.
        for _ in range((LEVELS + 1) // (1 + int(level(progress)))):
            yield from super().play(batches, progress)

    def real(self, batches: Iterator[Tensor]) -> Tensor:
        """Images of the level's size, in which what the last doubling added is faded in as well."""
        x, grown = super().real(batches), float(self.G.level)
        below = int(grown)
        return torch.lerp(coarse(x, 2 ** (LEVELS - below)), x, grown - below) if grown > below else x
