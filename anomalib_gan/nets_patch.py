"""Networks of the source: a patch of 32 x 32 pixels has exactly one code and one answer. Unpadded, so images go as
well, and have a field of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anomalib_gan.nets import block, enlarge

STRIDE, BORDER = 8, 12  # of codes and answers; pixels at the image's edge that none is centred on


def patch_encoder(channels: int, width: int, code: int, norm: bool = True) -> nn.Sequential:
    """Unpadded, stride 8: a 32 x 32 patch becomes exactly one code, (N, channels, 8h + 24, 8w + 24) -> (N, code, h,
    w). `norm`: batch norm in between.
    """

    def down(a: int, b: int, side: int) -> nn.Sequential:
        conv = nn.Conv2d(a, b, side, stride=2, bias=not norm)
        return block(conv, b) if norm else nn.Sequential(conv, nn.LeakyReLU(0.2))

    return nn.Sequential(
        down(channels, width, 4),  # 32 -> 15
        down(width, 2 * width, 3),  # 15 -> 7
        down(2 * width, 4 * width, 3),  # 7 -> 3
        nn.Conv2d(4 * width, code, 3),  # 3 -> 1
    )


def patch_generator(code: int, width: int, channels: int) -> nn.Sequential:
    """One code becomes a 32 x 32 patch, a field of codes an image: (N, code, h, w) -> (N, channels, 8h + 24, 8w +
    24).
    """
    return nn.Sequential(
        block(nn.ConvTranspose2d(code, 4 * width, 3, bias=False), 4 * width),  # 1 -> 3
        block(nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, bias=False), 2 * width),  # 3 -> 7
        block(nn.ConvTranspose2d(2 * width, width, 3, stride=2, bias=False), width),  # 7 -> 15
        nn.ConvTranspose2d(width, channels, 4, stride=2),  # 15 -> 32
        nn.Tanh(),
    )


class PatchCritic(nn.Module):
    """D(s, z) of the source: one answer for every 32 x 32 patch and its code, unpadded, (N, 1, h, w)."""

    stride, border = STRIDE, BORDER
    reach = 32  # no pixel of the detector's raw maps depends on anything farther away

    def __init__(self, channels: int, width: int, code: int) -> None:
        super().__init__()
        self.image = patch_encoder(channels, width, 4 * width)
        self.joint = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width + code, 4 * width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 1),
        )

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        return self.joint[-1](self.seen(s, z))

    def seen(self, s: Tensor, z: Tensor) -> Tensor:
        """What it answers by, (N, 4 width, h, w)."""
        return self.joint[:-1](torch.cat((self.image(s), z), 1))


class PatchFeatureCritic(nn.Module):
    """As PatchCritic, with the features f_D(s, z) that it answers by: (N, 1, h, w) and (N, 4 width, h, w).

    Without batch norm, so that its slope at a pair is that pair's own.
    """

    def __init__(self, channels: int, width: int, code: int) -> None:
        super().__init__()
        self.image = patch_encoder(channels, width, 4 * width, norm=False)
        self.features = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(4 * width + code, 4 * width, 1), nn.LeakyReLU(0.2))
        self.head = nn.Conv2d(4 * width, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # torch's own start shrinks from layer to layer where no norm mends it
                nn.init.kaiming_normal_(module.weight, 0.2)

    def forward(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        features = self.seen(s, z)
        return self.head(features), features

    def seen(self, s: Tensor, z: Tensor) -> Tensor:
        """f_D(s, z)."""
        return self.features(torch.cat((self.image(s), z), 1))


def joined(s: Tensor, z: Tensor) -> Tensor:
    """Pairs as one tensor (N, numbers of both), of which one slope can be taken."""
    return torch.cat((s.flatten(1), z.flatten(1)), 1)


def parted(pair: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """`joined` undone: tensors of the shapes of s and z."""
    first, second = pair.split((s[0].numel(), z[0].numel()), 1)
    return first.view(s.shape), second.view(z.shape)


def placed(field: Tensor) -> Tensor:
    """Answers for patches, (N, 1, h / 8 - 3, w / 8 - 3), at the pixels in whose middle they lie, (N, 1, h, w).

    Pixels at the image's edge that are no patch's middle get the nearest answer.
    """
    return pad(enlarge(field, STRIDE), (BORDER,) * 4, mode="replicate")
