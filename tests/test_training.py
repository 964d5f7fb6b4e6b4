"""Laws of the trainer, the checkpoint and the batches, stated with a toy game of two players."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anomalib_gan import checkpoint, data, holding, models, oddness
from anomalib_gan.model import Model, Player
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.training import EMA, WARM_UP, Trainer, derive_seed, schedule


class Toy(Model):
    """A critic and a maker that mends noisy images; small enough for a thousand rounds."""

    stride, halo = 4, 4

    def __init__(
        self, channels: int = 1, width: int = 4, patch: int = 16, batch: int = 4, noise: float = 0.5, norm: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.batch, self.noise = channels, patch, batch, noise
        self.G = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.D = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))
        self.register_buffer("usual", torch.zeros(()))

    def players(self):
        return {"critic": Player((self.D,), 1e-2), "maker": Player((self.G,), 2e-2)}

    def play(self, batches, progress):
        x = next(batches)
        y = self.G(x + self.noise * torch.randn_like(x))
        yield "critic", {"real": (self.D(x) - 1).square().mean(), "fake": self.D(y.detach()).square().mean()}
        x = next(batches)
        y = self.G(x + self.noise * torch.randn_like(x))
        yield "maker", {"adv": (self.D(y) - 1).square().mean(), "rec": (y - x).square().mean()}

    def reconstruct(self, x):
        return self.G(x)

    def sample(self, n, height, width):
        return self.G(torch.randn(n, self.channels, height, width))

    def anomaly_map(self, x):
        return (self.G(x) - x).abs().mean(1, keepdim=True) - self.usual

    def settle(self, normals):
        with torch.no_grad():
            self.usual.copy_(torch.stack([self.anomaly_map(x).mean() for x in normals]).mean())


class Game(Toy):
    """A toy whose moves are given."""

    def __init__(self, moves) -> None:
        super().__init__()
        self.moves = moves

    def play(self, batches, progress):
        x = next(batches)
        for who, terms in self.moves:
            yield who, {name: term(self, x) for name, term in terms.items()}


def batches(n: int) -> Tensor:
    return 2 * torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(derive_seed(0, n))) - 1


def trainer(steps: int | None = 12, **options) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Toy(), batches, steps, **options)


def same(a, b) -> bool:
    """Bit for bit, through dicts, lists and tensors; seconds aside, which no two runs share."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("who", ["critic", "maker"])
def test_a_move_changes_the_parameters_of_exactly_its_player(who):
    # Both terms depend on both networks, so that only the trainer keeps the other one still.
    play = Trainer(Game([(who, {"adv": lambda toy, x: toy.D(toy.G(x)).square().mean()})]), batches, 1)
    before = copy.deepcopy(dict(play.model.named_parameters()))
    list(play)
    moved = {name[0] for name, now in play.model.named_parameters() if not torch.equal(now, before[name])}
    assert moved == {"critic": {"D"}, "maker": {"G"}}[who]
    assert all(parameter.grad is None for parameter in play.model.parameters())


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_resumed_equals_uninterrupted_bit_for_bit(cut, tmp_path):
    whole = trainer()
    seen = [progress.losses for progress in whole]
    first = trainer()
    for progress in first:
        if progress.step == cut:
            break
    extra = {"spec": {}, "settled": None, "map_scale": None, "card": {}}
    checkpoint.save(tmp_path / "c.pt", {**first.state_dict(), **extra})
    torch.manual_seed(99)  # another process has other weights and another generator
    second = Trainer(Toy(), batches, None)
    second.load_state_dict(checkpoint.load(tmp_path / "c.pt"))
    torch.rand(7)
    assert [progress.losses for progress in second] == seen[cut:]
    assert same(second.state_dict(), whole.state_dict())


def test_breaking_off_and_going_on_changes_nothing():
    whole, parts = trainer(), trainer()
    list(whole)
    while parts.step < 12:
        for _ in parts:
            torch.rand(3)
            break
    assert same(parts.state_dict(), whole.state_dict())


