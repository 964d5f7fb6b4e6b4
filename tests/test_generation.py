"""The figures that tell material from noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomalib_gan.generation import apart, histogram, phase_shuffled, radial_spectrum, table

RNG = np.random.default_rng(0)


def fibres(seed):
    """Thin bright lines on black, in [-1, 1]."""
    rng, picture = np.random.default_rng(seed), np.full((128, 160), -1.0)
    for _ in range(25):
        ends = rng.integers(0, 160, 4).tolist()
        cv2.line(picture, tuple(ends[:2]), tuple(ends[2:]), float(rng.uniform(0, 1)), 3)
    return picture


def test_a_phase_shuffle_keeps_the_spectrum_and_changes_the_greys():
    x = 0.02 * RNG.standard_normal((96, 96))  # far from the clipping at 1
    shuffled = phase_shuffled(x, seed=7)
    assert np.allclose(np.abs(np.fft.fft2(shuffled - shuffled.mean())), np.abs(np.fft.fft2(x - x.mean())), atol=1e-9)
    assert not np.allclose(shuffled, x, atol=0.01)
    assert (
        apart([phase_shuffled(fibres(0))], [fibres(1)])["histogram"] > 2 * apart([fibres(0)], [fibres(1)])["histogram"]
    )


def test_a_normal_image_is_nearer_than_white_noise_in_both():
    found = apart([fibres(0), RNG.uniform(-1, 1, (128, 160))], [fibres(1)])
    assert all(normal < noise for (normal,), (noise,) in found.values())


def test_what_is_drawn_alike_is_nearer_than_a_shuffle_and_noise_is_farther():
    normals = [fibres(seed) for seed in range(8)]
    for size in (slice(None), slice(-60, None)):  # small pieces differ by more than from an average of many
        found = table([fibres(seed)[size, size] for seed in range(20, 40)], normals)
        for term in ("spectrum", "histogram"):
            assert abs(found["sample"][term]) < found["normal image, phases shuffled"][term] / 2
    noise = table([RNG.uniform(-1, 1, (128, 160)) for _ in range(4)], normals)
    assert noise["sample"]["spectrum"] > 2 * noise["normal image, phases shuffled"]["spectrum"]
    for few in (([fibres(9)], normals), (normals, normals[:1])):
        with pytest.raises(ValueError, match="at least 2"):
            table(*few)


def test_samples_that_are_all_one_are_farther_than_different_ones():
    normals = [fibres(seed) for seed in range(8)]
    one, many = table([fibres(20)] * 8, normals), table([fibres(seed) for seed in range(20, 28)], normals)
    assert all(one["sample"][term] > many["sample"][term] for term in ("spectrum", "histogram"))


def test_closed_forms():
    assert histogram(np.zeros((4, 4)))[-1] == 1
    black, white = np.full((32, 32), -1.0) + 1e-9, np.full((32, 32), 1.0) - 1e-9
    assert apart([black], [white])["histogram"] == pytest.approx(2, abs=0.05)
    wave = np.cos(2 * np.pi * 0.25 * np.arange(128))[None, :] * np.ones((128, 1))
    assert radial_spectrum(wave).argmax() in (7, 8)  # 0.25 cycles per pixel lies at half of the 16 rings
