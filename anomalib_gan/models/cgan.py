"""Conditional GAN: generator and critic are told the class, so one pair of nets knows several materials.

    min over G, max over D of  E log D(x, y) + E log(1 - D(G(z, y), y)),   y: the class of x

Conditional Generative Adversarial Nets (Mirza and Osindero, 2014), by the nets of `dcgan`; y is one-hot and lies as
constant channels beside z and beside x. Inversion has to know the class as well: it is given or, patch by patch, the
one that leaves the least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_gan.inversion import Inversion, invert, least
from anomalib_gan.model import About, Labelled, Move
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.nets import Critic, beside, shrink, strided, transposed


class CGAN(DCGAN):
    """`classes`: their names; `train` gives those of the class folders. `known`: the class of all images that are
    mapped or drawn; None: inferred, and any. `code`: of z alone. `common`: the keywords of `GAN`.

    Without classes it is the game of `dcgan`.
    """

    about = About("generator and critic are told which material it is", "Mirza and Osindero, 2014", "implicit")

    def __init__(
        self, classes: Sequence[str] = ("normal",), known: str | None = None, code: int = 16, **common: Any
    ) -> None:
        if len(set(classes)) < len(classes):
            raise ValueError(f"the classes {', '.join(classes)} do not all differ: name each once")
        if known not in (None, *classes):
            raise ValueError(f"no class is called {known!r}: choose one of {', '.join(classes) or '(there are none)'}")
        self.classes, self.known = tuple(classes), known
        super().__init__(code=code + len(classes), **common)  # the class is a part of the code
        self.looked_at = max(self.looked_at, 2 * len(classes))

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return (
            transposed(self.code, width, self.channels),
            strided(self.channels + len(self.classes), width),
        )

    def one_hot(self, y: Tensor) -> Tensor:
        """Numbers of classes (N,) -> (N, K, 1, 1)."""
        return (y[:, None] == torch.arange(len(self.classes), device=y.device)).float()[..., None, None]

    def candidates(self, like: Tensor) -> Sequence[Tensor]:
        """The classes that an image may have, each (1, K, 1, 1), on the device of `like`."""
        numbers = range(max(1, len(self.classes))) if self.known is None else [self.classes.index(self.known)]
        return self.one_hot(torch.tensor(list(numbers), device=like.device)).split(1)

    def prior(self, like: Tensor, y: Tensor | None = None) -> Tensor:
        """z ~ N(0, I) and, beside it, the class y (N, K, 1, 1), else the known or any: see `GAN.prior`."""
        z = super().prior(like)[:, : self.code - len(self.classes)]
        if y is None:
            allowed = torch.cat(list(self.candidates(like)))
            y = allowed[torch.randint(len(allowed), (len(like),), device=like.device)]
        return beside(z, y)

    def told(self, batch: Tensor | Labelled) -> tuple[Tensor, Tensor]:
        """Images at the working scale and their classes, (N, K, 1, 1); where there is one class, labels may lack."""
        if not isinstance(batch, Labelled):
            if len(self.classes) > 1:
                raise ValueError(f"images of {len(self.classes)} classes came without labels: give Labelled(x, y)")
            batch = Labelled(batch, batch.new_zeros(len(batch)))
        return shrink(batch.x, self.shrink), self.one_hot(batch.y)

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """What the critic is shown of images of classes."""
        return beside(x, y)

    def seen(self, x: Tensor | Labelled) -> Tensor:
        return self.pair(*self.told(x))

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """D(x, y), (N, 1, h, w): the larger, the more real."""
        return self.D(self.pair(x, y))

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        D, G = self.answer, self.G
        for _ in range(self.critic_steps):
            x, y = self.told(next(batches))
            with torch.no_grad():
                fake = G(self.prior(x, y))
            yield "critic", {"adv": self.objective.critic(D(x, y), D(fake, y)), **self.flat(partial(D, y=y), x)}
        yield "generator", {"adv": self.objective.generator(D(G(self.prior(x, y)), y))}

    def trunks(self) -> dict[str, nn.Module]:
        return {} if self.classes else super().trunks()  # such a critic takes the class as well

    def inverted(self, s: Tensor) -> Inversion:
        """By every class that may be the one that leaves the least, for each patch; it is the end of its z."""
        return least([self.inverted_as(y, s) for y in self.candidates(s)], self.weights)

    def inverted_as(self, y: Tensor, s: Tensor) -> Inversion:
        noise = self.bank[:, : self.code - len(self.classes)]
        found = invert(
            lambda z: self.G(beside(z, y)),
            lambda x: self.D.features(self.pair(x, y)) / self.unit,
            s,
            noise,
            **self.inversion,
        )
        return replace(found, z=beside(found.z, y))

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each image under the class that D finds the most real, and of generated ones of those classes."""
        s = shrink(x, self.shrink)
        kinds = torch.cat(list(self.candidates(s)))
        mean = torch.stack([self.answer(s, y[None]).mean((1, 2, 3)) for y in kinds])
        y = kinds[mean.argmax(0)]
        return self.answer(s, y), self.answer(self.G(self.prior(s, y)), y)