def test_the_seed_matters_and_the_surroundings_do_not():
    def weights(seed, noise):
        toy = trainer(4, seed=seed)
        torch.manual_seed(noise)
        list(toy)
        return toy.state_dict()["model"]

    assert same(weights(1, 5), weights(1, 6))
    assert not same(weights(1, 5), weights(2, 5))


def test_a_term_that_is_not_finite_is_named_and_moves_nothing():
    broken = {"fine": lambda toy, x: toy.D(x).mean(), "log": lambda toy, x: toy.D(x).mean() * torch.inf}
    play = Trainer(Game([("critic", broken)]), batches, 3)
    before = copy.deepcopy(play.model.state_dict())
    with pytest.raises(FloatingPointError, match=r"player 'critic': its term 'log' is -?inf in round 0"):
        list(play)
    assert same(play.model.state_dict(), before)


def test_a_gradient_that_is_not_finite_is_named_and_moves_nothing():
    root = {"root": lambda toy, x: (toy.D(x) * 0).sum().sqrt()}
    play = Trainer(Game([("critic", root)]), batches, 3)
    before = copy.deepcopy(play.model.state_dict())
    with pytest.raises(FloatingPointError, match="player 'critic': its gradient is nan"):
        list(play)
    assert same(play.model.state_dict(), before)


def test_where_losses_are_read_late_a_ruined_state_is_never_given_out(monkeypatch):
    monkeypatch.setattr(Trainer, "_precision", lambda self: nullcontext())
    play = Trainer(Game([("critic", {"log": lambda toy, x: toy.D(x).mean() * torch.inf})]), batches, 3)
    play.cuda = True  # as on a device, where each look at a loss waits for it
    rounds = iter(play)
    assert next(rounds).losses == {}
    with pytest.raises(FloatingPointError, match="'critic': its term 'log'"):
        play.state_dict()

    early, late = trainer(12), trainer(12)
    late.cuda = True
    each = [progress.losses["maker"]["rec"] for progress in early]
    read = [progress.losses["maker"]["rec"] for progress in late if progress.losses]
    assert (
        len(read) == 3
        and read[0] == pytest.approx(sum(each[:10]) / 10)
        and read[2] == pytest.approx(sum(each[10:]) / 2)
    )
    assert same(early.state_dict(), late.state_dict())


def test_a_move_of_nobody_or_of_nothing_is_an_error():
    with pytest.raises(KeyError, match="'judge'"):
        list(Trainer(Game([("judge", {"a": lambda toy, x: toy.D(x).mean()})]), batches, 1))
    with pytest.raises(ValueError, match=r"player 'critic' \(a\) depends on a parameter"):
        list(Trainer(Game([("critic", {"a": lambda toy, x: x.mean()})]), batches, 1))
    with pytest.raises(ValueError, match=r"player 'critic' \(a\) depends on a parameter"):
        list(Trainer(Game([("critic", {"a": lambda toy, x: toy.G(x).mean()})]), batches, 1))


def test_every_parameter_has_exactly_one_owner():
    def owned(players):
        toy = Toy()
        toy.players = lambda: players(toy)
        return Trainer(toy, batches, 1)

    with pytest.raises(ValueError, match=r"no player: .*D\.0\.weight"):
        owned(lambda toy: {"maker": Player((toy.G,), 1e-3)})
    with pytest.raises(ValueError, match=r"more than one player: .*D\.0\.weight"):
        owned(lambda toy: {"maker": Player((toy.G, toy.D), 1e-3), "critic": Player((toy.D,), 1e-3)})
    with pytest.raises(ValueError, match="not the model's"):
        owned(lambda toy: {"all": Player((toy.G, toy.D, nn.Linear(1, 1)), 1e-3)})


