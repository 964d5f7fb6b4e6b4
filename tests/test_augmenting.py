"""Laws of trainings that are fed with what another run generates or paints, and with real defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_cli import interrupted
from test_training import Toy, same, texture, write

from anomalib_gan import augmenting, checkpoint, models
from anomalib_gan.accuracy import FED_BY, ROWS
from anomalib_gan.augmenting import SAMPLED, SHARE, Helper, Painting, Sampling, WithDefects, read_defects
from anomalib_gan.data import Crops
from anomalib_gan.holding import Held
from anomalib_gan.models import build
from anomalib_gan.run_settings import Settings
from anomalib_gan.runtime.files import read_json
from pipelines.accuracy import accuracy
from pipelines.train import train

PAINTER = {"width": 8, "code": 3, "patch": 32, "batch": 4, "shrink": 1}
DETECTOR = {"width": 8, "code": 4, "patch": 32, "shrink": 1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def zoo(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", Toy)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Normal images, a run of a generator, one of a painter and one of a detector."""
    root = tmp_path_factory.mktemp("fed")
    for i in range(3):
        write(root / f"normal/{i}.png", texture(i, 64, 192))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", Toy)
        train(root / "normal", out=root / "toy", model="toy", steps=2)
        train(root / "normal", out=root / "painter", model="mask_gan", steps=2, params=PAINTER)
        train(root / "normal", out=root / "detector", model="fcbigan", steps=2, params=DETECTOR)
    return root


def crops(batch: int = 8, patch: int = 32) -> Crops:
    torch.manual_seed(1)
    return Crops([0.4 + 0.1 * torch.rand(1, 64, 96) for _ in range(2)], patch, batch, seed=3)


def helper(run: Path, net=None) -> Helper:
    return Helper.load(run, SHARE, net or build("fcbigan", **DETECTOR), "fcbigan", CPU)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_fed_batch_is_a_function_of_seed_and_number_and_leaves_randomness_alone(place):
    for run in ("toy", "painter"):
        feed, other = (helper(place / run).feed(crops(), seed) for seed in (3, 4))
        state = torch.random.get_rng_state()
        one = feed(5)
        assert torch.equal(state, torch.random.get_rng_state())
        torch.rand(7)
        assert same(feed(5), one) and not same(feed(6), one) and not same(other(5), one)


def test_a_share_of_the_patches_is_drawn_by_the_generator_and_the_others_are_as_they_were(place):
    plain, fed = crops()(5), helper(place / "toy").feed(crops(), 0)(5)
    assert isinstance(helper(place / "toy").feed(crops(), 0), Sampling)
    assert fed.shape == plain.shape and torch.equal(fed[:6], plain[:6])
    assert not any(torch.equal(one, x) for one in fed[6:] for x in plain)
    model, _ = checkpoint.load_model(place / "toy")
    torch.manual_seed(0)
    assert float(fed[6:].std()) == pytest.approx(float(model.sample(2, 32, 32).clamp(-1, 1).std()), rel=0.5)


def test_painted_defects_come_beside_the_normal_patches_that_they_are_painted_on(place):
    feed = helper(place / "painter").feed(crops(), 0)
    assert isinstance(feed, Painting)
    plain, fed = crops()(5), feed(5)
    assert torch.equal(fed.x, plain) and fed.y.shape == (2, 1, 32, 32) and fed.mask.shape == (2, 1, 32, 32)
    assert set(fed.mask.unique().tolist()) <= {0.0, 1.0} and ((fed.y - plain[6:]).abs() > 0).any()


def test_where_nobody_could_see_a_painted_defect_there_is_none(place):
    painter, _ = checkpoint.load_model(place / "painter", mapped=False)
    painter.paint = lambda x, mask, z: x + 1e-4 * mask
    assert not Painting(crops(), painter, SHARE, 0)(1).mask.any()
    painter.paint = lambda x, mask, z: torch.where(mask > 0, torch.ones_like(x), x - 2)
    assert Painting(crops(), painter, SHARE, 0)(1).mask.any()


def test_the_detector_learns_what_is_painted_as_spoilt(place):
    net = build("fcbigan", **DETECTOR)
    fed = helper(place / "painter").feed(crops(), 0)(5)
    torch.manual_seed(0)
    ((clean, spoilt, opacity),) = net.shown([fed], net.shrink)
    assert torch.equal(clean, fed.x[:2]) and torch.equal(spoilt[-2:], fed.y) and torch.equal(opacity[-2:], fed.mask)
    torch.manual_seed(0)
    (plain,) = net.shown([fed.x[:6]], net.shrink)
    for one, other in zip(plain, (clean, spoilt[:4], opacity[:4]), strict=True):
        assert torch.equal(one, other), "what is not painted is spoilt as ever"
    more = fed._replace(y=fed.x, mask=torch.ones(8, 1, 32, 32))
    assert torch.equal(net.shown([more], net.shrink)[0][1], fed.x[:6])


