"""Corruptions: in range, seeded, only where the opacity says, and the held-out fills are nobody's training."""

from __future__ import annotations

import pytest
import torch

from anomalib_gan import corruption
from anomalib_gan.corruption import FILLS, HELD_OUT, SHAPES, THIN, corrupt, corrupt_held_out


@pytest.mark.parametrize("spoil", [corrupt, corrupt_held_out])
@pytest.mark.parametrize(("channels", "side"), [(1, 96), (3, 64)])
def test_changes_lie_where_the_opacity_says(spoil, channels, side):
    torch.manual_seed(0)
    x = torch.rand(12, channels, side, side) * 2 - 1
    y, opacity = spoil(x)
    assert y.shape == x.shape and opacity.shape == (12, 1, side, side)
    assert y.abs().max() <= 1 and opacity.min() >= 0 and opacity.max() <= 1
    changed = (y - x).abs().amax(1, keepdim=True) > 1e-6
    assert not (changed & (opacity == 0)).any()
    assert 0.005 < float((opacity > 0.2).float().mean()) < 0.4
    assert changed.any()


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


@pytest.mark.parametrize("shape", set(SHAPES), ids=lambda f: f.__name__)
def test_shapes_are_opacities(shape):
    torch.manual_seed(1)
    x = torch.zeros(1, 1, 64, 80)
    masks = torch.cat([shape(x) for _ in range(30)])
    assert masks.shape == (30, 1, 64, 80) and masks.min() >= 0 and masks.max() <= 1
    assert (masks.flatten(1).amax(1) > 0).float().mean() > 0.8  # a line or a speck may miss the patch now and then


def test_no_fill_is_both_trained_on_and_held_out():
    assert not set(FILLS + THIN) & set(HELD_OUT)
    assert corruption.THIN is not corruption.HELD_OUT
