"""Generative adversarial network: a generator learns to draw what a critic cannot tell from normal images.

    min over G, max over D of  E log D(x) + E log(1 - D(G(z))),   z ~ N(0, I)

Generative Adversarial Nets (Goodfellow et al., 2014), Algorithm 1; D answers by the logit of what is written there.
Both are perceptrons, as there, here on patches of a grid. There is no encoder, so the map is what inversion leaves:

    map = r(G(z*), x) + lambda |f(G(z*)) - f(x)| - mu log p(z*),   z* = argmin of the same,   f: the critic's features

(AnoGAN, Schlegl et al., 2017). The other generators without an encoder are variants of this game.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from anomalib_gan.grain import unshrink
from anomalib_gan.inverted import Inverted
from anomalib_gan.model import About, Move, Player
from anomalib_gan.nets import Critic, perceptron_critic, perceptron_generator, shrink
from anomalib_gan.objectives import objective_of
from anomalib_gan.penalties import r1

SIDE = 48  # working px, of the patches that are trained on and inverted
MARGIN = 2  # codes around a sample that are drawn and cut off


class GAN(Inverted):
    """G: field of codes -> image, D: image -> an answer for every place; `code` numbers for `cell` x `cell` px.

    `patch`, in px, of training and inversion. `shrink`: the working scale is 1/shrink of the image. `objective`: one of
    OBJECTIVES, by which all of these games can be played. `critic_steps`: k. `r1`: weight of D's gradient penalty on
    real images. `residual`: r, "ssim", "l1" or "l2"; `feature`, `likelihood`: lambda and mu; `steps` of the inversion.
    `score`: "loss", the map above, or "likelihood", -log p(z*) by itself. `smoothing` of the map: sigma in working px.
    """

    about = About("a generator against a critic, both perceptrons", "Goodfellow et al., 2014", "implicit")
    cell = 16  # working px to a code
    side_at_scale = SIDE
    lr = 1e-3
    betas = (0.5, 0.99)

    def __init__(
        self,
        channels: int = 1,
        code: int = 16,
        width: int = 32,
        patch: int = 2 * SIDE,
        batch: int = 32,
        shrink: int = 2,
        objective: str = "non-saturating",
        critic_steps: int = 1,
        r1: float = 0.0,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        feature: float = 0.03,
        likelihood: float = 0.01,
        steps: int = 40,
        score: Literal["loss", "likelihood"] = "loss",
        smoothing: float = 4.0,
    ) -> None:
        super().__init__()
        if patch % (self.cell * shrink):
            raise ValueError(f"a patch of {patch} px has no whole codes: let {self.cell * shrink} divide it")
        self.channels, self.code, self.batch, self.shrink, self.r1 = channels, code, batch, shrink, r1
        self.patch = self.stride = self.smallest = patch
        self.objective, self.critic_steps = objective_of(objective), critic_steps
        self.G, self.D = self.nets(width)
        self.search(residual, feature, likelihood, steps, score, smoothing)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return (
            perceptron_generator(self.code, 8 * width, self.channels, self.cell),
            perceptron_critic(self.channels, 8 * width, self.cell),
        )

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player((self.D,), self.lr, self.betas),
            "generator": Player((self.G,), self.lr, self.betas),
        }

    def prior(self, like: Tensor) -> Tensor:
        """z ~ N(0, I): a field of codes (N, code, h, w) for each of the images (N, C, h cell, w cell)."""
        places = [size // self.cell for size in like.shape[2:]]
        return torch.randn(len(like), self.code, *places, device=like.device)

    def codes(self, n: int, *places: int) -> Tensor:
        """z of the prior, (n, code, *places)."""
        return self.prior(self.bank.new_empty(n, 1, *(count * self.cell for count in places)))

    def real(self, batches: Iterator[Tensor]) -> Tensor:
        return shrink(next(batches), self.shrink)

    def flat(self, D: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
        """The critic's term for being flat at real images, where it is asked for."""
        return {"r1": self.r1 * r1(D, x)} if self.r1 else {}

    def opposed(self, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the critic tells apart in its k moves: real images and generated ones, whose generator does not hear."""
        for _ in range(self.critic_steps):
            x = self.real(batches)  # (N, C, patch / shrink, patch / shrink)
            with torch.no_grad():
                fake = self.G(self.prior(x))
            yield x, fake

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        for x, fake in self.opposed(batches):
            yield "critic", {"adv": self.objective.critic(self.D(x), self.D(fake)), **self.flat(self.D, x)}
        yield "generator", {"adv": self.objective.generator(self.D(self.G(self.prior(x))))}

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = shrink(x, self.shrink)
        return self.D(s), self.D(self.G(self.prior(s)))

    def trunks(self) -> dict[str, nn.Module]:
        return {"critic": self.D.features}

    def generate(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] from codes (N, code, h, w)."""
        return unshrink(self.G(z), self.shrink).clamp(-1, 1)

    def sample(self, n: int, *sizes: int) -> Tensor:
        """Generated images, (n, C, height, width) in [-1, 1], of any `sizes`."""
        unit = self.cell * self.shrink
        x = self.generate(self.codes(n, *(-(-size // unit) + 2 * MARGIN for size in sizes)))
        begin = MARGIN * unit  # what lies along a padded G's edge is not drawn like the rest
        return x[(slice(None), slice(None), *(slice(begin, begin + size) for size in sizes))]