def test_patches_of_defects_are_cut_with_their_masks_and_hold_some_of_them():
    torch.manual_seed(2)
    mask = torch.zeros(80, 60, dtype=torch.bool)
    mask[70:75, 4:9] = True
    image = torch.where(mask, 0.9, 0.4 * torch.rand(80, 60))[None]
    feed = WithDefects(crops(batch=16), [(image, mask)])
    for n in range(4):
        _, y, m = feed(n)
        assert same(feed(n), feed(n)) and y.shape == (16, 1, 32, 32)
        assert torch.equal(y > 0.5, m > 0) and m.flatten(1).any(1).all()


# --- trainings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "model", "params"), [("toy", "toy", {}), ("painter", "fcbigan", DETECTOR)])
def test_a_fed_run_that_was_interrupted_ends_as_one_that_was_not(place, tmp_path, monkeypatch, run, model, params):
    options = {"model": model, "steps": 6, "seed": 5, "params": params, "augment_with": place / run}
    whole = train(place / "normal", out=tmp_path / "whole", **options)
    plain = train(place / "normal", out=tmp_path / "plain", **{**options, "augment_with": None})
    with monkeypatch.context() as patch:
        interrupted(patch, at=4)
        with pytest.raises(KeyboardInterrupt):
            train(place / "normal", out=tmp_path / "x", checkpoint_every=0, **options)
    again = train(place / "normal", out=tmp_path / "x", resume=True)
    a, b, c = (checkpoint.load(one) for one in (whole, again, plain))
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "optimisers", "settled", "map_scale"))
    assert not same(a["model"], c["model"])


def test_a_run_that_was_fed_by_another_run_is_not_resumed(place, tmp_path, monkeypatch):
    train(place / "normal", out=tmp_path / "g", model="toy", steps=2)
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(
                place / "normal", out=tmp_path / "x", model="toy", steps=9, checkpoint_every=0,
                augment_with=tmp_path / "g",
            )  # fmt: skip
    (tmp_path / "g").rename(tmp_path / "old")
    train(place / "normal", out=tmp_path / "g", model="toy", steps=3)
    with pytest.raises(ValueError, match="g is not what the run began with"):
        train(place / "normal", out=tmp_path / "x", resume=True)


def test_the_card_tells_what_fed_the_run_and_what_that_changed(place, tmp_path, capsys):
    options = {"model": "fcbigan", "steps": 2, "params": DETECTOR, "augment_with": place / "painter"}
    run = train(place / "normal", out=tmp_path / "x", compare_with=place / "detector", augment_share=0.5, **options)
    card = read_json(run / "card.json")
    _, state = checkpoint.load_model(place / "painter", mapped=False)
    fed = card["augmented"]
    assert fed["run"] == str(place / "painter") and fed["hash"] == state["hash"] and fed["share"] == 0.5
    assert set(fed["proxy"]) == {"with", "without"} and all(0 <= value <= 1 for value in fed["proxy"].values())
    said = capsys.readouterr().out
    assert f"without ({place / 'detector'}) {fed['proxy']['without']:.4f}" in said and "50% painted defects" in said
    train(place / "normal", out=tmp_path / "y", **options)
    assert "only a run without them tells (--compare-with RUN)" in capsys.readouterr().out
    assert set(read_json(tmp_path / "y/card.json")["augmented"]["proxy"]) == {"with"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "gaussian", "augment_with": "toy"}, "fitted in closed form: leave"),
        ({"model": "mask_gan", "augment_with": "toy"}, "gives no map, so nothing of it could be compared"),
        ({"model": "toy", "augment_with": "painter"}, "paints defects, and toy as it is learns from none"),
        ({"model": "fcbigan", "params": {"negatives": 0.0}, "augment_with": "painter"}, "learns from none"),
        ({"model": "toy", "augment_with": "toy", "augment_share": 0.01}, "a share of 0.01 of 4 patches is none or all"),
        ({"model": "toy", "augment_with": "toy", "augment_share": 1.0}, "is none or all"),
        ({"model": "toy", "augment_with": "normal"}, "train a model first"),
        ({"model": "toy", "compare_with": "toy"}, "tells what --augment-with changed: give that, too"),
        (
            {"model": "toy", "augment_with": "toy", "compare_with": "painter"},
            "the mask_gan in .*painter is no detector",
        ),
        ({"model": "toy", "defects": "toy"}, "toy learns from normal images alone: leave --defects out"),
        ({"model": "mask_gan", "defects": "normal"}, "normal has no folder 'test'"),
    ],
)
def test_what_cannot_feed_is_refused_with_a_mend(place, tmp_path, options, told):
    paths = {key: place / value for key, value in options.items() if key in ("augment_with", "compare_with", "defects")}
    with pytest.raises(ValueError, match=told):
        train(place / "normal", out=tmp_path / "x", steps=1, **{**options, **paths})
    assert not (tmp_path / "x").exists()


