"""One range from training to verdict: 12 bits in 16-bit files, or floats with a white, are the picture of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
from test_score import rows, save
from test_train_cli import interrupted
from test_training import Toy, same, texture
from typer.testing import CliRunner

from anomalib_gan import checkpoint, data, models
from anomalib_gan.opening import open_inspector
from anomalib_gan.records.pictures import read_map
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import levels
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import ImageError
from pipelines.calibrate import calibrate
from pipelines.evaluate import evaluate
from pipelines.score import score
from pipelines.train import command, train

# Levels 0 to 15 of 15, which 8 and 12 bits and floats all hold exactly: 17 and 273 to a level.
KINDS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], dict[str, Any], float]] = {
    "8 bit": (".png", lambda level: 17 * level.astype(np.uint8), {}, 255.0),
    "12 bit PNG": (".png", lambda level: 273 * level.astype(np.uint16), {"bits": 12}, 4095.0),
    "12 bit TIFF": (".tif", lambda level: 273 * level.astype(np.uint16), {"bits": 12}, 4095.0),
    "float TIFF": (".tif", lambda level: level.astype(np.float32) / 2, {"white": 7.5}, 7.5),
}
OTHERS = [kind for kind in KINDS if kind != "8 bit"]


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "toy", Toy)


def make(root: Path, kind: str) -> Path:
    """A data set in MVTec layout of one kind of file: the pictures are those of every other kind."""
    suffix, encode, *_ = KINDS[kind]
    for seed in range(5):
        level = texture(seed, 48, 64) // 17
        if seed > 3:
            level[20:30, 20:30] = 15
        place = ("train/good", "train/good", "train/good", "test/good", "test/spot")[seed]
        save(root / place / f"{seed}{suffix}", encode(level))
    mask = np.zeros((48, 64), np.uint8)
    mask[20:30, 20:30] = 255
    save(root / "ground_truth/spot/4.png", mask)
    return root


def chain(root: Path, kind: str, **options: Any) -> tuple[Path, Calibration, dict[str, Any]]:
    """Train, calibrate, score, evaluate; only the training is told the range."""
    dataset = make(root / "data", kind)
    run = train(dataset, out=root / "run", model="toy", steps=4, device="cpu", **KINDS[kind][2], **options)
    calibration = calibrate(run, device="cpu")
    score(run, dataset / "test", out=root / "out", device="cpu")
    return run, calibration, evaluate(run, dataset, device="cpu")


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", Toy)
        return chain(tmp_path_factory.mktemp("eight"), "8 bit")


@pytest.mark.parametrize("kind", OTHERS)
def test_the_whole_chain_gives_what_8_bits_give(
    eight: tuple[Path, Calibration, dict[str, Any]], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, calibration, report = chain(tmp_path, kind)
    name, value = next(iter(KINDS[kind][2].items()))
    assert capsys.readouterr().err.count(f"grey levels are read as in training: --{name} {value:g}") == 3
    card = read_json(run / "card.json")
    assert card["data"]["white"] == KINDS[kind][3] and card["settings"][name] == value

    there, expected, its_report = eight
    for key, tensor in checkpoint.load(there)["settled"].items():
        np.testing.assert_allclose(checkpoint.load(run)["settled"][key], tensor, rtol=1e-4, atol=1e-5)
    assert calibration.scores == pytest.approx(expected.scores, abs=1e-4)
    assert calibration.pixel == pytest.approx(expected.pixel, abs=1e-4)
    suffix = KINDS[kind][0]
    for path in ("good/3", "spot/4"):
        found = read_map(tmp_path / "out/maps" / f"{path}{suffix}.tif")
        np.testing.assert_allclose(found, read_map(there.parent / "out/maps" / f"{path}.png.tif"), atol=2e-3)
    assert [row["verdict"] for row in rows(tmp_path / "out").values()] == [
        row["verdict"] for row in rows(there.parent / "out").values()
    ]
    for figure, value in its_report["overall"]["pixel"].items():
        assert report["overall"]["pixel"][figure] == pytest.approx(value, abs=0.01)


def test_a_map_of_12_bits_is_that_of_the_picture_rounded_to_8(
    eight: tuple[Path, Calibration, dict[str, Any]], tmp_path: Path
) -> None:
    fine = texture(7, 96, 128).astype(float) * 16 + np.random.default_rng(0).integers(0, 16, (96, 128))
    save(tmp_path / "in/a.png", fine.astype(np.uint16))
    for bits, out in ((12, "twelve"), (16, "sixteen")):
        score(eight[0], tmp_path / "in", out=tmp_path / out, bits=bits, device="cpu")
    inspector = open_inspector(eight[0], device="cpu")
    rounded = inspector((fine * 255 / 4095).round().astype(np.uint8)).map
    assert rounded is not None
    low, high = inspector.backend.scale
    right, wrong = (
        np.abs(read_map(tmp_path / out / "maps/a.png.tif") - rounded.clip(low, None)).max() / (high - low)
        for out in ("twelve", "sixteen")
    )
    assert right < 0.05 < 0.2 < wrong


def test_a_resumed_run_keeps_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path / "data", "12 bit PNG")
    whole = train(dataset, out=tmp_path / "whole", model="toy", steps=5, bits=12)
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, out=tmp_path / "x", model="toy", steps=5, bits=12, checkpoint_every=0)
    run = train(dataset, out=tmp_path / "x", model="toy", white=9000, resume=True)
    a, b = checkpoint.load(whole), checkpoint.load(run)
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "settled", "map_scale", "sheet"))
    assert b["card"]["settings"]["bits"] == 12 and b["card"]["settings"]["white"] is None
    assert (run / "reconstructions.png").read_bytes() == (whole / "reconstructions.png").read_bytes()


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("float TIFF", [], r"0\.tif: float32 pixels have no white of their own: give white= \(--white\)"),
        ("float TIFF", ["--bits", 12], "no white of their own"),
        ("float TIFF", ["--white", 0], "white=0.0 is no grey level"),
        ("12 bit PNG", ["--bits", 10], r"0\.png: a pixel of \d+ lies above white = 1023"),
        ("12 bit PNG", ["--bits", 17], "bits=17 does not fit uint16 pixels: give 1 to 16"),
        ("8 bit", ["--bits", 12], "bits=12 does not fit uint8 pixels"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, kind: str, options: list[object], reason: str
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    arguments = [make(tmp_path / "data", kind), "--out", tmp_path / "x", "--model", "toy", "--steps", 2, *options]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    with pytest.raises(ImageError, match=reason):
        raise result.exception or AssertionError(result.output)
    assert not (tmp_path / "x").exists()


def test_floats_beyond_white_are_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.linspace(0, 2, 48 * 64, dtype=np.float32).reshape(48, 64))
    assert data.read_normals([tmp_path / "a.tif"], white=2.0)[1] == []
    (warning,) = data.read_normals([tmp_path / "a.tif"], white=1.0)[1]
    assert "a.tif" in warning and "outside 0 to white = 1" in warning


@pytest.mark.parametrize(
    ("trained", "white_then", "given", "holds", "told"),
    [
        ({}, 255.0, (None, None), (None, None), None),
        ({"bits": 12, "white": None}, 4095.0, (None, None), (12, None), "as in training: --bits 12"),
        ({"bits": None, "white": 0.5}, 0.5, (None, None), (None, 0.5), "as in training: --white 0.5"),
        ({"bits": 12, "white": None}, 4095.0, (12, None), (12, None), None),
        ({"bits": 12, "white": None}, 4095.0, (None, 4095.0), (None, 4095.0), None),
        ({"bits": 12, "white": None}, 4095.0, (10, None), (10, None), "white is 1023 here and was 4095 in training"),
        ({"bits": None, "white": 0.5}, 0.5, (12, None), (12, None), "white is 4095 here and was 0.5"),
        ({"bits": 12, "white": None}, 4095.0, (12, 300.0), (12, 300.0), "white is 300 here"),
    ],
)
def test_the_option_holds_and_else_the_card(
    trained: dict[str, Any],
    white_then: float,
    given: tuple[int | None, float | None],
    holds: tuple[int | None, float | None],
    told: str | None,
) -> None:
    heard: list[str] = []
    assert levels({"settings": trained, "data": {"white": white_then}}, *given, tell=heard.append) == holds
    assert len(heard) == (told is not None) and (told or "") in "".join(heard)


def test_without_a_card_only_the_options_hold() -> None:
    for given in ((None, None), (12, None), (None, 2.0)):
        assert levels({}, *given, tell=pytest.fail) == given
