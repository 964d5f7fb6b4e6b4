"""Likelihoods against sums over all values or integrals; divergences of Gaussians against torch and integrals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from anomalib_gan.likelihoods import LIKELIHOODS, kl_diagonal, kl_full

NUMBER = st.floats(-3, 3)
VARIANCE = st.floats(0.05, 5)


@given(NUMBER, NUMBER, st.sampled_from([None, 0.01, 0.5]))
@settings(deadline=None)
def test_a_gaussian_likelihood_integrates_to_one_and_has_the_mean_that_it_is_given(mean, log_variance, variance):
    likelihood = LIKELIHOODS["gaussian"](variance, 0)
    y = torch.tensor([mean, log_variance][: likelihood.numbers], dtype=torch.float64).view(1, -1, 1, 1)
    p = likelihood(y)
    x = torch.linspace(-60, 60, 240_001, dtype=torch.float64).view(1, 1, 1, -1)
    density = p.log_prob(likelihood.values(x)).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-6)
    assert float(torch.trapezoid(density * x, x)) == pytest.approx(float(likelihood.image(p)), abs=1e-6)


@given(NUMBER)
def test_a_bernoulli_likelihood_is_one_over_black_and_white_and_a_mean_between_them(logit):
    likelihood = LIKELIHOODS["bernoulli"](None, 0)
    p = likelihood(torch.full((1, 1, 1, 1), logit, dtype=torch.float64))
    black, white, grey = (float(p.log_prob(likelihood.values(torch.tensor(v)))) for v in (-1.0, 1.0, 0.4))
    assert math.exp(black) + math.exp(white) == pytest.approx(1)
    assert grey == pytest.approx(0.7 * white + 0.3 * black)
    assert float(likelihood.image(p)) == pytest.approx(math.exp(white) - math.exp(black), abs=1e-6)


@given(st.lists(NUMBER, min_size=6, max_size=6), st.integers(1, 3))
@settings(deadline=None)
def test_a_categorical_likelihood_is_one_over_its_levels_which_part_the_range_evenly(logits, channels):
    likelihood = LIKELIHOODS["categorical"](None, 6)
    y = torch.tensor(logits, dtype=torch.float64).view(1, 6, 1, 1, 1).expand(1, 6, channels, 2, 3).flatten(1, 2)
    p = likelihood(y)
    centres = (torch.arange(6).double() + 0.5) / 3 - 1
    each = torch.stack([p.log_prob(likelihood.values(c.expand(1, channels, 2, 3))).exp() for c in centres])
    assert each.shape == (6, 1, channels, 2, 3)
    assert torch.allclose(each.sum(0), torch.ones(()).double())
    assert torch.allclose(each[:, 0, 0, 0, 0], torch.tensor(logits).double().softmax(0))
    assert torch.allclose(likelihood.image(p), (each * centres.view(6, 1, 1, 1, 1)).sum(0))
    assert likelihood.values(torch.tensor([-1.0, 1.0])).tolist() == [0, 5]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_step_up_the_gradient_makes_an_image_more_likely(name):
    torch.manual_seed(0)
    likelihood, x = LIKELIHOODS[name](None, 4), torch.rand(2, 1, 8, 8) * 2 - 1
    y = torch.zeros(2, likelihood.numbers, 8, 8, requires_grad=True)

    def told(y):
        return likelihood(y).log_prob(likelihood.values(x)).sum()

    (gradient,) = torch.autograd.grad(told(y), y)
    assert torch.isfinite(gradient).all() and (gradient != 0).any(0).all()
    with torch.no_grad():
        assert told(y + 0.01 * gradient / gradient.norm()) > told(y)


@given(NUMBER, VARIANCE, NUMBER, VARIANCE)
def test_the_divergence_of_two_numbers_is_that_of_torch_and_an_integral(mean, variance, mean1, variance1):
    one, other = (torch.tensor(v, dtype=torch.float64) for v in ((mean, variance), (mean1, variance1)))
    found = kl_diagonal(*one, *other)
    p, q = Normal(one[0], one[1].sqrt()), Normal(other[0], other[1].sqrt())
    assert torch.allclose(found, kl_divergence(p, q), atol=1e-9)
    x = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    assert torch.allclose(found, integral, atol=1e-6)


@given(st.integers(1, 5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_the_divergence_of_any_two_gaussians_is_that_of_torch_and_no_negative_one(d, seed):
    generator = torch.Generator().manual_seed(seed)
    mean, mean1 = torch.randn(2, 3, d, generator=generator, dtype=torch.float64)
    root, root1 = torch.randn(2, 3, d, d, generator=generator, dtype=torch.float64)
    S, S1 = (r @ r.mT + 0.1 * torch.eye(d) for r in (root, root1))
    found = kl_full(mean, S, mean1, S1)
    assert torch.allclose(found, kl_divergence(MultivariateNormal(mean, S), MultivariateNormal(mean1, S1)), rtol=1e-6)
    assert (found >= 0).all() and torch.allclose(kl_full(mean, S, mean, S), torch.zeros(3).double(), atol=1e-9)
    axes, axes1 = S.diagonal(dim1=1, dim2=2), S1.diagonal(dim1=1, dim2=2)
    diagonal = kl_full(mean, axes.diag_embed(), mean1, axes1.diag_embed())
    assert torch.allclose(diagonal, kl_diagonal(mean, axes, mean1, axes1).sum(1))
