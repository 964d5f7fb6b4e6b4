"""What translation between unpaired domains promises, and what it cannot: seeded, on one thread."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from test_train_cli import interrupted
from test_training import same, texture, write

from anomalib_gan import checkpoint
from anomalib_gan.corruption import smooth_noise
from anomalib_gan.model import Pair
from anomalib_gan.models import build
from anomalib_gan.replay import Pool
from anomalib_gan.runtime.image import open_image
from anomalib_gan.training import Trainer
from anomalib_gan.translation import Translator
from pipelines.train import train

SIDE = 32
# What is to change its colours must not be asked to keep them, as the identity loss does.
SMALL = {
    "channels": 3,
    "translator": True,
    "width": 8,
    "blocks": 1,
    "patch": SIDE,
    "batch": 8,
    "lr": 2e-3,
    "identity": 0.0,
}


def ids(x):
    return x[:, 0, 0, 0].long().tolist()


@settings(max_examples=50, deadline=None)
@given(size=some.integers(0, 6), batches=some.lists(some.integers(1, 5), max_size=20), seed=some.integers(0, 99))
def test_a_pool_gives_each_image_itself_or_one_given_earlier_and_keeps_each_at_most_once(size, batches, seed):
    torch.manual_seed(seed)
    pool, known = Pool(size, 1, 2), 0
    for count in batches:
        fresh = torch.arange(known + 1, known + count + 1).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        before, room = Counter(ids(pool.images[: int(pool.held)])), size - int(pool.held)
        given_back = ids(pool.exchange(fresh))
        after = Counter(ids(pool.images[: int(pool.held)]))
        assert max(after.values(), default=1) == 1 and int(pool.held) == min(size, known + count)
        own = [one == other for one, other in zip(given_back, ids(fresh), strict=True)]
        assert all(own[:room])
        assert all(1 <= one <= mine for one, mine in zip(given_back, ids(fresh), strict=True))
        older = Counter(one for one, mine in zip(given_back, own, strict=True) if not mine)
        stayed = Counter(ids(fresh)[:room])
        entered = Counter(mine for mine, same in zip(ids(fresh)[room:], own[room:], strict=True) if not same)
        assert before + stayed + entered == after + older  # what is given back from the pool has left it
        known += count


def test_a_full_pool_gives_every_second_image_back_and_goes_on_from_its_buffers():
    torch.manual_seed(0)
    pool = Pool(50, 1, 2)
    images = torch.arange(1.0, 2051).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    pool.exchange(images[:50])
    own = pool.exchange(images[50:1050]) == images[50:1050]
    assert 450 < int(own[:, 0, 0, 0].sum()) < 550
    again = Pool(50, 1, 2)
    again.load_state_dict(pool.state_dict())
    found = []
    for one in (pool, again):
        torch.manual_seed(1)
        found.append(one.exchange(images[1050:]))
    assert torch.equal(*found)


def first(n):
    """Images of the first domain, (n, 3, SIDE, SIDE): soft bright spots, each channel with a level of its own."""
    noise = torch.cat([smooth_noise(SIDE, SIDE, 8, torch.empty(1)) for _ in range(n)])  # (n, 1, SIDE, SIDE)
    spots = (noise - 0.5).clamp(0, 1.5)
    level, strength = torch.tensor([[-0.7, -0.4, 0.1], [0.9, 0.5, 0.4]])[..., None, None]
    return (level + strength * spots).clamp(-0.9, 0.9)


def second_of(x):
    """The known map: contrast inverted, red to green to blue to red, and a fixed fine texture laid over."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    texture = 0.12 * (2.0 * ((rows // 2 + columns // 2) % 2) - 1)
    return 0.85 * -x.roll(1, 1) + texture


def unpaired(second):
    def batch(n):
        state = torch.random.get_rng_state()
        torch.manual_seed(n)
        pair = Pair(first(SMALL["batch"]), second(first(SMALL["batch"])))
        torch.random.set_rng_state(state)
        return pair

    return batch


