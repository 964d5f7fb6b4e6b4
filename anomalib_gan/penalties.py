"""Extra terms that a player may descend beside its objective."""

from __future__ import annotations

from collections.abc import Callable

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
