"""BiGAN on patches: a generator and its inverse against one critic of (image, code).

    min_{G, E} max_D   E log D(s, E(s)) + E log(1 - D(G(z), z)) + lambda R,   z ~ p(z)

for patches s of 32 x 32 working pixels, each with one code. Three maps, by `score`:

    "prior"      -log p(E(s)),   for p = N(0, I); a uniform prior says nothing
    "critic"     1 - D(s, E(s)),   for D is high where s is normal
    "residual"   (1 - alpha) ||G(E(s)) - s|| + alpha ||f_D(s, E(s)) - f_D(G(E(s)), E(s))||,   f_D: the features of D

Adversarial Feature Learning (Donahue et al., 2017), who train E and G by the inverse, non-saturating objective; the
third map: Efficient GAN-Based Anomaly Detection (Zenati et al., 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal, Uniform

from anomalib_gan.model import About, Model, Move, Player, whole_strides
from anomalib_gan.nets import enlarge, judged, shrink
from anomalib_gan.nets_patch import PatchFeatureCritic, joined, parted, patch_encoder, patch_generator, placed
from anomalib_gan.objectives import objective_of
from anomalib_gan.penalties import linear_total_correlation, mutual_information, r1
from anomalib_gan.residuals import euclidean, smooth
from anomalib_gan.trunks import OfPairs

REACH = 68  # working pixels from s to what it can change in f_D(G(E(s)), E(s)), spread over the places of its answers
PRIORS = {"normal": Normal(0.0, 1.0), "uniform": Uniform(-1.0, 1.0)}


class BiGAN(Model):
    """E: patch -> code in R^`code`, G: code -> patch, D: (patch, code) -> answer; unpadded, so images go as well.

    `prior`: of the codes, "normal" N(0, I) or "uniform" on [-1, 1]. `objective`: "minimax" is the formula.
    `regulariser` R with its `weight` lambda: "none", "total_correlation" of the codes, which shall be independent, or
    "mutual_information" of z and G(z), by its bound, lest G ignore z. `score`, `alpha`: see above; the norms are root
    mean squares over channels and over features. `shrink`: the working scale is 1/shrink of the image. `smoothing` of
    the map: sigma in working pixels. `width`: of the layers. `r1`: weight of a penalty on D's slope at real pairs
    (Mescheder et al., 2018), not the paper's: without it D soon tells all pairs, and E and G learn nothing.

    The default alpha leans on f_D: on held-back normal images with synthetic defects (`benchmark proxy`) the pixels of
    what a BiGAN rebuilds are worth no more than chance, 0.50 on drawn fibres and 0.46 on real ones, its features 0.66
    and 0.78, and the map with alpha of 0.1, 0.5 and 0.9 0.54, 0.64, 0.66 and 0.54, 0.74, 0.78.
    """

    about = About("a generator, its inverse, and a critic of both images and codes", "Donahue et al., 2017", "implicit")

    def __init__(
        self,
        channels: int = 1,
        code: int = 32,
        width: int = 32,
        patch: int = 64,
        batch: int = 64,
        shrink: int = 2,
        prior: Literal["normal", "uniform"] = "normal",
        objective: str = "non-saturating",
        regulariser: Literal["none", "total_correlation", "mutual_information"] = "none",
        weight: float = 0.1,
        score: Literal["prior", "critic", "residual"] = "residual",
        alpha: float = 0.9,
        smoothing: float = 4.0,
        r1: float = 2.0,
        lr: float = 5e-4,
    ) -> None:
        super().__init__()
        if score == "prior" and prior == "uniform":
            raise ValueError(
                "under a uniform prior all codes are as likely, so its likelihood says nothing: "
                'choose score="critic" or "residual", or prior="normal"'
            )
        self.channels, self.code, self.patch, self.batch, self.shrink = channels, code, patch, batch, shrink
        self.prior, self.regulariser, self.weight, self.r1, self.lr = prior, regulariser, weight, r1, lr
        self.score, self.alpha, self.smoothing, self.objective = score, alpha, smoothing, objective_of(objective)
        self.E, self.G = patch_encoder(channels, width, code), patch_generator(code, width, channels)
        self.D = PatchFeatureCritic(channels, width, code)
        self.stride, self.smallest = 8 * shrink, 32 * shrink
        reach = REACH + 3 * smoothing + 2
        self.halo = whole_strides(reach * shrink, self.stride)

    def players(self) -> dict[str, Player]:
        return {"critic": Player((self.D,), self.lr), "autoencoder": Player((self.E, self.G), self.lr)}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, E, G, objective = self.D, self.E, self.G, self.objective
        s = shrink(next(batches), self.shrink)
        with torch.no_grad(), judged(E, G):
            code = E(s)
            z = self.drawn(code)
            fake = G(z)
        real, generated = D(torch.cat((s, fake)), torch.cat((code, z)))[0].chunk(2)
        terms = {"adv": objective.critic(real, generated)}
        if self.r1:
            terms["r1"] = self.r1 * r1(lambda pair: D(*parted(pair, s, code))[0], joined(s, code))
        yield "critic", terms

        code = E(s)
        z = self.drawn(code)
        fake = G(z)
        real, generated = D(torch.cat((s, fake)), torch.cat((code, z)))[0].chunk(2)
        terms = {"adv_E": objective.flipped(real), "adv_G": objective.generator(generated)}
        if self.regulariser == "total_correlation":
            terms["tc"] = self.weight * linear_total_correlation(code.movedim(1, -1).flatten(0, -2))
        elif self.regulariser == "mutual_information":  # E reads z off G(z), as well as N(E(G(z)), I) can
            terms["mi"] = -self.weight * mutual_information(Normal(E(fake), 1.0), PRIORS[self.prior], z)
        yield "autoencoder", terms

    def drawn(self, like: Tensor) -> Tensor:
        """z ~ p(z), a field of the shape of these codes."""
        return torch.randn_like(like) if self.prior == "normal" else 2 * torch.rand_like(like) - 1

    def codes(self, n: int, rows: int, columns: int) -> Tensor:
        """z of the prior, (n, code, rows, columns)."""
        return self.drawn(torch.empty(n, self.code, rows, columns, device=next(self.G.parameters()).device))

    def components(self, s: Tensor) -> dict[str, Tensor]:
        """What the chosen map is the sum of, for images at working scale, each (N, 1, h, w) at their size."""
        z = self.E(s)  # (N, code, h / 8 - 3, w / 8 - 3)
        if self.score == "prior":
            surprise = 0.5 * (z.square() + math.log(2 * math.pi)).sum(1, keepdim=True)
            return {"prior": placed(surprise)}
        answer, features = self.D(s, z)
        if self.score == "critic":
            return {"critic": placed((-answer).sigmoid())}
        again = self.G(z)
        rebuilt = self.D(again, z)[1]
        residual = euclidean(again, s) / math.sqrt(self.channels)
        unlike = euclidean(rebuilt, features) / math.sqrt(features.shape[1])
        return {"residual": (1 - self.alpha) * residual, "features": self.alpha * placed(unlike)}

    def anomaly_map(self, x: Tensor) -> Tensor:
        found = torch.cat(list(self.components(shrink(x, self.shrink)).values()), 1).sum(1, keepdim=True)
        return enlarge(smooth(found, self.smoothing), self.shrink)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """The field of codes, the reconstruction of (N, C, H, W) at its size, and what the chosen map is the sum of."""
        s = shrink(x, self.shrink)
        fields = {name: enlarge(smooth(one, self.smoothing), self.shrink) for name, one in self.components(s).items()}
        z = self.E(s)
        return {"reconstruction": enlarge(self.G(z), self.shrink), "code": z, **fields}

    def reconstruct(self, x: Tensor) -> Tensor:
        return enlarge(self.G(self.E(shrink(x, self.shrink))), self.shrink)

    def generate(self, z: Tensor) -> Tensor:
        return enlarge(self.G(z), self.shrink)

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """(n, C, height, width) in [-1, 1]; both are multiples of `stride` from `smallest` on."""
        return self.generate(self.codes(n, height // self.stride - 3, width // self.stride - 3))

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = shrink(x, self.shrink)
        code = self.E(s)
        z = self.drawn(code)
        return self.D(s, code)[0], self.D(self.G(z), z)[0]

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E, "critic": OfPairs(self.E, self.D)}
