"""Extra terms that a player may descend beside its objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import avg_pool2d, normalize

CELL = 3  # neighbouring frequencies whose power is taken together, in either direction


def spectrum_gap(fake: Tensor, real: Tensor) -> Tensor:
    """Mean square difference of the log power spectra of two batches, 0 where they agree.

    Both (N, C, H, W), of one shape. Spectral regularisation (Durall et al., 2020, "Watch your up-convolution") of the
    distribution over patches, not of each patch nor of their mean alone: at each cell of frequencies the sorted powers
    of one batch are paired with those of the other.
    """
    return (power(fake).log().sort(0).values - power(real).log().sort(0).values).square().mean()


def power(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, h, w): power in cells of the plane of frequencies, Hann-windowed, mean removed; above 0.

    Cells of the plane and not rings, in which the few peaks of a lattice would drown.
    """
    window = torch.outer(*(torch.hann_window(side, periodic=False, device=x.device) for side in x.shape[-2:]))
    x = x.float()  # whatever the precision around it: a spectrum spans more decades than half a float holds
    plane = torch.fft.rfft2((x - x.mean((-2, -1), keepdim=True)) * window).abs().square().mean(1)
    return avg_pool2d(plane, CELL).clamp_min(1e-8)


def grey_gap(fake: Tensor, real: Tensor) -> Tensor:
    """Mean difference of the grey levels of two batches of one shape (N, C, H, W), in their unit, 0 where they agree.

    Within a patch and between patches what is sorted is paired, which is the best transport in one dimension (Rabin et
    al., 2011): so the batches have the same levels, and their patches differ from each other as much.
    """
    fake, real = (x.flatten(1).sort(1).values.sort(0).values for x in (fake, real))
    return (fake - real).abs().mean()


