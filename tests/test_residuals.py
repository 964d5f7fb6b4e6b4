"""Residuals and smoothing against independent references and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import avg_pool2d

from anomalib_gan.residuals import RESIDUALS, absolute, by_cells, euclidean, smooth, structural


@pytest.mark.parametrize("name", RESIDUALS)
def test_zero_for_equal_images_and_positive_for_others(name):
    x, y = torch.rand(2, 1, 24, 30) * 2 - 1, torch.rand(2, 1, 24, 30) * 2 - 1
    assert RESIDUALS[name](x, x).abs().max() < 2e-4
    found = RESIDUALS[name](x, y)
    assert found.shape == (2, 1, 24, 30) and found.mean() > 0.1
    assert torch.allclose(found, RESIDUALS[name](y, x), atol=1e-5)


def test_ssim_agrees_with_the_definition_written_out():
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 40, 50))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2

    def mean(a):  # scipy's Gaussian cut at three sigma, edges replicated
        return ndimage.gaussian_filter(a, 1.5, mode="nearest", radius=4)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    found = structural(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0].numpy()
    assert round(3 * 1.5) == 4 and np.allclose(found, 1 - ssim, atol=1e-9)


def test_ssim_of_faint_texture_survives_single_precision():
    x = torch.randn(1, 1, 100, 100) * 0.02 - 0.8
    y = x + 0.02 * torch.randn_like(x)
    assert (structural(x, y) - structural(x.double(), y.double())).abs().max() < 5e-5


def test_ssim_of_every_other_window_is_that_of_all_of_them_there():
    x, y = torch.rand(2, 2, 3, 24, 32) * 2 - 1
    assert torch.allclose(structural(x, y, 2), structural(x, y)[..., ::2, ::2], atol=1e-6)


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("cell", [1, 4])
def test_means_by_cells_are_close_to_those_of_every_pixel(name, cell):
    x, y = smooth(torch.randn(4, 1, 64, 96), 1.0).chunk(2)
    found, all_of_them = by_cells(name, x, y, cell), avg_pool2d(RESIDUALS[name](x, y), cell)
    assert found.shape == (2, 1, 64 // cell, 96 // cell)
    if name == "ssim" and cell > 1:  # from a fourth of the windows
        assert torch.corrcoef(torch.stack((found.flatten(), all_of_them.flatten())))[0, 1] > 0.8
        assert found.mean().item() == pytest.approx(all_of_them.mean().item(), rel=0.05)
    else:
        assert torch.equal(found, all_of_them)


def test_pixel_norms_by_hand():
    x, y = torch.zeros(1, 2, 1, 1), torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1)
    assert euclidean(x, y).item() == pytest.approx(5)
    assert absolute(x, y).item() == pytest.approx(3.5)


def test_smoothing_keeps_means_of_constants_and_stays_within_three_sigma():
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20, 20] = 1
    y = smooth(x, 3.0)
    assert y.sum().item() == pytest.approx(1, abs=1e-5)
    assert y[..., :, :11].abs().max() == 0 and y[..., 20, 11] > 0
    assert torch.equal(smooth(x, 0.0), x)
    assert torch.allclose(smooth(torch.full((2, 3, 9, 7), 0.25), 2.0), torch.tensor(0.25))
