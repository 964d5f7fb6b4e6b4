"""Moments of patches and their shrinkage against numpy and scikit-learn; what they are laid out to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS

from anomalib_gan import patches
from anomalib_gan.patches import laid, moments, shrunk


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_moments_are_those_of_all_patches_together_however_they_are_read(step, channels, monkeypatch):
    torch.manual_seed(0)
    images = [torch.randn(1, channels, h, w) + 5 for h, w in ((16, 20), (8, 28), (24, 8))]
    all_of_them = np.concatenate(
        [
            x[0, :, top : top + 4, left : left + 4].numpy().reshape(1, -1)
            for x in images
            for top in range(0, x.shape[2] - 3, step)
            for left in range(0, x.shape[3] - 3, step)
        ]
    ).astype(np.float64)
    mean, covariance, count = moments(images, 4, step)
    assert np.allclose(mean, all_of_them.mean(0)) and np.allclose(covariance, np.cov(all_of_them.T, bias=True))
    assert count == pytest.approx(sum(x.shape[2] * x.shape[3] for x in images) / 16)
    monkeypatch.setattr(patches, "ROWS", 1)
    again = moments(iter(images), 4, step)
    assert np.allclose(mean, again[0]) and np.allclose(covariance, again[1])


def test_images_without_two_patches_are_refused():
    with pytest.raises(ValueError, match="1 patches of 8 x 8 pixels have no covariance: give larger normal images"):
        moments([torch.zeros(1, 1, 8, 8)], 8, 8)


@pytest.mark.parametrize("count", [3, 10, 100, 10_000])
def test_shrinkage_is_that_of_scikit_learn_and_makes_few_samples_invertible(count):
    x = np.random.default_rng(count).standard_normal((count, 6)) @ np.diag([1, 1, 2, 3, 0.5, 4])
    found = shrunk(torch.from_numpy(np.cov(x.T, bias=True)), count)
    assert np.allclose(found, OAS().fit(x).covariance_)
    assert torch.linalg.eigvalsh(found)[0] > 0
    assert np.allclose(shrunk(2 * torch.eye(4).double(), count), 2 * np.eye(4))


def test_what_patches_say_is_laid_out_as_the_mean_over_those_that_cover_a_pixel():
    torch.manual_seed(0)
    y, kernel = torch.randn(2, 3, 4, 5).double(), torch.randn(3, 2, 6, 6).double()
    total, count = torch.zeros(2, 2, 12, 14).double(), torch.zeros(12, 14)
    for row in range(4):
        for column in range(5):
            here = (..., slice(2 * row, 2 * row + 6), slice(2 * column, 2 * column + 6))
            total[here] += torch.einsum("nk,kchw->nchw", y[:, :, row, column], kernel)
            count[here] += 1
    assert torch.allclose(laid(y, kernel, 2), total / count)
