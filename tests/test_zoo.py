"""Every model of the zoo by the same commands, and told of in the same page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli import Cli
from test_laws import SMALL
from test_training import texture, write

from anomalib_gan import gates
from anomalib_gan.accuracy import ROWS
from anomalib_gan.models import MODELS, build
from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.files import read_json
from anomalib_gan.specs import keywords

ZOO = (Path(__file__).parents[1] / "docs/zoo.md").read_text(encoding="utf-8")
HOLE = (slice(40, 80), slice(60, 110))
STACKS = Path(__file__).parents[1] / "data_samples/volumes"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small data set in MVTec layout, whose defect is a hole."""
    root = tmp_path_factory.mktemp("set")
    for i in range(2):
        write(root / f"train/good/{i}.png", texture(i, 128, 256))
    write(root / "test/good/0.png", texture(8, 128, 192))
    image, mask = texture(9, 128, 192), np.zeros((128, 192), np.uint8)
    image[HOLE], mask[HOLE] = 10, 255
    write(root / "test/hole/0.png", image)
    write(root / "ground_truth/hole/0_mask.png", mask)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_goes_through_every_command(name, dataset, tmp_path, monkeypatch, capsys):
    told, run, bundle = Cli(monkeypatch, capsys), tmp_path / "run", tmp_path / "bundle"
    monkeypatch.setattr(gates, "CROPS", 8)  # many are for bundles that leave the house
    params = {**({"shrink": 2} if "shrink" in keywords(name) else {}), **SMALL.get(name, {})}
    written = [
        word for key, value in params.items() for word in ("--param", f"{key}={json.dumps(value).strip(chr(34))}")
    ]
    group, first = (), "hole/0.png"
    if MODELS[name].dim == 3:
        group, first, dataset = ("stacks",), "void/000.tif", STACKS
    test = dataset / "test"
    code, _, errors = told("train", dataset, "--out", run, "--model", name, "--steps", 3, "--device", "cpu", *written)
    assert code == 0, errors
    if build(name, **params).mapped is not True:
        for command in (("calibrate", run), ("evaluate", run, dataset), ("export", run, "--out", bundle)):
            code, _, errors = told(*command)
            assert code == 2 and f"the {name} in {run} is no detector: " in errors and not bundle.exists()
        return
    for command in ((*group, "calibrate", run), (*group, "evaluate", run, dataset)):
        code, _, errors = told(*command)
        assert code == 0, errors
    card = read_json(run / "card.json")
    assert card["spec"]["name"] == name and card["spec"]["params"].items() >= params.items()
    assert card["steps"] == (3 if build(name, **params).players() else 0)
    report = read_json(run / "evaluation" / dataset.name / "evaluation.json")
    assert 0 <= report["overall"]["pixel"]["auroc"] <= 1
    code, _, errors = told(*group, "score", run, test, "--out", tmp_path / "results")
    assert code in (0, 1), errors
    assert (tmp_path / "results/results.csv").exists() and (tmp_path / f"results/maps/{first}.tif").exists()

    code, _, errors = told("export", run, "--out", bundle)
    if build(name, **params).exportable is not True:
        reason = "the model looks at stacks" if group else "not exportable: the map needs an optimisation"
        assert code == 2 and reason in errors and not bundle.exists()
        return
    assert code == 0, errors
    one, other = (open_inspector(path, device="cpu")(test / "hole/0.png") for path in (run, bundle))
    low, high = card["map_scale"]
    assert one.verdict == other.verdict and np.abs(one.map - other.map).max() < 1e-3 * (high - low)


def test_the_page_of_the_zoo_tells_of_every_model_and_shows_the_pictures_that_are_drawn():
    told = re.findall(r"^### `(\w+)`\n\n\w", ZOO, re.M)
    assert set(told) == set(MODELS) and len(told) == len(MODELS)
    drawn = sorted((Path(__file__).parents[1] / "docs/zoo").glob("*.png"))
    assert sorted(re.findall(r"^!\[\w+\]\(zoo/(\w+)\.png\)$", ZOO, re.M)) == [picture.stem for picture in drawn]
    for picture in drawn:
        assert picture.stem in MODELS and picture.stat().st_size < 60_000
        assert cv2.imread(str(picture)) is not None


@pytest.mark.slow
def test_the_benchmark_measures_and_the_page_draws_closed_forms_and_inversions_alike(dataset, tmp_path, monkeypatch):
    from pipelines.accuracy import accuracy

    page = tmp_path / "zoo.md"
    page.write_text("<!-- accuracy -->\n<!-- /accuracy -->\n", encoding="utf-8")
    monkeypatch.setitem(ROWS, "lsgan", ("lsgan", {"width": 4, "code": 4, "steps": 2}))
    accuracy([dataset], out=tmp_path / "out", models=["gaussian", "lsgan"], steps=2, threads=1, readme=page)
    text = page.read_text(encoding="utf-8")
    assert "| gaussian | 0 |" in text and "closed form" in text and "--models 'gaussian,lsgan'" in text
    assert "map of lsgan takes an optimisation" in text
    runs = tmp_path / "out" / dataset.name
    found = {name: read_json(runs / f"{name}-0/benchmark.json") for name in ("gaussian", "lsgan")}
    assert found["lsgan"]["proxy_crops"] != found["gaussian"]["proxy_crops"]
    for one in found.values():
        assert one["views"] == {} and 0 <= one["proxy"] <= 1 and one["ms_per_megapixel"] > 0

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    import zoo

    for name, panels in (("gaussian", 2), ("lsgan", 3)):
        out = tmp_path / f"{name}.png"
        zoo.draw(runs / f"{name}-0", dataset / "test/hole/0.png", out)
        picture = cv2.imread(str(out))
        width = round(192 * zoo.HEIGHT / 128)
        assert picture.shape == (zoo.HEIGHT, panels * width + (panels - 1) * zoo.GAP, 3)
        assert out.stat().st_size < 60_000
        grey = picture[:, :width].astype(int)
        assert (grey.max(2) == grey.min(2)).all() and (picture[:, -width:].max(2) != picture[:, -width:].min(2)).any()
