"""What a decoder's raw numbers say about an image: p(x|z) as a torch Distribution; and what two Gaussians differ by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

LOG_VARIANCE = (-12.0, 6.0)  # of a code, lest its exponential overflow
LEAST = 1e-4  # variance of a grey level in [-1, 1] below which no decoder may be sure: about one level of 8 bits


class Likelihood(Protocol):
    """`numbers`: how many the decoder gives for each number of the image.

    Called with them, (N, numbers C, h, w), it is p(.|z) over (N, C, h, w). That distribution's values are `values(x)`
    of an image in [-1, 1], and `image(p)` is its mean in [-1, 1].
    """

    @property
    def numbers(self) -> int: ...
    def __call__(self, y: Tensor) -> Distribution: ...
    def values(self, x: Tensor) -> Tensor: ...
    def image(self, p: Distribution) -> Tensor: ...


@dataclass(frozen=True)
class Gaussian:
    """N(x; mean, variance): the decoder gives both, or the mean alone where the `variance` is fixed."""

    variance: float | None = None

    @property
    def numbers(self) -> int:
        return 2 if self.variance is None else 1

    def __call__(self, y: Tensor) -> Normal:
        if self.variance is not None:
            return Normal(y, math.sqrt(self.variance), validate_args=False)
        mean, log_variance = y.chunk(2, 1)
        return Normal(mean, (LEAST + log_variance.clamp(max=4.0).exp()).sqrt(), validate_args=False)

    def values(self, x: Tensor) -> Tensor:
        return x

    def image(self, p: Distribution) -> Tensor:
        return p.mean


@dataclass(frozen=True)
class BlackOrWhite:
    """Bernoulli: the probability of white. A grey level between counts as white as often as it is bright, and its
    log-likelihood is the mean over that.
    """

    numbers: int = 1

    def __call__(self, y: Tensor) -> Bernoulli:
        return Bernoulli(logits=y, validate_args=False)

    def values(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def image(self, p: Distribution) -> Tensor:
        return 2 * p.mean - 1


@dataclass(frozen=True)
class Levels:
    """Categorical: a probability for each of `numbers` grey levels, of any shape; Pixel Recurrent Neural Networks (van
    den Oord et al., 2016).
    """

    numbers: int = 16

    def __call__(self, y: Tensor) -> Categorical:
        logits = y.unflatten(1, (self.numbers, -1)).movedim(1, -1)  # (N, C, h, w, numbers)
        return Categorical(logits=logits, validate_args=False)

    def values(self, x: Tensor) -> Tensor:
        return ((x + 1) * (self.numbers / 2)).floor().clamp(0, self.numbers - 1)

    def image(self, p: Distribution) -> Tensor:
        assert isinstance(p, Categorical)
        return p.probs @ ((2 * torch.arange(self.numbers).to(p.probs) + 1) / self.numbers - 1)


LIKELIHOODS: dict[str, Callable[[float | None, int], Likelihood]] = {
    "gaussian": lambda variance, levels: Gaussian(variance),
    "bernoulli": lambda variance, levels: BlackOrWhite(),
    "categorical": lambda variance, levels: Levels(levels),
}
"""By name, from a fixed variance (None: the decoder gives it) and a number of grey levels."""


def normal_of(numbers: Tensor) -> Normal:
    """q(z|x) from what an encoder gives, (N, 2 code, ...): the means, then the logarithms of the variances."""
    mean, log_variance = numbers.float().chunk(2, 1)
    return Normal(mean, (log_variance.clamp(*LOG_VARIANCE) / 2).exp(), validate_args=False)


def kl_diagonal(mean: Tensor, variance: Tensor, mean1: Tensor | float = 0.0, variance1: Tensor | float = 1.0) -> Tensor:
    """KL[N(mean, variance) || N(mean1, variance1)] in nats, number by number: for diagonal covariances their sum."""
    ratio = variance / variance1
    return (ratio - 1 - ratio.log() + (mean - mean1).square() / variance1) / 2


def kl_full(mean: Tensor, covariance: Tensor, mean1: Tensor, covariance1: Tensor) -> Tensor:
    """KL[N(mean, covariance) || N(mean1, covariance1)] in nats of (..., d) and (..., d, d): (...).

    1/2 (tr(S1^-1 S) + (m1 - m)^T S1^-1 (m1 - m) - d + log det S1 / det S). A covariance that is not positive definite
    is torch's LinAlgError.
    """
    root, root1 = torch.linalg.cholesky(covariance), torch.linalg.cholesky(covariance1)
    gap = torch.cat((root, (mean1 - mean)[..., None]), -1)
    apart = torch.linalg.solve_triangular(root1, gap, upper=False).square().sum((-2, -1))
    volumes = (root1.diagonal(dim1=-2, dim2=-1).log() - root.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    return (apart - mean.shape[-1]) / 2 + volumes


def kernel_density(f: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The density of which f (M, d) are samples, as `count` Gaussians of Scott's width (1992) at some of them, drawn at
    random, or as the one Gaussian of their mean and covariance: the matrix (d, d) that takes vectors into units of the
    width, by multiplication from the right, and the centres in these, (count, d).
    """
    root = torch.linalg.cholesky(torch.cov(f.T) + 1e-8 * torch.eye(f.shape[1]).to(f))
    if count > 1:
        width, centres = count ** (-1 / (f.shape[1] + 4)), f[torch.randint(len(f), (count,))]
    else:
        width, centres = 1.0, f.mean(0, keepdim=True)
    whiten = torch.linalg.inv(width * root).T
    return whiten, centres @ whiten


def rarity(f: Tensor, centres: Tensor) -> Tensor:
    """-log of a `kernel_density` at f (M, d), but for a constant, both in units of the width: (M,)."""
    exact = "donot_use_mm_for_euclid_dist"  # the other way takes differences of large squares
    return -(-torch.cdist(f, centres, compute_mode=exact).square() / 2).logsumexp(1)
