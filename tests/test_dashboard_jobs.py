"""Trainings that the dashboard starts: processes of their own, which are stopped, killed, and go on."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import test_dashboard_models as pages
from test_dashboard_models import ENGINEER, OPERATOR, button, words

from anomalib_gan.records.archive import Filter
from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json, write_json
from dashboard import jobs, retraining
from dashboard.detectors import load
from dashboard.settings import Settings

made, results, archive, opened = pages.made, pages.results, pages.archive, pages.opened
FAKE = (
    "import sys; from dashboard import jobs; jobs.PROGRAM = (sys.executable, '-c'); jobs.work(jobs.Path(sys.argv[1]))"
)
WAIT = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.02)\n"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs; the commands of its jobs are lines of Python in place of those of `anomalib-gan`."""
    monkeypatch.setattr(jobs, "RUNNER", (sys.executable, "-P", "-c", FAKE))
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def begin(runs: Path, *commands: str, name: str = "next") -> Path:
    return jobs.start(runs, name, [[one] for one in commands], runs / f"{name}.bundle", ENGINEER)


def until(condition: Any, runs: Path, seconds: float = 60) -> jobs.Job:
    """The job as soon as the condition holds of it."""
    end = time.monotonic() + seconds
    while not condition(found := jobs.latest(runs)):
        assert time.monotonic() < end, f"{found}\n{found and found.last_lines()}"
        time.sleep(0.05)
    assert found is not None
    return found


def ended(runs: Path, seconds: float = 60) -> jobs.Job:
    return until(lambda job: not job.running, runs, seconds)


def test_a_job_goes_through_its_commands_in_a_session_of_its_own(runs) -> None:
    begin(runs, "import os; print('one', os.getsid(0))", "print('two')")
    job = ended(runs)
    assert (job.state, job.name, job.who) == ("done", "next", "Eve")
    assert [(step["state"], step["code"]) for step in job.steps] == [("done", 0)] * 2
    told = [line.split() for line in job.last_lines().splitlines() if not line.startswith("$")]
    assert [line[0] for line in told] == ["one", "two"] and int(told[0][1]) != os.getsid(0)


def test_a_job_ends_with_the_command_that_fails_and_goes_on_with_that_one(runs, tmp_path) -> None:
    mark = tmp_path / "mended"
    folder = begin(
        runs, "print('first')", f"import os, sys; os.path.exists({str(mark)!r}) or sys.exit('spoilt')", "print('third')"
    )
    job = ended(runs)
    assert job.state == "failed" and [step["state"] for step in job.steps] == ["done", "failed", "waiting"]
    assert job.steps[1]["code"] == 1 and job.last_lines(1) == "spoilt" and "third" not in job.last_lines()
    mark.touch()
    jobs.go_on(folder, ENGINEER)
    job = ended(runs)
    assert job.state == "done"
    lines = job.last_lines(99).splitlines()
    assert lines.count("first") == 1 and lines.count("third") == 1


def test_what_is_stopped_is_interrupted_and_goes_on(runs, tmp_path) -> None:
    ready, free = tmp_path / "ready", tmp_path / "free"
    first = (
        f"open({str(ready)!r}, 'w')\ntry:\n  exec({WAIT.format(str(free))!r})\nexcept KeyboardInterrupt:\n  exit(130)"
    )
    folder = begin(runs, first, "print('second')")
    until(lambda job: ready.exists(), runs)
    jobs.stop(folder, ENGINEER)
    job = ended(runs)
    assert job.state == "stopped" and job.steps[0]["code"] == 130 and job.steps[1]["state"] == "waiting"
    free.touch()
    jobs.go_on(folder, ENGINEER)
    assert ended(runs).state == "done"


def test_one_job_is_at_work_at_a_time(runs, tmp_path) -> None:
    free = tmp_path / "free"
    folder = begin(runs, WAIT.format(str(free)))
    for again in (lambda: begin(runs, "pass", name="other"), lambda: jobs.go_on(folder, ENGINEER)):
        with pytest.raises(jobs.BusyError, match="at work"):
            again()
    assert not (runs / "other").exists()
    free.touch()
    assert ended(runs).state == "done"
    begin(runs, "pass", name="other")
    assert ended(runs).name == "other"


