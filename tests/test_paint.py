"""The command `paint`: defects on normal images, as a labelled data set that `evaluate` reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import Cli
from test_training import texture, write

from anomalib_gan import checkpoint
from anomalib_gan.labelled import find_samples
from anomalib_gan.models import build
from anomalib_gan.painting import SEEN, drawn_mask, painted
from anomalib_gan.runtime.files import read_json
from pipelines.paint import paint
from pipelines.train import train

PARAMS = {"width": 8, "code": 3, "patch": 32, "batch": 4, "shrink": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Normal images, one of them in a sub-folder, and a run that paints."""
    root = tmp_path_factory.mktemp("paint")
    write(root / "normal/a.png", texture(0, 70, 150))
    write(root / "normal/b/a.png", texture(1, 90, 101))
    write(root / "tiny/a.png", texture(2, 20, 101))
    train(root / "normal", out=root / "run", model="mask_gan", steps=2, params=PARAMS, device="cpu")
    train(root / "normal", out=root / "toy", model="gaussian", params={"side": 8, "shrink": 1}, device="cpu")
    return root


@pytest.fixture
def cli(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_what_is_painted_is_a_labelled_data_set_and_the_same_for_the_same_seed(place, tmp_path):
    found = paint(place / "run", place / "normal", out=tmp_path / "one", count=5, seed=3, device="cpu")
    samples, notes = find_samples(tmp_path / "one")
    assert notes == [] and sorted(one.kind for one in samples) == ["good"] * 2 + ["painted"] * 5
    for one in (sample for sample in samples if sample.mask is not None):
        after, mask = read(one.image), read(one.mask)
        before = read(place / "normal" / ("b/a.png" if "b_a" in one.image.name else "a.png"))
        assert after.shape == before.shape == mask.shape and set(np.unique(mask)) == {0, 255}
        rows, columns = np.nonzero(mask)
        halo = 2 * 40 + 8
        far = np.ones(mask.shape, bool)
        far[max(0, rows.min() - halo) : rows.max() + halo, max(0, columns.min() - halo) : columns.max() + halo] = False
        assert np.array_equal(after[far], before[far]) and (after != before).any()
    told = read_json(tmp_path / "one/painted.json")
    assert told["images"] == found and told["hash"] == checkpoint.load_model(place / "run", mapped=False)[1]["hash"]
    assert all(one["pixels"] >= SEEN and one["inside"] >= 0 for one in found)

    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png")}
    for seed, alike in ((3, True), (4, False)):
        out = tmp_path / str(seed)
        paint(place / "run", place / "normal", out=out, count=5, seed=seed, device="cpu")
        masks = [name for name in files if "painted" in str(name)]
        same = [(out / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in masks]
        assert all(same) if alike else not any(same)


def test_masks_of_a_folder_say_where_and_their_images_are_found_by_name(place, tmp_path, capsys):
    mask = np.zeros((90, 101), np.uint8)
    mask[40:60, 30:50], mask[4:9, 80:99] = 255, 1
    write(tmp_path / "masks/b/a_mask.png", mask)
    paint(place / "run", place / "normal", out=tmp_path / "out", masks=tmp_path / "masks", device="cpu")
    assert "1 of 2 images have no mask" in capsys.readouterr().err
    (sample,) = (one for one in find_samples(tmp_path / "out")[0] if one.kind == "painted")
    assert sample.image.name == "b_a.png" and np.array_equal(read(sample.mask) > 0, mask > 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 96), st.sampled_from([1, 2, 4]), st.integers(0, 10**6))
def test_a_drawn_mask_covers_something_and_lies_on_the_grid_of_its_scale(side, scale, seed):
    side = side // scale * scale if side >= 16 * scale else 16 * scale
    torch.manual_seed(seed)
    mask = drawn_mask(side, scale)
    assert mask.shape == (1, 1, side, side) and set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.sum() >= SEEN * scale**2
    assert torch.equal(mask, mask[..., ::scale, ::scale].repeat_interleave(scale, -2).repeat_interleave(scale, -1))


def test_each_part_of_a_mask_is_painted_once_and_nothing_else_is_touched():
    seen = []

    class Marker(type(build("mask_gan", **PARAMS))):
        def paint(self, x, mask, z):
            seen.append(z)
            return x + mask

    model, x = Marker(**PARAMS).eval(), torch.zeros(1, 1, 203, 331)
    mask = np.zeros((203, 331), bool)
    mask[0:5, 0:7] = mask[180:203, 320:331] = mask[60:90, 100:110] = mask[62:88, 104:160] = True
    y = painted(model, x, mask)
    assert np.array_equal(y[0, 0].numpy(), mask) and not x.any()
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("paint {0}/toy {0}/normal --out {1}/x", "is a run of gaussian, which paints nothing: train one with"),
        ("paint {0}/run {0}/tiny --out {1}/x", "a.png is 20x101 px, too small to draw a mask on: give one by --masks"),
        ("paint {0}/nowhere {0}/normal --out {1}/x", "train a model first"),
        ("paint {0}/run {0}/nowhere --out {1}/x", "nowhere is not a folder"),
        ("paint {0}/run {0}/normal --out {0}/normal", "is not empty: choose another --out"),
        ("paint {0}/run {0}/normal --out {1}/x --count 0", "give at least 1"),
        ("paint {0}/run {0}/normal --out {1}/x --count 2 --masks {0}/normal", "leave it or --masks out"),
        ("paint {0}/run {0}/normal --out {1}/x --masks {1}", "has a mask in"),
        ("paint {0}/run {0}/normal --out {1}/x --masks {1}/small", "a_mask.png is 8x8 but its image"),
        ("calibrate {0}/run", "is no detector: it paints defects and finds none"),
        ("score {0}/run {0}/normal --out {1}/x", "is no detector"),
        ("evaluate {0}/run {0}/normal", "is no detector"),
        ("export {0}/run --out {1}/x", "is no detector"),
        ("benchmark proxy {0}/run", "is no detector"),
        ("benchmark generation {0}/run --out {1}/x", "generates nothing"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_mend(place, tmp_path, cli, arguments, told):
    for name in ("a", "b/a"):
        write(tmp_path / f"small/{name}_mask.png", np.ones((8, 8), np.uint8))
    assert told in cli.refuses(*(word.format(place, tmp_path) for word in arguments.split()))
    assert not [path for path in (tmp_path / "x").rglob("*") if path.is_file()]


def test_a_run_that_paints_can_be_diagnosed_though_it_has_no_map(place, cli):
    code, said, _ = cli("diagnose", place / "run")
    assert code == 0 and "diagnosis.md" in said.replace(str(place / "run/diagnosis"), "diagnosis.md")
