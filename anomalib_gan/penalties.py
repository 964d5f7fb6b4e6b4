"""Extra terms that a player may descend beside its objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

CELL = 3  # neighbouring frequencies whose power is taken together, in either direction


def spectrum_gap(fake: Tensor, real: Tensor) -> Tensor:
    """Mean square difference of the logs of two batches' power spectra, 0 where they agree.

    Both (N, C, H, W), of one size. Spectral regularisation (Durall et al., 2020, "Watch your up-convolution"), with the
    power averaged over batch and channels before the log, so that one patch need not look like the next; and over cells
    of the plane of frequencies, not rings, in which the few peaks of a lattice would drown.
    """
    return (power(fake).log() - power(real).log()).square().mean()


def power(x: Tensor) -> Tensor:
    """(N, C, H, W) -> mean power in cells of frequency, Hann-windowed, mean removed; floored above 0."""
    window = torch.outer(*(torch.hann_window(side, periodic=False, device=x.device) for side in x.shape[-2:]))
    x = x.float()  # whatever the precision around it: a spectrum spans more decades than half a float holds
    plane = torch.fft.rfft2((x - x.mean((-2, -1), keepdim=True)) * window).abs().square().mean((0, 1))
    return avg_pool2d(plane[None], CELL)[0].clamp_min(1e-8)


def grey_gap(fake: Tensor, real: Tensor) -> Tensor:
    """Earth mover's distance between the values of two batches of one shape, in their unit, 0 where they agree.

    In one dimension the best transport pairs what is sorted (Rabin et al., 2011).
    """
    return (fake.flatten().sort().values - real.flatten().sort().values).abs().mean()
