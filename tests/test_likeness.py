"""Shots of one thing are told from shots of different things, and training never sees one that is held back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import normal

from anomalib_gan import holding
from anomalib_gan.likeness import same_things


def surface(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Grey levels in [0, 1] with detail of a few pixels."""
    rng = np.random.default_rng(seed)
    noise = np.fft.rfft2(rng.normal(size=(height, width)))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    field = np.fft.irfft2(noise / (0.02 + radius), s=(height, width))
    return np.clip(0.5 + 0.12 * field / field.std(), 0, 1)


def shot(grey: np.ndarray, gain: float, offset: float, seed: int) -> np.ndarray:
    """8-bit, unevenly lit, with a camera's noise."""
    light = gain * np.linspace(0.7, 1.3, grey.shape[1]) if seed % 2 else gain
    noisy = grey * light + offset + 0.01 * np.random.default_rng(seed).normal(size=grey.shape)
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def tensors(greys: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(grey)[None] for grey in greys]


@given(st.floats(0.3, 1.2), st.floats(-0.1, 0.1), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_light_and_noise_make_no_other_thing(gain, offset, seed):
    greys = [surface(seed), shot(surface(seed), gain, offset, seed), surface(seed + 10)]
    one, again, other = same_things(
        tensors([np.rint(255 * greys[0]).astype(np.uint8), greys[1], shot(greys[2], 1, 0, 9)])
    )
    assert one == again != other


def test_different_surfaces_of_one_material_are_different_things():
    assert len(set(same_things(tensors([shot(surface(i), 1, 0, i) for i in range(30)])))) == 30


def test_images_without_detail_or_of_another_shape_are_no_shots_of_one_thing():
    flat = torch.zeros(1, 40, 40, dtype=torch.uint8)
    assert len(set(same_things([flat, flat, flat + 255]))) == 3
    tall = torch.from_numpy(shot(surface(0), 1, 0, 0))[None]
    assert len(set(same_things([tall, tall[:, :, :100]]))) == 2


@pytest.mark.parametrize("seed", range(5))
def test_shots_of_one_thing_are_held_back_together(seed):
    images = [normal(shot(surface(i), 0.5 + 0.2 * k, 0, k), f"{k}-{i}.png") for i in range(12) for k in range(4)]
    held = {one.path.rsplit("-")[-1] for one in holding.hold_out(images, 32, seed)}
    chosen = [one.path for one in holding.hold_out(images, 32, seed)]
    assert len(chosen) == 4 * len(held) == 8  # of 48 images a fifth is 10, and two things are 8


def test_of_one_part_that_always_lies_the_same_way_single_images_are_held_back():
    images = [normal(shot(surface(0), 1, 0, k), f"{k}.png") for k in range(20)]
    assert len(holding.hold_out(images, 32, 0)) == 4
