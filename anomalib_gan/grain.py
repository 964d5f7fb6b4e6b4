"""What makes generated images like normal ones, fitted to these after training: the field of codes to draw from, an
equaliser of the power spectrum, and the detail below a model's working scale as Gaussian noise, as strong at each place
as what is fine at the working scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.residuals import smooth

SIDE = 15  # of the filter, px
WINDOW = 64  # px, of the periodograms
LOUDER = 2.0
ROUNDS = 3
CODES = 16  # of the window in which the covariances of codes are taken
REACH = 3  # codes, from a code to those that it is drawn together with
NEAR = 2.0  # working px, sigma of the neighbourhood that has one strength
FAINT = 1e-3  # of half the range: where there is less, there is nothing


def unshrink(x: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) -> (N, C, factor h, factor w), smooth, and shrunk again it is x: back-projection (Irani and Peleg,
    1991).
    """
    if factor == 1:
        return x
    y = torch.zeros_like(x).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    for _ in range(4):
        y = y + interpolate(x - shrink(y, factor), scale_factor=float(factor), mode="bicubic")
    return y


def grain(images: Sequence[Tensor], factor: int) -> Tensor:
    """The filter (1, 1, SIDE, SIDE) that makes of white noise what `unshrink(shrink(x))` lacks of the power of x.

    `images`: (1, C, H, W) each; those smaller than WINDOW do not count, and without any the filter is 0.
    """
    whole = sum(periodogram(x) for x in images)
    kept = sum(periodogram(unshrink(shrink(x, factor), factor)) for x in images)
    return zero_phase((torch.as_tensor(whole - kept) / max(len(images), 1)).clamp_min(0).sqrt())


def strength(s: Tensor) -> Tensor:
    """Log of how strong what is finest in images (N, C, h, w) is around each place, (N, 1, h, w)."""
    return log_strength((s - smooth(s, 1.0)).square())


def log_strength(square: Tensor) -> Tensor:
    return (smooth(square.mean(1, keepdim=True), NEAR) + FAINT**2).log() / 2


def unevenness(images: Sequence[Tensor], factor: int, filter: Tensor) -> Tensor:
    """How strong, beside grain of this filter, what `unshrink(shrink(x))` lacks of x is: (level, slope, spread).

    Its log is level + slope * `strength` of shrink(x), with a deviation of `spread` that is smooth over NEAR: a
    Gaussian scale mixture (Wainwright and Simoncelli, 2000). What is uneven in grain itself by chance is not counted.
    (0, 0, 0), the same everywhere, where there is no such grain.
    """
    if not filter.any():
        return torch.zeros(3).to(filter)
    found = []
    for x in images:
        s = shrink(x, factor)
        lacking = log_strength(shrink((x - unshrink(s, factor)).square(), factor))
        found.append(torch.stack((strength(s), lacking))[..., ::4, ::4].flatten(1))
    fine, lacking = torch.cat(found, 1).double()
    alone = log_strength(shrink(drawn(filter, filter.new_zeros(1, 1, 512, 512)).square(), factor)).double()
    slope = ((fine - fine.mean()) * (lacking - lacking.mean())).mean() / fine.var().clamp_min(1e-6)
    rest = lacking - slope * fine
    spread = (rest.var() - alone.var()).clamp_min(0).sqrt()
    return torch.stack((rest.mean() - alone.mean(), slope, spread)).to(filter)


def with_grain(x: Tensor, factor: int, filter: Tensor, uneven: Tensor) -> Tensor:
    """Images (N, C, H, W) without detail below 1 / `factor`, with grain as strong as `unevenness` says."""
    fine = strength(shrink(x, factor))
    level, slope, spread = uneven
    chance = smooth(torch.randn_like(fine), NEAR) * (2 * NEAR * math.sqrt(math.pi))  # of unit variance
    return x + drawn(filter, x) * enlarge((level + slope * fine + spread * chance).exp(), factor)


