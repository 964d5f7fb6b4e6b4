"""Corruptions: in range, seeded, only where the opacity says, and the held-out fills are nobody's training."""

from __future__ import annotations

import pytest
import torch

from anomalib_gan import corruption
from anomalib_gan.corruption import FILLS, HELD_OUT, SHAPES, THIN, corrupt, corrupt_held_out


def material(n, channels, side, contrast=0.7):
    """Patches (n, channels, side, side) of smooth structure, mean 0, and a little noise."""
    base = torch.cat([corruption.smooth_noise(side, side, 8, torch.zeros(1)) for _ in range(n)])
    return (contrast * (base + 0.05 * torch.randn(n, channels, side, side))).clamp(-1, 1)


@pytest.mark.parametrize("spoil", [corrupt, corrupt_held_out])
@pytest.mark.parametrize(("channels", "side"), [(1, 96), (3, 64)])
def test_what_the_opacity_does_not_tell_is_not_to_be_seen(spoil, channels, side):
    torch.manual_seed(0)
    x = material(24, channels, side)
    sigma = corruption.noise(x)
    y, opacity = spoil(x)
    assert y.shape == x.shape and opacity.shape == (24, 1, side, side)
    assert y.abs().max() <= 1 and opacity.min() >= 0 and opacity.max() <= 1
    change = ((y - x).square() / sigma.square()).amax(1, keepdim=True)
    told, hidden = change[opacity > corruption.SPOILT], change[(opacity <= corruption.SPOILT) & (change > 0)]
    assert told.median() > corruption.VISIBLE > hidden.median()
    assert 0.005 < float((opacity > corruption.SPOILT).float().mean()) < 0.4


@pytest.mark.parametrize("spoil", [corrupt, corrupt_held_out])
def test_defects_are_between_the_materials_own_contrast_and_the_cameras(spoil):
    strength = {}
    for contrast in (0.1, 0.7):
        torch.manual_seed(1)
        x = material(200, 1, 48, contrast)
        y, opacity = spoil(x)
        changes = torch.stack([(b - a)[m > 0.2].abs().mean() for a, b, m in zip(x, y, opacity, strict=True)])
        strength[contrast] = torch.nanquantile(changes, torch.tensor([0.1, 0.5, 0.9]))
    assert (strength[0.1] < strength[0.7]).all()  # faint ones on a faint material
    assert strength[0.1][2] > 0.3 * strength[0.7][2]  # and strong ones as well
    assert strength[0.1][0] < 0.35 * strength[0.7][0]


def test_noise_is_measured_under_structure_and_a_change_within_it_is_invisible():
    torch.manual_seed(2)
    x = 0.5 * corruption.smooth_noise(128, 128, 12, torch.zeros(1)).expand(4, 2, 128, 128)
    noisy = x + torch.tensor([0.02, 0.1])[:, None, None] * torch.randn(4, 2, 128, 128)
    sigma = corruption.noise(noisy)
    assert torch.allclose(sigma[:, :, 0, 0], torch.tensor([0.02, 0.1]).expand(4, 2), rtol=0.1)  # of each image
    assert torch.equal(corruption.noise(noisy[1:2]), sigma[1:2])  # whatever else is in the batch
    mask = torch.zeros(4, 1, 128, 128)
    mask[..., 40:80, 40:80] = 1
    again = mask * (x - noisy + sigma * torch.randn_like(x))  # other noise of the same strength
    assert corruption.visible(again, mask, sigma)[mask > 0].mean() < 0.01
    shift = torch.tensor([4 * 0.02, 0.0])[:, None, None] * mask  # in one channel
    assert corruption.visible(shift, mask, sigma)[mask > 0].all()


def test_no_map_can_live_on_missing_grain():
    """Where a fill of one level lies, the noise is as strong as around it."""
    torch.manual_seed(3)
    x = material(40, 1, 96)
    flat = lambda x, other: torch.zeros_like(x)  # noqa: E731
    y, opacity = corruption.spoil(x, (lambda x: torch.ones_like(x),), (flat,), (flat,))
    opaque = opacity.amax((1, 2, 3)) > 0.95
    assert opaque.any()
    assert float(corruption.noise(y[opaque]).mean()) == pytest.approx(float(corruption.noise(x).mean()), rel=0.15)


@pytest.mark.parametrize("spoil", [corrupt, corrupt_held_out])
def test_the_seed_decides_and_the_input_is_left_alone(spoil):
    x = torch.rand(4, 1, 48, 48) * 2 - 1
    kept = x.clone()
    torch.manual_seed(3)
    first = spoil(x)
    torch.manual_seed(3)
    again = spoil(x)
    other = spoil(x)
    assert torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    "shape", dict.fromkeys((*SHAPES, corruption.crack, corruption.bump, corruption.scratch)), ids=lambda f: f.__name__
)
def test_shapes_are_opacities(shape):
    torch.manual_seed(1)
    masks = torch.cat((shape(torch.zeros(30, 3, 64, 80)), shape(torch.zeros(1, 3, 64, 80))))
    assert masks.shape == (31, 1, 64, 80) and masks.min() >= 0 and masks.max() <= 1
    there = masks.flatten(1)[masks.flatten(1).amax(1) > 0]
    assert len(there) > 24  # a line or a speck may miss the patch now and then
    assert torch.cdist(there, there).add(100 * torch.eye(len(there))).min() > 0, "each patch has its own"


@pytest.mark.parametrize(
    "fill", dict.fromkeys((*FILLS, *THIN, *HELD_OUT, *corruption.HELD_OUT_THIN)), ids=lambda f: f.__name__
)
def test_fills_are_drawn_for_each_patch_by_itself_and_of_its_own_size(fill):
    torch.manual_seed(4)
    x, other = (material(1, 2, 48)[..., :40].expand(12, -1, -1, -1) for _ in "xy")
    over = fill(x, other)
    assert over.shape == (12, 2, 48, 40) and over.isfinite().all()
    assert len(over.unique(dim=0)) > 6  # sizes are whole pixels: two may be the same


def test_a_batch_is_spoilt_as_its_patches_are_one_by_one():
    """The share that is spoilt, how opaquely and by how much, in one large batch and in many of one patch."""
    torch.manual_seed(5)
    x = material(400, 1, 48)
    figures = []
    for y, opacity in (corrupt(x), tuple(map(torch.cat, zip(*(corrupt(one) for one in x.split(1)), strict=True)))):
        shares = (opacity > corruption.SPOILT).float().mean((1, 2, 3))
        changes = (y - x).abs().sum((1, 2, 3)) / (opacity > 0).float().sum((1, 2, 3)).clamp_min(1)
        figures.append(torch.stack([*shares.quantile(torch.tensor([0.25, 0.5, 0.75])), changes.mean(), opacity.mean()]))
    assert torch.allclose(*figures, rtol=0.25), figures


def test_no_fill_is_both_trained_on_and_held_out():
    assert not set(FILLS + THIN) & set(HELD_OUT)
    assert not set(FILLS + THIN) & set(corruption.HELD_OUT_THIN)
