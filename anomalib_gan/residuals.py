"""What a reconstruction misses, per pixel, and the smoothing of maps. All maps are (N, 1, H, W), 0 where nothing is
missed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, conv3d, pad


def gaussian(sigma: float, like: Tensor) -> Tensor:
    """Normalised 1-D Gaussian, cut at three sigma."""
    radius = round(3 * sigma)
    x = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    kernel = (-x.square() / (2 * sigma**2)).exp()
    return kernel / kernel.sum()


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) or (N, C, D, H, W) by `sigma` pixels, edges replicated; sigma 0 changes nothing."""
    return x if sigma == 0 else blur(x, gaussian(sigma, x))


def blur(x: Tensor, kernel: Tensor, step: int = 1) -> Tensor:
    """(N, C, H, W) or (N, C, D, H, W) convolved with `kernel`, 1-D of odd length, along all axes, edges replicated.
    With `step`, only at every so manieth place of each axis, the first among them.
    """
    c, dim = x.shape[1], x.dim() - 2
    x = pad(x, (len(kernel) // 2,) * (2 * dim), mode="replicate")
    for axis in reversed(range(dim)):
        line = kernel.view(1, 1, *(-1 if k == axis else 1 for k in range(dim)))
        steps = [step if k == axis else 1 for k in range(dim)]
        x = (conv2d if dim == 2 else conv3d)(x, line.expand(c, 1, *[-1] * dim), stride=steps, groups=c)
    return x


def structural(x: Tensor, y: Tensor, step: int = 1) -> Tensor:
    """1 - SSIM(x, y) of images in [-1, 1], Gaussian window of sigma 1.5 (Wang et al., 2004), mean over channels; of
    windows around every `step`-th pixel.
    """
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    # By half sum and half difference, for which SSIM needs only four blurred fields, and in whose variances the same
    # rounding stands above and below the line.
    half, rest = (x + y) / 2, (x - y) / 2
    # Side by side as channels: a graph can split those, but no batch whose size is free.
    fields = blur(torch.cat((half, rest, half * half, rest * rest), 1), gaussian(1.5, x), step)
    half, rest, vary, part = fields.chunk(4, 1)
    half, rest = half * half, rest * rest
    vary, part = vary - half, part - rest
    ssim = (2 * (half - rest) + c1) * (2 * (vary - part) + c2) / ((2 * (half + rest) + c1) * (2 * (vary + part) + c2))
    return 1 - ssim.mean(1, keepdim=True)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """||x - y||_2 per pixel over channels. The square root's infinite slope at 0 is met by a floor far below a grey
    level.
    """
    return (x - y).square().sum(1, keepdim=True).clamp_min(1e-8).sqrt()


def absolute(x: Tensor, y: Tensor) -> Tensor:
    """Mean of |x - y| per pixel over channels."""
    return (x - y).abs().mean(1, keepdim=True)


def odds(logarithm: Tensor) -> Tensor:
    """Odds of their logarithms, which count up to 30."""
    return logarithm.clamp(-30, 30).exp()


def mean_odds(logarithm: Tensor, side: int) -> Tensor:
    """Log-odds (N, 1, side h, side w) -> those of the mean odds of side x side places, (N, 1, h, w)."""
    return avg_pool2d(odds(logarithm), side).log()


def by_cells(name: str, x: Tensor, y: Tensor, cell: int) -> Tensor:
    """Means of a residual of RESIDUALS over cells of cell x cell pixels, (N, 1, h, w).

    Windows of SSIM overlap, so only every second one along each axis is looked at: half the time of a CPU, and 0.002 of
    the residual's AUROC on synthetic defects.
    """
    if name == "ssim" and cell % 2 == 0:
        return avg_pool2d(structural(x, y, 2), cell // 2)
    return avg_pool2d(RESIDUALS[name](x, y), cell)


RESIDUALS = {"ssim": structural, "l2": euclidean, "l1": absolute}
