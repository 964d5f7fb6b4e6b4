"""Intrinsic dimension on clouds whose dimension is known."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_gan.dimension import linear, spectrum, two_nn


def embedded(x, ambient, seed=0):
    """Points turned into a space of more dimensions, at another scale and place."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((ambient, ambient)))
    return 3 * np.pad(x, ((0, 0), (0, ambient - x.shape[1]))) @ turn + 7


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_flat_cloud_has_its_dimension_by_either_measure_wherever_it_lies(dimension):
    x = np.random.default_rng(dimension).uniform(size=(2000, dimension))
    for cloud in (x, embedded(x, 12)):
        assert two_nn(cloud) == pytest.approx(dimension, rel=0.15)
        assert linear(cloud, 0.999999) == dimension
    assert two_nn(x) == pytest.approx(two_nn(embedded(x, 12)), rel=1e-6)


def test_a_rolled_up_sheet_is_two_dimensional_though_it_fills_three():
    rng = np.random.default_rng(0)
    turn, height = rng.uniform(4, 14, 4000), rng.uniform(0, 20, 4000)
    roll = np.stack((turn * np.cos(turn), height, turn * np.sin(turn)), 1)
    assert linear(roll) == 3
    assert two_nn(roll) == pytest.approx(2, rel=0.1)


def test_the_spectrum_is_that_of_the_covariance():
    x = np.random.default_rng(0).standard_normal((5000, 3)) * (3.0, 2.0, 1.0)
    assert spectrum(x) == pytest.approx(np.linalg.eigvalsh(np.cov(x.T))[::-1] / np.trace(np.cov(x.T)))
    assert linear(x, 0.6) == 1 and linear(x, 0.9) == 2 and linear(x, 1.0) == 3
    assert linear(np.ones((30, 4))) == 0


def test_points_that_come_twice_count_once_and_too_few_are_an_error():
    x = np.random.default_rng(0).uniform(size=(500, 2))
    assert two_nn(np.concatenate((x, x))) == two_nn(x)
    with pytest.raises(ValueError, match="1 different points are too few"):
        two_nn(np.ones((100, 2)))
