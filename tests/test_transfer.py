"""Networks that learnt normal images, as features of defects with few labels: a fair comparison, and what it says."""

from __future__ import annotations

import copy
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from sklearn.linear_model import LogisticRegression
from test_cli import Cli
from test_training import texture, write

from anomalib_gan.data import Crops as Patches
from anomalib_gan.data import normal_files, read_normals
from anomalib_gan.model import Labelled
from anomalib_gan.models import MODELS, build
from anomalib_gan.runtime.files import read_json
from anomalib_gan.training import Trainer
from anomalib_gan.transfer import Classifier, Crops, Row, compare, drawn, pooled, read_crops, trunks_of
from pipelines.train import train

FOLDER = Path(__file__).parents[1] / "data_samples"
sys.path.insert(0, str(FOLDER))

import defects  # noqa: E402

KINDS = ("coarse", "even", "fine")


def crops_of(each=12, side=64, kinds=3):
    """Noise of three grains, (3 each, 1, side, side)."""
    rng, found = np.random.default_rng(0), []
    for sigma in (2.5, 1.5, 0.5)[:kinds]:
        white = rng.standard_normal((each, side, side))
        grain = np.stack([cv2.GaussianBlur(one, (0, 0), sigma) for one in white])
        found.append(0.4 * grain / grain.std())
    x = torch.from_numpy(np.concatenate(found)).float().clamp(-1, 1)[:, None]
    return Crops(x, torch.arange(kinds).repeat_interleave(each), KINDS[:kinds])


def small(seed=0, name="ae", **params):
    torch.manual_seed(seed)
    return build(name, **{"width": 8, "code": 4, **params}).eval()


