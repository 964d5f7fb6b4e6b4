"""Building blocks against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomalib_gan.nets import Spread


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_spread_is_torchs_pixel_shuffle(side, channels):
    x = torch.randn(2, channels * side**2, 5, 7)
    assert torch.equal(Spread(side)(x), nn.PixelShuffle(side)(x))
