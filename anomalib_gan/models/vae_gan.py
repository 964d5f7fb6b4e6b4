"""VAE-GAN: a VAE whose residual lives in the features of a critic, which learns by what images are told apart.

    q(z|s) = N(mu, sigma^2), (mu, sigma) = E(s),   s^ = G(z), z ~ q(z|s),   s_p = G(z_p), z_p ~ N(0, I)
    L_prior = KL[q(z|s) || N(0, I)],   L_like = 1/2 ||D_l(s) - D_l(s^)||^2
    L_GAN = log D(s) + log(1 - D(s^)) + log(1 - D(s_p))

    E descends L_prior + L_like,   G descends gamma L_like + L_GAN,   D ascends L_GAN
    map = ||D_l(s) - D_l(G(mu))|| per place, or the structural residual of the two

with D_l the features of D's layer l. Autoencoding Beyond Pixels Using a Learned Similarity Metric (Larsen et al.,
2016), Algorithm 1. Each of the three hears of its own loss only: G's adversarial gradient does not reach E, nor L_like
D.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from anomalib_gan.likelihoods import kl_diagonal, normal_of
from anomalib_gan.model import About, Model, Move, Player, whole_strides
from anomalib_gan.nets import FeatureCritic, encoder, enlarge, generator, judged, shrink
from anomalib_gan.objectives import objective_of
from anomalib_gan.residuals import RESIDUALS, smooth

REACH = 38  # working pixels from s to what it can change in G(E(s))
WINDOW = 4  # radius of SSIM's window


class VAEGAN(Model):
    """E: image -> Gaussian of `code` numbers for 8 x 8 working pixels, G: field of codes -> image, D: image -> answers.

    `gamma`: how much G hears of L_like beside L_GAN; all losses are nats per place of the field of codes.
    `objective`: of the adversarial game. `shrink`: the working scale is 1/shrink of the image. `residual`: of the
    features in the map, "l2" as in L_like, or "ssim", which contrast sways less. `smoothing` of it: sigma in working
    pixels. `width`: of the layers.
    """

    about = About("a VAE that compares image and reconstruction by what a critic sees", "Larsen et al., 2016", "bound")

    def __init__(
        self,
        channels: int = 1,
        code: int = 16,
        width: int = 32,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        objective: str = "non-saturating",
        gamma: float = 0.05,
        residual: Literal["ssim", "l2"] = "ssim",
        smoothing: float = 4.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.channels, self.code, self.patch, self.batch, self.shrink = channels, code, patch, batch, shrink
        self.objective, self.gamma, self.lr = objective_of(objective), gamma, lr
        self.residual, self.smoothing = residual, smoothing
        widths = (width // 2, width, 3 * width // 2)
        self.E, self.G = encoder(channels, widths, 2 * code), generator(code, widths, channels)
        self.D = FeatureCritic(channels, width)
        self.stride = 8 * shrink
        reach = REACH + self.D.reach + 3 * smoothing + (WINDOW + 2) * self.D.stride
        self.halo = whole_strides(reach * shrink, self.stride)

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player((self.D,), self.lr),
            "generator": Player((self.G,), self.lr),
            "encoder": Player((self.E,), self.lr),
        }

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, E, G, objective = self.D, self.E, self.G, self.objective
        s = shrink(next(batches), self.shrink)
        with torch.no_grad(), judged(E, G):
            fakes, _ = self.made(s)
        answers, _ = D(torch.cat((s, fakes)))
        yield "critic", {"adv": objective.critic(answers[: len(s)], answers[len(s) :])}

        with judged(E):
            fakes, _ = self.made(s)
        answers, features = D(torch.cat((s, fakes)))
        like = self.gamma * self.unlike(features, len(s))
        yield "generator", {"like": like, "adv": objective.generator(answers[len(s) :])}

        with judged(G):
            fakes, q = self.made(s)
        _, features = D(torch.cat((s, fakes)))
        kl = kl_diagonal(q.mean, q.variance).sum(1).mean()
        yield "encoder", {"kl": kl, "like": self.unlike(features, len(s))}

    def posterior(self, s: Tensor) -> Normal:
        """q(z|s) of images at the working scale: a field of Gaussians, (N, code, h, w)."""
        return normal_of(self.E(s))

    def made(self, s: Tensor) -> tuple[Tensor, Normal]:
        """s^ and s_p, (2 N, C, h, w): in one batch, so that G's statistics are those of both; and q(z|s)."""
        q = self.posterior(s)
        z = q.rsample()
        return self.G(torch.cat((z, torch.randn_like(z)))), q

    def unlike(self, features: Tensor, n: int) -> Tensor:
        """L_like of the features of n images s, their s^ and as many s_p."""
        s, again, _ = features.split(n)
        return 0.5 * (s - again).square().sum(1).mean() * (8 // self.D.stride) ** 2

    def anomaly_map(self, x: Tensor) -> Tensor:
        return self.parts(x)["residual"]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """The field of mean codes, the reconstruction of (N, C, H, W) at its size, and the map."""
        s = shrink(x, self.shrink)
        mu = self.E(s).chunk(2, 1)[0]  # (N, code, h, w): no sampling, so maps are the same every time
        again = self.G(mu)
        residual = RESIDUALS[self.residual](self.D(again)[1], self.D(s)[1])  # (N, 1, 2 h, 2 w)
        residual = smooth(residual, self.smoothing / self.D.stride)
        return {
            "reconstruction": enlarge(again, self.shrink),
            "code": mu,
            "residual": enlarge(residual, self.D.stride * self.shrink),
        }

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.parts(x)["reconstruction"]

    def generate(self, z: Tensor) -> Tensor:
        return enlarge(self.G(z), self.shrink)

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """(n, C, height, width) in [-1, 1] from a field z ~ N(0, I); height and width are multiples of `stride`."""
        z = torch.randn(n, self.code, height // self.stride, width // self.stride)
        return self.generate(z.to(next(self.E.parameters())))

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fake = self.sample(*x.shape[:1], *x.shape[2:])
        return self.D(shrink(x, self.shrink))[0], self.D(shrink(fake, self.shrink))[0]

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E, "critic": self.D.features}
