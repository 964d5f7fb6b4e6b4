"""What a translator promises: it learns a known translation, and restores what was hidden of a normal image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, interpolate, pad

from anomalib_gan.model import Pair
from anomalib_gan.models import build
from anomalib_gan.nets_translation import Squares
from anomalib_gan.training import Trainer
from anomalib_gan.translating import worth


def drawn(count, seed, side=48):
    """Cloudy images (count, 1, side, side) in [-1, 1] with discs on them."""
    generator = torch.Generator().manual_seed(seed)
    clouds = interpolate(torch.randn(count, 1, side // 6, side // 6, generator=generator), side, mode="bicubic")
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for image in clouds:
        for _ in range(4):
            top, left, radius, level = (torch.rand(4, generator=generator) * torch.tensor([side, side, 6, 2])).tolist()
            image[:, (rows - top).square() + (columns - left).square() < (radius + 2) ** 2] = level - 1
    return (0.5 * clouds).clamp(-1, 1)


def negative(x):
    """The known translation: dark becomes bright, and out of focus."""
    return -avg_pool2d(pad(x, (1,) * 4, mode="replicate"), 3, stride=1)


def played(model, batch, steps):
    trainer = Trainer(model, batch, steps, seed=0)
    for _ in trainer:
        pass
    return trainer


@pytest.mark.slow
def test_pix2pix_learns_a_known_translation():
    torch.manual_seed(0)
    model = build("pix2pix", translator=True, width=12, patch=48, batch=8)
    unseen = [Pair(x[None], negative(x[None])) for x in drawn(12, seed=10**6)]
    untrained = worth(model.eval(), unseen)["translated"]["l1"]

    def batch(n):
        x = drawn(model.batch, seed=n)
        return Pair(x, negative(x))

    found = worth(played(model, batch, 150).finish(unseen), unseen)
    assert found["translated"]["l1"] < 0.25 * min(untrained, found["input"]["l1"])
    assert found["translated"]["psnr"] > found["input"]["psnr"] + 10


@pytest.mark.slow
def test_pix2pix_restores_from_its_surroundings_what_it_never_saw():
    """Of waves, whose phase and direction its surroundings tell; of noise there is nothing that they could tell."""
    torch.manual_seed(0)
    model = build("pix2pix", width=12, patch=48, batch=8, hidden=4)

    def waves(count, seed):
        generator = torch.Generator().manual_seed(seed)
        phase, angle = (torch.rand(count, 1, 1, 1, generator=generator) * 6.3 for _ in range(2))
        rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
        return 0.8 * torch.sin((rows * angle.sin() + columns * angle.cos()) / 2 + phase)

    trained = played(model, lambda n: waves(8, n), 150).finish([waves(1, n) for n in range(8)])
    with torch.no_grad():
        usual, noise = waves(8, 10**6), torch.rand(8, 1, 48, 48) * 1.6 - 0.8
        missed, hopeless = ((trained.reconstruct(x) - x).abs().mean() for x in (usual, noise))
    assert missed < 0.25 * usual.abs().mean() and hopeless > 2 * missed


@given(st.sampled_from([4, 8, 12]), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_every_pixel_is_hidden_exactly_once_wherever_a_tile_begins(side, down, right, channels):
    squares = Squares(side, channels)
    x = 1 + torch.rand(1, channels, down * squares.period, right * squares.period)
    times = torch.zeros_like(x)
    for k in range(Squares.PASSES):
        one = slice(k, k + 1)
        hidden, only = squares.hidden(x, one), squares.only(x, one)
        assert torch.equal(hidden + only, x) and not (hidden * only).any()
        times += hidden == 0
        assert torch.equal(squares.hidden(x, torch.tensor([k])), hidden)
        wide = squares.hidden(pad(x, (squares.period, 0, squares.period, 0)), one)  # the grid goes on from tile to tile
        assert torch.equal(wide[..., squares.period :, squares.period :], hidden)
        seen = (hidden != 0).float()
        assert (avg_pool2d(seen, side).sum((-2, -1)) == 3 * down * right).all()
    assert (times == 1).all()


@torch.no_grad()
def test_no_pixel_of_the_map_was_seen_by_the_pass_that_restored_it():
    torch.manual_seed(0)
    model = build("pix2pix", width=8, patch=32, hidden=4, smoothing=0.0, residual="l1").eval()
    x = torch.rand(1, 1, 32, 32) * 2 - 1
    again = model.reconstruct(x)
    for row, column in ((0, 0), (5, 9), (31, 16)):
        y = x.clone()
        square = (..., slice(row // 4 * 4, row // 4 * 4 + 4), slice(column // 4 * 4, column // 4 * 4 + 4))
        y[square] = torch.rand(4, 4)
        changed = model.reconstruct(y)
        assert torch.equal(changed[square], again[square]) and not torch.equal(changed, again)
    assert torch.equal(model.anomaly_map(x), (again - x).abs())


def test_the_critic_is_shown_both_images_and_the_generator_hears_of_it():
    torch.manual_seed(0)
    model = build("pix2pix", translator=True, width=8, patch=32, batch=2, l1=0.0).train()
    x, y, other = drawn(6, seed=0, side=48)[..., :32, :32].split(2)
    assert not torch.allclose(model.answer(x, y), model.answer(other, y))
    moves = dict(model.play(iter([Pair(x, y)]), 0.0))
    for who, net in (("critic", model.D), ("generator", model.G)):
        gradients = torch.autograd.grad(sum(moves[who].values()), list(net.parameters()), retain_graph=True)
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_squares_and_patches_that_do_not_fit_the_lattice_are_refused():
    with pytest.raises(ValueError, match="squares of 6 px do not lie on the lattice of the U-Net: give a multiple"):
        build("pix2pix", hidden=6)
    with pytest.raises(ValueError, match="a patch of 40 px is not cut along the lattice: let 16 divide it"):
        build("pix2pix", patch=40)
