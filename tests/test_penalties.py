"""Penalties against closed forms, at several batch sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import Normal

from anomalib_gan.penalties import (
    clip,
    edge_gap,
    geometric,
    gradient_penalty,
    grey_gap,
    linear_total_correlation,
    mutual_information,
    power,
    pull_away,
    r1,
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


class Linear(nn.Module):
    """D(x) = <a, x>, an answer at each of four places, whose mean it is; its slope is ||a|| everywhere."""

    def __init__(self, slope):
        super().__init__()
        torch.manual_seed(0)
        a = torch.randn(2, 3, 4)
        self.a = nn.Parameter(slope * a / a.norm())

    def forward(self, x):
        places = torch.tensor([1.0, 3.0, -2.0, 2.0]).view(1, 1, 2, 2)
        return (x * self.a).sum((1, 2, 3), keepdim=True) * places


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_gradient_penalties_of_a_linear_critic_at_every_batch_size(n, slope):
    D = Linear(slope)
    real, fake = torch.randn(n, 2, 3, 4), 5 + torch.randn(n, 2, 3, 4)
    assert gradient_penalty(D, real, fake).item() == pytest.approx((slope - 1) ** 2, abs=1e-5)
    assert r1(D, real).item() == pytest.approx(slope**2 / 2, rel=1e-5)
    with torch.no_grad():  # who plays without moving asks for them all the same
        assert gradient_penalty(D, real, fake).item() == pytest.approx((slope - 1) ** 2, abs=1e-5)
    (gradient,) = torch.autograd.grad(gradient_penalty(D, real, fake), D.a)
    assert torch.allclose(gradient, 2 * (slope - 1) * D.a / slope, atol=1e-4)  # of (||a|| - 1)^2
    assert real.grad is None and D.a.grad is None


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_the_gradient_penalty_is_zero_for_a_critic_of_slope_one_and_takes_each_image_by_itself(n):
    torch.manual_seed(n)
    real, fake = torch.randn(n, 1, 4, 4), 3 + torch.randn(n, 1, 4, 4)
    away = torch.full((1, 1, 4, 4), 9.0)
    assert gradient_penalty(
        lambda x: (x - away).flatten(1).norm(dim=1, keepdim=True), real, fake
    ).item() == pytest.approx(0, abs=1e-9)

    slopes = torch.arange(1.0, n + 1)  # a critic that is steeper for each image than for the one before

    def steeper(x):
        return slopes[:, None] * (x - away).flatten(1).norm(dim=1, keepdim=True)

    assert gradient_penalty(steeper, real, fake).item() == pytest.approx(float((slopes - 1).square().mean()), rel=1e-4)
    assert r1(steeper, real).item() == pytest.approx(float(slopes.square().mean()) / 2, rel=1e-4)


def test_the_gradient_penalty_looks_between_each_real_image_and_its_fake():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1, keepdim=True)

    real, fake = torch.zeros(64, 1, 2, 2), torch.arange(1.0, 65).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    gradient_penalty(critic, real, fake)
    share = seen[0] / fake
    assert ((share > 0) & (share < 1)).all() and share.flatten(1).std(1).max() < 1e-5 < share[:, 0, 0, 0].std()


def test_clipping_bounds_every_parameter_and_leaves_what_lies_within():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-3.0, 0.01, 0.2], [0.05, -0.1, 7.0]]))
        net.bias.zero_()
    clip(net, 0.1)
    assert torch.equal(net.weight, torch.tensor([[-0.1, 0.01, 0.1], [0.05, -0.1, 0.1]]))
    assert net.weight.requires_grad and not net.bias.any()


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_pulling_away_is_the_mean_squared_cosine_of_pairs(n):
    one, pairs = torch.ones(n, 12), n > 1
    assert float(pull_away(one * torch.arange(1.0, n + 1)[:, None])) == pytest.approx(float(pairs), abs=1e-6)
    assert float(pull_away(torch.eye(12)[:n] * 3)) == pytest.approx(0, abs=1e-6)
    angles = 0.3 * torch.arange(float(n))
    fan = torch.stack((angles.cos(), angles.sin()), 1)[:, :, None, None]
    cosines = [math.cos(0.3 * (i - j)) ** 2 for i in range(n) for j in range(n) if i != j]
    assert float(pull_away(fan)) == pytest.approx(sum(cosines) / max(len(cosines), 1), rel=1e-4)
    codes = torch.randn(n, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(pull_away(codes), codes)
    assert torch.isfinite(gradient).all() and bool(gradient.any()) == pairs


def test_the_bound_on_mutual_information_is_tight_at_the_true_posterior_and_lower_elsewhere():
    noise = 0.5  # x = c + noise: I(c; x) = log(1 + 1 / noise^2) / 2 for each number, and the posterior is known
    torch.manual_seed(0)
    c = torch.randn(40_000, 2, 1, 1)
    x = c + noise * torch.randn_like(c)
    prior = Normal(torch.zeros_like(c), 1.0)

    def bound(gain, spread):
        return float(mutual_information(Normal(gain * x, spread), prior, c))

    gain, exact = 1 / (1 + noise**2), 2 * math.log(1 + 1 / noise**2) / 2
    assert bound(gain, noise * gain**0.5) == pytest.approx(exact, abs=0.03)
    assert float(mutual_information(prior, prior, c)) == 0
    for other in ((gain, 1.0), (0.3, 0.6), (gain, 0.3)):
        assert bound(*other) < exact - 0.03


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_bound_on_mutual_information_is_a_mean_over_images_and_places_and_a_sum_over_numbers(n):
    torch.manual_seed(n)
    c, mean = torch.randn(n, 3, 2, 2), torch.randn(n, 3, 2, 2)
    prior = Normal(torch.zeros_like(c), 1.0)
    expected = [
        -0.5 * math.log(0.7**2) - (c[i, :, j, k] - mean[i, :, j, k]).square() / (2 * 0.7**2) + c[i, :, j, k] ** 2 / 2
        for i in range(n)
        for j in range(2)
        for k in range(2)
    ]
    exact = float(torch.stack(expected).sum(1).mean())
    assert float(mutual_information(Normal(mean, 0.7), prior, c)) == pytest.approx(exact, rel=1e-4)


def test_the_bound_on_mutual_information_has_a_gradient_for_who_reads_and_for_who_draws():
    torch.manual_seed(0)
    G, Q = nn.Linear(2, 5), nn.Linear(5, 4)
    c = torch.randn(6, 2)
    mean, log_spread = Q(G(c)).chunk(2, 1)
    value = mutual_information(Normal(mean, log_spread.exp()), Normal(torch.zeros_like(c), 1.0), c)
    for gradient in torch.autograd.grad(value, [*G.parameters(), *Q.parameters()]):
        assert torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize("n", [1, 2, 6])
def test_the_geometric_penalty_is_zero_for_what_keeps_distances_and_the_variance_of_log_lengths_else(n):
    torch.manual_seed(n)
    turn = torch.linalg.qr(torch.randn(7, 7)).Q[:, :2]
    z = torch.randn(n, 2)
    assert geometric(lambda z: 4 * z @ turn.T + 1, z).item() == pytest.approx(0, abs=1e-5)

    s = 3.0  # lengths sqrt(cos^2 + s^2 sin^2) for directions that are uniform

    def log_length(t, power):
        return (math.log(math.cos(t) ** 2 + (s * math.sin(t)) ** 2) / 2) ** power / (2 * math.pi)

    mean, square = (quad(log_length, 0, 2 * math.pi, args=(power,))[0] for power in (1, 2))
    stretch = torch.tensor([1.0, s])
    found = [geometric(lambda z: z * stretch, z).item() for _ in range(3000)]
    assert sum(found) / len(found) == pytest.approx(square - mean**2, rel=0.06)

    free = torch.eye(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(geometric(lambda z: z * stretch @ free, z), free)
    assert torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize("n", [6, 20, 200])
def test_the_linear_total_correlation_has_no_bias_at_any_batch_size(n):
    torch.manual_seed(n)
    mix = torch.randn(5, 5) + 2 * torch.eye(5)
    covariance = mix.T @ mix
    truth = float((covariance.diagonal().log().sum() - torch.logdet(covariance)) / 2)
    found = torch.stack([linear_total_correlation(torch.randn(n, 5) @ mix) for _ in range(3000)])
    error = float(found.std() / len(found) ** 0.5)
    assert float(found.mean()) == pytest.approx(truth, abs=4 * error) and error < 0.1


def test_the_linear_total_correlation_knows_no_scale_falls_along_its_gradient_and_needs_enough_codes():
    torch.manual_seed(0)
    z = (torch.randn(50, 3) @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])).requires_grad_()
    value = linear_total_correlation(z)
    scaled = linear_total_correlation(z * torch.tensor([3.0, 0.2, 1.0]) + 7)
    assert scaled.item() == pytest.approx(value.item(), abs=1e-3)
    (gradient,) = torch.autograd.grad(value, z)
    assert linear_total_correlation(z - 0.1 * gradient / gradient.norm()) < value
    assert torch.isfinite(linear_total_correlation(torch.zeros(9, 3)))
    with pytest.raises(ValueError, match="give at least 4"):
        linear_total_correlation(z[:3])
