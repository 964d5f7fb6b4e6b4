"""Laws of the regression set: who agrees on what, what two models say of it, and what no model is activated without."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import bundles
import cv2
import numpy as np
import pytest
import typer
from test_records import MODEL, THRESHOLDS, row
from typer.testing import CliRunner

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Label
from anomalib_gan.records.comparing import compare, notes, table
from anomalib_gan.records.database import Records, RecordsError
from anomalib_gan.records.reviewed import located, meaning
from anomalib_gan.records.schema import VERDICTS
from anomalib_gan.records.scoring import score_folder
from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.bundle import read_manifest, recalibrate
from anomalib_gan.runtime.files import sha256_file
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector
from pipelines import records as commands

ANN, BOB, ENA = User("Ann", "operator"), User("Bob", "operator"), User("Ena", "engineer")


# --- what people agree on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "verdict", "truth"),
    [
        ("confirmed", "accept", "normal"),
        ("confirmed", "review", "defective"),
        ("confirmed", "reject", "defective"),
        ("false alarm", "review", "normal"),
        ("false alarm", "reject", "normal"),
        ("false alarm", "accept", None),
        ("missed defect", "accept", "defective"),
        ("missed defect", "reject", "defective"),
        ("confirmed", "invalid", None),
        ("false alarm", "invalid", None),
    ],
)
def test_confirmed_is_said_of_the_verdict_and_not_of_the_image(label: str, verdict: str, truth: str | None) -> None:
    assert meaning(label, verdict) == truth


def test_an_image_is_what_all_last_words_say_and_else_disputed(database: str, tmp_path: Path) -> None:
    random.seed(2)
    hashes = [f"{place:064x}" for place in range(40)]
    for batch in range(2):
        with Records(database, f"/images/{batch}", MODEL, {}, THRESHOLDS, out=tmp_path / str(batch)) as records:
            for place, sha256 in enumerate(hashes[batch * 10 :]):
                records.put(row(f"defect/{place}.png", random.choice(VERDICTS), sha256=sha256))
    last: dict[str, dict[tuple[int, str], str | None]] = {}
    with Archive(database) as archive:
        seen = [one for one in archive.rows() if random.random() < 0.8]
        for _ in range(120):
            one, who = random.choice(seen), random.choice((ANN, BOB, ENA))
            label = random.choice(get_args(Label)) if one.verdict != "invalid" else "confirmed"
            said = archive.review(one, who, label, boxes=[(0, 0, 4, 4)] if label == "missed defect" else [])
            if random.random() < 0.1:
                archive.withdraw(said.id, ENA)
            else:
                last.setdefault(said.sha256, {})[said.batch, who.name] = meaning(label, one.verdict)
        found = archive.reviewed()
    wanted: dict[str, set[str]] = {"normal": set(), "defective": set(), "disputed": set()}
    for sha256, words in last.items():
        (truth,) = set(words.values()) if len(set(words.values())) == 1 else {None}
        wanted[truth or "disputed"].add(sha256)
    assert all(wanted.values()), "the test needs images of every kind"
    assert {name: {one.sha256 for one in getattr(found, name)} for name in wanted} == wanted
    assert len(found.normal + found.defective + found.disputed) == len(last), "an image stands in two sets"


def test_a_file_is_known_by_its_bytes_wherever_it_lies_and_one_that_changed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("kept", "moved", "changed", "gone"):
        (folder / f"{name}.png").write_bytes(name.encode())
    database = tmp_path / "results.db"
    with Records(database, folder, MODEL, {}, THRESHOLDS) as records, Archive(database) as archive:
        for path in sorted(folder.iterdir()):
            records.put(row(path.name, "review", sha256=sha256_file(path), settings={"info_bar": 3}))
            (seen,) = (one for one in records.inspections() if one.path == path.name)
            archive.review(seen, ANN, "false alarm")
        records.put(row("sub/moved.png", "accept", sha256=sha256_file(folder / "moved.png")))
        (folder / "sub").mkdir()
        (folder / "moved.png").rename(folder / "sub/moved.png")
        (folder / "changed.png").write_bytes(b"other")
        (folder / "gone.png").unlink()
        found = archive.reviewed()
    files, problems = located(found.normal)
    assert set(files.values()) == {folder / "kept.png", folder / "sub/moved.png"}
    assert all(sha256_file(path) == sha256 for sha256, path in files.items())
    told = "\n".join(problems)
    assert len(problems) == 2 and "changed.png has changed since it was reviewed" in told
    assert "gone.png cannot be read (No such file" in told and "put the reviewed file back" in told
    assert {one.path: one.settings for one in found.normal}["kept.png"] == {"info_bar": 3}
    with pytest.raises(RecordsError, match=r"gone\.png"):
        next(one for one in found.normal if one.path == "gone.png").file()


# --- two models ------------------------------------------------------------------------------------------------------


def detector(path: Path, name: str, accepts: float, images: tuple[str, ...] | None = None) -> Path:
    """A bundle whose score is the brightness, which accepts images up to that share of white; `images` are those that
    it was made with, of which training held back the first.
    """
    hash = hashlib.sha256(name.encode()).hexdigest()
    thresholds = replace(bundles.calibration(hash), review=accepts, reject=accepts + 0.1, pixel=9.0)
    files = bundles.contents(bundles.mean_of_nine())
    if images is not None:
        card = {"data": {"images": [{"sha256": one} for one in images]}}
        split = {"held": [{"path": "0.png", "sha256": images[0], "box": None}]}
        files |= {"card/card.json": json.dumps(card).encode(), "card/split.json": json.dumps(split).encode()}
    bundle.write(path, bundles.manifest(name=name, hash=hash, halo=40, calibration=thresholds), files)
    return path


def image(path: Path, level: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(1000 * level)).normal(255 * level, 2, (64, 64)).clip(0, 255)
    path.write_bytes(cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes())
    return path


LEVELS = (0.1, 0.3, 0.45, 0.55, 0.7)


@dataclass
class Line:
    """Images of five levels of brightness, scored by `strict`, which accepts two of them; `lax` accepts four."""

    database: str
    root: Path
    strict: Path
    lax: Path

    def score(self, **settings: object) -> None:
        inspector = Inspector.load(self.strict)
        inspector.opener = lambda source: open_image(source, **settings)  # type: ignore[arg-type]
        out = self.root / "out"
        score_folder(inspector, self.root / "images", out, database=self.database, settings=dict(settings))

    def say(self, archive: Archive, name: str, truth: str, who: User = ANN) -> None:
        """Reviews an image so that it means this."""
        (seen,) = (one for one in archive.rows() if one.path == f"{name}.png")
        label: Label = "confirmed" if (truth == "normal") == (seen.verdict == "accept") else "false alarm"
        if truth == "defective" and seen.verdict == "accept":
            archive.review(seen, who, "missed defect", boxes=[(1, 1, 5, 5)])
        else:
            archive.review(seen, who, label)


@pytest.fixture
def line(database: str, tmp_path: Path) -> Line:
    for level in LEVELS:
        image(tmp_path / f"images/{level}.png", level)
    strict, lax = (detector(tmp_path / f"{name}.bundle", name, at) for name, at in (("strict", 0.4), ("lax", 0.6)))
    line = Line(database, tmp_path, strict, lax)
    line.score()
    return line


@pytest.fixture
def reviewed(line: Line) -> Iterator[tuple[Line, Archive]]:
    """0.1 and 0.45 are normal, 0.55 and 0.7 defective: `strict` has a false alarm, `lax` a miss."""
    with Archive(line.database) as archive:
        for name, truth in (("0.1", "normal"), ("0.45", "normal"), ("0.55", "defective"), ("0.7", "defective")):
            line.say(archive, name, truth)
        yield line, archive


def test_a_comparison_counts_what_both_inspectors_say(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed
    told: list[str] = []
    found = compare(archive, line.strict, line.lax, ENA, told.append)
    assert (found.normal, found.defective, found.who) == (2, 2, "Ena")
    assert (found.old_false_alarms, found.old_misses, found.new_false_alarms, found.new_misses) == (1, 0, 0, 1)
    judges = {side: Inspector.load(path) for side, path in (("old", line.strict), ("new", line.lax))}
    assert len(found.details["images"]) == 4 == len(told)
    for one in found.details["images"]:
        for side, judge in judges.items():
            seen = judge(line.root / "images" / one["path"])
            assert one[side] == {"verdict": seen.verdict, "score": seen.score}
    assert table(found) == [
        ("false alarms of 2 normal images", 1, 0),
        ("misses of 2 defective images", 0, 1),
        ("images that only this model judges wrongly", 1, 1),
    ]
    (stored,) = archive.comparisons()
    assert (stored.id, stored.details, stored.new_misses) == (found.id, found.details, 1)


def test_an_image_is_judged_as_it_was_scored(line: Line) -> None:
    path = line.root / "images/bar.png"
    pixels = np.full((80, 64), 20, np.uint8)
    pixels[64:] = 255  # 16 rows that are no image
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    line.score(info_bar=16)
    with Archive(line.database) as archive:
        line.say(archive, "bar", "normal")
        found = compare(archive, line.strict, line.lax, ENA)
    (one,) = found.details["images"]
    judge = Inspector.load(line.strict)
    judge.opener = lambda source: open_image(source, info_bar=16)
    assert one["old"]["verdict"] == "accept" and one["old"]["score"] == judge(path).score
    assert Inspector.load(line.strict, opener=lambda source: open_image(source, info_bar=0))(path).verdict == "reject"


def test_what_cannot_be_read_is_named_and_not_counted(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed
    image(line.root / "images/0.45.png", 0.2)
    (line.root / "images/0.7.png").unlink()
    found = compare(archive, line.strict, line.lax, ENA)
    assert (found.normal, found.defective, found.old_false_alarms, found.new_misses) == (1, 1, 0, 1)
    assert {one["path"]: one["said"] for one in found.details["unreadable"]} == {
        "0.45.png": "normal",
        "0.7.png": "defective",
    }
    told = "\n".join(notes(found))
    assert "left out: 0.45.png" in told and "has changed since it was reviewed" in told and "0.7.png cannot be" in told


def test_images_that_a_model_was_made_with_are_no_test_of_it(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed
    hashes = {name: sha256_file(line.root / f"images/{name}.png") for name in ("0.45", "0.55")}
    new = detector(line.root / "new.bundle", "new", 0.5, images=tuple(hashes.values()))
    found = compare(archive, line.strict, new, ENA)
    assert found.new_false_alarms == 0 and found.details["unknown"] == ["old"]
    assert table(found)[1] == ("of these on the 1 that are new to both models", 0, 0)
    told = notes(found)
    assert any("the new model was made with 1 of the normal images: these are no test" in one for one in told)
    assert any("made with 1 of the defective images as if they were normal" in one for one in told)
    assert any("the old model does not tell which images it was made with" in one for one in told)


def test_nothing_reviewed_shows_nothing(line: Line) -> None:
    with Archive(line.database) as archive:
        line.say(archive, "0.1", "normal")
        line.say(archive, "0.1", "defective", BOB)
        found = compare(archive, line.strict, line.lax, ENA)
    assert (found.normal, found.defective) == (0, 0) and "this shows nothing" in notes(found)[0]


def test_no_model_takes_the_place_of_another_without_a_comparison_that_holds(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed

    def refused(path: Path, problem: str) -> None:
        before = archive.events("model switched")
        with pytest.raises(ValueError, match=problem) as caught:
            archive.activate(path, ENA, "better")
        mend = f"anomalib-gan records compare {before[0].details['bundle']} {path} --db"
        assert mend in str(caught.value)
        assert [one.id for one in archive.events("model switched")] == [one.id for one in before]

    first = archive.activate(line.strict, ENA, "the first one")
    assert first.details["comparison"] is None, "there was nothing to compare the first model with"
    never, stale = "was not compared with the active model", "other thresholds or reviews than when it was compared"
    refused(line.lax, never)
    found = compare(archive, line.strict, line.lax, ENA)
    strict, lax = found.old, found.new
    held = archive.comparison(strict, lax)
    assert held is not None and held.id == found.id

    line.say(archive, "0.3", "normal")  # another review
    assert archive.comparison(strict, lax) is None
    refused(line.lax, stale)
    compare(archive, line.strict, line.lax, ENA)
    line.say(archive, "0.3", "normal", BOB)  # who says the same, so the images are what they were
    assert archive.comparison(strict, lax) is not None

    for path in (line.lax, line.strict):  # another calibration
        old = read_manifest(path).calibration
        assert old is not None
        archive.apply(path, replace(old, reject=old.reject + 1), ENA, "a test")
        refused(line.lax, stale)
        recalibrate(path, old)
        assert archive.comparison(strict, lax) is not None

    (line.root / "far").mkdir()
    copy = Path(shutil.copytree(line.lax, line.root / "far/lax.bundle"))
    old = read_manifest(copy).calibration
    assert old is not None
    recalibrate(copy, replace(old, review=old.review / 2))  # the same model, thresholds that nobody compared
    refused(copy, stale)

    event = archive.activate(line.lax, ENA, "fewer false alarms")
    active = archive.active()
    assert active is not None and active.id == event.id and active.details["comparison"] == archive.comparisons()[0].id
    refused(line.strict, never)  # the way back is a switch like any other
    compare(archive, line.lax, line.strict, ENA)
    archive.activate(line.strict, ENA, "it missed a defect")


def test_a_bundle_that_moved_is_the_same_model(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed
    archive.activate(line.strict, ENA, "first")
    moved = line.strict.rename(line.root / "moved.bundle")
    with pytest.raises(ValueError, match="was not compared"):
        archive.activate(line.lax, ENA, "next")
    compare(archive, moved, line.lax, ENA)
    archive.activate(line.lax, ENA, "next")
    compare(archive, line.lax, moved, ENA)
    archive.activate(moved, ENA, "back")
    assert archive.activate(moved, ENA, "again").details["comparison"] is None


def test_what_may_not_be_compared_leaves_no_row(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed
    with pytest.raises(PermissionError, match="only an engineer may compare models"):
        compare(archive, line.strict, line.lax, ANN)
    with pytest.raises(ValueError, match="is no bundle"):
        compare(archive, line.strict, line.root, ENA)
    hash = hashlib.sha256(b"raw").hexdigest()
    raw = bundles.write(line.root / "raw.bundle", bundles.mean_of_nine(), hash=hash, calibration=None)
    with pytest.raises(ValueError, match=r"has no calibration, so no verdicts: run `anomalib-gan calibrate"):
        compare(archive, line.strict, raw, ENA)
    assert archive.comparisons() == []


def test_the_commands_compare_and_activate(reviewed: tuple[Line, Archive]) -> None:
    line, archive = reviewed

    def run(*arguments: object) -> str:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.add_typer(commands.app, name="records")
        done = CliRunner().invoke(app, ["records", *map(str, arguments), "--db", line.database], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "is active: Ena, first" in run("activate", line.strict, "--reason", "first", "--who", "Ena")
    with pytest.raises(ValueError, match="was not compared"):
        run("activate", line.lax, "--reason", "better")
    told = run("compare", line.strict, line.lax, "--who", "Ena")
    assert "old: strict.bundle new: lax.bundle" in told and "misses of 2 defective images 0 1" in told
    assert "does not tell which images it was made with." in told
    run("activate", line.lax, "--reason", "better")
    event = archive.active()
    assert event is not None and event.reason == "better" and event.model == archive.comparisons()[0].new
