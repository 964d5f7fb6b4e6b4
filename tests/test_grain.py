"""Detail below the working scale: what is shrunk away and drawn anew."""

from __future__ import annotations

import pytest
import torch

from anomalib_gan.grain import SIDE, drawn, equaliser, filtered, grain, unshrink
from anomalib_gan.nets import shrink
from anomalib_gan.penalties import spectrum_gap


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_unshrinking_is_undone_by_shrinking(factor):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 24, 20) * 2 - 1
    x = torch.nn.functional.avg_pool2d(x, 3, stride=1)
    y = unshrink(x, factor)
    assert y.shape[-2:] == (factor * x.shape[-2], factor * x.shape[-1])
    assert torch.allclose(shrink(y, factor), x, atol=0.02)


def test_with_drawn_grain_an_unshrunk_image_has_the_power_it_had():
    torch.manual_seed(0)
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.5, 0.1], [0.0, 0.1, 0.0]])[None, None]
    images = [torch.nn.functional.conv2d(torch.randn(1, 1, 258, 322), kernel) for _ in range(2)]
    filter = grain(images, 2)
    assert filter.shape == (1, 1, SIDE, SIDE)
    smooth = unshrink(shrink(images[0], 2), 2)
    again = smooth + drawn(filter, smooth)
    chance = spectrum_gap(images[1], images[0])  # two images of one material
    assert spectrum_gap(again, images[0]) < 2 * chance < 4 * chance < spectrum_gap(smooth, images[0])
    assert drawn(filter, torch.zeros(2, 3, 40, 72)).shape == (2, 1, 40, 72)  # any size, one plane for all channels


def test_images_too_small_for_a_spectrum_give_no_grain():
    assert not grain([torch.randn(1, 1, 40, 500)], 2).any()


def test_the_equaliser_mends_the_power_and_leaves_the_mean():
    torch.manual_seed(0)
    images = [0.2 * torch.randn(1, 1, 256, 320) + 0.2 for _ in range(3)]
    dull = [0.7 * x + 0.3 * torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for x in images[:2]]
    mended = filtered(dull[0], equaliser(dull, images))
    assert float(mended.mean()) == pytest.approx(float(dull[0].mean()), abs=0.01)
    assert spectrum_gap(mended, images[0]) < 0.5 * spectrum_gap(dull[0], images[0])
    same = filtered(images[0], equaliser(images, images))
    assert torch.allclose(same, images[0], atol=0.02)
    small = torch.rand(1, 2, 32, 40)
    assert torch.allclose(filtered(small, equaliser([small], [small])), small, atol=1e-5)  # nothing to go by
