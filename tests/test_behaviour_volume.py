"""What 3D-GAN promises, on the foam of data_samples: seeded, small, on one thread.

Blocks have 16 voxels along each axis here, with the nets narrowed likewise; 32 take eight times as long.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from anomalib_gan.data import Crops, read_normals
from anomalib_gan.models import build
from anomalib_gan.nets import Critic
from anomalib_gan.training import Trainer
from anomalib_gan.volumes import read_stack

SAMPLES = Path(__file__).parents[1] / "data_samples"
sys.path.insert(0, str(SAMPLES))

import foam  # noqa: E402

SMALL = {"side": 16, "width": 8, "batch": 24}


@cache
def foams():
    return read_normals(sorted((SAMPLES / "volumes/train/good").iterdir()), read=read_stack)[0]


def blocks(model):
    return Crops([one.grey for one in foams()], model.patch, model.batch, jitter=0.0)


def porosity(x):
    """The share of pore voxels of (N, 1, D, H, W) in [-1, 1], by a fixed threshold."""
    return float((x < foam.MIDDLE / 127.5 - 1).float().mean())


def begun(**params):
    torch.manual_seed(0)
    return build("gan3d", **{**SMALL, **params})


def played(model, steps):
    trainer = Trainer(model, blocks(model), steps, seed=0)
    for _ in trainer:
        pass
    return trainer.ema.eval()


@torch.no_grad()
def drawn(model, n=64):
    torch.manual_seed(1)
    return model.G(model.prior(torch.empty(n, 1, *[model.patch] * 3)))


@pytest.mark.slow
def test_what_it_draws_has_the_porosity_of_the_foam_that_it_was_trained_on():
    model = begun()
    real = porosity(torch.cat([blocks(model)(n) for n in range(8)]))
    assert abs(porosity(drawn(model.eval())) / real - 1) > 0.2
    assert porosity(drawn(played(model, 320))) == pytest.approx(real, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["slice", "projection"])
@torch.no_grad()
def test_the_volume_of_a_picture_looks_like_that_picture_and_not_like_another(view):
    def told(model):
        """How often the volume of a picture is nearer to it than to another picture, of all pairs."""
        y = model.pictured(blocks(model)(1000))
        again = model.pictured(model.volume(y))
        apart = (again[:, None] - y[None]).square().mean((2, 3, 4))  # (N, N): of the volume of i from picture j
        return float((apart.diagonal()[:, None] < apart).sum() / (len(y) * (len(y) - 1)))

    model = begun(picture=True, view=view)
    assert told(model.eval()) < 0.65
    with torch.enable_grad():
        model = played(model.train(), 160)
    assert told(model) > 0.85


class Bright(nn.Module):
    """A critic that calls bright blocks real, with one weight, and is right on blocks of +-1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x.mean((2, 3, 4), keepdim=True)


def test_the_critic_moves_only_while_at_most_80_of_100_of_its_answers_are_right():
    model = begun(batch=10)
    model.D = Critic(Bright(), nn.Identity())
    model.G = nn.Conv3d(model.code, 1, 1)
    with torch.no_grad():
        model.G.weight.zero_()
        model.G.bias.fill_(-1.0)  # so every fake is told

    def movers(bright):
        """Of ten real blocks so many are bright: right are they and the ten fakes, of twenty."""
        x = torch.full((10, 1, 16, 16, 16), -1.0)
        x[:bright] = 1.0
        return [who for who, _ in model.play(iter([x]), 0.0)]

    assert movers(6) == ["critic", "generator"]  # 16 of 20: 80 %
    assert movers(7) == ["generator"]
    model.accuracy = 0.9
    assert movers(7) == ["critic", "generator"]


def test_the_critic_learns_more_slowly_than_the_generator():
    players = begun(slower=0.1).players()
    assert players["critic"].lr == pytest.approx(0.1 * players["generator"].lr)


def test_without_an_encoder_there_is_no_volume_of_a_picture():
    with pytest.raises(ValueError, match="has no encoder of pictures: train with --param picture=true"):
        begun().volume(torch.zeros(1, 1, 16, 16))