def test_the_averaged_weights_follow_their_formula_in_eval_mode():
    toy = trainer(8)
    expected = {name: parameter.detach().clone() for name, parameter in toy.model.named_parameters()}
    for n, _ in enumerate(toy, start=1):
        decay = min(EMA, (1 + n) / (10 + n))
        for name, parameter in toy.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
        assert not any(module.training for module in toy.ema.modules())
        assert toy.model.training
    for name, parameter in toy.ema.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
        assert not parameter.requires_grad
    assert same(dict(toy.ema.named_buffers()), dict(toy.model.named_buffers()))
    assert toy.ema.G[1].num_batches_tracked > 0


def test_finish_settles_a_copy_of_the_averaged_weights():
    toy = trainer(5)
    list(toy)
    before = copy.deepcopy(toy.state_dict())
    x = batches(0)[:1]
    model = toy.finish([x])
    assert same(dict(model.named_parameters()), dict(toy.ema.named_parameters()))
    assert abs(float(model.anomaly_map(x).mean())) < 1e-6 < abs(float(toy.ema.anomaly_map(x).mean()))
    assert same(toy.state_dict(), before)
    assert not model.training


def test_a_model_without_players_is_only_settled():
    class Closed(Toy):
        def players(self):
            return {}

    play = Trainer(Closed(), batches, None)
    assert list(play) == []
    assert float(play.finish([batches(0)[:1]]).usual) != 0


def test_an_unplanned_training_stays_at_the_beginning_until_it_is_planned():
    toy = trainer(None)
    shares = []
    for progress in toy:
        shares.append(toy.progress)
        assert (progress.left is None) == (progress.steps is None)
        if progress.step == 3:
            toy.steps = 6
    assert shares == [0, 0, 0, 4 / 6, 5 / 6, 1]


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_learning_rate_rises_once_then_falls_to_nothing(a, b):
    low, high = sorted((a, b))
    assert 0 <= schedule(a) <= 1
    if high <= WARM_UP:
        assert schedule(low) <= schedule(high)
    if low >= WARM_UP:
        assert schedule(low) >= schedule(high)
    assert schedule(1.0) == 0 < schedule(0.0) < schedule(WARM_UP) == 1


# --- checkpoints


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(models.MODELS, "toy", Toy)
    toy = trainer(3)
    list(toy)
    settled = toy.finish([batches(0)[:1]]).state_dict()
    extra = {"spec": {"name": "toy", "params": {"width": 4}}, "settled": settled, "map_scale": [0.0, 1.0], "card": {}}
    checkpoint.save(tmp_path / checkpoint.NAME, {**toy.state_dict(), **extra})
    return tmp_path


def test_a_model_comes_back_as_it_was_stored(stored):
    model, state = checkpoint.load_model(stored)
    assert same(model.state_dict(), state["settled"])
    assert not model.training
    again = {name: tensor.clone() for name, tensor in state["settled"].items()}
    spec = {"params": {"width": 4}, "name": "toy"}
    assert checkpoint.model_hash(spec, again) == state["hash"]
    assert checkpoint.model_hash({**spec, "params": {"width": 4, "noise": 0.4}}, again) != state["hash"]
    next(iter(again.values())).view(-1)[0] += 1e-3
    assert checkpoint.model_hash(spec, again) != state["hash"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(stored, share):
    path = stored / checkpoint.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt .*truncated"):
        checkpoint.load(stored)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_foreign_files_are_refused_and_never_run(stored, monkeypatch):
    monkeypatch.chdir(stored)
    path = stored / checkpoint.NAME
    for content in (b"hello", pickle.dumps(Evil()), pickle.dumps({"schema": checkpoint.SCHEMA})):
        path.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt"):
            checkpoint.load(stored)
    torch.save({"schema": checkpoint.SCHEMA, "x": Evil()}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt"):
        checkpoint.load(stored)
    assert not (stored / "evil").exists()
    for value, reason in (
        (torch.ones(2), "no checkpoint of anomalib_gan"),
        ({"schema": "anomalib_gan/checkpoint/0"}, "schema 'anomalib_gan/checkpoint/0'"),
        ({"schema": checkpoint.SCHEMA, "step": 1}, "lacks spec"),
    ):
        torch.save(value, path)
        with pytest.raises(checkpoint.CheckpointError, match=reason):
            checkpoint.load(stored)
    path.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        checkpoint.load(stored)


def test_an_unfinished_run_gives_no_model(stored):
    state = checkpoint.load(stored)
    checkpoint.save(stored / checkpoint.NAME, {**state, "settled": None, "step": 2})
    with pytest.raises(checkpoint.CheckpointError, match=r"step 2 of 3.*--resume"):
        checkpoint.load_model(stored)


# --- images and batches


def texture(seed: int, height: int = 64, width: int = 96, grain: float = 2.0, level: float = 128.0) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(height, width)), (0, 0), grain)
    return np.clip(level + 30 * noise / noise.std(), 0, 254).astype(np.uint8)


