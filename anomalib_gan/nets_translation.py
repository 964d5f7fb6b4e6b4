"""What translators are made of: the U-Net, and the squares of a grid that one pass after the other hides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from anomalib_gan.nets import Residual, block, finer


class UNet(nn.Module):
    """(N, channels, 8h, 8w) -> (N, channels, 8h, 8w) in [-1, 1]: down to stride 8 and back up, where at each scale what
    was seen on the way down is joined to what comes from below, the image itself at the last.

    U-Net (Ronneberger et al., 2015). Three scales and no more, so that its reach is bounded.
    """

    stride, reach = 8, 38  # pixels; none that is farther away has a say

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 3 * width

        def down(a: int, b: int) -> nn.Sequential:
            return block(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), b)

        def joined(width: int) -> nn.Sequential:
            return block(nn.Conv2d(2 * width, width, 3, padding=1, bias=False), width)

        self.down1, self.down2, self.down3 = down(channels, w1), down(w1, w2), down(w2, w3)
        self.middle = Residual(w3)
        self.up3, self.joined2 = finer(w3, w2), joined(w2)
        self.up2, self.joined1 = finer(w2, w1), joined(w1)
        self.up1 = finer(w1, width // 2)
        self.last = nn.Sequential(nn.Conv2d(width // 2 + channels, channels, 3, padding=1), nn.Tanh())

    def code(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is seen at strides 2, 4 and 8: (N, width, 4h, 4w), (N, 2 width, 2h, 2w) and (N, 3 width, h, w)."""
        one = self.down1(x)
        two = self.down2(one)
        return one, two, self.middle(self.down3(two))

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.code(x)
        two = self.joined2(torch.cat((self.up3(three), two), 1))
        one = self.joined1(torch.cat((self.up2(two), one), 1))
        return self.last(torch.cat((self.up1(one), x), 1))


class Squares(nn.Module):
    """Squares of `side` pixels of a grid that begins at the image's origin, in PASSES sets: one of each 2 x 2 is
    in each. So every pixel is in exactly one set, and all squares around one are in others.
    """

    PASSES = 4
    masks: Tensor

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.period = 2 * side
        places = torch.eye(self.PASSES).view(self.PASSES, 1, 2, 2)
        masks = places.repeat_interleave(side, -2).repeat_interleave(side, -1).expand(-1, channels, -1, -1)
        # Laid out as channels, one period is one place: so no mask has to be as large as the image.
        self.register_buffer("masks", pixel_unshuffle(masks, self.period), persistent=False)  # (4, C period^2, 1, 1)

    def within(self, x: Tensor, mask: Tensor) -> Tensor:
        """Images (N, C, H, W), H and W multiples of the period, times `mask` (N or 1, C period^2, 1, 1)."""
        return pixel_shuffle(pixel_unshuffle(x, self.period) * mask, self.period)

    def hidden(self, x: Tensor, sets: Tensor | slice) -> Tensor:
        """The images without the squares of a set, 0 in their place; `sets`: its number for each image (N,), or one."""
        return self.within(x, 1 - self.masks[sets])

    def only(self, x: Tensor, sets: Tensor | slice) -> Tensor:
        """The images with nothing but these squares."""
        return self.within(x, self.masks[sets])
