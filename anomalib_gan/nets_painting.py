"""The generator that paints by a mask: features of an image, modulated where something is to be painted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d, pixel_unshuffle


def told(mask: Tensor, z: Tensor, by: int) -> Tensor:
    """What layers at 1/by of the scale are told of a mask (N, 1, by h, by w) and the codes z (N, code, 1, 1) of what to
    paint there: (N, by^2 + code, h, w), each pixel of the mask as a channel, and the code where any of them is 1.

    Where nothing is to be painted, all of it is 0.
    """
    return torch.cat((pixel_unshuffle(mask, by), max_pool2d(mask, by) * z), 1)


class SPADE(nn.Module):
    """Spatially-adaptive normalisation (Park et al., 2019): batch norm without a scale and an offset of its own; both
    come, for every place, from what is told of it, (N, told, h, w).

    With frozen statistics, in eval mode, it is local.
    """

    def __init__(self, width: int, told: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.shared = nn.Sequential(nn.Conv2d(told, hidden, 3, padding=1), nn.ReLU())
        self.modulation = nn.Conv2d(hidden, 2 * width, 3, padding=1)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, offset = self.modulation(self.shared(told)).chunk(2, 1)
        return self.norm(h) * (1 + scale) + offset


class SPADEResidual(nn.Module):
    """h + f(h), two 3x3 convolutions, each after spatially-adaptive normalisation and leaky ReLU."""

    def __init__(self, width: int, told: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(SPADE(width, told, hidden) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        f = h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            f = conv(leaky_relu(norm(f, told), 0.2))
        return h + f


class Painter(nn.Module):
    """G: image s (N, C, 4h, 4w) in [-1, 1], mask (N, 1, 4h, 4w) of 0 and 1, codes z (N, code, 1, 1) -> image.

    What it answers is what to lay over each pixel, and how opaquely, so that all of s may stay: its detail need not go
    through the net. Nothing is computed beyond stride 2; each place there answers for its 2 x 2 pixels.
    """

    stride, reach = 4, 40  # no pixel depends on anything farther away

    def __init__(self, channels: int, code: int, width: int) -> None:
        super().__init__()
        fine, coarse = (4 + code, width // 2), (16 + code, width // 2)
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1))
        self.first = SPADEResidual(width, *fine)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.middle = nn.ModuleList(SPADEResidual(2 * width, *coarse) for _ in range(2))
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2))
        self.last = SPADEResidual(width, *fine)
        self.leave = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(width, 4 * (channels + 1), 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, s: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        fine, coarse = told(mask, z, 2), told(mask, z, 4)
        h = self.first(self.enter(s), fine)  # (N, width, 2h, 2w)
        g = self.down(h)  # (N, 2 width, h, w)
        for block in self.middle:
            g = block(g, coarse)
        over, opacity = self.leave(self.last(h + self.up(g), fine)).tensor_split([s.shape[1]], 1)
        return s + (opacity - 2).sigmoid() * (over.tanh() - s)
