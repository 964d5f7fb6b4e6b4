"""Diffusion: an image drowns in noise step by step; who knows what it was on average brings it back step by step.

    q(x_t|x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),   t = 0 .. T,   abar_0 = 1,   abar_T almost 0
    abar_t = f(t)/f(0),   f(t) = cos^2((t/T + o)/(1 + o) pi/2),   o = 0.008,   beta_t = 1 - abar_t/abar_(t-1) <= 0.999

    x_s = k x^ + d x_t + sigma z,   s < t,   x^ = E[x_0|x_t],   z ~ N(0, I)
    sigma^2 = eta^2 (1 - abar_s)/(1 - abar_t) (1 - abar_t/abar_s)
    d = sqrt((1 - abar_s - sigma^2)/(1 - abar_t)),   k = sqrt(abar_s) - d sqrt(abar_t)

The cosine schedule: Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021). The way back:
Denoising Diffusion Implicit Models (DDIM, Song et al., 2021), equations 12 and 16: eta = 0 is deterministic, eta = 1
over all T steps is the ancestral sampling of Denoising Diffusion Probabilistic Models (Ho et al., 2020) with the
variance of q(x_(t-1)|x_t, x_0).

For known x_0 a step gives exactly q(x_s|x_0), whatever eta and s. Of an unknown one x^ is the mean alone, so each step
loses k^2 Cov[x_0|x_t] of the variance, which is little where steps are many; `error` adds k^2 E|x_0 - x^|^2 per number
back (Analytic-DPM, Bao et al., 2022), and then even a few steps keep the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

OFFSET = 0.008
LARGEST = 0.999  # beta, lest the last steps destroy all at once


def cosine(steps: int) -> list[float]:
    """abar_t for t = 0 .. `steps`.

    >>> [round(one, 3) for one in cosine(4)]
    [1.0, 0.847, 0.494, 0.144, 0.0]
    """
    f = [math.cos((t / steps + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2 for t in range(steps + 1)]
    abar = [1.0]
    for before, now in pairwise(f):
        abar.append(abar[-1] * max(now / before, 1 - LARGEST))
    return abar


def spaced(t: int, steps: int) -> list[int]:
    """From t to 0 in so many steps, at most t, as equal as they go; a ValueError without any.

    >>> spaced(10, 4)
    [10, 8, 5, 2, 0]
    """
    if steps < 1 or t < 1:
        raise ValueError(f"{steps} steps do not lead from t = {t} to 0: give at least 1, and t above 0")
    return sorted({round(t * i / steps) for i in range(steps + 1)} if steps < t else range(t + 1), reverse=True)


def reverse(abar_t: float, abar_s: float, eta: float) -> tuple[float, float, float]:
    """k, d and sigma of the step from t back to s."""
    sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
    d = math.sqrt(max(0.0, 1 - abar_s - sigma**2) / (1 - abar_t))
    return math.sqrt(abar_s) - d * math.sqrt(abar_t), d, sigma


def backwards(
    denoised: Callable[[Tensor, int], Tensor],
    x: Tensor,
    abar: Sequence[float],
    times: Sequence[int],
    *,
    eta: float = 0.0,
    error: Callable[[int], float] = lambda t: 0.0,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Tensor:
    """x_t at the first of the falling `times`, (N, C, h, w), brought to the last one.

    `denoised(x, t)` is x^; `error(t)` is its mean square error per number, 0 to leave the variance as it comes;
    `noise(like)` draws z.
    """
    for t, s in pairwise(times):
        k, d, sigma = reverse(abar[t], abar[s], eta)
        x = k * denoised(x, t) + d * x
        if deviation := math.sqrt(sigma**2 + k**2 * error(t)):
            x = x + deviation * noise(x)
    return x


def embedding(steps: int, size: int) -> Tensor:
    """What a network is told of t, for t = 0 .. `steps`: (steps + 1, size, 1, 1), sines and cosines of 1000 t / T whose
    waves grow from 2 pi to 10000 times that (Vaswani et al., 2017).
    """
    rates = torch.exp(-math.log(10_000) * torch.arange(size // 2) / (size // 2))
    angles = torch.arange(steps + 1)[:, None] * (1000 / steps) * rates
    return torch.cat((angles.sin(), angles.cos()), 1)[..., None, None]