def test_runs_of_other_images_or_another_split_are_not_compared(place, tmp_path):
    for i in range(2):
        write(tmp_path / f"other/{i}.png", texture(i + 9, 64, 192))
    other = train(tmp_path / "other", out=tmp_path / "o", model="toy", steps=1)
    options = {"out": tmp_path / "x", "model": "toy", "steps": 1, "augment_with": place / "toy"}
    with pytest.raises(ValueError, match="was trained on other images"):
        train(place / "normal", compare_with=other, **options)
    wide = train(place / "normal", out=tmp_path / "w", model="toy", steps=1, params={"patch": 96})
    with pytest.raises(ValueError, match="held other pixels back"):
        train(place / "normal", compare_with=wide, **options)


def test_a_helper_that_saw_what_is_held_back_is_told(place, tmp_path):
    images = read_json(place / "toy/card.json")["data"]["images"]
    held = read_json(place / "toy/split.json")["held"]
    mine = [Held(one["path"], one["sha256"], tuple(one["box"])) for one in held]
    assert helper(place / "toy").leaks(mine) == []
    whole = [Held(images[0]["path"], images[0]["sha256"], None)]
    assert "was trained on pixels that are held back here" in helper(place / "toy").leaks(whole)[0]
    assert helper(place / "toy").leaks([Held("elsewhere.png", "0" * 64, None)]) == []


def test_nothing_held_back_means_nothing_measured():
    assert augmenting.compared(Toy(), [], None) is None
    told = augmenting.verdict(None, {"share": 0.25, "what": SAMPLED}, None)
    assert told == "what 25% samples among the normal patches changed was not measured: no pixels were held back"


# --- real defects ----------------------------------------------------------------------------------------------------


def dataset(root: Path) -> Path:
    for i in range(2):
        image, mask = texture(20 + i, 64, 96), np.zeros((64, 96), np.uint8)
        image[10:30, 20:50], mask[10:30, 20:50] = 5, 255
        write(root / f"test/hole/{i}.png", image)
        write(root / f"ground_truth/hole/{i}_mask.png", mask)
    write(root / "test/good/0.png", texture(30, 64, 96))
    return root


def test_a_painter_learns_from_real_defects_and_its_card_names_them(place, tmp_path, monkeypatch):
    root = dataset(tmp_path / "set")
    options = {"model": "mask_gan", "steps": 5, "params": PAINTER, "defects": root}
    whole = train(place / "normal", out=tmp_path / "whole", **options)
    card = read_json(whole / "card.json")
    assert card["defects"]["images"] == 2 and len(card["defects"]["sha256"]) == 2 and card["map_scale"] is None
    assert (whole / "painted.png").stat().st_size > 5000 and not (whole / "reconstructions.png").exists()
    plain = train(place / "normal", out=tmp_path / "plain", **{**options, "defects": None})
    with monkeypatch.context() as patch:
        interrupted(patch, at=4)
        with pytest.raises(KeyboardInterrupt):
            train(place / "normal", out=tmp_path / "x", checkpoint_every=0, **options)
    again = train(place / "normal", out=tmp_path / "x", resume=True)
    a, b, c = (checkpoint.load(one) for one in (whole, again, plain))
    assert all(same(a[key], b[key]) for key in ("model", "ema", "settled")) and not same(a["model"], c["model"])


def test_defects_without_marks_are_refused(tmp_path):
    root, settings = dataset(tmp_path / "set"), Settings(model="mask_gan")
    images, masks = read_defects(root, settings)
    assert [one.path.name for one in images] == ["0.png", "1.png"] and all(int(one.sum()) == 600 for one in masks)
    write(root / "ground_truth/hole/1_mask.png", np.zeros((64, 96), np.uint8))
    with pytest.raises(ValueError, match=r"1_mask\.png marks no pixel"):
        read_defects(root, settings)
    for path in (root / "ground_truth/hole").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="has no image with a mask"):
        read_defects(root, settings)


@pytest.mark.slow
def test_the_benchmark_trains_what_feeds_a_row_first_and_says_so(tmp_path, monkeypatch):
    root = dataset(tmp_path / "set")
    for i in range(2):
        write(root / f"train/good/{i}.png", texture(i, 64, 192))
    monkeypatch.setitem(ROWS, "painted negatives", ("fcbigan", {**DETECTOR, "smoothing": 2.0}))
    monkeypatch.setitem(FED_BY, "painted negatives", "toy")  # that generates, and is small
    text = accuracy([root], out=tmp_path / "out", models=["painted negatives"], steps=1, threads=1).read_text()
    assert "The row painted negatives was fed by a run of toy, whose training of the same length is not counted" in text
    card = read_json(tmp_path / "out/set/painted-negatives-0/card.json")
    assert card["augmented"]["run"] == str(tmp_path / "out/set/toy-0") and card["augmented"]["what"] == SAMPLED
