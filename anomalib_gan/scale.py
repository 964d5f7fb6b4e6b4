"""At which scale networks work best on images of some kind, told from normal ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from anomalib_gan.corruption import noise
from anomalib_gan.nets import shrink

SIDE_OF_PATCH = 96  # working px
LOST = 0.1


def working_scale(normals: Sequence[Tensor]) -> int:
    """The n of the scale 1/n at which (1, C, H, W) in [-1, 1] are looked at.

    2, which measured best on the proxy for both fibres and ground metal; 4 for images so large and smooth that 1/4
    loses at most LOST of their local contrast; 1 for images of less than two patches.
    """
    side = sorted(min(x.shape[-2:]) for x in normals)[len(normals) // 2]
    if side < 2 * SIDE_OF_PATCH:
        return 1
    if side < 8 * SIDE_OF_PATCH:
        return 2
    shares = sorted(lost(shrink(x, 2)) for x in normals[:: max(1, len(normals) // 8)])
    return 4 if shares[len(shares) // 2] <= LOST else 2


def lost(s: Tensor) -> float:
    """The share of the local contrast of (1, C, H, W) that is lost at half its scale, noise not counted.

    Local is what differs from the mean of 16 x 16 pixels.
    """
    s = s[..., : s.shape[-2] // 16 * 16, : s.shape[-1] // 16 * 16]
    variance = noise(s).square().mean()
    gone = (s - near(shrink(s, 2), 2)).square().mean() - 0.75 * variance
    local = (s - near(shrink(s, 16), 16)).square().mean() - variance
    return float(gone / local) if local > 0 else 1.0


def near(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
