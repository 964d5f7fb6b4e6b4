"""Penalties against closed forms, at several batch sizes."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_gan.penalties import edge_gap, grey_gap, power, spectrum_gap, total_variation

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


@pytest.mark.parametrize("n", [1, 2, 5])
def test_total_variation_and_edge_gap_in_closed_form(n):
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    ramp = (0.2 * rows - 0.3 * columns).expand(n, 1, -1, -1)
    assert float(total_variation(ramp)) == pytest.approx(0.5, rel=1e-5)
    assert float(total_variation(3 * ramp + 0.7)) == pytest.approx(1.5, rel=1e-5)
    step = torch.where(columns < 15, -1.0, 1.0).expand(n, 1, -1, -1)
    blurred = torch.nn.functional.avg_pool2d(step, (1, 5), stride=1)[..., :, :]
    assert float(total_variation(step)) == pytest.approx(2 / 29, rel=1e-5)  # one difference of 2 in each row
    assert float(total_variation(blurred)) == pytest.approx(
        2 / 25, rel=1e-5
    )  # as much, on fewer columns: edges stay free
    assert float(edge_gap(2 * ramp, ramp)) == pytest.approx(0.5, rel=1e-5)
    assert float(edge_gap(ramp + 0.7, -ramp)) == pytest.approx(0, abs=1e-6)  # strength counts, not sign
    sharp = step[..., 2:-2]
    assert float(edge_gap(blurred, sharp)) == pytest.approx((1.6 + 4 * 0.4) / 25, rel=1e-5)


@pytest.mark.parametrize("penalty", [total_variation, lambda x: edge_gap(x, torch.zeros_like(x).cumsum(-1))])
def test_a_step_down_the_gradient_of_total_variation_or_edge_gap_lowers_it(penalty):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalty(x), x)
    with torch.no_grad():
        assert penalty(x - 0.01 * gradient / gradient.norm()) < penalty(x)
