"""Penalties against closed forms, at several batch sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from anomalib_gan.penalties import (
    edge_gap,
    grey_gap,
    power,
    sparsity,
    spectrum_gap,
    total_correlation,
    total_variation,
)

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


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sparsity_is_that_of_the_distribution_whatever_its_scale(n):
    torch.manual_seed(n)
    z = torch.randn(n, 3, 100, 100)
    assert float(sparsity(z)) == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
    assert float(sparsity(z * torch.tensor([1e-3, 1.0, 1e3]).view(1, 3, 1, 1))) == pytest.approx(float(sparsity(z)))
    assert float(sparsity(z.sign())) == pytest.approx(1)
    lit = torch.zeros(n, 1, 10, 10)
    lit[..., 0, 0] = 7.0
    assert float(sparsity(lit)) == pytest.approx(0.1)  # one place of 100: the root of that share
    assert float(sparsity(torch.zeros_like(z))) == 0


def posteriors(m, correlation, spread, seed=0):
    """Codes of two units, their means and log variances, whose aggregate posterior is a Gaussian: the exact total
    correlation is -1/2 log(1 - rho^2).
    """
    torch.manual_seed(seed)
    mean = torch.randn(m, 2).double() @ torch.tensor([[1.0, correlation], [0, math.sqrt(1 - correlation**2)]]).double()
    z = mean + spread * torch.randn(m, 2)
    rho = correlation / (1 + spread**2)
    return z, mean, torch.full_like(mean, 2 * math.log(spread)), -math.log(1 - rho**2) / 2


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_total_correlation_of_gaussian_codes_is_the_closed_form(correlation):
    z, mean, log_variance, exact = posteriors(1500, correlation, 0.4)
    assert float(total_correlation(z, mean, log_variance)) == pytest.approx(exact, abs=0.06)


def test_total_correlation_of_minibatches_is_near_that_of_all_and_its_size_moves_no_gradient():
    z, mean, log_variance, _ = posteriors(1024, 0.8, 0.5)
    whole = float(total_correlation(z, mean, log_variance))
    parts = [
        float(total_correlation(*each, size=1024, method="stratified"))
        for each in zip(*(one.split(128) for one in (z, mean, log_variance)), strict=True)
    ]
    assert sum(parts) / len(parts) == pytest.approx(whole, abs=0.15)
    small = [one[:64].clone().requires_grad_() for one in (z, mean, log_variance)]
    plain, weighted = total_correlation(*small), total_correlation(*small, size=1024)
    assert float((weighted - plain).detach()) == pytest.approx(math.log(1024))  # (d - 1) log size
    for one, other in zip(torch.autograd.grad(plain, small), torch.autograd.grad(weighted, small), strict=True):
        assert torch.allclose(one, other) and one.any()


def test_a_stratified_minibatch_of_all_is_right_on_average_over_its_order():
    z, mean, log_variance, _ = posteriors(5, 0.7, 0.8)
    exact = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = exact.log_prob(z[:, None]).sum(2).exp().mean(1)  # q(z_i), the mixture of all five
    densities = []
    for order in itertools.permutations(range(5)):  # the term that stands for the rest falls to each in turn
        at = torch.tensor(order)
        joint = stratified_density(z[at], mean[at], log_variance[at])
        densities.append(joint[at.argsort()])
    assert torch.allclose(torch.stack(densities).mean(0), wanted)


def stratified_density(z, mean, log_variance):
    """q(z_i) as the stratified estimate has it, written out, once the whole estimate agrees with it."""
    m = len(z)
    weights = torch.full((m, m), 1 / (m - 1)).double().fill_diagonal_(1 / m)
    weights[torch.arange(m), torch.arange(m) - 1] = 1 / (m * (m - 1))
    each = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(z[:, None]).sum(2).exp()
    apart = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(z[:, None]).exp()
    whole = (each * weights).sum(1).log() - (apart * weights[..., None]).sum(1).log().sum(1)
    assert float(total_correlation(z, mean, log_variance, size=m, method="stratified")) == pytest.approx(
        float(whole.mean())
    )
    return (each * weights).sum(1)


@pytest.mark.parametrize("given", [{}, {"size": 1}, {"method": "stratified"}])
def test_a_total_correlation_that_is_not_defined_says_what_is_missing(given):
    with pytest.raises(ValueError, match=r"give at least 2, and how many there are$"):
        total_correlation(*(torch.zeros(2 if given else 1, 3),) * 3, **given)
