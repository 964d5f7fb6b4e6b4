"""Estimates of log p(x) where it is known in closed form, and the figures of codes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from anomalib_gan.evidence import (
    code_figures,
    elbo,
    evidence_markdown,
    evidence_table,
    log_evidence,
    variance_lost,
)


class Conjugate:
    """z ~ N(0, I), x ~ N(a z, 1) for each of 2 x 3 places: p(x) = N(0, a^2 + 1), and q is `off` from the posterior."""

    def __init__(self, a, off=0.0):
        self.a, self.off = a, off

    def posterior(self, s):
        variance = 1 / (self.a**2 + 1)
        return Normal(s * self.a * variance + self.off, math.sqrt(variance) * torch.ones_like(s) * (1 + self.off))

    def log_likelihood(self, s, z):
        return Normal(self.a * z, 1.0).log_prob(s)

    def exact(self, s):
        return Normal(0.0, math.sqrt(self.a**2 + 1)).log_prob(s).flatten(1).sum(1)


def places(m, seed=0):
    return torch.randn(m, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.floats(0.1, 3), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_with_the_true_posterior_a_single_draw_is_log_p_and_so_is_the_elbo_on_average(a, seed):
    model, s, draws = Conjugate(a), places(4, seed), places(300, seed + 1)
    assert torch.allclose(log_evidence(model, s, draws[:1], "importance"), model.exact(s))
    assert torch.allclose(elbo(model, s, draws), model.exact(s), atol=0.2 * (1 + a))


def test_both_estimates_of_p_are_right_on_average_and_in_the_limit():
    model, s = Conjugate(1.0, off=0.1), places(3)
    for method in ("prior", "importance"):
        each = torch.stack([log_evidence(model, s, places(8, seed), method) for seed in range(1000)])
        assert torch.allclose(each.exp().mean(0), model.exact(s).exp(), rtol=0.1)  # p(x) without bias
        assert (each.mean(0) < model.exact(s)).all()  # and log p(x) too small
        assert torch.allclose(log_evidence(model, s, places(5000), method), model.exact(s), atol=0.1)


def test_the_table_tells_bias_deviation_cost_and_gap_of_both():
    model, s = Conjugate(1.5, off=0.2), places(16)
    rows = evidence_table(model, s, exact=model.exact(s), samples=(1, 8, 64), repeats=64)
    assert [(row["method"], row["samples"]) for row in rows] == [
        (method, count) for method in ("prior", "importance") for count in (1, 8, 64)
    ]
    prior, importance = rows[:3], rows[3:]
    for mine in (prior, importance):
        for key in ("bias", "deviation"):
            assert abs(mine[0][key]) > abs(mine[1][key]) > abs(mine[2][key])
    for one, other in zip(prior, importance, strict=True):
        assert abs(one["bias"]) > 2 * abs(other["bias"]) and one["deviation"] > other["deviation"]
        assert one["decoded"] == other["decoded"] / 16 and other["ms"] > 0
    assert importance[0]["gap"] == pytest.approx(0, abs=0.2) and importance[2]["gap"] > 0.2  # K = 1 is the ELBO
    unknown = evidence_table(model, s, samples=(64,))
    assert unknown[1]["bias"] == pytest.approx(importance[2]["bias"], abs=0.05)
    text = evidence_markdown(rows)
    assert text.count("\n| prior | ") == text.count("\n| importance | ") == 3


class Coded:
    """Codes with known statistics: the first two units tell something, the third is the prior, wherever."""

    def posterior(self, s):
        mean = torch.cat((2 * s, -s, torch.zeros_like(s)), 1)
        return Normal(mean, torch.tensor([0.5, 0.5, 1.0]).view(1, 3, 1, 1).expand_as(mean))

    def log_likelihood(self, s, z):
        raise AssertionError("codes alone are looked at")


def test_figures_of_codes_count_the_collapsed_and_measure_the_aggregate_against_the_prior():
    figures = code_figures(Coded(), torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert figures["active"] == 2 and figures["collapsed"] == [2]
    assert figures["kl"][2] == pytest.approx(0, abs=1e-6)
    assert figures["kl"][0] == pytest.approx((0.25 - 1 - math.log(0.25) + 4) / 2, rel=0.05)
    # S = [[4.25, -2], [-2, 1.25]] beside a unit of the prior.
    assert figures["aggregate"] == pytest.approx((5.5 - 2 - math.log(4.25 * 1.25 - 4)) / 2, rel=0.05)
    with pytest.raises(ValueError, match="one code has no variance: give larger images, or more of them"):
        code_figures(Coded(), torch.zeros(1, 1, 1, 1))


@given(st.floats(0, 1.2), st.floats(-1, 1))
@settings(deadline=None)
def test_a_paler_copy_loses_its_share_of_the_local_variance_whatever_its_level(share, level):
    s = torch.randn(2, 1, 24, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lost = variance_lost(share * s + level, s)
    assert lost.shape == (2, 1, 16, 22)
    assert torch.allclose(lost, torch.tensor(1 - share**2, dtype=torch.float64), atol=1e-6)
