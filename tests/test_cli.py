"""The command line as its users meet it: a mistake is one line that names it and the mend, and exit code 2."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_training import texture, write

from anomalib_gan import checkpoint
from anomalib_gan.models import MODELS
from pipelines.calibrate import calibrate
from pipelines.cli import main
from pipelines.train import train

SMALLEST = 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with normal images and a calibrated run of them; copied where a test spoils it."""
    root = tmp_path_factory.mktemp("cli")
    for i in range(3):
        write(root / f"normal/{i}.png", texture(i, 64, 96))
    params = {"width": 4, "code": 4}
    run = train(root / "normal", out=root / "run", model="fcbigan_source", steps=2, params=params, device="cpu")
    calibrate(run, device="cpu")
    return root


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, with an empty folder, a folder without images, colour images and one that is too small."""
    root = tmp_path / "root"
    shutil.copytree(trained, root)
    (root / "empty").mkdir()
    (root / "other").mkdir()
    (root / "other/read me.txt").write_text("no image")
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name, picture in {
        "colour/a.png": colours,
        "mixed/b.png": colours,
        "mixed/0.png": texture(0, 64, 64),
        "mixed/1.png": texture(1, 64, 64),
        "small/c.png": texture(0, SMALLEST - 1, 64),
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return root


class Cli:
    """Calls the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        self.monkeypatch.setattr(sys, "argv", ["anomalib-gan", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output = self.capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    def refuses(self, *arguments: object) -> str:
        """The one line that it ends with."""
        code, _, err = self(*arguments)
        assert code == 2, err
        assert err.startswith("error: ") and len(err.splitlines()) == 1, err
        return err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train {0}/nowhere --out {0}/x", "nowhere is not a folder: give the folder with the normal images"),
        ("train {0}/empty --out {0}/x", "empty holds no image: give the folder"),
        ("train {0}/other --out {0}/x", "other holds no image"),
        ("train {0}/normal/0.png --out {0}/x", "0.png is not a folder"),
        ("train {0}/mixed --out {0}/x", "b.png is a colour image and 2 others are not: convert or remove it"),
        ("train {0}/small --out {0}/x --model fcbigan", "31x64 px is smaller than half a training patch"),
        ("train {0}/normal --out {0}/run", "holds a run already: continue it with --resume"),
        ("train {0}/normal --out {0}/x --model fcbigam", "no model is called 'fcbigam': choose one of"),
        ("train {0}/normal --out {0}/x --param alfa=1", "has no parameter 'alfa'; choose from"),
        (
            "train {0}/normal --out {0}/x --model lsgan --param score=x",
            "lsgan has no score 'x': choose one of loss, likelihood",
        ),
        ("calibrate {0}/nowhere", "is neither a run's folder nor a bundle: train a model with `anomalib-gan train"),
        ("calibrate {0}/empty", "checkpoint.pt does not exist: train a model first"),
        ("calibrate {0}/run --good {0}/nowhere", "nowhere is not a folder"),
        ("calibrate {0}/run --good {0}/empty", "empty holds no image"),
        ("calibrate {0}/run --good {0}/colour", "a.png: the image has colours but the model was trained on grey"),
        ("calibrate {0}/run --good {0}/small", "31x64 is smaller than the model's smallest image, 32x32 px: pad or"),
        ("calibrate {0}/run --rate 0", "rate"),
        ("score {0}/nowhere {0}/normal --out {0}/x", "is neither a run's folder nor a bundle"),
        ("score {0}/run {0}/nowhere --out {0}/x", "nowhere is not a folder"),
        ("score {0}/run {0}/empty --out {0}/x", "empty holds no image"),
        ("score {0}/run {0}/other --out {0}/x", "other holds no image (1 other files)"),
        ("score {0}/run {0}/normal --out {0}/normal", "choose another --out"),
        ("score {0}/run {0}/normal --out {0}/x --tile 4", "raise the tile size"),
        ("score {0}/run {0}/normal --out {0}/x --device cuda:99", "cuda:99"),
        ("evaluate {0}/nowhere {0}/normal", "is neither a run's folder nor a bundle"),
        ("evaluate {0}/run {0}/normal", "normal has no folder 'test': expected test/good/*, test/<defect>/*"),
        ("evaluate {0}/run {0}/nowhere", "nowhere has no folder 'test'"),
        ("benchmark speed {0}/nowhere --out {0}/x", "is neither a run's folder nor a bundle"),
        ("benchmark proxy {0}/nowhere", "nowhere does not exist: train a model first"),
        ("benchmark accuracy --data {0}/nowhere --models best --out {0}/x", "no row is called 'best': choose from"),
    ],
)
def test_a_mistake_is_one_line_with_the_mend(cli: Cli, place: Path, arguments: str, told: str) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert told in cli.refuses(*(word.format(place) for word in arguments.split()))
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before  # and nothing is written


