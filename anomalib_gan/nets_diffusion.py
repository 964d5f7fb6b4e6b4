"""The U-Net of a diffusion model: it sees a noisy image, is told how noisy, and says what is noise and what is not."""

from __future__ import annotations

from torch import Tensor, nn

from anomalib_gan.nets import block, finer


class Timed(nn.Module):
    """x + f(x, e), two 3x3 convolutions; between them every channel is scaled and shifted by what e (N, E, 1, 1) says.

    N of e may be 1.
    """

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.time = nn.Conv2d(told, 2 * width, 1)
        self.out = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.time(e).chunk(2, 1)
        return self.activation(x + self.out(self.into(x) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """U(x, e): (N, C, 4h, 4w), noisy, and e (N or 1, `told`, 1, 1), which says how noisy -> (N, C, 4h, 4w).

    Two scales, 1/2 and 1/4, joined by addition; no pixel depends on one farther away than `reach`. Batch norm, for
    which training has to show all degrees of noise in every batch.
    """

    stride, reach = 4, 33

    def __init__(self, channels: int, width: int, told: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.time = nn.Sequential(nn.Conv2d(told, hidden, 1), nn.LeakyReLU(0.2))
        self.first = nn.Sequential(
            nn.PixelUnshuffle(2), block(nn.Conv2d(4 * channels, width, 3, padding=1, bias=False), width)
        )
        self.fine = Timed(width, hidden)
        self.down = block(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False), 2 * width)
        self.coarse = nn.ModuleList(Timed(2 * width, hidden) for _ in range(2))
        self.up = finer(2 * width, width)
        self.last = Timed(width, hidden)
        self.out = nn.Sequential(nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        e = self.time(e)
        fine = self.fine(self.first(x), e)  # (N, width, 2h, 2w)
        coarse = self.down(fine)  # (N, 2 width, h, w)
        for layer in self.coarse:
            coarse = layer(coarse, e)
        return self.out(self.last(fine + self.up(coarse), e))
