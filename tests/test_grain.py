"""Detail below the working scale: what is shrunk away and drawn anew."""

from __future__ import annotations

import pytest
import torch

from anomalib_gan.grain import (
    REACH,
    SIDE,
    drawn,
    equaliser,
    field,
    filtered,
    grain,
    power_of,
    unevenness,
    unshrink,
    with_grain,
)
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


def test_the_equaliser_makes_up_for_what_clipping_takes():
    torch.manual_seed(0)
    images = [(0.8 * torch.randn(1, 1, 256, 320)).clamp(-1, 1) for _ in range(2)]
    dull = [0.5 * torch.randn(1, 1, 256, 320) for _ in range(2)]
    want = power_of(images).mean()
    plain, mended = (
        power_of([filtered(x, equaliser(dull, images, clipped)).clamp(-1, 1) for x in dull]).mean() / want
        for clipped in (False, True)
    )
    assert abs(mended - 1) < 0.05 < 0.1 < abs(plain - 1)


def test_grain_is_strong_where_what_is_fine_is():
    torch.manual_seed(0)
    loud = torch.where(torch.arange(512) < 256, 0.3, 0.03)  # all frequencies are ten times as strong on the left
    images = [loud * torch.randn(1, 1, 256, 512) for _ in range(2)]
    filter = grain(images, 2)
    _, slope, spread = uneven = unevenness(images, 2, filter)
    assert slope == pytest.approx(1, abs=0.1) and spread < 0.3
    smooth = unshrink(shrink(images[0], 2), 2)
    for uneven_or_not, ratio in ((uneven, 10), (torch.zeros(3), 1)):
        laid = with_grain(smooth, 2, filter, uneven_or_not) - smooth
        assert laid[..., 20:236].std() / laid[..., 276:492].std() == pytest.approx(ratio, rel=0.2)
    lacking = images[0] - smooth
    assert (with_grain(smooth, 2, filter, uneven) - smooth).std() == pytest.approx(float(lacking.std()), rel=0.2)
    assert not unevenness(images, 1, grain(images, 1)).any()  # nothing is shrunk away


def test_a_field_of_codes_has_their_covariances_from_place_to_place():
    torch.manual_seed(0)
    mix = 0.4 * torch.randn(3, 3, 2, 2)
    codes = [torch.nn.functional.conv2d(torch.randn(1, 3, 81, 101), mix) for _ in range(4)]
    filter = field(codes)
    assert filter.shape == (3, 3, 2 * REACH + 1, 2 * REACH + 1)
    again = torch.nn.functional.conv2d(torch.randn(4, 3, 86, 106), filter)

    def covariances(z):
        """With itself and with the right, lower and lower right neighbour, (4, 3, 3)."""
        here, others = z[..., :-1, :-1], (z[..., :-1, :-1], z[..., :-1, 1:], z[..., 1:, :-1], z[..., 1:, 1:])
        return torch.stack([torch.einsum("nchw,ndhw->cd", here, other) / here[:, 0].numel() for other in others])

    theirs = covariances(torch.cat(codes))
    assert (covariances(again) - theirs).norm() < 0.15 * theirs.norm()
    small = [z[..., :9, :9] for z in codes for _ in range(3)]  # nothing is known of neighbours
    alone = torch.nn.functional.conv2d(torch.randn(4, 3, 86, 106), field(small))
    assert covariances(alone)[1:].abs().max() < 0.1 * covariances(alone)[0].abs().max()