@given(st.lists(st.integers(9, 20), min_size=2, max_size=4), st.integers(0, 100))
def test_labels_are_nested_balanced_and_never_tested_on(sizes, seed):
    y = torch.cat([torch.full((n,), kind) for kind, n in enumerate(sizes)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    pools, test = drawn(y, (2, 3, 4), seed)
    for count, pool in pools.items():
        assert y[pool].bincount().tolist() == [count] * len(sizes) and len(set(pool.tolist())) == len(pool)
    assert all(set(one.tolist()) < set(other.tolist()) for one, other in pairwise(pools.values()))
    assert sorted([*pools[4].tolist(), *test.tolist()]) == list(range(len(y)))


def test_a_network_gains_nothing_over_itself_and_is_left_as_it_was():
    model = small(name="gan")  # without norm layers, whose statistics an untrained network takes from the labels
    before = copy.deepcopy(model.state_dict())
    crops = crops_of(side=model.patch)
    state = torch.random.get_rng_state()
    rows = compare(model, lambda seed: copy.deepcopy(model), crops, counts=(2, 4), repeats=2, steps=4)
    assert [(row.network, row.features, row.labels) for row in rows] == [
        ("critic", "frozen", 2), ("critic", "fine-tuned", 2), ("critic", "frozen", 4), ("critic", "fine-tuned", 4)
    ]  # fmt: skip
    assert all(row.trained == row.scratch and row.beats == "not decided" for row in rows)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_a_network_beats_another_where_the_paired_t_test_says_so(pairs):
    trained, scratch = zip(*pairs, strict=True)
    gains = np.subtract(trained, scratch)
    if np.ptp(gains) < 1e-6:  # the test knows no such samples
        return
    row, test = Row("encoder", "frozen", 5, trained, scratch), ttest_rel(trained, scratch)
    low, high = test.confidence_interval(0.95)
    assert row.gain == pytest.approx(((low + high) / 2, (high - low) / 2), abs=1e-9)
    if abs(test.pvalue - 0.05) > 1e-6:
        assert row.beats == ("not decided" if test.pvalue > 0.05 else "yes" if gains.mean() > 0 else "no")


@pytest.mark.parametrize("kinds", [2, 3])
def test_fine_tuning_begins_with_what_the_logistic_regression_says_and_learns_on(kinds):
    crops, trunk = crops_of(kinds=kinds), small().E
    with torch.no_grad():
        z = pooled(trunk(crops.x))
    z = (z - z.mean(0)) / z.std(0)
    head = LogisticRegression(max_iter=10_000, C=0.01).fit(z.numpy(), crops.y.numpy())
    net = Classifier(trunk, 1, head, pooled(trunk(crops.x)).mean(0).detach(), pooled(trunk(crops.x)).std(0).detach())
    with torch.no_grad():
        found = net.eval()(crops.x).softmax(1).numpy()
    assert np.allclose(found, head.predict_proba(z.numpy()), atol=1e-4)
    trainer = Trainer(net, lambda n: Labelled(crops.x, crops.y), 30, seed=0)
    losses = [progress.losses["classifier"]["surprise"] for progress in trainer]
    assert losses[-1] < 0.7 * losses[0]
    first = next(iter(trunk.parameters())), next(iter(net.trunk.parameters()))
    assert not torch.equal(*first)  # the trunk moved, too, and what it was copied from did not
    assert all(torch.equal(a, b) for a, b in zip(trunk.buffers(), net.trunk.buffers(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(MODELS[name], "trunks") and MODELS[name].dim == 2])
def test_every_trunk_makes_a_field_of_features_of_images_and_hears_of_all_its_layers(name):
    model = build(name).eval()
    side = max(model.stride, model.smallest) // getattr(model, "shrink", 1)
    for trunk in model.trunks().values():
        field = trunk(torch.rand(2, model.channels, side, side) * 2 - 1)
        assert field.dim() == 4 and len(field) == 2 and torch.isfinite(field).all() and field.std() > 0


def write_crops(root, crops):
    for k, (x, y) in enumerate(zip(crops.x, crops.y.tolist(), strict=True)):
        write(root / crops.names[y] / f"{k:03d}.png", ((x[0].numpy() + 1) * 127.5).round().astype(np.uint8))


def test_crops_are_read_as_they_were_written_and_cut_to_the_middle_that_all_have(tmp_path):
    crops = crops_of(each=3, side=72)
    write_crops(tmp_path, crops)
    found = read_crops(tmp_path, small())  # of stride 16
    assert found.names == KINDS and torch.equal(found.y, crops.y)
    assert torch.allclose(found.x, crops.x[..., 4:68, 4:68], atol=1 / 127)


def test_crops_that_cannot_be_learnt_from_are_refused_with_a_reason(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        read_crops(tmp_path / "nowhere", small())
    write_crops(tmp_path, crops_of(each=3, kinds=1))
    with pytest.raises(ValueError, match="crops of 1 classes: give folders of at least two"):
        read_crops(tmp_path, small())
    write(tmp_path / "loose.png", texture(0, 64, 64))
    with pytest.raises(ValueError, match=r"loose\.png lies beside the class folders"):
        read_crops(tmp_path, small())
    (tmp_path / "loose.png").rename(tmp_path / "coarse/loose.png")
    write(tmp_path / "other/tiny.png", texture(0, 15, 64))
    with pytest.raises(ValueError, match=r"tiny\.png has 15x64 px, and this model takes 16 at least"):
        read_crops(tmp_path, small())
    with pytest.raises(ValueError, match="'coarse' has 12 crops, and 8 labels with 5 to test on need 13"):
        compare(small(), small, crops_of(), counts=(2, 8))
    with pytest.raises(ValueError, match="Gaussian has neither an encoder nor a critic"):
        trunks_of(build("gaussian"))


def test_the_command_writes_the_table_of_every_network_and_number_of_labels(tmp_path, monkeypatch, capsys):
    told = Cli(monkeypatch, capsys)
    for i in range(2):
        write(tmp_path / f"normal/{i}.png", texture(i, 128, 160))
    params = {"width": 8, "code": 4, "patch": 64, "shrink": 1}
    run = train(tmp_path / "normal", out=tmp_path / "run", model="ganomaly", steps=2, params=params, device="cpu")
    write_crops(tmp_path / "crops", crops_of())
    given = ("explore", "transfer", run, "--labelled", tmp_path / "crops", "--out", tmp_path / "out")
    code, printed, errors = told(*given, "--labels", "2,4", "--repeats", 2, "--steps", 3)
    assert code == 0, errors
    assert "critic" in printed and "from scratch" in printed
    found = read_json(tmp_path / "out/transfer.json")
    assert {(row["network"], row["features"], row["labels"]) for row in found["rows"]} == {
        (network, features, count)
        for network in ("encoder", "critic")
        for features in ("frozen", "fine-tuned")
        for count in (2, 4)
    }
    assert found["classes"] == dict.fromkeys(KINDS, 12) and found["model"]["name"] == "ganomaly"
    assert (tmp_path / "out/transfer.md").read_text().count("\n| ") == 8
    code, _, errors = told(*given, "--labels", "5,some")
    assert code == 2 and "5,some" in errors
    write(tmp_path / "crops/coarse/colour.png", np.zeros((64, 64, 3), np.uint8) + np.array([9, 99, 200], np.uint8))
    assert "colour" in told.refuses(*given)


@pytest.mark.slow
def test_a_critic_that_learnt_the_material_beats_the_same_from_scratch_at_5_10_and_20_labels_a_class(tmp_path):
    """On the drawn kinds of defects, frozen and fine-tuned. Of the encoder that does not hold: see docs/transfer.md."""
    defects.write(tmp_path, 34, seed=3)
    grey = [image.grey for image in read_normals(normal_files(FOLDER))[0]]
    torch.manual_seed(0)
    model = build("fcbigan", width=16)
    trainer = Trainer(model, Patches(grey, model.patch, model.batch, seed=0), 150, seed=0)
    for _ in trainer:
        pass
    crops = read_crops(tmp_path, model)
    assert len(crops.names) == 6

    def alone(model):
        model.trunks = lambda trunks=model.trunks: {"critic": trunks()["critic"]}
        return model

    scratch = lambda seed: alone(small(seed, "fcbigan", width=16, code=16))  # noqa: E731
    critic = compare(alone(trainer.ema), scratch, crops, repeats=6, steps=10)
    assert [(row.features, row.labels) for row in critic] == [
        (features, count) for count in (5, 10, 20) for features in ("frozen", "fine-tuned")
    ]
    assert all(row.gain[0] > 0 for row in critic)
    assert all(row.beats == "yes" for row in critic if row.labels == 20)  # at fewer, draws vary by as much
