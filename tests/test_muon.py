"""Laws of the optimiser that turns weight matrices."""

import copy

import pytest
import torch
from torch import nn

from anomalib_gan.muon import Muon, matrices, orthogonal

ADAM = {"lr": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.1}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4),
        nn.Conv2d(4, 1, 1),
    )  # fmt: skip


def play(net, optimiser, rounds):
    for step in range(rounds):
        torch.manual_seed(step)
        optimiser.zero_grad()
        net(torch.randn(4, 2, 6, 6)).square().mean().backward()
        optimiser.step()
    return copy.deepcopy(net.state_dict())


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (9, 9), (1, 30)])
def test_orthogonal_keeps_singular_vectors_and_makes_all_values_alike(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.diag(torch.logspace(0, -2, min(shape))) @ right
    found = left.T @ orthogonal(matrix) @ right.T
    values = found.diagonal()
    assert (values > 0.6).all() and (values < 1.3).all()
    assert (found - torch.diag(values)).abs().max() < 1e-4


def test_orthogonal_of_nothing_is_nothing():
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_only_weights_that_a_norm_layer_follows_are_turned(net):
    assert [id(weight) for weight in matrices([net])] == [id(net[0].weight), id(net[2].weight)]


def test_a_step_turns_a_matrix_by_its_share_and_keeps_its_length(net):
    optimiser = Muon(list(net.parameters()), matrices([net]), turn=0.05, **ADAM)
    before = net[0].weight.detach().clone()
    play(net, optimiser, 1)
    after = net[0].weight.detach()
    assert after.norm().item() == pytest.approx(before.norm().item(), rel=1e-5)
    assert 0.04 < ((after - before).norm() / before.norm()).item() < 0.051


def test_all_other_parameters_move_as_in_adamw(net):
    other = copy.deepcopy(net)
    for weight in matrices([net]) + matrices([other]):
        weight.requires_grad_(False)
    chosen = [p for p in net.parameters() if p.requires_grad]
    ours = play(net, Muon(chosen, matrices([net]), turn=0.1, **ADAM), 5)
    theirs = play(other, torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], **ADAM), 5)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_a_turn_it_is_adamw(net):
    other = copy.deepcopy(net)
    ours = play(net, Muon(list(net.parameters()), matrices([net]), turn=0.0, **ADAM), 5)
    theirs = play(other, torch.optim.AdamW(other.parameters(), **ADAM), 5)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_restored_state_goes_on_bit_for_bit(net):
    other = copy.deepcopy(net)
    optimiser = Muon(list(net.parameters()), matrices([net]), turn=0.05, **ADAM)
    play(net, optimiser, 3)
    other.load_state_dict(net.state_dict())
    again = Muon(list(other.parameters()), matrices([other]), turn=0.05, **ADAM)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    ours, theirs = play(net, optimiser, 3), play(other, again, 3)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_rare_directions_are_learnt_as_fast_as_common_ones():
    """A linear map of inputs, one direction of which is 30 times weaker, is found sooner than by Adam."""

    def error(turn):
        torch.manual_seed(0)
        net = nn.Linear(8, 8, bias=False)
        wanted = torch.randn(8, 8)
        wanted *= net.weight.norm().item() / wanted.norm()
        scales = torch.logspace(0, -1.5, 8)
        optimiser = Muon(list(net.parameters()), matrices([net]), turn=turn, lr=1e-2, betas=(0.6, 0.99))
        for _ in range(100):
            x = torch.randn(64, 8) * scales
            optimiser.zero_grad()
            (net(x) - x @ wanted.T).square().mean().backward()
            optimiser.step()
        return (net.weight - wanted).norm().item()

    assert error(0.05) < 0.5 * error(0.0)