def total_variation(x: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels, down plus across, of (N, C, H, W); 0 where x is flat.

    Rudin, Osher and Fatemi (1992), anisotropic: whoever descends it smooths, and keeps edges that are straight.
    """
    down, across = x.diff(dim=-2), x.diff(dim=-1)
    return down.abs().mean() + across.abs().mean()


def edge_gap(fake: Tensor, real: Tensor) -> Tensor:
    """By how much the differences of neighbouring pixels are stronger or weaker than the real image's at their place.

    Both (N, C, H, W), pixel by pixel. The gradient difference loss (Mathieu, Couprie and LeCun, 2016): a blurred image
    pays for it, where the mean of all that could be there costs L1 and L2 the least.
    """
    down = fake.diff(dim=-2).abs() - real.diff(dim=-2).abs()
    across = fake.diff(dim=-1).abs() - real.diff(dim=-1).abs()
    return down.abs().mean() + across.abs().mean()


def loudness(z: Tensor) -> Tensor:
    """Root mean square of each unit of codes (N, units, h, w), over batch and places: (1, units, 1, 1), above 0."""
    return z.square().mean((0, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()


def sparsity(z: Tensor) -> Tensor:
    """||z||_1 of codes (N, units, h, w), a mean over units and places, each unit divided by its `loudness`.

    In (0, 1], whatever the scale of z: 1 where a unit is always as loud, sqrt(p) where it is silent but for a share p.
    """
    return (z.float().abs() / loudness(z.float())).mean()


def total_correlation(
    z: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    size: int | None = None,
    method: Literal["weighted", "stratified"] = "weighted",
) -> Tensor:
    """KL[q(z) || prod_j q(z_j)] of the aggregate posterior, in nats, estimated from one minibatch.

    z (M, d) was drawn from the M posteriors N(mean, exp(log_variance)), each (M, d), of a data set of `size` images.
    Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018): "weighted" is its equation 4,
    biased but simple; "stratified" that of its appendix C.2, whose q(z) is unbiased. Without `size` q(z) is the plain
    mixture of the M posteriors; this and `size` shift the value of "weighted" and leave its gradient alone.
    """
    m = len(z)
    if m < 2 or (size is None and method == "stratified") or (size is not None and size < m):
        raise ValueError(
            f"{method} total correlation of {m} codes among {size}: give at least 2, and how many there are"
        )
    gap = z[:, None] - mean[None]  # (M, M, d): z_i under the posterior of image j
    each = -(gap.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2
    weights = torch.full((m, m), 1 / ((size or 1) * m)).to(z)
    if method == "stratified" and size:  # its own image, one for all that are not in the minibatch, and the rest
        weights = torch.full((m, m), 1 / (m - 1)).to(z)
        weights.fill_diagonal_(1 / size)
        rows = torch.arange(m)
        weights[rows, rows - 1] = (size - m + 1) / (size * (m - 1))
    joint = (each.sum(2) + weights.log()).logsumexp(1)  # log q(z), (M,)
    apart = (each + weights.log()[..., None]).logsumexp(1).sum(1)  # log prod_j q(z_j)
    return (joint - apart).mean()


def linear_total_correlation(z: Tensor) -> Tensor:
    """KL[q(z) || prod_j q(z_j)] in nats of the Gaussian with the covariance of codes (M, d): their linear dependence.

    For codes without a posterior, whose density no minibatch tells. What a minibatch finds too much does for Gaussian
    codes not depend on their covariance (Wishart's determinant) and is taken off, so the estimate has no bias at any M.
    ValueError where M is not above d: such a covariance has no determinant.
    """
    m, d = z.shape
    if m <= d:
        raise ValueError(
            f"{m} codes of {d} numbers have no total correlation: give at least {d + 1}, by a larger batch"
        )
    covariance = torch.cov(z.double().T).reshape(d, d)
    silent = 1e-6 * covariance.diagonal().mean() + 1e-12  # variance of a unit that says nothing
    covariance = covariance + silent * torch.eye(d).to(covariance)
    freedom = torch.arange(m - d, m, device=z.device).double()  # of the chi squares that the determinant is made of
    excess = (d * torch.digamma(freedom[-1] / 2) - torch.digamma(freedom / 2).sum()) / 2
    return ((covariance.diagonal().log().sum() - torch.logdet(covariance)) / 2 - excess).to(z)


def slopes(D: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """||grad_x D(x)||_2 for each of a batch (N, C, H, W), (N,), differentiable in D's parameters.

    D(x) is the mean of its answers on that image, so the number of places does not count. Gradients are taken wherever
    this is called, since whoever plays without moving does so without them.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        answers = D(x).float().flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(answers.sum(), x, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


def gradient_penalty(D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E (||grad D(x^)||_2 - 1)^2, x^ anywhere between a real and a generated image (N, C, H, W): 0 where D has slope 1.

    Gulrajani et al. (2017). Each pair has a place of its own on its way, and each image its own norm.
    """
    share = torch.rand(len(real), *(1,) * (real.dim() - 1), device=real.device)
    return (slopes(D, torch.lerp(real, fake, share)) - 1).square().mean()


def r1(D: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """E ||grad D(x)||^2 / 2 on real images (N, C, H, W): 0 where D is flat (Mescheder et al., 2018)."""
    return slopes(D, real).square().mean() / 2


@torch.no_grad()
def clip(net: nn.Module, bound: float) -> None:
    """Every parameter of the net into [-bound, bound], in place, which bounds its slope (Arjovsky et al., 2017)."""
    for parameter in net.parameters():
        parameter.clamp_(-bound, bound)


def pull_away(codes: Tensor) -> Tensor:
    """Mean squared cosine between the codes (N, ...) of different images: 1 where all point one way, 0 where all are
    orthogonal or there is one only. Zhao et al. (2017).
    """
    s = normalize(codes.float().flatten(1))
    cosines = (s @ s.T).square()
    return (cosines.sum() - cosines.diagonal().sum()) / max(len(s) * (len(s) - 1), 1)


def mutual_information(posterior: Distribution, prior: Distribution, c: Tensor) -> Tensor:
    """E log q(c|x) - log p(c) in nats, a lower bound on I(c; x): equal to it where q is the true posterior.

    Barber and Agakov (2003). c: (N, k, ...), k numbers that are independent under both distributions. The bound is to
    rise: descend its negative.
    """
    return (posterior.log_prob(c) - prior.log_prob(c)).sum(1).mean()


def geometric(G: Callable[[Tensor], Tensor], z: Tensor, step: float = 0.1) -> Tensor:
    """Variance of the logarithm of how far the image moves when z (N, ...) makes steps of one length: 0 where equal
    steps give equal change, everywhere and in every direction.

    Of two random directions from each z, so that one z has a variance as well. Steps are `step` long per number of z.
    G sees all in one batch, so that batch norm treats both ends of a step alike.
    """
    ways = torch.randn(2, *z.shape, device=z.device)
    length = step * z[0].numel() ** 0.5
    ends = z + length * normalize(ways.flatten(2), dim=2).view_as(ways)
    here, *there = G(torch.cat((z, *ends))).float().flatten(1).chunk(3)
    changes = torch.cat([(end - here).square().sum(1) for end in there])
    return (changes.clamp_min(1e-12).log() / 2).var()
