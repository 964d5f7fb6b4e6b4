"""What makes the power spectrum of generated images that of normal ones, fitted after training: an equaliser, and the
detail below a model's working scale as stationary Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from anomalib_gan.nets import shrink

SIDE = 15  # of the filter, px
WINDOW = 64  # px, of the periodograms
LOUDER = 2.0


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


def equaliser(drawn: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
    """The filter (1, 1, SIDE, SIDE) that gives what was drawn the mean power of the images, and leaves its mean.

    Both (1, C, H, W) each. It changes no frequency by more than LOUDER; without an image of WINDOW it changes none.
    """
    have, want = (torch.stack([periodogram(x) for x in batch]).mean(0) for batch in (drawn, images))
    gain = (want / have).sqrt().clamp(1 / LOUDER, LOUDER) if have.any() and want.any() else torch.ones_like(want)
    gain[0, 0] = 1
    return zero_phase(gain)


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