def field(codes: Sequence[Tensor]) -> Tensor:
    """The filter (c, c, SIDE, SIDE), of sides 2 REACH + 1, that makes of white noise a Gaussian field with the
    covariances of these codes (1, c, h, w), those of neighbours among them.

    Codes of an encoder are not distributed like the prior, and those of places that overlap depend on each other: what
    is drawn like them is drawn better (Ghosh et al., 2020, "From Variational to Deterministic Autoencoders", ex-post
    density estimation). The filter is the root of the spectral matrix. Where none is CODES high and wide, each place is
    drawn by itself.
    """
    every = torch.cat([z.flatten(2)[0] for z in codes], 1).double()
    window = torch.outer(*(torch.hann_window(CODES, periodic=False, dtype=torch.float64, device=every.device),) * 2)
    total, count = torch.zeros((), dtype=torch.complex128, device=every.device), 0
    for z in codes:
        if min(z.shape[-2:]) >= CODES:
            apart = (z[0].double() - every.mean(1)[:, None, None]).unfold(1, CODES, CODES // 4)
            waves = torch.fft.fft2(apart.unfold(2, CODES, CODES // 4).flatten(1, 2) * window)  # c, places, CODES, CODES
            total, count = total + torch.einsum("cnhw,dnhw->hwcd", waves, waves.conj()), count + waves.shape[1]
    if not count:
        total, count = torch.cov(every).reshape(len(every), -1).expand(CODES, CODES, -1, -1) * window.square().sum(), 1
    power, axes = torch.linalg.eigh(total / count / window.square().sum())
    root = (axes * power.clamp_min(0).sqrt()[..., None, :]) @ axes.mH
    filter = torch.fft.fftshift(torch.fft.ifft2(root, dim=(0, 1)).real, (0, 1)).permute(2, 3, 0, 1)
    middle = slice(CODES // 2 - REACH, CODES // 2 + REACH + 1)
    return filter[..., middle, middle].flip(-2, -1).float()


def equaliser(drawn: Sequence[Tensor], images: Sequence[Tensor], clipped: bool = False) -> Tensor:
    """The filter (1, 1, SIDE, SIDE) that gives what was drawn the mean power of the images, and leaves its mean.

    Both (1, C, H, W) each. It changes no frequency by more than LOUDER; without an image of WINDOW it changes none.
    `clipped`: what it gives is cut to [-1, 1], which takes power from what is fine, so that it is fitted in ROUNDS,
    each of which may change a frequency by LOUDER.
    """
    want, gain = power_of(images), torch.ones(WINDOW, WINDOW, dtype=torch.float64)
    for _ in range(ROUNDS if clipped else 1):
        filter = zero_phase(gain).to(drawn[0])
        have = power_of([filtered(x, filter).clamp(-1, 1) for x in drawn] if clipped else drawn)
        if not (have.any() and want.any()):
            break
        gain = gain * (want / have).sqrt().clamp(1 / LOUDER, LOUDER)
        gain[0, 0] = 1
    return zero_phase(gain)


def power_of(images: Sequence[Tensor]) -> Tensor:
    return torch.stack([periodogram(x) for x in images]).mean(0)


def zero_phase(gain: Tensor) -> Tensor:
    """The filter (1, 1, SIDE, SIDE) of this gain (WINDOW, WINDOW), as near as it comes in that size."""
    filter = torch.fft.fftshift(torch.fft.ifft2(gain).real)
    middle = slice(WINDOW // 2 - SIDE // 2, WINDOW // 2 + SIDE // 2 + 1)
    return filter[middle, middle].float()[None, None]


def filtered(x: Tensor, filter: Tensor) -> Tensor:
    """(N, C, H, W), each channel filtered, edges replicated."""
    edge = filter.shape[-1] // 2
    flat = pad(x, (edge,) * 4, mode="replicate")
    return conv2d(flat, filter.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])


def periodogram(x: Tensor) -> Tensor:
    """(1, C, H, W) -> (WINDOW, WINDOW): mean power of the windows of the mean over channels (Welch, 1967)."""
    window = torch.outer(*(torch.hann_window(WINDOW, periodic=False, dtype=torch.float64),) * 2)
    plane = x.mean(1)[0].double().cpu()
    if min(plane.shape) < WINDOW:
        return torch.zeros_like(window)
    patches = plane.unfold(0, WINDOW, WINDOW // 2).unfold(1, WINDOW, WINDOW // 2).flatten(0, 1)
    patches = (patches - patches.mean((-2, -1), keepdim=True)) * window
    return torch.fft.fft2(patches).abs().square().mean(0) / window.square().sum()


def drawn(filter: Tensor, like: Tensor) -> Tensor:
    """Grain of the size of `like` (N, C, H, W), one plane (N, 1, H, W) for all channels."""
    height, width = like.shape[-2:]
    edge = filter.shape[-1] - 1
    return conv2d(torch.randn(len(like), 1, height + edge, width + edge, device=like.device), filter)
