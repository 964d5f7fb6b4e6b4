"""The generator that turns one image into another: in, residual blocks, out; as all of `nets` without a norm over the
image plane, so the papers' instance norm gives way to batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomalib_gan.nets import block, finer


def reflected(a: int, b: int, side: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that mirrors the image at its edges, where zeros would be drawn as a dark frame."""
    return nn.Conv2d(a, b, side, stride=stride, padding=side // 2, padding_mode="reflect", bias=bias)


class Repaint(nn.Module):
    """x + f(x), two 3x3 convolutions, and nothing after the sum: what is not repainted passes as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            block(reflected(width, width, 3), width), reflected(width, width, 3), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class ResNet(nn.Module):
    """(N, channels, 4h, 4w) -> (N, channels, 4h, 4w) in [-1, 1], with h and w above 1, by `blocks` at stride 4.

    Perceptual Losses for Real-Time Style Transfer and Super-Resolution (Johnson et al., 2016). Unlike there the image
    itself is joined to what the last layer sees: what stays need not be drawn anew, which is learnt far sooner.
    """

    stride = 4

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.reach = 12 + 2 * self.stride * blocks  # pixels; none that is farther away has a say
        self.inward = nn.Sequential(
            block(reflected(channels, width, 7), width),
            block(reflected(width, 2 * width, 3, stride=2), 2 * width),
            block(reflected(2 * width, 4 * width, 3, stride=2), 4 * width),
            *(Repaint(4 * width) for _ in range(blocks)),
        )
        self.outward = nn.Sequential(finer(4 * width, 2 * width), finer(2 * width, width))
        self.last = nn.Sequential(reflected(width + channels, channels, 7, bias=True), nn.Tanh())

    def code(self, x: Tensor) -> Tensor:
        """What the blocks make of x, (N, 4 width, h, w)."""
        return self.inward(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat((self.outward(self.inward(x)), x), 1))
