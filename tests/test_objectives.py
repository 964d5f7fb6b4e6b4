"""Objectives: closed form at known answers, an invariance, and a gradient with the right sign."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_gan.objectives import OBJECTIVES

AT_ZERO = {  # critic(0, 0), generator(0), flipped(0)
    "minimax": (2 * math.log(2), -math.log(2), -math.log(2)),
    "non-saturating": (2 * math.log(2), math.log(2), math.log(2)),
    "least-squares": (1.0, 1.0, 0.0),
    "wasserstein": (0.0, 0.0, 0.0),
    "hinge": (2.0, 0.0, 0.0),
    "energy": (1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_closed_form_at_zero(name):
    objective, zero = OBJECTIVES[name], torch.zeros(3, 1, 2, 2)
    found = objective.critic(zero, zero), objective.generator(zero), objective.flipped(zero)
    assert [float(value) for value in found] == pytest.approx(AT_ZERO[name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_mean_over_answers_whatever_their_number(name):
    objective, real, fake = OBJECTIVES[name], torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    twice = objective.critic(real.repeat(2, 1, 1, 1), fake.repeat(2, 1, 1, 1))
    assert torch.allclose(objective.critic(real, fake), twice, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_critic_and_generator_pull_apart(name):
    objective = OBJECTIVES[name]
    real, fake = torch.full((5,), 0.4, requires_grad=True), torch.full((5,), 0.4, requires_grad=True)
    up, down = torch.autograd.grad(objective.critic(real, fake), (real, fake))
    assert (up < 0).all() and (down > 0).all()  # descending raises D on real and lowers it on fakes
    assert (torch.autograd.grad(objective.generator(fake), fake)[0] < 0).all()
    assert (torch.autograd.grad(objective.flipped(real), real)[0] > 0).all()


def test_the_minimax_gradient_vanishes_where_the_critic_rejects_and_the_non_saturating_does_not():
    logit = torch.tensor([-8.0, 0.0, 3.0], requires_grad=True)
    d = torch.sigmoid(logit.detach())
    (minimax,) = torch.autograd.grad(OBJECTIVES["minimax"].generator(logit) * 3, logit)
    (non_saturating,) = torch.autograd.grad(OBJECTIVES["non-saturating"].generator(logit) * 3, logit)
    assert torch.allclose(minimax, -d) and torch.allclose(non_saturating, d - 1)


def test_energy_is_pulled_down_on_real_images_and_pushed_up_on_fakes_below_the_margin_only():
    real, fake = torch.tensor([-0.2, -0.6], requires_grad=True), torch.tensor([-0.3, -1.7], requires_grad=True)
    loss = OBJECTIVES["energy"].critic(real, fake)  # answers are minus the energy, in units of the margin
    assert loss.item() == pytest.approx((0.2 + 0.6) / 2 + 0.7 / 2)
    down, up = torch.autograd.grad(loss, (real, fake))
    assert down.tolist() == [-0.5, -0.5] and up.tolist() == [0.5, 0.0]
