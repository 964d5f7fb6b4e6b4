"""Variational autoencoder: a density of images, bounded from below by an encoder and a decoder that learn together.

    log p(x) >= ELBO = E_q log p(x|z) - KL[q(z|x) || p(z)],   q(z|x) = N(mu(x), diag sigma^2(x)),   p(z) = N(0, I)
    E (mu and sigma) and G (p(x|z)) descend -ELBO with z = mu + sigma eps, eps ~ N(0, I);   map = -log p(x|mu) per pixel

Auto-Encoding Variational Bayes (Kingma and Welling, 2014). The KL's weight: beta-VAE (Higgins et al., 2017); its
warm-up: Generating Sentences from a Continuous Space (Bowman et al., 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from anomalib_gan.evidence import log_evidence
from anomalib_gan.likelihoods import LIKELIHOODS, kl_diagonal, normal_of
from anomalib_gan.model import About, Model, Move, Player, whole_strides
from anomalib_gan.nets import encoder, enlarge, generator, perceptron, shrink
from anomalib_gan.patches import cut
from anomalib_gan.residuals import smooth

SIDE = 8  # of a patch, and the convolutional codes' stride, in working pixels
REACH = {"conv": 38, "mlp": SIDE - 1, "linear": SIDE - 1}  # working pixels from s to what it can change in G(E(s))
JUDGED = {"conv": 2 * SIDE, "mlp": SIDE, "linear": SIDE}  # side of the patches of which log p(x) is estimated


class VAE(Model):
    """E: image -> N(mu, sigma^2) of the codes, G: codes -> p(x|z); `code` numbers for 8 x 8 working pixels.

    `kind`: "conv" for convolutions that see beyond those pixels, "mlp" for one hidden layer on each patch of the grid
    by itself, "linear" for none (probabilistic PCA). `likelihood`: "gaussian", with the decoder's or a fixed
    `variance`, "bernoulli", or "categorical" with so many grey `levels`. `beta` weighs the KL, after rising from 0
    during the share `warm_up` of the training. `score`: "pixel" for -log p(x|mu) at each pixel, smoothed by `smoothing`
    working pixels, or a Monte Carlo estimate of -log p(x) for each patch of the grid as an image by itself, from
    `samples` draws: "prior" or "importance", see `evidence`. The draws are fixed, the same for all patches, so that
    maps repeat. `shrink`: the working scale is 1/shrink of the image.
    """

    about = About("an encoder and a decoder that bound the likelihood of images", "Kingma and Welling, 2014", "bound")

    def __init__(
        self,
        channels: int = 1,
        kind: Literal["conv", "mlp", "linear"] = "conv",
        code: int = 16,
        width: int = 64,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        likelihood: Literal["gaussian", "bernoulli", "categorical"] = "gaussian",
        variance: float | None = None,
        levels: int = 16,
        beta: float = 1.0,
        warm_up: float = 0.2,
        score: Literal["pixel", "prior", "importance"] = "pixel",
        samples: int = 16,
        smoothing: float = 4.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.batch, self.shrink = channels, patch, batch, shrink
        self.kind, self.code, self.beta, self.warm_up = kind, code, beta, warm_up
        self.score, self.smoothing, self.lr = score, smoothing, lr
        self.likelihood = LIKELIHOODS[likelihood](variance, levels)
        if likelihood == "categorical":
            self.exportable = "looking up a grey level is an operator that no bundle may hold: take likelihood gaussian"
        self.pixels = channels * SIDE**2  # numbers of the image for one code
        given = channels * self.likelihood.numbers
        if kind == "conv":
            widths = (width // 2, width, 3 * width // 2)
            self.E, self.G = encoder(channels, widths, 2 * code), generator(code, widths, given)[:-1]  # no tanh
        else:
            hidden = [4 * width] if kind == "mlp" else []
            self.E = nn.Sequential(nn.PixelUnshuffle(SIDE), *perceptron(self.pixels, *hidden, 2 * code))
            self.G = nn.Sequential(*perceptron(code, *hidden, given * SIDE**2), nn.PixelShuffle(SIDE))
        side = JUDGED[kind]
        self.stride = (SIDE if score == "pixel" else side) * shrink
        reach = REACH[kind] + 3 * smoothing + 2 if score == "pixel" else 2 * side
        self.halo = whole_strides(reach * shrink, self.stride)
        draws = torch.randn(samples, code, side // SIDE, side // SIDE, generator=torch.Generator().manual_seed(0))
        self.register_buffer("draws", draws)
        self.draws: Tensor

    def players(self) -> dict[str, Player]:
        return {"autoencoder": Player((self.E, self.G), self.lr, (0.9, 0.99))}

    def posterior(self, s: Tensor) -> Normal:
        """q(z|x) of (N, C, 8 h, 8 w) at the working scale, over (N, code, h, w)."""
        return normal_of(self.E(s))

    def log_likelihood(self, s: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of each number of s, (N, C, 8 h, 8 w), in nats; N images and one z, or N of both."""
        return self.likelihood(self.G(z).float()).log_prob(self.likelihood.values(s))

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        s = shrink(next(batches), self.shrink)
        q = self.posterior(s)
        z = q.rsample()
        rise = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        kl = kl_diagonal(q.mean, q.variance).sum(1).mean()
        # -ELBO, and what else, in nats for each number of the image.
        terms = {"nll": -self.log_likelihood(s, z).mean(), "kl": self.beta * rise * kl / self.pixels}
        yield "autoencoder", {**terms, **self.penalties(q, z, rise)}

    def penalties(self, q: Normal, z: Tensor, rise: float) -> dict[str, Tensor]:
        """What a variant adds to -ELBO."""
        return {}

    def anomaly_map(self, x: Tensor) -> Tensor:
        return self.parts(x)["surprise"]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """The mean codes of (N, C, H, W), the image they stand for, and the map, in nats for each number."""
        s = shrink(x, self.shrink)
        z = self.posterior(s).mean  # (N, code, h, w)
        if self.score == "pixel":
            nll = -self.log_likelihood(s, z).mean(1, keepdim=True)
            surprise = enlarge(smooth(nll, self.smoothing), self.shrink)
        else:
            surprise = enlarge(self.surprise(s), self.stride)
        return {"reconstruction": self.generate(z).clamp(-1, 1), "code": z, "surprise": surprise}

    def surprise(self, s: Tensor) -> Tensor:
        """-log p(x) of each patch of the grid, in nats for each number, (N, C, h, w) -> (N, 1, h / side, w / side)."""
        side = self.stride // self.shrink
        rows, columns = s.shape[-2] // side, s.shape[-1] // side
        method: Literal["prior", "importance"] = "prior" if self.score == "prior" else "importance"
        found = -log_evidence(self, cut(s, side), self.draws, method) / (self.channels * side**2)
        return found.view(-1, 1, rows, columns)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.parts(x)["reconstruction"]

    def generate(self, z: Tensor) -> Tensor:
        """The mean of p(x|z) for codes (N, code, h, w), at the image's scale."""
        return enlarge(self.likelihood.image(self.likelihood(self.G(z).float())), self.shrink)

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """(n, C, height, width) in [-1, 1], sides multiples of `stride`: the means of p(x|z), z ~ N(0, I), since the
        pixels' own noise is independent and looks like grain.
        """
        each = SIDE * self.shrink
        z = torch.randn(n, self.code, height // each, width // each).to(self.draws)
        return self.generate(z).clamp(-1, 1)

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E}