def test_where_a_job_is_killed_nothing_starts_beside_its_command_and_then_it_goes_on(runs, tmp_path) -> None:
    killed, free = tmp_path / "killed", tmp_path / "free"
    doom = f"import os, signal\nif not os.path.exists({str(killed)!r}):\n  open({str(killed)!r}, 'w')\n"
    folder = begin(runs, f"{doom}  os.kill(os.getppid(), signal.SIGKILL)\n{WAIT.format(str(free))}", "print('second')")
    until(lambda job: killed.exists(), runs)
    with pytest.raises(jobs.BusyError):
        jobs.go_on(folder, ENGINEER)
    free.touch()
    job = ended(runs)
    assert job.state == "stopped" and job.steps[0]["state"] == "running"  # nobody was left to write down its end
    jobs.go_on(folder, ENGINEER)
    assert ended(runs).state == "done"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "-x", ".x", "a b", "x.", "CON", "nul.txt", 100 * "x", "x\n"]
)
def test_no_name_leads_out_of_the_folder_of_runs(name, runs) -> None:
    with pytest.raises(ValueError, match="is no name of a run"):
        begin(runs, "pass", name=name)
    assert not list(runs.iterdir())


def test_what_is_there_is_never_replaced(runs) -> None:
    (runs / "old").mkdir()
    (runs / "kept.bundle").mkdir()
    for name in ("old", "kept"):
        with pytest.raises(FileExistsError, match="choose another name"):
            begin(runs, "pass", name=name)
    assert not list((runs / "old").iterdir()) and jobs.latest(runs) is None


def test_only_engineers_start_and_stop(runs) -> None:
    folder = begin(runs, "import sys; sys.exit(1)")
    ended(runs)
    for act in (jobs.stop, jobs.go_on):
        with pytest.raises(PermissionError, match="Olaf"):
            act(folder, OPERATOR)
    with pytest.raises(PermissionError, match="Olaf"):
        jobs.start(runs, "x", [["pass"]], runs / "x.bundle", OPERATOR)
    assert not (folder / jobs.STOP).exists() and not (runs / "x").exists()


def test_the_password_of_a_database_is_handed_on_and_not_written_down(runs, monkeypatch, tmp_path) -> None:
    for name, value in Settings(db="postgresql://me:secret@host/x").to_environment().items():
        monkeypatch.setenv(name, value)
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.argv[1])"
    folder = jobs.start(runs, "next", [[code, jobs.DATABASE]], runs / "b", ENGINEER)
    assert ended(runs).state == "done" and (tmp_path / "got").read_text() == "postgresql://me:secret@host/x"
    assert not any(b"secret" in file.read_bytes() for file in folder.iterdir())


def test_a_state_that_is_none_is_told_with_the_mend(runs) -> None:
    write_json(runs / "x/job/job.json", {"who": "Eve"})
    with pytest.raises(ValueError, match=r"no state of a job.*remove the folder"):
        jobs.latest(runs)


# --- on the page ---------------------------------------------------------------------------------------------------


@pytest.fixture
def known(results, runs) -> dict[str, Any]:
    """Settings under which `later` can be trained further: its run is there, and its images are."""
    images = results.root / "good images"
    images.mkdir()
    card = {"name": "calm-run", "data": {"folder": str(images)}, "settings": {"flips": False, "info_bar": 7}}
    first = bundle.load(results.bundle)
    files = {"model.onnx": first.model, "card/card.json": json.dumps(card).encode()}
    bundle.write(results.models / "later.bundle", first.manifest, files)
    write_json(runs / "calm-run/card.json", card)
    return {**results.settings, "runs": str(runs), "images": (str(results.root),)}


def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))


def test_the_page_starts_follows_and_stops_a_training(opened, known, runs, tmp_path, monkeypatch) -> None:
    free = tmp_path / "free"
    monkeypatch.setattr(retraining, "steps", lambda *_: [[WAIT.format(str(free))], ["print('exported')"]])
    page = opened(known, model="later")
    button(page, "Train").click().run()
    assert not page.exception and not page.error, words(page)
    job = jobs.latest(runs)
    assert job.running and job.name == "calm-run-next" and job.steps[0]["command"][1:3] == ["--minutes", "18"]
    write_json(job.folder / jobs.PROGRESS, {"step": 30, "steps": 120, "seconds_left": 61.0, "state": "training"})
    page.run()
    (bar,) = page.get("progress")
    assert bar.proto.value == 25 and "step 30 of 120, 0:01:01 left" in bar.proto.text.replace("\\", "")
    assert button(page, "Train").disabled
    button(page, "Stop").click().run()
    ended(runs)
    page.run()
    assert "was stopped" in words(page) and not page.exception
    free.touch()
    button(page, "Go on").click().run()
    ended(runs)
    assert "is done" in words(page.run()) and not page.exception


