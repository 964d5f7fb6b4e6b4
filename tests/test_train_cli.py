"""The command `train` from a folder of images to a run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from test_training import Toy, same, texture, write
from typer.testing import CliRunner

from anomalib_gan import checkpoint, data, models, terminal
from anomalib_gan.running import RESERVE, Job
from anomalib_gan.runtime.files import read_json
from anomalib_gan.specs import keywords, parse_params
from pipelines import train as job
from pipelines.train import train


@pytest.fixture(autouse=True)
def zoo(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", Toy)


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(3):
        write(tmp_path / f"normal/{i}.png", texture(i, 48, 64))
    return tmp_path / "normal"


def run_command(*arguments: object):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(job.command)
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_a_run_holds_all_that_it_promises(folder, tmp_path, capsys):
    run = train(folder, out=tmp_path / "runs/x", model="toy", steps=12, seed=3, params={"width": 5})
    assert run == tmp_path / "runs/x"
    assert not list(run.glob(".tmp*"))
    for name in ("curves.png", "reconstructions.png", "samples.png"):
        picture = cv2.imread(str(run / name))
        assert picture.std() > 5 and min(picture.shape[:2]) > 200

    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == list(range(1, 13))
    assert {who: set(terms) for who, terms in history[-1]["losses"].items()} == {
        "critic": {"real", "fake"},
        "maker": {"adv", "rec"},
    }

    model, state = checkpoint.load_model(run)
    assert (state["step"], state["steps"], state["seed"]) == (12, 12, 3)
    assert state["spec"] == {
        "name": "toy",
        "params": {"channels": 1, "width": 5, "patch": 16, "batch": 4, "noise": 0.5, "norm": True},
    }
    low, high = state["map_scale"]
    maps = [model.anomaly_map(torch.from_numpy(texture(i, 48, 64) / 127.5 - 1)[None, None].float()) for i in range(3)]
    inside = torch.stack([((one >= low) & (one <= high)).float().mean() for one in maps]).mean()
    assert 0.97 < float(inside) <= 1 and float(model.usual) != 0

    card = read_json(run / "card.json")
    assert card["spec"] == state["spec"] and card["map_scale"] == state["map_scale"] and card["duration_s"] > 0
    images, _ = data.read_normals(data.normal_files(folder))
    assert card["data"]["fingerprint"] == data.fingerprint(images)
    assert [(one["height"], one["width"]) for one in card["data"]["images"]] == [(48, 64)] * 3
    assert card["settings"]["seed"] == 3 and card["versions"]["torch"] == torch.__version__
    held = read_json(run / "split.json")
    assert held["seed"] == 3 and [one["box"] for one in held["held"]] == [[0, 16, 48, 64]] * 3

    steps = [step for step, _ in state["sheet"]]
    assert steps == [1, 2, 3, 5, 9, 12]
    said = capsys.readouterr().out
    assert "3 normal images" in said and "step 12/12" in said and "maker adv" in said and "steps/s" in said


def test_drawing_samples_and_saving_do_not_disturb_the_training(folder, tmp_path, monkeypatch):
    plain = train(folder, out=tmp_path / "a", model="toy", steps=8)
    monkeypatch.delattr(Toy, "sample")
    silent = train(folder, out=tmp_path / "b", model="toy", steps=8, checkpoint_every=0)
    one, two = checkpoint.load(plain), checkpoint.load(silent)
    assert same(one["settled"], two["settled"]) and not (silent / "samples.png").exists()


def test_an_existing_run_is_kept_and_a_finished_one_needs_nothing(folder, tmp_path, capsys):
    run = train(folder, out=tmp_path / "x", model="toy", steps=2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(FileExistsError, match="--resume"):
        train(folder, out=run, model="toy", steps=2)
    assert train(folder, out=run, model="toy", steps=2, resume=True) == run
    assert "finished" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def interrupted(monkeypatch, at: int):
    """Ctrl-C in the `at`-th write of a checkpoint."""
    count, save = 0, checkpoint.save

    def stop(path, state):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", stop)


def test_resume_keeps_the_first_settings_and_ends_like_an_undisturbed_run(folder, tmp_path, monkeypatch):
    whole = train(folder, out=tmp_path / "whole", model="toy", steps=9, seed=5)
    with monkeypatch.context() as patch:
        interrupted(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "x", model="toy", steps=9, seed=5, checkpoint_every=0)
    assert checkpoint.load(tmp_path / "x")["step"] == 4
    run = train(folder, out=tmp_path / "x", steps=77, seed=1, resume=True)
    a, b = checkpoint.load(whole), checkpoint.load(run)
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "optimisers", "settled", "map_scale", "sheet"))
    steps = [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 10))


def test_other_programs_can_read_how_far_a_training_is(folder, tmp_path, monkeypatch):
    file, seen, write_json = tmp_path / "told/progress.json", [], terminal.write_json
    monkeypatch.setattr(terminal, "write_json", lambda path, value: (seen.append(dict(value)), write_json(path, value)))
    with monkeypatch.context() as patch:
        interrupted(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "x", model="toy", steps=9, checkpoint_every=0, progress=file)
    assert [one["state"] for one in seen] == ["preparing", "training", "interrupted"]
    assert seen[1]["step"] == 1 and seen[1]["steps"] == 9 and seen[1]["seconds_left"] >= 0
    assert read_json(file)["state"] == "interrupted"
    train(folder, out=tmp_path / "x", resume=True, progress=file)
    assert read_json(file) == {"step": 9, "steps": 9, "seconds_left": 0.0, "state": "finished"}
    with pytest.raises(FileExistsError):
        train(folder, out=tmp_path / "x", progress=tmp_path / "none")
    with pytest.raises(ValueError, match="nowhere"):
        train(tmp_path / "nowhere", out=tmp_path / "y", progress=file)
    assert read_json(file)["state"] == "failed" and not (tmp_path / "none").exists()


def test_resume_with_other_images_is_refused(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "x", model="toy", steps=9, checkpoint_every=0)
    write(folder / "0.png", texture(7, 48, 64))
    with pytest.raises(ValueError, match="not those the run was started with"):
        train(folder, out=tmp_path / "x", resume=True)


@pytest.mark.slow
def test_minutes_are_planned_once_and_the_plan_is_law(folder, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupted(patch, at=2)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "x", model="toy", minutes=0.1)
    state = checkpoint.load(tmp_path / "x")
    planned = state["steps"]
    assert planned > 25
    assert f"planned: {planned} steps" in capsys.readouterr().out
    run = train(folder, out=tmp_path / "x", resume=True)
    card = read_json(run / "card.json")
    assert checkpoint.load(run)["step"] == planned == card["steps"]
    assert 1 < card["duration_s"] < 6  # of 6 seconds half are kept for the end


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.05), (0.05, 0.15), (0.1, 0.1)])
def test_a_plan_is_made_anew_where_the_pace_changes_and_keeps_to_the_minutes(
    folder, tmp_path, monkeypatch, capsys, before, after
):
    """The first 40 rounds of a minute at one pace, the others at another: most of the time is used, and no more."""
    spent = lambda rounds: before * min(rounds, 40) + after * max(0, rounds - 40)  # noqa: E731
    monkeypatch.setattr(Job, "_now", lambda job: job.began + spent(job.trainer.step))
    run = train(folder, out=tmp_path / "x", model="toy", minutes=1)
    assert 0.6 * 60 < spent(checkpoint.load(run)["step"]) <= 60 - RESERVE[0] / 2
    assert ("planned anew" in capsys.readouterr().out) == (before != after)


def test_a_models_own_limit_ends_the_plan(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "max_steps", 30, raising=False)
    run = train(folder, out=tmp_path / "x", model="toy", minutes=1)
    assert checkpoint.load(run)["step"] == 30


@pytest.mark.parametrize("length", [("--steps", 50), ("--minutes", 2)])
def test_a_dry_run_tells_and_writes_nothing(folder, tmp_path, length):
    result = run_command(folder, "--out", tmp_path / "x", "--model", "toy", *length, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "3 normal images" in result.output and "parameters" in result.output and "steps of" in result.output
    assert not (tmp_path / "x").exists()


def test_one_image_is_enough_and_many_hold_whole_images_back(tmp_path):
    write(tmp_path / "one/a.png", texture(0, 40, 40))
    run = train(tmp_path / "one", out=tmp_path / "x", model="toy", steps=2)
    assert read_json(run / "split.json")["held"][0]["box"] == [0, 16, 40, 40]
    for i in range(10):
        write(tmp_path / f"ten/class{i % 2}/{i}.png", texture(i, 40, 40, level=128 if i else 220))
    run = train(tmp_path / "ten", out=tmp_path / "y", model="toy", steps=2)
    assert [one["box"] for one in read_json(run / "split.json")["held"]] == [None, None]
    worst = read_json(run / "card.json")["oddest"][0]
    assert worst["odd"] and Path(worst["path"]).name == "0.png"


def test_images_too_small_to_hold_back_are_told(tmp_path, capsys):
    write(tmp_path / "one/a.png", texture(0, 16, 16))
    run = train(tmp_path / "one", out=tmp_path / "x", model="toy", steps=2)
    assert read_json(run / "split.json")["held"] == []
    assert "--good" in capsys.readouterr().out and "--good" in read_json(run / "card.json")["warnings"][0]


def test_what_cannot_be_is_refused_with_a_mend(folder, tmp_path):
    refused = [
        ({"model": "toi"}, "no model is called 'toi': choose one of"),
        ({"params": {"wide": 3}}, "no parameter 'wide': choose from channels, width"),
        ({"steps": 0}, "at least 1"),
        ({"minutes": 0.0}, "more than 0"),
        ({"device": "cuda"}, "--device cpu"),
        ({"params": {"patch": 400}}, "48x64 px is smaller than half a training patch"),
    ]
    if torch.cuda.is_available():
        refused = [one for one in refused if "device" not in one[0]]
    for options, reason in refused:
        with pytest.raises(ValueError, match=reason):
            train(folder, out=tmp_path / "x", **{"model": "toy", **options})
    (folder / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0\.png"):
        train(folder, out=tmp_path / "x", model="toy", steps=2)
    assert not (tmp_path / "x").exists()


def test_parameters_take_the_types_of_the_defaults():
    assert parse_params("toy", ["width=8", "noise=1", "norm=False"]) == {"width": 8, "noise": 1.0, "norm": False}
    assert type(parse_params("toy", ["noise=1"])["noise"]) is float
    for pair, reason in (
        ("width", "write key=value"),
        ("wide=1", "'wide'"),
        ("width=a", "of type int, such as 4"),
        ("width=1.5", "of type int"),
        ("norm=1", "of type bool"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse_params("toy", [pair])


def test_a_model_that_hands_keywords_on_has_those_of_its_parent_with_its_own_defaults():
    parent, child = keywords("gan"), keywords("wgan")
    assert set(child) == {*parent, "clip"}
    assert {key for key in parent if child[key] != parent[key]} == {"objective", "critic_steps"}
    assert parse_params("wgan", ["width=8", "clip=1"]) == {"width": 8, "clip": 1.0}
    with pytest.raises(ValueError, match=r"wgan has no parameter 'bound'; choose from .*width.*clip"):
        parse_params("wgan", ["bound=1"])


def test_the_command_reaches_the_job(folder, tmp_path):
    options = ["--steps", 2, "--seed", 4, "--param", "width=6", "--info-bar", 8]
    options += ["--no-flips", "--jitter", 0, "--zoom", 0.2]
    result = run_command(folder, "--out", tmp_path / "x", "--model", "toy", *options)
    assert result.exit_code == 0, result.output
    card = read_json(tmp_path / "x/card.json")
    assert card["settings"]["info_bar"] == 8 and card["data"]["images"][0]["height"] == 40
    assert not card["settings"]["flips"] and card["spec"]["params"]["width"] == 6
    assert card["settings"]["jitter"] == 0 and card["settings"]["zoom"] == 0.2
    refused = run_command(folder, "--out", tmp_path / "z", "--zoom", 3)  # `main` makes it one line and exit code 2
    assert isinstance(refused.exception, ValueError) and "give 0 to 1" in str(refused.exception)
    result = run_command(folder, "--out", tmp_path / "y", "--info-bar", "half")
    assert result.exit_code == 2 and "number of rows" in result.output


def test_what_has_a_direction_is_not_looked_at_upside_down(folder, tmp_path):
    small = {"width": 4, "code": 2, "patch": 32, "shrink": 1}
    for flips in (True, False):
        run = train(folder, out=tmp_path / str(flips), model="fcbigan", steps=1, params=small, flips=flips)
        assert read_json(run / "card.json")["spec"]["params"]["turned"] is flips


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(folder, tmp_path):
    """For losses that are means over the batch, and without what depends on the process: noise and batch statistics."""
    exact = {"noise": 0.0, "norm": False}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = [__file__, str(folder), str(tmp_path / "two"), json.dumps({**exact, "batch": 2})]
    done = subprocess.run([*launch, *worker], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step 10/10") == 1  # only the first process speaks
    one = checkpoint.load(train(folder, out=tmp_path / "one", model="toy", steps=10, params={**exact, "batch": 4}))
    two = checkpoint.load(tmp_path / "two")
    for name, tensor in one["settled"].items():
        torch.testing.assert_close(two["settled"][name], tensor, rtol=1e-3, atol=1e-4)
    losses = [
        json.loads((tmp_path / run / "history.jsonl").read_text().splitlines()[4])["losses"] for run in ("one", "two")
    ]
    for who, terms in losses[0].items():
        assert losses[1][who] == pytest.approx(terms, rel=1e-3)
    alone = checkpoint.load(train(folder, out=tmp_path / "half", model="toy", steps=10, params={**exact, "batch": 2}))
    weight = "G.0.weight"
    assert not np.allclose(alone["settled"][weight], two["settled"][weight], rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    models.MODELS["toy"] = Toy
    train(sys.argv[1], out=sys.argv[2], model="toy", steps=10, device="cpu", params=json.loads(sys.argv[3]))
