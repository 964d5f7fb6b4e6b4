"""Inversion: closed forms, independence of patches, and nothing but codes is moved."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anomalib_gan.inversion import invert
from anomalib_gan.models import build
from anomalib_gan.nets import enlarge, strided, transposed
from anomalib_gan.patches import cut, joined
from anomalib_gan.residuals import smooth


def same(z):
    return z


def nothing(x):
    return torch.zeros_like(x[:, :1])


def nets(seed=0):
    torch.manual_seed(seed)
    return transposed(4, 4, 1).eval(), strided(1, 4).eval()


@settings(max_examples=30, deadline=None)
@given(*[st.integers(1, 4)] * 3, st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_patches_and_blocks_are_those_of_the_grid_and_are_laid_back(n, c, side, counts):
    x = torch.randn(n, c, *(count * side for count in counts))
    patches = cut(x, side)
    assert patches.shape == (n * math.prod(counts), c, *[side] * len(counts))
    assert torch.equal(joined(patches, n, *counts[:-1]), x)
    first, last = ((slice(None), *[part] * len(counts)) for part in (slice(side), slice(-side, None)))
    assert torch.equal(patches[-1], x[-1][last]) and torch.equal(patches[0], x[0][first])
    if len(counts) == 3 and counts[2] > 1:
        assert torch.equal(patches[1], x[0, :, :side, :side, side : 2 * side])


@pytest.mark.parametrize("mu", [0.5, 2.0, 5.0])
def test_without_a_generator_in_between_the_optimum_is_known(mu):
    """min |z - x| + mu z^2 / 2 lies at x, or at +-1 / mu where x is farther out."""
    torch.manual_seed(0)
    x = torch.rand(20, 3, 4, 4) * 2 - 1
    found = invert(same, nothing, x, torch.zeros(1, 3, 4, 4), likelihood=mu, steps=200)
    best = x.clamp(-1 / mu, 1 / mu)
    assert torch.allclose(found.z, best, atol=0.05)
    assert torch.allclose(*((z - x).abs() + mu * z.square() / 2 for z in (found.z, best)), atol=5e-3)
    assert torch.allclose(found.terms["residual"], (found.z - x).abs().mean(1, keepdim=True))
    assert torch.allclose(found.terms["likelihood"], found.z.square().mean(1, keepdim=True) / 2)


def test_the_critics_features_decide_where_the_residual_is_not_asked():
    """f(x) = 3 x against |z - x| + mu z^2 / 2: the sum has the slope 1 + 3 lambda."""
    x = torch.full((2, 1, 2, 2), 0.9)
    for weight, expected in ((0.0, 0.2), (0.5, 0.5), (2.0, 0.9)):
        found = invert(same, lambda x: 3 * x, x, torch.zeros(1, 1, 2, 2), feature=weight, likelihood=5.0, steps=300)
        assert torch.allclose(found.z, torch.full_like(x, expected), atol=0.01)


def test_what_the_generator_drew_is_explained_and_what_it_cannot_draw_is_not():
    G, D = nets()
    torch.manual_seed(1)
    bank = torch.randn(32, 4, 2, 2)
    with torch.no_grad():
        drawn, strange = G(torch.randn(8, 4, 2, 2)), torch.ones(8, 1, 16, 16)
        strange[:, :, ::2, ::2] = -1
        nearest = torch.stack([(G(bank) - one).abs().mean((1, 2, 3)).min() for one in drawn])
    own, other = (
        invert(G, D.features, x, bank, likelihood=0.0, steps=200).terms["residual"].mean((1, 2, 3))
        for x in (drawn, strange)
    )
    assert (own < 0.5 * nearest).all() and own.max() < 0.2 * other.min()


def test_a_patch_is_inverted_by_itself_to_the_last_bit():
    G, D = nets()
    torch.manual_seed(1)
    x, bank = torch.rand(21, 1, 16, 16) * 2 - 1, torch.randn(8, 4, 2, 2)
    whole = invert(G, D.features, x, bank, steps=20)
    order = torch.randperm(21)
    for chosen in (torch.tensor([5]), order, torch.arange(3, 19)):
        some = invert(G, D.features, x[chosen], bank, steps=20)
        assert torch.equal(some.z, whole.z[chosen]) and torch.equal(some.image, whole.image[chosen])
    assert torch.equal(invert(G, D.features, x, bank, steps=20).z, whole.z)


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_map_moves_no_parameter_gradient_or_statistic_whatever_is_around_it(around):
    for name in ("dcgan", "sn_gan"):
        model = build(name, width=4, code=4, patch=32, steps=4)  # in train mode, its parameters ready to be trained
        model.G[0][0].weight.grad = kept = torch.ones_like(model.G[0][0].weight)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(0)
        with around():
            found = model.anomaly_map(torch.rand(1, 1, 64, 32) * 2 - 1)
        torch.manual_seed(0)
        assert torch.equal(found, model.eval().anomaly_map(torch.rand(1, 1, 64, 32) * 2 - 1))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert len(gradients) == 1 and gradients[0] is kept and (kept == 1).all()


def test_the_likelihood_of_the_code_is_a_score_by_itself_and_more_steps_lower_the_loss():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 64, 96) * 2 - 1
    params = {"width": 4, "code": 4, "patch": 32, "smoothing": 2.0}
    found = build("dcgan", **params, score="likelihood", steps=5).eval()
    parts = found.parts(x)
    expected = parts["code"].square().mean(1, keepdim=True) / 2  # (1, 1, 4, 6), a code for 8 x 8 working pixels
    expected = enlarge(smooth(expected.repeat_interleave(8, -1).repeat_interleave(8, -2), 2.0), 2)
    assert torch.allclose(parts["map"], expected, atol=1e-5)
    losses = []
    for steps in (1, 10, 40):
        torch.manual_seed(0)
        losses.append(float(build("dcgan", **params, steps=steps).eval().anomaly_map(x).mean()))
    assert losses[0] > losses[1] > losses[2]


def test_nets_with_batch_norm_are_inverted_as_they_are_after_training():
    model = build("dcgan", width=4, code=4, patch=32, steps=3)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    x = torch.rand(1, 1, 32, 32) * 2 - 1
    model.anomaly_map(x)
    assert model.training and model.G.training and model.D.training
