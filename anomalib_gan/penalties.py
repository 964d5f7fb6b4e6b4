"""Extra terms that a player may descend beside its objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

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