def played(second, steps):
    torch.manual_seed(0)
    model = build("cycle_gan", **SMALL)
    trainer = Trainer(model, unpaired(second), steps, seed=0, ema=0.99)
    for _ in trainer:
        pass
    seen = unpaired(second)(10_000)
    return trainer.finish([Pair(x[None], y[None]) for x, y in zip(*seen, strict=True)])


def away(one, other):
    return float((one - other).abs().mean())


@pytest.mark.slow
def test_an_invertible_map_of_colour_and_texture_is_found_from_images_that_nobody_paired():
    model, untrained = played(second_of, 240), build("cycle_gan", **SMALL).eval()
    torch.manual_seed(1000)
    x = first(32)
    y = second_of(x)
    with torch.no_grad():
        found, back = model.translate(x), model.translate(y, back=True)
        again, nothing = model.translate(found, back=True), untrained.translate(x)
    assert away(found, y) < 0.25 * min(away(x, y), away(nothing, y))
    # Of images of the other domain it is not just any, but this one's.
    assert away(found, y) < 0.7 * away(y.mean(0), y) and away(back, x) < 0.7 * away(x.mean(0), x)
    assert away(again, x) < 0.06
    texture = second_of(torch.zeros(1, 3, SIDE, SIDE))
    laid, taken = (float((one * texture).mean() / texture.square().mean()) for one in (found, back))
    assert 0.7 < laid < 1.3 and abs(taken) < 0.3


@torch.no_grad()
@pytest.mark.parametrize("back", [False, True])
def test_what_lies_beyond_the_reach_of_a_generator_cannot_come_over_so_nothing_is_moved_far(back):
    torch.manual_seed(0)
    model = build("cycle_gan", **{**SMALL, "channels": 1}).eval()
    reach = model.G.reach
    x = torch.rand(1, 1, 8, 8 + 4 * -(-2 * reach // 4)) * 2 - 1
    y = x.clone()
    y[..., -1] *= -1
    before, after = (model.translate(one, back=back)[..., 0, :] for one in (x, y))
    changed = (before != after).nonzero()[:, -1]
    assert x.shape[-1] - 1 - reach <= int(changed.min()) < x.shape[-1] - 1


def test_folders_without_partners_make_a_translator_and_a_killed_training_keeps_its_pools(tmp_path, monkeypatch):
    for i, size in enumerate(((40, 72), (48, 56))):
        write(tmp_path / f"in/{i}.png", texture(i, *size))
    for name in "abc":
        write(tmp_path / f"out/{name}.png", 255 - texture(ord(name), 40, 40))
    params = {"width": 4, "blocks": 1, "patch": 16, "batch": 2, "pool": 3}
    given = {"to": tmp_path / "out", "model": "cycle_gan", "params": params, "steps": 5, "device": "cpu"}
    whole = train(tmp_path / "in", out=tmp_path / "whole", **given)
    with monkeypatch.context() as patch:
        interrupted(patch, at=4)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "in", out=tmp_path / "killed", checkpoint_every=0, **given)
    kept = checkpoint.load(tmp_path / "killed")["model"]
    assert kept["drawn_x.held"] == kept["drawn_y.held"] == 3 and kept["drawn_y.images"].flatten(1).any(1).all()
    killed = train(tmp_path / "in", out=tmp_path / "killed", resume=True)
    a, b = checkpoint.load(whole), checkpoint.load(killed)
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "optimisers", "settled"))

    translator = Translator.load(whole, device="cpu", tile=16)
    with open_image(tmp_path / "in/0.png", info_bar=0) as picture:
        levels = translator(picture)
    x = torch.from_numpy(texture(0, 40, 72) / 127.5 - 1)[None, None].float()
    expected = (translator.model.translate(x)[0, 0] + 1) * 127.5
    assert levels.shape == (40, 72) and np.abs(levels - expected.numpy()).max() <= 0.501
