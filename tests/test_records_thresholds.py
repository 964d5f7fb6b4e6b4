"""Laws of threshold changes: a preview tells what applying does, and manifest and history change together or not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from test_records import row

from anomalib_gan.records import drifting
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.database import Records, RecordsError, exclusive, writing
from anomalib_gan.runtime.bundle import read_manifest
from anomalib_gan.runtime.calibration import Calibration

ROOT = Path(__file__).parents[1]
ANN, ENA = User("Ann", "operator"), User("Ena", "engineer")
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests/frozen/v1.bundle", tmp_path / "v1.bundle"))


def thresholds(bundle: Path) -> Calibration:
    found = read_manifest(bundle).calibration
    assert found is not None
    return found


def normal(seed: int = 0, n: int = 200, model: str = "ab" * 32) -> Calibration:
    rng = np.random.default_rng(seed)
    return Calibration.fit(rng.gamma(4, 1, n), rng.gamma(9, 1, n), rate=0.05, reject_rate=0.01, model=model)


def produce(database: str, out: Path, calibration: Calibration, scores: np.ndarray, peaks: np.ndarray) -> None:
    records = Records(database, "/line", calibration.model, {}, calibration.to_json(), out=out)
    with records, writing(records.engine) as session:
        for place, (score, peak) in enumerate(zip(scores.tolist(), peaks.tolist(), strict=True)):
            session.add(
                row(f"{place}.png", calibration.verdict(score, peak > calibration.pixel), score, peak=peak,
                    sha256=f"{place:064x}", scored_at=BEGIN + timedelta(seconds=place), batch=records.batch,
                    model=calibration.model, calibration=records.calibration)
            )  # fmt: skip


def test_a_preview_is_what_the_new_thresholds_decide(database: str, tmp_path: Path) -> None:
    calibration, rng = normal(), np.random.default_rng(5)
    scores, peaks = rng.gamma(5, 1, 300), rng.gamma(9.5, 1, 300)
    scores[:3], peaks[3:6] = (calibration.review, 6.0, 9.0), 12.0
    produce(database, tmp_path / "out", calibration, scores, peaks)
    with Archive(database) as archive:
        for moves in ({"review": 6.0, "reject": 9.0}, {"pixel": 12.0}, {"review": 4.0, "pixel": 9.0}, {}):
            found = archive.preview(calibration, **moves)
            wanted: dict[tuple[str, str], list[int]] = {}
            for place, (score, peak) in enumerate(zip(scores, peaks, strict=True)):
                old, new = (one.verdict(score, peak > one.pixel) for one in (calibration, found.calibration))
                wanted.setdefault((old, new), []).append(place)
            assert {pair: number for pair, number in found.changes.items() if number} == {
                pair: len(places) for pair, places in wanted.items()
            }
            assert bool(found.unknown) == ("pixel" in moves)
            for (old, new), places in wanted.items():
                listed, after = [], None
                while True:
                    page = archive.changed(found, old, new, after=after, limit=40)
                    listed += [int(one.path.removesuffix(".png")) for one in page.rows]
                    if (after := page.after) is None:
                        break
                assert listed == sorted(places, reverse=True)
        assert sum(archive.preview(calibration, filter=Filter(verdicts=("reject",))).changes.values()) == sum(
            calibration.verdict(score, False) == "reject" for score in scores
        )


@given(st.floats(0, 0.999), st.sampled_from(["review", "reject", "pixel"]), st.integers(0, 5))
def test_false_alarms_are_counted_and_bounded_as_clopper_and_pearson_do(at: float, name: str, seed: int) -> None:
    calibration = normal(seed, 60)
    calibration = replace(calibration, review=min(calibration.scores), reject=max(calibration.scores))
    values = calibration.peaks if name == "pixel" else calibration.scores
    moved = calibration.moved(**{name: values[int(at * len(values))]})
    found = moved.false_alarms(name)  # type: ignore[arg-type]
    above = sum(value > getattr(moved, name) for value in values)
    assert (found.above, found.n, found.share) == (above, 60, above / 60)
    test = binomtest(above, 60, alternative="less")
    assert found.bound == pytest.approx(test.proportion_ci(0.95, method="exact").high)
    assert Calibration.from_json(moved.to_json()) == moved


def test_a_moved_threshold_has_the_rate_that_gives_it_back() -> None:
    calibration = normal()
    for place in (150, 190, 198):
        moved = calibration.moved(review=calibration.scores[place], reject=calibration.scores[199])
        assert calibration.at(rate=moved.rate).review == moved.review
        assert calibration.at(rate=moved.rate).bound == pytest.approx(moved.bound)
    assert calibration.moved() == calibration == calibration.moved(review=calibration.review)


@pytest.mark.parametrize(
    ("moves", "problem"),
    [
        ({"review": float("nan")}, "review threshold nan is no number"),
        ({"pixel": -1.0}, "pixel threshold -1 is no number from the lowest normal value"),
        ({"review": 9.0, "reject": 8.0}, "reject threshold 8 is below the review threshold 9"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(moves: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        normal().moved(**moves)


def test_a_change_is_in_the_manifest_and_in_the_history(database: str, bundle: Path) -> None:
    old = thresholds(bundle)
    new = old.moved(reject=old.reject + 1)
    with Archive(database) as archive:
        event = archive.apply(bundle, new, ENA, " fewer rejects ")
        assert thresholds(bundle) == new
        assert (event.kind, event.who, event.reason) == ("threshold changed", "Ena", "fewer rejects")
        assert [Calibration.from_json(event.details[name]) for name in ("from", "to")] == [old, new]
        again = Calibration.fit([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], model=old.model)
        assert archive.apply(bundle, again, ENA, "new light").kind == "recalibrated"
        back = archive.rollback(bundle, event.id, ENA, "the light is as it was")
        assert thresholds(bundle) == old and back.details["rolls back"] == event.id
        assert [one.id for one in archive.events()] == sorted((one.id for one in archive.events()), reverse=True)
        assert len(archive.events()) == 3 and len(archive.events("recalibrated")) == 2
        (model,) = archive.models()
        assert len(archive.calibrations(model.hash)) == 3


def test_what_may_not_be_changed_stays(database: str, bundle: Path, tmp_path: Path) -> None:
    old = thresholds(bundle)
    new = old.moved(reject=old.reject + 1)
    with Archive(database) as archive:
        with pytest.raises(PermissionError, match="Ann is an operator: only an engineer may change thresholds"):
            archive.apply(bundle, new, ANN, "why not")
        with pytest.raises(PermissionError, match="roll back"):
            archive.rollback(bundle, 1, ANN, "why not")
        with pytest.raises(PermissionError, match="switch the model"):
            archive.activate(bundle, ANN, "why not")
        with pytest.raises(ValueError, match="needs a reason"):
            archive.apply(bundle, new, ENA, "  ")
        with pytest.raises(ValueError, match="has these thresholds already"):
            archive.apply(bundle, old, ENA, "to be sure")
        with pytest.raises(ValueError, match="is of model ffffffff"):
            archive.apply(bundle, replace(new, model="ff" * 32), ENA, "wrong one")
        with pytest.raises(ValueError, match="is no bundle"):
            archive.apply(tmp_path, new, ENA, "wrong folder")
        with exclusive(bundle), pytest.raises(RecordsError, match="try again when it is done"):
            archive.apply(bundle, new, ENA, "at the same time")
        with pytest.raises(KeyError, match="event 77 changed no thresholds"):
            archive.rollback(bundle, 77, ENA, "no such event")
        assert archive.events() == [] and archive.active() is None
        archive.activate(bundle, ENA, "first model")
        active = archive.active()
        assert active is not None and active.details["bundle"] == str(bundle)
    assert thresholds(bundle) == old


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from anomalib_gan.records import thresholds as t
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive
from anomalib_gan.runtime import files
from anomalib_gan.runtime.bundle import read_manifest

step = int(sys.argv[3])
archive = Archive(sys.argv[1])
def reached(place):
    if place == step:
        os.kill(os.getpid(), signal.SIGKILL)

writing, replace, turn = t.writing, os.replace, 0
@contextmanager
def counted(engine, **more):
    global turn
    turn += 1
    here = turn  # 1: is an intent left? 2: the intent, 3: the event
    with writing(engine, **more) as session:
        yield session
        session.flush()
        reached({2: 0, 3: 4}.get(here))
    reached({2: 1, 3: 5}.get(here))
def renamed(source, target):
    reached(2)
    replace(source, target)
    reached(3)
t.writing, files.os.replace = counted, renamed
old = read_manifest(sys.argv[2]).calibration
archive.apply(sys.argv[2], old.moved(reject=old.reject + 1), User("Ena", "engineer"), "why")
"""


