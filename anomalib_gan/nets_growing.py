"""Networks that grow during the training, from the coarse image to ever finer detail: those of `pro_gan`."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from anomalib_gan.nets import shrink


class PixelNorm(nn.Module):
    """Each pixel's channels divided by their root mean square (Karras et al., 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def coarse(x: Tensor, by: int) -> Tensor:
    """Means of by x by pixels, each laid out over its pixels again: same size."""
    return x if by == 1 else shrink(x, by).repeat_interleave(by, -2).repeat_interleave(by, -1)


class Growing(nn.Module):
    """A net of LEVELS doublings, grown as far as `level` says: between two whole levels the finer one is faded in."""

    LEVELS = 3
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(float(self.LEVELS)))


class GrowingGenerator(Growing):
    """(N, code, h, w) -> (N, channels, 8h, 8w) in [-1, 1]; what is coarser as yet is laid out in blocks."""

    def __init__(self, code: int, width: int, channels: int) -> None:
        super().__init__()
        widths = (2 * width, 2 * width, width, width // 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.2), PixelNorm())
            for a, b in pairwise((code, *widths))
        )
        self.to_image = nn.ModuleList(nn.Conv2d(b, channels, 1) for b in widths)

    def forward(self, z: Tensor) -> Tensor:
        level, stage = float(self.level), 0
        x = self.blocks[0](z)
        image = self.to_image[0](x)
        while stage < level:
            stage += 1
            x = self.blocks[stage](interpolate(x, scale_factor=2.0))
            before, image = image, self.to_image[stage](x)
            if level < stage:
                image = torch.lerp(interpolate(before, scale_factor=2.0), image, 1 - (stage - level))
        return interpolate(image.tanh(), scale_factor=float(2 ** (self.LEVELS - stage)))


class GrowingFeatures(Growing):
    """(N, channels, 8h, 8w) -> (N, 2 width, h, w), the generator's mirror; below the last level it looks at means."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (2 * width, 2 * width, width, width // 2)
        self.from_image = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, b, 1), nn.LeakyReLU(0.2)) for b in widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b, a, 3, padding=1), nn.LeakyReLU(0.2)) for a, b in pairwise((widths[0], *widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        level = float(self.level)
        top = math.ceil(level)

        def seen(stage: int) -> Tensor:
            return self.from_image[stage](shrink(x, 2 ** (self.LEVELS - stage)))

        f = seen(top)
        for stage in range(top, 0, -1):
            f = avg_pool2d(self.blocks[stage](f), 2)
            if stage == top and level < top:
                f = torch.lerp(seen(stage - 1), f, 1 - (top - level))
        return self.blocks[0](f)