def spoilt(run: Path, how: str) -> None:
    """Makes the run's checkpoint or calibration unusable."""
    stored = run / checkpoint.NAME
    if how == "foreign":
        torch.save({"weights": torch.zeros(3)}, stored)
    elif how == "another file":
        stored.write_bytes(b"RIFF, or whatever it is")
    elif how == "truncated":
        stored.write_bytes(stored.read_bytes()[:-2000])
    elif how == "unfinished":
        state: dict[str, Any] = checkpoint.load(stored)
        checkpoint.save(stored, {**state, "settled": None, "map_scale": None, "step": 1})
    elif how == "not calibrated":
        (run / "calibration.json").unlink()
    elif how == "calibration torn":
        (run / "calibration.json").write_bytes(b'{"review": 1')
    else:
        state = checkpoint.load(stored)
        state["spec"]["params"]["alpha"] = 0.25
        checkpoint.save(stored, state)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("foreign", "is a torch file but no checkpoint of anomalib_gan: give the run's checkpoint.pt"),
        ("another file", "is no checkpoint, or is truncated"),
        ("truncated", "is no checkpoint, or is truncated"),
        ("unfinished", "stopped at step 1 of 2: finish it with anomalib-gan train --resume"),
        ("not calibrated", "has no calibration, so no verdicts: run `anomalib-gan calibrate"),
        ("calibration torn", "calibration.json is not valid JSON"),
        ("another alpha", "the calibration belongs to model"),
    ],
)
def test_a_spoilt_run_is_one_line_with_the_mend(cli: Cli, place: Path, how: str, told: str) -> None:
    spoilt(place / "run", how)
    assert told in cli.refuses("score", place / "run", place / "normal", "--out", place / "x")
    assert not (place / "x").exists()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("colour", "the image has colours but the model was trained on grey images: convert it to grey"),
        ("small", "31x64 is smaller than the model's smallest image, 32x32 px: pad or enlarge it"),
    ],
)
def test_an_image_that_does_not_suit_the_model_is_a_row_and_not_the_end(
    cli: Cli, place: Path, folder: str, reason: str
) -> None:
    shutil.copy(place / "normal/0.png", place / folder / "fits.png")
    code, out, _ = cli("score", place / "run", place / folder, "--out", place / "x")
    assert code == 1 and "invalid  1" in out
    table = (place / "x/results.csv").read_text("utf-8-sig")
    assert reason in table and len(table.splitlines()) == 3
    assert reason.replace("'", "&#39;") in (place / "x/report.html").read_text("utf-8")


def test_too_little_memory_is_one_line(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib_gan.export import FullMap

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(FullMap, "forward", full)
    told = cli.refuses("calibrate", place / "run")
    assert "not enough memory: cpu cannot hold a window of 64x96 px: lower --tile" in told
    code, _, _ = cli("score", place / "run", place / "normal", "--out", place / "x")
    assert code == 1 and (place / "x/results.csv").read_text("utf-8-sig").count("lower --tile") == 3


def test_another_fault_of_the_network_is_not_taken_for_too_little_memory(place: Path) -> None:
    from anomalib_gan.opening import open_inspector

    inspector = open_inspector(place / "run", device="cpu")
    with pytest.raises(RuntimeError, match="channels"):
        inspector.backend(np.zeros((1, 2, 64, 64), np.float32), 255.0)


def test_the_zoo_is_listed_with_one_line_for_each_model(cli: Cli) -> None:
    code, out, _ = cli("models")
    head, *lines = out.splitlines()
    assert code == 0 and head.split()[:2] == ["model", "density"]
    assert [line.split()[0] for line in lines] == list(MODELS)
    (dictionary,) = (line for line in lines if line.startswith("sparse_coding "))
    assert all(word in dictionary for word in ("explicit", "closed form", "no", "Carrera"))


def test_the_command_lists_its_commands_and_its_version(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0 and all(name in out for name in ("train", "calibrate", "score", "evaluate"))
    code, out, _ = cli("benchmark", "--help")
    assert code == 0 and all(name in out for name in ("accuracy", "speed", "generation", "proxy"))
    code, _, err = cli("benchmark", "generation", "runs/x", "--size", "64")
    assert code == 2 and "no size such as 1024x704" in err
    code, out, _ = cli("--version")
    assert code == 0 and out.strip().count(".") == 2
    code, _, err = cli("scor")
    assert code == 2 and "No such command" in err