@pytest.mark.parametrize("step", range(7))
def test_killed_at_any_step_both_change_or_neither(database: str, bundle: Path, step: int) -> None:
    old = thresholds(bundle)
    command = [sys.executable, "-c", KILLED, database, str(bundle), str(step)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if step == 6 else -signal.SIGKILL), done.stderr
    for _ in range(2):  # what was brought to an end stays so
        with Archive(database) as archive:
            events = archive.events("threshold changed")
            assert len(events) == (thresholds(bundle) != old) == (step >= 3)
    with Archive(database) as archive:
        archive.apply(bundle, thresholds(bundle).moved(reject=old.reject + 2), ENA, "and on")
        assert len(archive.events()) == (step >= 3) + 1


def test_recovery_leaves_alone_what_a_living_process_does(database: str, bundle: Path) -> None:
    command = [sys.executable, "-c", KILLED, database, str(bundle), "3"]
    subprocess.run(command, cwd=ROOT, capture_output=True)
    with exclusive(bundle), Archive(database) as archive:
        assert archive.events() == []
    with Archive(database) as archive:
        assert len(archive.events()) == 1


@pytest.fixture
def line(database: str, tmp_path: Path) -> Iterator[tuple[Archive, Calibration]]:
    calibration, rng = normal(), np.random.default_rng(3)
    produce(database, tmp_path / "out", calibration, rng.gamma(4, 1, 150), np.zeros(150))
    with Archive(database) as archive:
        yield archive, calibration


def test_a_line_that_drifts_raises_one_alarm_however_often_one_looks(
    line: tuple[Archive, Calibration], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, calibration = line
    calm = archive.drift(calibration.model)
    assert not calm.alarm and calm.seen == 150 and calm.event is None and archive.events() == []
    produce(database, tmp_path / "later", calibration, np.full(300, calibration.scores[150]), np.zeros(300))
    found = [archive.drift(calibration.model) for _ in range(3)]
    assert all(one.alarm for one in found)
    (event,) = archive.events("drift alarm")
    assert {one.event.id for one in found if one.event} == {event.id} and event.who == drifting.WHO
    # The next stretch is tested anew, at a level of its own.
    monkeypatch.setattr(drifting, "STRETCH", 225)
    second = archive.drift(calibration.model)
    assert second.seen == 225 and second.limit == pytest.approx(4 * found[0].limit)
    with pytest.raises(KeyError, match="no inspections"):
        archive.drift("00" * 32)