def test_the_page_shows_the_end_of_the_log_of_what_failed(opened, known, runs) -> None:
    begin(runs, "import sys; print('no *such* image'); sys.exit(2)")
    ended(runs)
    told = words(opened(known, model="later"))
    assert "failed with exit code 2" in told and "no *such* image" in told


def test_an_operator_starts_nothing_from_the_page(opened, known, runs) -> None:
    page = opened(known, model="later", user=OPERATOR)
    button(page, "Train").click().run()
    assert "only an engineer may train a model" in words(page) and jobs.latest(runs) is None


def test_without_torch_the_button_says_which_extra(opened, known, runs, monkeypatch) -> None:
    begin(runs, "import sys; sys.exit(1)")
    ended(runs)
    no_torch(monkeypatch)
    page = opened(known, model="later")
    assert button(page, "Train").disabled and button(page, "Go on").disabled
    assert "pip install 'anomalib_gan[train]'" in words(page)


def test_without_a_folder_of_runs_the_page_gives_commands_and_says_what_one_would_do(opened, known) -> None:
    told = words(opened({**known, "runs": ""}, model="later"))
    assert "--runs DIR" in told and "--init-from calm-run" in told and "--no-flips" in told and "--info-bar 7" in told


def test_what_stands_in_the_way_of_a_training_is_told(opened, known, runs) -> None:
    def told(**changes: Any) -> str:
        page = opened({**known, **changes}, model="later")
        assert button(page, "Train").disabled
        return words(page)

    assert "lies in none of the configured folders" in told(images=())
    write_json(runs / "calm-run/card.json", {**read_card(runs / "calm-run"), "started": "later"})
    assert "is another run than this bundle was exported from" in told()
    (runs / "calm-run").rename(runs / "moved")
    assert "The run calm-run of this bundle is not in" in told()


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_a_bundle_of_the_next_model(results, archive, tmp_path, monkeypatch) -> None:
    from pipelines.train import train

    runs, images = tmp_path / "real", tmp_path / "good"
    images.mkdir()
    for path in sorted((Path(__file__).parents[1] / "data_samples/train/good").iterdir())[:3]:
        cv2.imwrite(str(images / path.name), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[:160, :160])
    train(images, out=runs / "a", params={"width": 4, "code": 2, "patch": 64}, steps=2, device="cpu", threads=1)
    first = bundle.load(results.bundle)
    files = {"model.onnx": first.model, "card/card.json": (runs / "a/card.json").read_bytes()}
    bundle.write(results.models / "a.bundle", first.manifest, files)  # its graph does not matter here
    archive.review(archive.page(Filter(verdicts=("accept",))).rows[0], ENGINEER, "confirmed")
    known = Settings(**{**results.settings, "runs": str(runs), "images": (str(results.images), str(images))})
    for name, value in known.to_environment().items():
        monkeypatch.setenv(name, value)
    chosen, out = load(results.models / "a.bundle"), results.models / "b.bundle"
    before, folder = retraining.run_of(chosen, str(runs)), retraining.training_images(chosen)
    steps = retraining.steps(chosen, str(folder), str(runs / "b"), str(before), jobs.DATABASE, str(out))
    steps[0] += ["--steps", "2", "--resume", "--threads", "1", "--progress", str(runs / "b/job/progress.json")]
    job = jobs.start(runs, "b", steps, out, ENGINEER)
    jobs.stop(job, ENGINEER)
    assert ended(runs, 120).state == "stopped" and not out.exists()
    jobs.go_on(job, ENGINEER)
    found = ended(runs, 300)
    assert found.state == "done", found.last_lines(40)
    assert found.progress() == {"step": 2, "steps": 2, "seconds_left": 0.0, "state": "finished"}
    card = read_card(out / "card")
    assert card["init_from"]["run"] == str(before) and card["settings"]["reviewed"]["normal"]
    assert bundle.read_manifest(out).calibration is not None
    state = read_json(job / jobs.STATE)
    state["steps"][2]["state"] = "running"  # as if it had been killed when the bundle was just written
    write_json(job / jobs.STATE, state)
    written = (out / "manifest.json").read_bytes()
    jobs.go_on(job, ENGINEER)
    assert ended(runs, 120).state == "done" and (out / "manifest.json").read_bytes() == written
