"""The figures that tell material from noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomalib_gan.generation import distances, histogram, phase_shuffled, radial_spectrum, table

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
        distances(phase_shuffled(fibres(0)), [fibres(1)])["histogram"]
        > 2 * distances(fibres(0), [fibres(1)])["histogram"]
    )


def test_a_normal_image_is_nearer_than_white_noise_in_both():
    normals = [fibres(seed) for seed in range(1, 5)]
    normal, noise = distances(fibres(0), normals), distances(RNG.uniform(-1, 1, (128, 160)), normals)
    assert normal["spectrum"] < noise["spectrum"] and normal["histogram"] < noise["histogram"]


def test_the_table_judges_each_normal_by_the_others_and_samples_by_all():
    normals = [fibres(seed) for seed in range(1, 5)]
    found = table([fibres(9), fibres(10)], normals)
    assert found["sample"]["histogram"] < found["normal image, phases shuffled"]["histogram"]
    same = table(normals, [*normals, *normals])
    assert same["sample"]["spectrum"] < same["normal image, phases shuffled"]["spectrum"]
    noise = table([RNG.uniform(-1, 1, (128, 160))], normals)
    assert noise["sample"]["spectrum"] > 2 * noise["normal image"]["spectrum"]
    with pytest.raises(ValueError, match="at least 2"):
        table(normals, normals[:1])


def test_closed_forms():
    assert histogram(np.zeros((4, 4)))[-1] == 1
    assert distances(np.full((32, 32), -1.0) + 1e-9, [np.full((32, 32), 1.0) - 1e-9])["histogram"] == pytest.approx(
        2, abs=0.05
    )
    wave = np.cos(2 * np.pi * 0.25 * np.arange(128))[None, :] * np.ones((128, 1))
    assert radial_spectrum(wave).argmax() in (7, 8)  # 0.25 cycles per pixel lies at half of the 16 rings
