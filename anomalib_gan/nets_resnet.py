"""The generator that turns one image into another: in, residual blocks, out; as all of `nets` without a norm over the
image plane, for which the papers' instance norm gives way to batch norm."""

from __future__ import annotations

from torch import Tensor, nn

from anomalib_gan.nets import block, finer

STRIDE = 4  # pixels of the image to a place of the blocks


def reflected(a: int, b: int, side: int, bias: bool = False) -> nn.Conv2d:
    """A convolution that mirrors the image at its edges, where zeros would be drawn as a dark frame."""
    return nn.Conv2d(a, b, side, padding=side // 2, padding_mode="reflect", bias=bias)


class Repaint(nn.Module):
    """x + f(x), two 3x3 convolutions, and nothing after the sum: what is not repainted passes as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            block(reflected(width, width, 3), width), reflected(width, width, 3), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def resnet(channels: int, width: int, blocks: int) -> nn.Sequential:
    """E and the rest of (N, channels, 4h, 4w) -> codes (N, 4 width, h, w) -> (N, channels, 4h, 4w) in [-1, 1].

    Perceptual Losses for Real-Time Style Transfer and Super-Resolution (Johnson et al., 2016), with h and w above 1.
    """
    inward = nn.Sequential(
        block(reflected(channels, width, 7), width),
        block(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), 2 * width),
        block(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False), 4 * width),
        *(Repaint(4 * width) for _ in range(blocks)),
    )
    outward = nn.Sequential(
        finer(4 * width, 2 * width), finer(2 * width, width), reflected(width, channels, 7, bias=True), nn.Tanh()
    )
    return nn.Sequential(inward, outward)


def reach(blocks: int) -> int:
    """Pixels from those of an image to the farthest that they change in what `resnet` makes of it."""
    return 12 + 2 * STRIDE * blocks
