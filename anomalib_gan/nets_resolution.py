"""Building blocks of super-resolution: interpolation, and the network that draws what it lacks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

DOUBLINGS = {2: 1, 4: 2}  # by the factor


def bicubic(s: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) -> (N, C, factor h, factor w)."""
    return interpolate(s, scale_factor=float(factor), mode="bicubic", align_corners=False)


class SRResNet(nn.Module):
    """(N, channels, h, w) -> (N, channels, factor h, factor w), what interpolation lacks.

    The paper's network: `blocks` residual blocks of `width` channels at the small size, a skip over all of them, and
    sub-pixel convolutions (Shi et al., 2016), each of which doubles the size. It begins as zero, since interpolation
    (which the paper leaves the network to learn) is a better start than noise. `factor`: 2 or 4.
    """

    def __init__(self, channels: int, width: int, blocks: int, factor: int) -> None:
        super().__init__()
        if factor not in DOUBLINGS:
            raise ValueError(f"no network enlarges by {factor}: give {' or '.join(map(str, DOUBLINGS))}")
        self.head = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*(Block(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        self.up = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.2))
                for _ in range(DOUBLINGS[factor])
            )
        )
        self.tail = nn.Conv2d(width, channels, 9, padding=4)
        nn.init.zeros_(self.tail.weight)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)
        self.reach = 9 + 2 * blocks  # px of what it is given, from a place to what is drawn there

    def forward(self, s: Tensor) -> Tensor:
        f = self.head(s)  # (N, width, h, w)
        return self.tail(self.up(f + self.body(f)))


class Block(nn.Module):
    """x + f(x), f being two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)
