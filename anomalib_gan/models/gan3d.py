"""3D-GAN: the game of `gan` with voxels. With a picture's encoder it is 3D-VAE-GAN, from a picture to a volume.

    min over G, max over D of  E log D(x) + E log(1 - D(G(z))),   z ~ N(0, I),   x: blocks of voxels
    and, y being a picture of x,  + alpha_1 KL[q(z|y) || N(0, I)] + alpha_2 |G(z) - x|^2,   z ~ q(z|y) = E(y)

Learning a Probabilistic Latent Space of Object Shapes via 3D Generative-Adversarial Modeling (Wu et al., 2016). A
critic of voxels is soon far ahead of its generator, hence three tricks: it learns more slowly, by a rate of its own;
batches are large; and it moves only while at most 80 % of its answers are right. By convolutions throughout here: z is
a field of codes where the paper has one code for an object, so one G draws volumes of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from anomalib_gan.likelihoods import kl_diagonal, normal_of
from anomalib_gan.model import About, Move, Player, over_processes
from anomalib_gan.models.gan import GAN
from anomalib_gan.nets import Critic, encoder, judged, strided, transposed


class GAN3D(GAN):
    """G: field of codes -> volume, D: volume -> an answer for every place; `code` numbers for 8 x 8 x 8 voxels.

    `side`, in voxels, of the blocks that are trained on and inverted. `batch`: blocks of 32 take about 3.5 MB each in
    training. `lr`: of the generator; `slower`: the critic's rate as a share of it. `accuracy`: the share of right
    answers above which the critic rests. `picture`: learn E, too, from `view`, the middle "slice" of a block or its
    "projection", the mean along the depth; `kl` and `rec` are alpha_1 and alpha_2, their terms nats per number of the
    code and squares per voxel. `r1` and all that concerns the map: see `GAN`.
    """

    about = About("voxels by convolutions along three axes, for stacks of slices", "Wu et al., 2016", "implicit")
    dim = 3
    looked_at = 2
    cell = 8
    side_at_scale = 0

    def __init__(
        self,
        channels: int = 1,
        code: int = 8,
        width: int = 12,
        side: int = 32,
        batch: int = 32,
        lr: float = 2.5e-3,
        slower: float = 0.4,
        accuracy: float = 0.8,
        picture: bool = False,
        view: Literal["slice", "projection"] = "slice",
        kl: float = 0.01,
        rec: float = 10.0,
        r1: float = 0.0,
        residual: Literal["ssim", "l1", "l2"] = "l1",
        feature: float = 0.03,
        likelihood: float = 0.01,
        steps: int = 40,
        score: Literal["loss", "likelihood"] = "loss",
        smoothing: float = 2.0,
    ) -> None:
        super().__init__(
            channels, code, width, side, batch, shrink=1, r1=r1, residual=residual, feature=feature,
            likelihood=likelihood, steps=steps, score=score, smoothing=smoothing,
        )  # fmt: skip
        self.lr, self.slower, self.accuracy = lr, slower, accuracy
        self.view, self.kl, self.rec = view, kl, rec
        widths = (width, 2 * width, 4 * width)
        self.E = encoder(channels, widths, 2 * code * (side // self.cell)) if picture else None

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return transposed(self.code, width, self.channels, dim=3), strided(self.channels, width, dim=3)

    def players(self) -> dict[str, Player]:
        generator = Player((self.G,), self.lr, self.betas)
        players = {"critic": Player((self.D,), self.slower * self.lr, self.betas), "generator": generator}
        return players if self.E is None else {**players, "encoder": Player((self.E,), self.lr, self.betas)}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, G, objective = self.D, self.G, self.objective
        x = next(batches)  # (N, C, side, side, side)
        with torch.no_grad():
            fake = G(self.prior(x))
        real, drawn = D(x), D(fake)
        if right(real, drawn) <= self.accuracy:
            yield "critic", {"adv": objective.critic(real, drawn), **self.flat(D, x)}
        if self.E is None:
            yield "generator", {"adv": objective.generator(D(G(self.prior(x))))}
            return

        with judged(G):
            q = self.posterior(self.pictured(x))
            rec = self.rec * (G(q.rsample()) - x).square().mean()
        yield "encoder", {"kl": self.kl * kl_diagonal(q.mean, q.variance).mean(), "rec": rec}

        with torch.no_grad(), judged(self.E):
            z = self.posterior(self.pictured(x)).sample()
        again, fake = G(torch.cat((z, self.prior(x)))).chunk(2)
        yield "generator", {"adv": objective.generator(D(fake)), "rec": self.rec * (again - x).square().mean()}

    def pictured(self, x: Tensor) -> Tensor:
        """What E is shown of blocks (N, C, D, H, W): (N, C, H, W)."""
        return x.mean(2) if self.view == "projection" else x[:, :, x.shape[2] // 2]

    def posterior(self, y: Tensor) -> Normal:
        """q(z|y) of pictures (N, C, h, w), multiples of 8: over (N, code, side / 8, h / 8, w / 8)."""
        if self.E is None:
            raise ValueError("this model has no encoder of pictures: train with --param picture=true")
        return normal_of(self.E(y).unflatten(1, (2 * self.code, -1)))

    def volume(self, y: Tensor) -> Tensor:
        """Pictures (N, C, h, w) in [-1, 1] -> the volumes (N, C, side, h, w) that G draws from their mean codes."""
        return self.G(self.posterior(y).mean)


def right(real: Tensor, fake: Tensor) -> float:
    """The share of a critic's answers that are right, those of all processes together, so that all decide alike."""
    return float(over_processes(torch.cat((real > 0, fake < 0)).double().mean()))