def normal(grey: np.ndarray, name: str = "a.png", **options) -> data.Normal:
    tensor = torch.from_numpy(grey)
    tensor = tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)
    return data.Normal(Path(name), name, tensor, 255.0, options.get("pixel_size"))


def test_batch_n_is_a_pure_function_of_seed_and_n():
    images = [torch.from_numpy(texture(i))[None] for i in range(3)]
    a, b = data.Crops(images, 16, 5, seed=3), data.Crops(images, 16, 5, seed=3)
    forward = [a(n) for n in range(4)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    backward = [b(n) for n in reversed(range(4))][::-1]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(forward, backward)
    assert not torch.equal(forward[0], forward[1])
    assert not torch.equal(forward[0], data.Crops(images, 16, 5, seed=4)(0))
    assert forward[0].shape == (5, 1, 16, 16) and forward[0].dtype == torch.float32
    assert all(float(x.min()) >= -1 and float(x.max()) <= 1 for x in forward)


@given(st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_the_shares_of_all_processes_make_the_batch_of_one(world, n):
    images = [torch.from_numpy(texture(0))[None]]
    parts = [data.Crops(images, 16, 3, zoom=0.3, share=(rank, world))(n) for rank in range(world)]
    assert torch.equal(torch.cat(parts), data.Crops(images, 16, 3 * world, zoom=0.3)(n))


def test_held_back_pixels_never_appear_in_a_batch():
    images = []
    for i in range(3):
        grey = texture(i, 80, 200)
        images.append(normal(grey, f"{i}.png"))
    held = holding.hold_out(images, 16, seed=0)
    assert len(held) == 3
    for image, one in zip(images, held, strict=True):
        top, left, bottom, right = one.box
        image.grey[:, top:bottom, left:right] = 255  # a grey level that the textures do not have
    training, kept = holding.regions(images, held)
    assert all((region == 255).all() for region in kept)
    crops = data.Crops(training, 16, 64, flips=True, jitter=0)
    assert all(float(crops(n).max()) <= 2 * 254 / 255 - 1 + 1e-6 for n in range(20))


def test_every_position_is_reached_and_shown_as_it_is():
    image = torch.arange(6 * 7, dtype=torch.uint8).view(1, 6, 7)
    tall = torch.arange(100, 100 + 8 * 5, dtype=torch.uint8).view(1, 8, 5)
    crops = data.Crops([image, tall], 4, 200, flips=False, jitter=0)
    x = ((torch.cat([crops(0), crops(1)]) + 1) * 127.5).round().to(torch.uint8)
    corners = x[:, 0, 0, 0].tolist()
    for grey, offset, width in ((image, 0, 7), (tall, 100, 5)):
        rows, columns = grey.shape[1] - 3, grey.shape[2] - 3
        assert {offset + width * i + j for i in range(rows) for j in range(columns)} <= set(corners)
    for patch in x[:50, 0]:
        width = 5 if patch[0, 0] >= 100 else 7
        assert torch.equal(patch, patch[0, 0] + (width * torch.arange(4)[:, None] + torch.arange(4)).to(torch.uint8))


def test_patches_are_mirrored_and_jittered_one_by_one():
    ramp = torch.linspace(60, 180, 16).to(torch.uint8).expand(1, 16, 16).contiguous()
    mirrored = data.Crops([ramp], 16, 64, flips=True, jitter=0)(0)
    rising = mirrored[:, 0, 0, 0] < mirrored[:, 0, 0, -1]
    assert 10 < int(rising.sum()) < 54
    jittered = data.Crops([ramp], 16, 64, flips=False, jitter=0.1)(0)
    levels = (jittered + 1).mean((1, 2, 3)) / (data.signed(ramp) + 1).mean()
    assert 0.89 < float(levels.min()) < 0.95 and 1.05 < float(levels.max()) < 1.11
    assert len(levels.unique()) > 32


def test_patches_are_magnified_and_shrunk_one_by_one_within_the_image():
    rows = torch.arange(96)
    ramp = (2 * rows[:, None] + 0 * rows).to(torch.uint8)[None]  # its slope tells the magnification
    x = data.Crops([ramp], 32, 200, flips=False, jitter=0, zoom=0.5)(0)
    slope = (x[:, 0, 24] - x[:, 0, 8]).mean(-1) * 255 / 2 / 16 / 2
    assert 0.64 < float(slope.min()) < 0.72 and 1.4 < float(slope.max()) < 1.53
    assert 80 < int((slope < 1).sum()) < 120  # as often larger as smaller
    narrow = data.Crops([ramp[:, :34]], 32, 50, flips=False, jitter=0, zoom=1.0)(0)
    assert narrow.shape == (50, 1, 32, 32)


def test_small_images_are_mirrored_out_and_tiny_ones_refused():
    small = torch.from_numpy(texture(0, 20, 12))[None]
    filled = data.fill(small, 16)
    assert filled.shape == (1, 20, 16) and torch.equal(filled[..., :12], small)
    assert torch.equal(filled[..., 12:], small[..., 7:11].flip(-1))
    assert data.Crops([small], 16, 2)(0).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="20x8 px is smaller than half a training patch"):
        data.Crops([small[..., :8]], 16, 2)


def test_grey_and_deep_images_become_what_the_model_takes():
    grey = torch.full((1, 20, 20), 51, dtype=torch.uint8)
    deep = torch.full((1, 20, 20), 0.2)
    for image in (grey, deep):
        x = data.Crops([image], 16, 2, jitter=0, channels=3)(0)
        torch.testing.assert_close(x, torch.full((2, 3, 16, 16), -0.6))
    both = data.Crops([grey, deep], 16, 20, jitter=0)(0)  # one folder may hold both kinds
    torch.testing.assert_close(both, torch.full((20, 1, 16, 16), -0.6))


@given(st.lists(st.tuples(st.integers(16, 60), st.integers(16, 900)), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_split_leaves_a_patch_and_loses_nothing(sizes, seed):
    images = [normal(np.zeros(size, np.uint8), f"{i}.png") for i, size in enumerate(sizes)]
    held = holding.hold_out(images, 16, seed)
    training, kept = holding.regions(images, held)
    assert sum(part.numel() for part in [*training, *kept]) == sum(image.grey.numel() for image in images)
    assert training and all(part.shape[2] >= 16 for part in training)
    assert holding.hold_out(images, 16, seed) == held
    if len(images) >= 8:
        assert all(one.box is None for one in held) and len(held) == round(0.2 * len(images))
    for one in held:
        if one.box is not None and one.box[3] >= 5 * 128:
            assert one.box[3] - one.box[1] == round(0.2 * one.box[3])


def write(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", grey)[1].tobytes())


def test_the_normal_images_of_a_folder_of_any_layout_are_found(tmp_path):
    write(tmp_path / "plain/a/1.png", texture(0))
    write(tmp_path / "plain/b/2.png", texture(1))
    write(tmp_path / "mvtec/train/good/3.png", texture(0))
    write(tmp_path / "mvtec/test/bad/4.png", texture(1))
    assert [path.name for path in data.normal_files(tmp_path / "plain")] == ["1.png", "2.png"]
    assert [path.name for path in data.normal_files(tmp_path / "mvtec")] == ["3.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty holds no image"):
        data.normal_files(tmp_path / "empty")
    with pytest.raises(ImageError, match="nowhere is not a folder"):
        data.normal_files(tmp_path / "nowhere")


def test_reading_keeps_levels_and_removes_the_info_bar(tmp_path):
    grey = texture(0)
    write(tmp_path / "a.png", grey)
    write(tmp_path / "b.png", np.repeat(grey[..., None], 3, axis=2))  # grey in three channels
    tifffile.imwrite(tmp_path / "c.tif", grey.astype(np.uint16) * 257)
    images, warnings = data.read_normals(data.normal_files(tmp_path), info_bar=10)
    assert warnings == []
    for image in images:
        assert image.grey.shape == (1, 54, 96)
        torch.testing.assert_close(data.signed(image.grey)[0], torch.from_numpy(grey[:54] / 127.5 - 1).float())
    assert data.fingerprint(images) == data.fingerprint(images[::-1]) != data.fingerprint(images[:2])


def test_colour_among_grey_is_refused_by_name(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", texture(i))
    write(tmp_path / "pink.png", np.dstack([texture(0), texture(1), texture(2)]))
    with pytest.raises(ImageError, match=r"pink\.png is a colour image and 3 others are not"):
        data.read_normals(data.normal_files(tmp_path), info_bar=0)


def test_a_large_collection_is_used_evenly_and_that_is_said(tmp_path):
    for i in range(16):
        write(tmp_path / f"{i:02}.png", texture(i, 32, 32))
    images, warnings = data.read_normals(data.normal_files(tmp_path), info_bar=0, budget=4 * 32 * 32)
    assert [int(image.path.stem) for image in images] == [0, 4, 8, 12]
    assert len(warnings) == 1 and "training uses 4 of them" in warnings[0]
    images, warnings = data.read_normals(data.normal_files(tmp_path)[:1], info_bar=0, budget=20 * 32)
    assert images[0].grey.shape == (1, 20, 32) and "upper 20 of 32 rows" in warnings[0]


def test_mixed_pixel_sizes_are_told(tmp_path):
    for i, size in enumerate((0.1, 0.1, 0.1, 0.2)):  # um
        resolution = (1e4 / size, 1e4 / size)
        tifffile.imwrite(tmp_path / f"{i}.tif", texture(i), resolution=resolution, resolutionunit="CENTIMETER")
    images, warnings = data.read_normals(data.normal_files(tmp_path), info_bar=0)
    assert data.pixel_size(images) == pytest.approx(0.1)
    assert [warning for warning in warnings if "3.tif has 0.2 um" in warning and "1 of 4" in warning]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [({"level": 200.0}, "grey"), ({"grain": 0.1}, "spectrum|contrast"), ({"grain": 7.0}, "spectrum|contrast")],
)
def test_the_odd_image_is_found_among_its_like(odd, reason):
    images = [normal(texture(i, 256, 256), f"{i}.png") for i in range(7)]
    assert not any(one["odd"] for one in oddness.oddest(images))
    found = oddness.oddest([*images, normal(texture(9, 256, 256, **odd), "odd.png")])
    assert found[0]["path"] == "odd.png" and found[0]["odd"]
    assert pytest.approx(found[0]["z"]) == max(one["z"] for one in found)
    assert any(word in found[0]["reasons"][0] for word in reason.split("|"))
    assert oddness.oddest(images[:3]) == []
