"""Penalties against closed forms, at several batch sizes."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_gan.penalties import grey_gap, power, spectrum_gap

GAPS = (spectrum_gap, grey_gap)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_gap_is_zero_on_the_same_batch_in_any_order_and_positive_with_a_gradient_elsewhere(gap, n):
    torch.manual_seed(n)
    real, fake = torch.randn(n, 1, 32, 48), 2 * torch.randn(n, 1, 32, 48)
    assert float(gap(real, real.flip(0))) == pytest.approx(0, abs=1e-9)
    fake.requires_grad_()
    value = gap(fake, real)
    (gradient,) = torch.autograd.grad(value, fake)
    assert value > 0.01
    assert torch.isfinite(gradient).all() and gradient.any()
    with torch.no_grad():
        assert gap(fake - 0.05 * gradient / gradient.norm(), real) < value


def test_closed_forms():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 64, 64)
    assert float(spectrum_gap(3 * x, x)) == pytest.approx((2 * math.log(3)) ** 2, rel=1e-4)
    assert float(spectrum_gap(x + 0.5, x)) == pytest.approx(0, abs=1e-6)
    assert float(grey_gap(x + 0.25, x)) == pytest.approx(0.25, rel=1e-5)
    window = torch.outer(*(torch.hann_window(64, periodic=False),) * 2)
    white = power(torch.randn(256, 1, 64, 64)).mean(0)[2:]  # above the lowest frequencies, which lose the mean
    assert torch.allclose(white, window.square().sum().expand_as(white), rtol=0.2)


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_is_a_mean_over_the_batch_and_sees_that_patches_differ(gap):
    torch.manual_seed(0)
    real, fake = torch.randn(2, 1, 48, 48), 2 * torch.randn(2, 1, 48, 48)
    assert torch.allclose(gap(fake.repeat(3, 1, 1, 1), real.repeat(3, 1, 1, 1)), gap(fake, real), rtol=1e-5)
    faint, strong = 0.5 * real[:1], 1.5 * real[:1]  # one mean, but unlike each other
    assert gap(torch.cat((faint, strong)), real[:1].repeat(2, 1, 1, 1)) > 0.1


def test_a_lattice_is_far_from_smooth_noise_of_the_same_variance():
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(4, 1, 72, 72), 9, stride=1)
    smooth = smooth / smooth.std()
    lattice = torch.ones(4, 1, 64, 64)
    lattice[..., ::2, :] *= -1
    assert spectrum_gap(lattice, smooth) > 10 * spectrum_gap(smooth.flip(-1) * 1.01, smooth)
