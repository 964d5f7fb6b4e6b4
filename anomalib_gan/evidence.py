"""How probable a variational autoencoder finds images: log p(x) by Monte Carlo, and what its bound and codes are worth.

    prior:       p(x) ~ 1/K sum_k p(x|z_k),                    z_k ~ p(z)
    importance:  p(x) ~ 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),  z_k ~ q(z|x)

Both means are unbiased, their logarithms too small by about half the relative variance of the mean. Few z of the prior
come near any given x, so that the first needs exponentially many; the second is the bound of Importance Weighted
Autoencoders (Burda et al., 2016), which for K = 1 is the ELBO.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import avg_pool2d, relu

from anomalib_gan.likelihoods import kl_diagonal, kl_full

Method = Literal["prior", "importance"]
METHODS: tuple[Method, ...] = ("prior", "importance")
ACTIVE = 0.01  # variance of a unit's mean code above which the unit tells something (Burda et al., 2016)
WINDOW = 9  # working px, side of the window of the local variance


class Bounded(Protocol):
    """A model with p(z) = N(0, I), q(z|x) and p(x|z); images are (N, C, h, w) at its working scale."""

    def posterior(self, s: Tensor) -> Normal: ...
    def log_likelihood(self, s: Tensor, z: Tensor) -> Tensor: ...


def log_evidence(model: Bounded, s: Tensor, draws: Tensor, method: Method) -> Tensor:
    """The estimate of log p(x) in nats for each of (M, C, h, w), (M,).

    `draws`: (K, code, h', w') of N(0, I), from which the codes of all M images are made.
    """
    q = model.posterior(s) if method == "importance" else None
    total: Tensor | None = None
    for eps in draws:
        if q is None:
            weight = model.log_likelihood(s, eps[None]).flatten(1).sum(1)  # G draws but one image for all
        else:
            z = q.mean + q.stddev * eps
            prior = -(z.square() + math.log(2 * math.pi)) / 2
            weight = model.log_likelihood(s, z).flatten(1).sum(1) + (prior - q.log_prob(z)).flatten(1).sum(1)
        if total is None:
            total = weight
            continue
        # log(e^a + e^b) of operators that a bundle's graph may hold, unlike logsumexp's.
        more = weight - total
        total = total + relu(more) + ((-more.abs()).exp() + 1).log()
    if total is None:
        raise ValueError("no draws, no estimate: give at least one")
    return total - math.log(len(draws))


def elbo(model: Bounded, s: Tensor, draws: Tensor) -> Tensor:
    """The bound in nats for each of (M, C, h, w), (M,): its first term as a mean over `draws`, as in `log_evidence`."""
    q = model.posterior(s)
    told = [model.log_likelihood(s, q.mean + q.stddev * eps).flatten(1).sum(1) for eps in draws]
    return torch.stack(told).mean(0) - kl_diagonal(q.mean, q.variance).flatten(1).sum(1)


@torch.no_grad()
def evidence_table(
    model: Bounded,
    s: Tensor,
    *,
    exact: Tensor | None = None,
    samples: Sequence[int] = (1, 4, 16, 64, 256),
    repeats: int = 8,
    reference: int = 2048,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Both estimates on patches (M, C, h, w), a row for each method and number K of samples.

    {method, samples, estimate, bias, deviation, gap, decoded, ms}: the mean over patches and `repeats`; how far that is
    from `exact` (M,), or from the importance estimate of `reference` samples where nobody knows it; the standard
    deviation between repeats, a mean over patches; how far it is above the ELBO; images decoded for each patch; time
    for each patch. All but the last three columns in nats for each patch.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = model.posterior(s[:1]).mean.shape[1:]

    def drawn(count: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(s)

    truth = log_evidence(model, s, drawn(reference), "importance") if exact is None else exact
    bound = elbo(model, s, drawn(reference // 4))
    rows = []
    for method in METHODS:
        for count in samples:
            began = time.perf_counter()
            each = torch.stack([log_evidence(model, s, drawn(count), method) for _ in range(repeats)])  # (repeats, M)
            spent = time.perf_counter() - began
            rows.append(
                {
                    **{"method": method, "samples": count, "estimate": float(each.mean())},
                    **{"bias": float((each - truth).mean()), "deviation": float(each.std(0).mean())},
                    **{"gap": float((each - bound).mean())},
                    **{"decoded": count / len(s) if method == "prior" else float(count)},
                    **{"ms": 1000 * spent / (repeats * len(s))},
                }
            )
    return rows


def evidence_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of `evidence_table` as text."""
    lines = ["| estimate of log p(x) | samples | mean | bias | deviation | above the ELBO | decoded | ms |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = " | ".join(f"{row[key]:.2f}" for key in ("estimate", "bias", "deviation", "gap", "decoded", "ms"))
        lines.append(f"| {row['method']} | {row['samples']} | {figures} |")
    return (
        "\n".join([*lines, "", "In nats for each patch; decoded images and milliseconds for each patch, too."]) + "\n"
    )


@torch.no_grad()
def code_figures(model: Bounded, s: Tensor) -> dict[str, Any]:
    """What the codes of images (N, C, h, w) are worth.

    "kl": nats of each unit, a mean over images and places, of length `code`; "active": how many units tell something,
    the variance of whose mean is above ACTIVE; "collapsed": the numbers of the others; "aggregate": nats from the
    Gaussian of all codes, q(z) = E_x q(z|x), to the prior, 0 where the samples' codes are those of the images.
    """
    q = model.posterior(s)
    mean, variance = (one.movedim(1, -1).flatten(0, 2).double() for one in (q.mean, q.variance))  # (M, code)
    if len(mean) < 2:
        raise ValueError("one code has no variance: give larger images, or more of them")
    spread = torch.cov(mean.T).view(mean.shape[1], -1)
    covariance = spread + variance.mean(0).diag()
    kept = spread.diagonal() > ACTIVE
    standard = torch.zeros_like(mean[0]), torch.eye(mean.shape[1]).to(mean)
    return {
        "kl": kl_diagonal(mean, variance).mean(0).tolist(),
        "active": int(kept.sum()),
        "collapsed": (~kept).nonzero()[:, 0].tolist(),
        "aggregate": float(kl_full(mean.mean(0), covariance, *standard)),
    }


def variance_lost(again: Tensor, s: Tensor) -> Tensor:
    """The share of the local variance of (N, C, h, w) that a reconstruction lacks, (N, 1, h - 8, w - 8).

    0: as lively as the image, 1: flat; a blurred texture of nanofibres becomes a patch of grass.
    """
    lively, real = (local_variance(one) for one in (again, s))
    return 1 - lively / real.clamp_min(1e-8)


def local_variance(x: Tensor) -> Tensor:
    """In windows of WINDOW x WINDOW pixels of (N, C, H, W), a mean over channels: (N, 1, H - 8, W - 8)."""
    spread = avg_pool2d(x.square(), WINDOW, 1) - avg_pool2d(x, WINDOW, 1).square()
    return spread.clamp_min(0).mean(1, keepdim=True)
