"""Laws of going on from an earlier run and of adding what people reviewed: nothing leaks, and resuming stays exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from test_likeness import shot, surface
from test_records import MODEL, THRESHOLDS, row
from test_train_cli import interrupted
from test_training import Toy, normal, same, texture, write
from typer.testing import CliRunner

from anomalib_gan import checkpoint, data, holding, models
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive
from anomalib_gan.records.database import Records
from anomalib_gan.run_settings import Place, Settings
from anomalib_gan.running import Job
from anomalib_gan.runtime.calibrating import held_back, trained_on
from anomalib_gan.runtime.files import read_json, sha256_file
from pipelines import train as job
from pipelines.train import train

ANN = User("Ann", "operator")


@pytest.fixture(autouse=True)
def zoo(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", Toy)


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(3):
        write(tmp_path / f"normal/{i}.png", texture(i, 48, 64))
    return tmp_path / "normal"


def review(database: Path, folder: Path, truths: dict[str, str]) -> Path:
    """Images of `folder` that went to review, and what a person then said they are."""
    with Records(database, folder, MODEL, {}, THRESHOLDS, out=folder.with_suffix(".out")) as records:
        for name, truth in truths.items():
            records.put(row(name, "review", sha256=sha256_file(folder / name)))
            seen = records.find(name)
            with Archive(database) as archive:
                archive.review(seen, ANN, "false alarm" if truth == "normal" else "confirmed")
    return database


@pytest.fixture
def database(tmp_path) -> Path:
    """Two normal images, named as if they were not, and a defective one of which the name says nothing."""
    for i, name in enumerate(("scratch/1.png", "bad/2.png", "good/3.png")):
        write(tmp_path / "line" / name, texture(10 + i, 48, 64))
    said = {"scratch/1.png": "normal", "bad/2.png": "normal", "good/3.png": "defective"}
    return review(tmp_path / "results.db", tmp_path / "line", said)


def prepared(folder: Path, run: Path, **settings) -> Job:
    return Job.prepare(folder, run, Settings(model="toy", **settings), Place(torch.device("cpu")), lambda _text: None)


# --- from the weights of a run ---------------------------------------------------------------------------------------


def test_a_training_begins_with_the_averaged_weights_of_the_run(folder, tmp_path):
    x = train(folder, out=tmp_path / "x", model="toy", steps=6, seed=1, params={"width": 5})
    begun = prepared(folder, tmp_path / "y", steps=3, seed=2, init_from=str(x))
    old = checkpoint.load(x)
    assert same(begun.trainer.model.state_dict(), old["ema"]) and same(begun.trainer.ema.state_dict(), old["ema"])
    assert begun.trainer.step == 0
    anew = prepared(folder, tmp_path / "z", steps=3, seed=1, params={"width": 5})
    assert not same(anew.trainer.model.state_dict(), old["ema"])


def test_the_card_tells_what_a_run_comes_from_and_the_model_is_taken_over(folder, tmp_path, capsys):
    x = train(folder, out=tmp_path / "x", model="toy", steps=2, params={"width": 5}, bits=8)
    y = train(folder, out=tmp_path / "y", init_from=x, steps=2, params={"width": 5})
    card, (_, state) = read_json(y / "card.json"), checkpoint.load_model(x)
    assert card["spec"] == read_json(x / "card.json")["spec"] and card["settings"]["bits"] == 8
    assert card["init_from"] == {"run": str(x), "hash": state["hash"], "trained": sorted(trained_on(x))}
    assert f"beginning with the weights of {x}" in capsys.readouterr().out
    assert read_json(x / "card.json")["init_from"] is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"params": {"width": 7}}, r"x was trained with the parameter width 4, not 7: .* train without --init-from"),
        ({"model": "ae"}, "x was trained with the model toy, not ae"),
        ({"flips": False}, "x was trained with the flips True, not False"),
    ],
)
def test_another_model_than_that_of_the_run_is_refused(folder, tmp_path, options, problem):
    x = train(folder, out=tmp_path / "x", model="toy", steps=2)
    with pytest.raises(ValueError, match=problem):
        train(folder, out=tmp_path / "y", init_from=x, steps=2, **options)
    assert not (tmp_path / "y").exists()


def test_what_is_no_finished_run_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="train a model first"):
        train(folder, out=tmp_path / "y", init_from=tmp_path / "nowhere", steps=2)
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "x", model="toy", steps=9, checkpoint_every=0)
    with pytest.raises(ValueError, match=r"stopped at step 2 of 9.*--resume"):
        train(folder, out=tmp_path / "y", init_from=tmp_path / "x", steps=2)
    monkeypatch.setattr(Toy, "players", lambda self: {})
    closed = train(folder, out=tmp_path / "closed", model="toy", steps=1)
    with pytest.raises(ValueError, match="fitted in closed form"):
        train(folder, out=tmp_path / "y", init_from=closed, steps=1)


def test_an_interrupted_run_resumes_bit_for_bit_whatever_people_say_meanwhile(folder, tmp_path, database, monkeypatch):
    x = train(folder, out=tmp_path / "x", model="toy", steps=4, seed=1)
    options = {"init_from": x, "add_reviewed": database, "steps": 9, "seed": 5}
    whole = train(folder, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        interrupted(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "y", checkpoint_every=0, **options)
    write(tmp_path / "line/4.png", texture(20, 48, 64))
    review(database, tmp_path / "line", {"4.png": "normal", "bad/2.png": "defective"})
    database.unlink()
    run = train(folder, out=tmp_path / "y", resume=True)
    a, b = checkpoint.load(whole), checkpoint.load(run)
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "optimisers", "settled", "map_scale", "sheet"))
    assert read_json(run / "card.json")["data"] == read_json(whole / "card.json")["data"]


def test_a_run_that_began_with_other_weights_is_not_resumed(folder, tmp_path, monkeypatch):
    x = train(folder, out=tmp_path / "x", model="toy", steps=2)
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(folder, out=tmp_path / "y", init_from=x, steps=9, checkpoint_every=0)
    x.rename(tmp_path / "old")
    train(folder, out=x, model="toy", steps=3)
    with pytest.raises(ValueError, match="x is not what the run began with"):
        train(folder, out=tmp_path / "y", resume=True)


# --- what is held back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_what_was_trained_on_is_never_held_back_later_and_what_was_held_back_never_trained_on(seed):
    def image(thing: int, k: int) -> data.Normal:
        return normal(shot(surface(thing), 0.5 + 0.2 * k, 0, k), f"{thing}-{k}.png")

    known = [image(thing, 0) for thing in range(8)]
    before = holding.Before(frozenset(one.sha256 for one in known[:5]), {one.sha256: None for one in known[5:]})
    new = [image(thing, k) for thing in range(18) for k in (1, 2)]
    chosen = {one.path.rsplit("/")[-1] for one in holding.hold_out(known + new, 32, seed, before)}
    things = {name.partition("-")[0] for name in chosen}
    assert chosen == {one.path.name for one in known + new if one.path.name.partition("-")[0] in things}, (
        "a thing is split"
    )
    assert {"5", "6", "7"} <= things and not things & {"0", "1", "2", "3", "4"}
    assert len(things) == 5, "of ten new things two are held back"


def test_strips_stay_where_they_were(tmp_path):
    images = [normal(texture(i, 48, 64), f"{i}.png") for i in range(3)]
    first = holding.hold_out(images, 16, 0)
    before = holding.Before(frozenset(one.sha256 for one in images), {one.sha256: (0, 40, 48, 64) for one in first[:2]})
    more = images + [normal(texture(i, 48, 64), f"{i}.png") for i in range(3, 10)]
    held = {one.sha256: one.box for one in holding.hold_out(more, 16, 1, before)}
    assert held.pop("0.png") == held.pop("1.png") == (0, 40, 48, 64)
    assert "2.png" not in held, "all of it was trained on before"
    assert held == {f"{i}.png": (0, 16, 48, 64) for i in range(3, 10)}


def test_a_line_of_runs_never_learns_what_one_of_them_held_back(tmp_path, database):
    for i in range(10):
        write(tmp_path / f"normal/{i}.png", texture(i, 48, 64))
        write(tmp_path / f"other/{i}.png", texture(30 + i, 48, 64))
    x = train(tmp_path / "normal", out=tmp_path / "x", model="toy", steps=1, seed=0)
    y = train(tmp_path / "normal", out=tmp_path / "y", init_from=x, add_reviewed=database, steps=1, seed=7)
    z = train(tmp_path / "other", out=tmp_path / "z", init_from=y, steps=1, seed=8)
    held = {run: {one.sha256 for one in held_back(run)} for run in (x, y, z)}
    assert len(held[x]) == 2 and held[x] <= held[y] and held[z]
    assert trained_on(x) < trained_on(y) < trained_on(z)
    assert not (held[x] | held[y] | held[z]) & trained_on(z)


# --- what people reviewed --------------------------------------------------------------------------------------------


def test_images_that_people_call_normal_are_trained_on_whatever_their_names(folder, tmp_path, database, capsys):
    run = train(folder, out=tmp_path / "x", model="toy", steps=2, add_reviewed=database)
    card = read_json(run / "card.json")
    line = tmp_path / "line"
    added = [one for one in card["data"]["images"] if one.get("reviewed")]
    assert {one["path"] for one in added} == {str(line / "scratch/1.png"), str(line / "bad/2.png")}
    assert {one["sha256"] for one in added} <= trained_on(run)
    assert card["settings"]["reviewed"]["database"] == str(database) and len(card["data"]["images"]) == 5
    said = capsys.readouterr().out
    assert "5 normal images" in said and f"2 of them are normal by their reviews in {database}" in said
    assert str(line / "scratch/1.png") in said and "3.png" not in said


def test_an_image_that_is_in_the_folder_already_counts_once_and_a_defective_one_is_told(folder, tmp_path, database):
    line = tmp_path / "line"
    (folder / "copy.png").write_bytes((line / "scratch/1.png").read_bytes())
    (folder / "spoilt.png").write_bytes((line / "good/3.png").read_bytes())
    card = read_json(train(folder, out=tmp_path / "x", model="toy", steps=1, add_reviewed=database) / "card.json")
    assert [one["path"] for one in card["data"]["images"] if one.get("reviewed")] == [str(line / "bad/2.png")]
    assert len({one["sha256"] for one in card["data"]["images"]}) == 6
    (told,) = (one for one in card["warnings"] if "spoilt.png" in one)
    assert "is defective by its reviews" in told


def test_a_reviewed_file_that_changed_or_has_gone_is_named_and_left_out(folder, tmp_path, database, capsys):
    write(tmp_path / "line/scratch/1.png", texture(40, 48, 64))
    (tmp_path / "line/bad/2.png").unlink()
    run = train(folder, out=tmp_path / "x", model="toy", steps=1, add_reviewed=database)
    said = capsys.readouterr().out
    assert "left out" in said and "1.png has changed since it was reviewed" in said and "2.png cannot be read" in said
    assert "0 of them are normal by their reviews" in said
    assert len(read_json(run / "card.json")["data"]["images"]) == 3


def test_the_command_takes_both(folder, tmp_path, database):
    x = train(folder, out=tmp_path / "x", model="toy", steps=1, params={"width": 6})
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(job.command)
    options = ["--init-from", x, "--add-reviewed", database, "--steps", 1, "--param", "width=6", "--dry-run"]
    done = CliRunner().invoke(app, [str(one) for one in (folder, "--out", tmp_path / "y", *options)])
    assert done.exit_code == 0, done.output
    assert "2 of them are normal" in done.output and "beginning with the weights" in done.output
    assert not (tmp_path / "y").exists()
