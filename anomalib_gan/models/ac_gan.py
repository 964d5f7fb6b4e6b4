"""Auxiliary classifier GAN: the critic is not told the class, it names it.

Two critics, each with K + 1 answers at every place:

    "auxiliary"   D descends L_adv + L_class on real and generated images, G descends its own L_adv + L_class,
                  L_class = -log p(y|x): one answer says real or fake, K others name the class
    "k_plus_one"  D descends -log p(y|x) - log p(fake|G(z, y)), G descends -log p(y|G(z, y)):
                  fake is a class beside the K real ones

Conditional Image Synthesis with Auxiliary Classifier GANs (Odena et al., 2017); K + 1 classes: Improved Techniques for
Training GANs (Salimans et al., 2016). G is told the class as in `cgan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from anomalib_gan.model import About, Move
from anomalib_gan.models.cgan import CGAN
from anomalib_gan.nets import Critic, strided, transposed


class ACGAN(CGAN):
    """`critic`: see above; "k_plus_one" has the objective that is written there and no other. `common`: of `CGAN`."""

    about = About("the critic names the class of the material", "Odena et al., 2017", "implicit")

    def __init__(self, critic: Literal["auxiliary", "k_plus_one"] = "auxiliary", **common: Any) -> None:
        if critic == "k_plus_one" and common.get("objective", "non-saturating") != "non-saturating":
            raise ValueError('objective is for critic="auxiliary": "k_plus_one" has classes and no other objective')
        self.critic = critic
        super().__init__(**common)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return (
            transposed(self.code, width, self.channels),
            strided(self.channels, width, answers=1 + len(self.classes)),
        )

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return x

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """How real, as a logit: of "k_plus_one", what speaks for any class against what speaks for fake."""
        found = self.D(x)
        source, kinds = found[:, :1], found[:, 1:]
        return source if self.critic == "auxiliary" else kinds.logsumexp(1, keepdim=True) - source

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        for _ in range(self.critic_steps):
            x, y = self.told(next(batches))
            with torch.no_grad():
                fake = self.G(self.prior(x, y))
            yield "critic", {**self.critics(self.D(x), self.D(fake), y), **self.flat(partial(self.answer, y=y), x)}
        yield "generator", self.generators(self.D(self.G(self.prior(x, y))), y)

    def critics(self, real: Tensor, fake: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The critic's terms from its answers (N, 1 + K, h, w) on images of the classes y (N, K, 1, 1)."""
        if self.critic == "k_plus_one":
            kind, none = pad(y, (0, 0, 0, 0, 1, 0)), pad(0 * y, (0, 0, 0, 0, 1, 0))
            none[:, 0] = 1
            return {"real": surprise(real, kind), "fake": surprise(fake, none)}
        return {
            "adv": self.objective.critic(real[:, :1], fake[:, :1]),
            "class": surprise(real[:, 1:], y) + surprise(fake[:, 1:], y),
        }

    def generators(self, fake: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The generator's terms, likewise."""
        if self.critic == "k_plus_one":
            return {"class": surprise(fake, pad(y, (0, 0, 0, 0, 1, 0)))}
        return {"adv": self.objective.generator(fake[:, :1]), "class": surprise(fake[:, 1:], y)}


def surprise(answers: Tensor, y: Tensor) -> Tensor:
    """-log p(y), in nats, of logits (N, K, h, w) and one-hot (N, K, 1, 1), a mean over places."""
    return cross_entropy(answers, y.expand_as(answers))
