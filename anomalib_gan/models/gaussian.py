"""Gaussian density of patches: maximum likelihood in closed form. Nobody plays, `settle` estimates.

    mu = 1/M sum_i x_i,   Sigma = 1/M sum_i (x_i - mu)(x_i - mu)^T,
    map = -log N(x; mu, Sigma) = 1/2 ||L^-1 (x - mu)||^2 + log det L + n/2 log 2 pi,   Sigma = L L^T

Three things that a density can do: estimate (the map), infer hidden pixels from the others, sample. Pattern Recognition
and Machine Learning (Bishop, 2006), section 2.3; few patches: Shrinkage Algorithms for MMSE Covariance Estimation (Chen
et al., 2010); sampling at any size: Image Quilting (Efros and Freeman, 2001), the cut replaced by a conditional draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from anomalib_gan.model import About, Model, Player
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.patches import averaged, covering, moments, quilted, shrunk

GRAIN = 1e-5  # variance that every pixel has by itself: what 8 bits round away, about


class Gaussian(Model):
    """Patches of `side` x `side` working pixels, every `step` of them (a divisor of `side`) from the image's origin.

    `shrink`: the working scale is 1/shrink of the image. The map is in nats for each number of a patch, a mean over the
    patches that cover a pixel. `score`: "density" for -log N, under which a flat patch is the likeliest of all;
    "typicality" for how far -log N is from its mean H over normal patches; or "direction" for -log p((x - mu) / ||x -
    mu||), which is the same whatever the contrast: n/2 log(u^T Sigma^-1 u) + log det L but for a constant, the angular
    Gaussian (Tyler, 1987).
    """

    about = About("the likelihood of patches under one Gaussian", "Bishop, 2006", "explicit")

    def __init__(
        self,
        channels: int = 1,
        side: int = 16,
        step: int = 4,
        shrink: int = 2,
        score: Literal["density", "direction", "typicality"] = "density",
    ) -> None:
        super().__init__()
        self.channels, self.side, self.step, self.shrink = channels, side, step, shrink
        self.score, self.n, self.cells = score, channels * side**2, covering(side, step)
        self.patch = self.smallest = side * shrink
        self.batch = 1
        self.stride = step * shrink
        self.halo = (side + 2 * step) * shrink
        self.register_buffer("mean", torch.zeros(self.n, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(self.n, dtype=torch.float64))
        self.register_buffer("whiten", torch.eye(self.n))  # L^-1
        self.register_buffer("centre", torch.zeros(self.n))  # L^-1 (mu - level)
        self.register_buffer("level", torch.zeros(()))  # mean grey level, so that L^-1 multiplies small numbers
        self.register_buffer("volume", torch.zeros(()))  # log det L + n/2 log 2 pi
        self.register_buffer("entropy", torch.zeros(()))  # H: the mean of -log N over normal patches
        self.mean: Tensor
        self.covariance: Tensor
        self.whiten: Tensor
        self.centre: Tensor
        self.level: Tensor
        self.volume: Tensor
        self.entropy: Tensor

    def players(self) -> dict[str, Player]:
        return {}

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        mean, covariance, count = moments((shrink(x, self.shrink) for x in normals), self.side, self.step)
        self.mean.copy_(mean)
        self.covariance.copy_(shrunk(covariance, count) + GRAIN * torch.eye(self.n).to(covariance))
        root = torch.linalg.cholesky(self.covariance)
        whiten = torch.linalg.solve_triangular(root, torch.eye(self.n).to(root), upper=False)
        self.level.copy_(mean.mean())
        self.whiten.copy_(whiten)
        self.centre.copy_(whiten @ (mean - mean.mean()))
        self.volume.copy_(root.diagonal().log().sum() + self.n / 2 * math.log(2 * math.pi))
        self.entropy.copy_((whiten @ covariance @ whiten.T).trace() / 2 + self.volume)

    def surprise(self, s: Tensor) -> Tensor:
        """The score of each patch of (N, C, h, w), in nats: (N, 1, rows, columns)."""
        kernel = self.whiten.view(self.n, self.channels, self.side, self.side)
        white = conv2d(s - self.level, kernel, -self.centre, stride=self.step)  # (N, n, rows, columns)
        distance = white.square().sum(1, keepdim=True)
        if self.score == "density":
            return distance / 2 + self.volume
        if self.score == "typicality":
            return (distance / 2 + self.volume - self.entropy).abs()
        ones, mean = torch.ones_like(kernel[:1]), (self.mean - self.level).to(s).view_as(kernel[:1])
        # ||x - mu||^2 = ||x||^2 - 2 mu^T x + ||mu||^2, of numbers about the mean grey level
        t = s - self.level
        length = conv2d(t.square(), ones, stride=self.step) - 2 * conv2d(t, mean, stride=self.step)
        length = (length + mean.square().sum()).clamp_min(0) + self.n * GRAIN
        return self.n / 2 * (distance.clamp_min(1e-6).log() - length.log()) + self.volume

    def anomaly_map(self, x: Tensor) -> Tensor:
        each = self.surprise(shrink(x, self.shrink)) / self.n
        return enlarge(averaged(each, self.cells), self.stride)

    def conditional(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of the numbers of a patch that are `hidden`, (n,) bool, given the v others: the gain Sigma_hv Sigma_vv^-1,
        (h, v), and their covariance Sigma_hh - Sigma_hv Sigma_vv^-1 Sigma_vh, (h, h).
        """
        S, v = self.covariance, ~hidden
        gain = torch.linalg.solve(S[v][:, v], S[v][:, hidden]).T
        return gain, S[hidden][:, hidden] - gain @ S[v][:, hidden]

    def infer(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """p(x_h | x_v) of patches (M, n) of whose numbers `hidden`, (n,) bool, are not known: its mean (M, h), which is
        mu_h + gain (x_v - mu_v), and its covariance (h, h).
        """
        gain, covariance = self.conditional(hidden)
        return self.mean[hidden] + (x[:, ~hidden] - self.mean[~hidden]) @ gain.T, covariance

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """(n, C, height, width) in [-1, 1]: patch after patch, each given what its neighbours have drawn of it."""
        tall, wide = height // self.shrink, width // self.shrink
        s = quilted(self.mean, self.conditional, (self.channels, self.side, self.side), n, tall, wide)
        return enlarge(s.float(), self.shrink).clamp(-1, 1)
