"""Distances between clouds of samples and of real images: closed forms, sets that are the same, and planted modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generation import fibres

from anomalib_gan.fidelity import (
    SIDE,
    bank,
    crops_of,
    features,
    fidelity,
    frechet,
    modes,
    most_alike,
    precision_recall,
    spread,
)
from anomalib_gan.generation import fidelities, phase_shuffled


def cloud(mean, covariance, n=400, seed=0):
    """Points with exactly these moments."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x.T)))).T
    return x @ np.linalg.cholesky(np.asarray(covariance, float)).T + mean


AXIS = st.tuples(st.floats(-3, 3), st.floats(0.1, 4), st.floats(0.1, 4))  # gap of the means, both standard deviations


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 4), st.floats(0.1, 4)), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_the_frechet_distance_of_two_gaussians_is_that_of_the_closed_form(axes, seed):  # fmt: skip
    gap, a, b = (np.array(part) for part in zip(*axes, strict=True))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(gap), len(gap))))
    one = cloud(np.zeros(len(gap)), np.diag(a**2), seed=seed) @ turn
    other = cloud(gap, np.diag(b**2), seed=seed + 1) @ turn
    assert frechet(one, other) == pytest.approx(float((gap**2).sum() + ((a - b) ** 2).sum()), abs=1e-6)
    assert frechet(one, other) == pytest.approx(frechet(other, one), abs=1e-6)


def test_of_covariances_that_do_not_commute_the_distance_is_known_too():
    a, b = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    # The root of a 2 x 2 matrix has the trace sqrt(tr M + 2 sqrt(det M)).
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert frechet(cloud([0, 0], a), cloud([0, 0], b, seed=1)) == pytest.approx(np.trace(a + b) - 2 * root)


def test_a_set_and_itself_are_no_distance_apart_and_cover_each_other():
    x = np.random.default_rng(0).standard_normal((100, 5))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert precision_recall(x, x) == (1, 1)
    found = fidelity(x, x)
    assert found["frechet"] == pytest.approx(0, abs=1e-9) and found["crops"] == 100
    assert fidelity(x[:3], x) == {}


def test_precision_is_lost_to_strange_samples_and_recall_to_missing_ones():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 200, 3)) + np.array([[[-10, 0, 0]], [[10, 0, 0]]])
    both = np.concatenate((left, right))
    precision, recall = precision_recall(both, np.concatenate((left, left + 1e-3)))
    assert precision == 1 and recall == pytest.approx(0.5, abs=0.02)
    precision, recall = precision_recall(np.concatenate((left, left + 1e-3)), both)
    assert precision == pytest.approx(0.5, abs=0.02) and recall == 1
    with pytest.raises(ValueError, match="give more samples"):
        precision_recall(both, both[:3])


def test_the_features_tell_fibres_from_noise_of_their_spectrum():
    images = [fibres(seed) for seed in range(6)]
    found = fidelities([phase_shuffled(image, 9) for image in images], images)
    assert list(found) == ["sample", "normal image", "normal image, phases shuffled"]
    assert len({one["crops"] for one in found.values()}) == 1
    assert found["normal image"]["frechet"] < 0.5 * found["sample"]["frechet"]
    assert found["normal image"]["precision"] > found["sample"]["precision"]


def test_features_have_no_side_and_no_place_of_their_own():
    crop = fibres(3)[:SIDE, :SIDE]
    here, turned = features([crop, crop[::-1, ::-1]])
    assert here.shape == (2 * len(bank()) + 3,)
    assert np.allclose(here, turned, rtol=0.05, atol=0.05)
    assert features([]).shape == (0, len(here))
    assert np.isfinite(features([np.zeros((SIDE, SIDE))])).all()


def test_crops_are_spread_evenly_and_small_images_have_none():
    images = [np.zeros((SIDE, 2 * SIDE)), np.zeros((SIDE - 1, 500))]
    assert len(crops_of(images)) == 3 and len(crops_of(images, most=2)) == 2
    assert spread(5, 3) == [0, 2, 4] and spread(2, 9) == [0, 1] and spread(0, 4) == []


def test_modes_that_samples_leave_out_are_counted():
    rng = np.random.default_rng(0)
    centres = 30 * np.eye(6)[:4]
    shares = (0.4, 0.3, 0.2, 0.1)
    real = np.concatenate([c + rng.standard_normal((round(400 * s), 6)) for c, s in zip(centres, shares, strict=True)])
    fake = np.concatenate([c + rng.standard_normal((50, 6)) for c in centres[:3]])
    found = modes(real, fake, 4)
    assert found.real == pytest.approx(shares) and found.covered == 3
    assert found.fake == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert found.shifted == pytest.approx(2 / 15 + 1 / 30)
    assert [int(np.square(centres - real[middle]).sum(1).argmin()) for middle in found.middles] == [0, 1, 2, 3]
    assert found.apart.tolist() == [False, False, True, True]
    same = modes(real, real, 4)
    assert same.covered == 4 and same.shifted == 0 and not same.apart.any()


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_copied_patch_is_found_wherever_it_comes_from_however_bright(flip):
    images = [fibres(seed).astype(np.float32) for seed in range(2)]
    patch = images[1][37:69, 50:82][:: flip[0], :: flip[1]]
    value, place = most_alike(0.5 * patch + 0.2, images)
    assert value == pytest.approx(1, abs=1e-3) and np.allclose(place, patch, atol=1e-6)
    assert most_alike(fibres(9)[40:72, 40:72], images)[0] < 0.95
    with pytest.raises(ValueError, match="no image is at least 32x32"):
        most_alike(patch, [images[0][:20]])
