"""The page Models, and what the switch of the active model does to the others: real bundles, by AppTest."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import streamlit as st
from hypothesis import given
from hypothesis import strategies as some
from results import Results, make
from streamlit.testing.v1 import AppTest
from typer.main import get_command

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.bundle import MODEL
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspector import Inspector
from dashboard import cards, retraining
from dashboard.detectors import load
from dashboard.pages import models
from dashboard.settings import Settings
from pipelines.cli import build

ENGINEER, OPERATOR = User("Eve", "engineer"), User("Olaf", "operator")
OTHER = "f" * 64
REPORT = {
    "model": "e" * 64,
    "created": "2026-11-21T20:07:07+00:00",
    "overall": {
        "normal_images": 4, "anomalous_images": 10,
        "pixel": {"auroc": 0.98765, "ap": 0.5, "aupro": 0.9, "f1_max": 0.6, "tpr_at_5_fpr": 0.95},
        "per_image": {"auroc": 0.97, "ap": 0.4, "aupro": 0.8, "f1_max": 0.5, "tpr_at_5_fpr": 0.9},
        "image_auroc": None, "defects_hit": 0.75, "normal_pixels_above": 0.01,
    },
    "undefined": {"image_auroc": "no normal test image"},
    "notes": ["taken on *ten* images"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What the other pages have, and a second bundle: the same graph as another model, with an evaluation."""
    found = make(tmp_path_factory.mktemp("results"))
    first = bundle.load(found.bundle)
    assert first.manifest.calibration is not None
    limits = replace(first.manifest.calibration, model=OTHER, review=90.0, reject=91.0, pixel=92.0)
    manifest = replace(first.manifest, name="calm", hash=OTHER, calibration=limits)
    _, picture = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    files = {
        MODEL: first.model,
        "card/card.json": json.dumps({"name": "calm run", "data": {"folder": "/parts/good images"}}).encode(),
        "card/curves.png": picture.tobytes(),
        "card/evaluation/line [b]/evaluation.json": json.dumps(REPORT).encode(),
        "card/evaluation/line [b]/roc.png": picture.tobytes(),
    }
    bundle.write(found.models / "calm.bundle", manifest, files)
    return found


@pytest.fixture
def results(made: Results, tmp_path: Path) -> Results:
    """A copy to change; its images lie where they were."""
    shutil.copytree(made.models, tmp_path / "models")
    shutil.copytree(made.root / "out", tmp_path / "out")
    for file in made.root.glob("results.db*"):
        shutil.copy(file, tmp_path)
    return Results(tmp_path, made.images)


@pytest.fixture
def archive(results: Results) -> Iterator[Archive]:
    with Archive(results.database) as archive:
        yield archive


def shown(path: str, role: str, name: str) -> None:
    """AppTest runs this by its source."""
    from anomalib_gan.records.access import User
    from dashboard.pages import PAGES

    next(page for page in PAGES if page.path == path).show(User(name, role))


Open = Callable[..., AppTest]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A page, over some settings, as somebody sees it; of Models the part that is named."""

    def open(
        known: dict[str, Any], part: str | None = None, model: str | None = None, user: User = ENGINEER
    ) -> AppTest:
        for name, value in Settings(**known).to_environment().items():
            monkeypatch.setenv(name, value)
        path = "inspect" if part == "inspect" else "models"
        page = AppTest.from_function(shown, default_timeout=60, args=(path, user.role, user.name)).run()
        if model is not None:
            page.selectbox(key="model shown").set_value(model).run()
        if part in models.PARTS:
            page.segmented_control(key="models").set_value(part).run()
        assert not page.exception, page.exception
        return page

    yield open
    st.cache_resource.clear()


def words(page: AppTest) -> str:
    kinds = (page.error, page.info, page.warning, page.success, page.markdown, page.caption, page.code)
    told = [str(one.value) for kind in kinds for one in kind]
    return "\n".join([*told, *(one.proto.body for one in page.get("html"))]).replace("\\", "")


# --- what a bundle tells -------------------------------------------------------------------------------------------


def test_without_bundles_or_a_database_the_page_says_what_to_give(opened, results) -> None:
    assert "--models" in words(opened({}))
    told = words(opened({"models": (str(results.models),)}))
    assert "calm" in told and "samples" in told and "--db" in told


def test_a_bundle_that_is_broken_is_told_beside_those_that_are_not(opened, results) -> None:
    (results.models / "calm.bundle/manifest.json").write_text("{}")
    page = opened(results.settings)
    assert "calm.bundle" in page.error[0].value.replace("\\", "") and "| samples |" in words(page)
    page = opened(results.settings, models.CARD, "calm")
    assert page.error and not page.exception


def test_the_card_shows_training_detector_and_images(opened, results) -> None:
    page, manifest = opened(results.settings, models.CARD, "samples"), load(results.bundle).manifest
    told = words(page)
    assert not page.error
    for one in (manifest.hash, bundle.fingerprint(manifest), "6 of data_samples", "0:04:26, 600 steps", "fcbigan"):
        assert one in told
    (images,) = page.dataframe
    assert list(images.value["image"]) == [f"00{i}.png" for i in range(6)] and set(images.value["width px"]) == {512}


ODD = some.sampled_from(
    [None, True, "", "a|b\n\ud800", -1, 10**400, float("inf"), float("nan"), [], [3, None], {}, {"a": [1]}]
)
KNOWN = some.sampled_from(
    ["data", "settings", "images", "folder", "pixel_size", "white", "bits", "params", "duration_s", "started",
     "overall", "pixel", "auroc", "width", "path"]
)  # fmt: skip
CARDS = some.dictionaries(KNOWN, some.dictionaries(KNOWN, ODD, max_size=4) | ODD, max_size=6)


@given(CARDS)
def test_whatever_a_card_holds_becomes_text(card) -> None:
    assert all(isinstance(one, str) and one for one in models.trained(card).values())
    assert all(isinstance(cell, str) for row in models.figures(card.get("overall")) for cell in row)


TEXT = some.text(some.sampled_from("a|\\\n\r`*<[&$ \u2028\ud800"), max_size=12)


@given(some.lists(some.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_no_text_breaks_out_of_the_cell_of_a_table(rows) -> None:
    lines = cards.table(("a", "b"), rows).split("\n")
    assert len(lines) == 2 + len(rows)
    for line in lines:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3


def test_an_evaluation_shows_its_figures_its_reasons_and_its_pictures(opened, results) -> None:
    page = opened(results.settings, models.EVALUATION, "calm")
    told = words(page)
    assert "| pixel AUROC | 0.9877 | 0.9700 |" in told and "| image AUROC | – |" in told and "| 75.0% |" in told
    assert "4 normal and 10 anomalous" in told and "no normal test image" in told and "taken on *ten* images" in told
    assert "line [b]" in told and "Measured with the model eeeeeeeeeeee" in told and len(page.get("image")) == 1
    assert "holds no evaluation" in words(opened(results.settings, models.EVALUATION, "samples"))


def test_curves_come_from_the_bundle_and_only_as_the_manifest_states_them(opened, results) -> None:
    assert len(opened(results.settings, models.CURVES, "calm").get("image")) == 1
    assert "no curves" in words(opened(results.settings, models.CURVES, "samples"))
    kept = results.models / "calm.bundle/card/curves.png"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    page = opened(results.settings, models.CURVES, "calm")
    assert not page.get("image") and "curves.png" in words(page) and page.error


def test_a_picture_is_as_it_was_drawn_and_no_bomb_is_decoded(results, tmp_path, monkeypatch) -> None:
    found = bundle.load(results.models / "calm.bundle")
    picture = cards.picture(found, "card/curves.png")
    assert (picture == np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)[..., ::-1]).all()
    monkeypatch.setattr(cards, "PIXELS", 30 * 40 - 1)
    with pytest.raises(ImageError, match="more than the"):
        cards.picture(found, "card/curves.png")


def test_calibrations_show_the_thresholds_with_their_false_alarms_and_every_change(opened, archive, results) -> None:
    now = bundle.read_manifest(results.bundle).calibration
    archive.apply(results.bundle, now.moved(review=now.review + 0.1), ENGINEER, "too many reviews")
    page = opened(results.settings, models.CALIBRATIONS, "samples")
    moved = bundle.read_manifest(results.bundle).calibration
    alarms = moved.false_alarms("review")
    row = f"| review | {moved.review:.4g} | {1000 * alarms.share:.0f} | {1000 * alarms.bound:.0f} |"
    assert not page.error and row in words(page)
    events, used = (one.value for one in page.dataframe)
    assert list(events["reason"]) == ["too many reviews"] and list(events["who"]) == ["Eve"]
    assert set(used["review above"]) == {now.review, moved.review}


# --- side by side --------------------------------------------------------------------------------------------------


def test_two_models_judge_the_same_image_each_by_its_own_thresholds(opened, results) -> None:
    page = opened(results.settings, models.BESIDE, "samples")
    page.segmented_control(key="way").set_value("Folder").run()
    dust = next(i for i, name in enumerate(page.selectbox(key="image beside").options) if "film/000" in name)
    page.selectbox(key="image beside").set_value(dust).run()
    assert not page.exception and not page.error
    told, found = words(page), Inspector.load(results.bundle)(results.images / "film/000.png")
    assert told.count(f"Score **{found.score:.4g}**") == 2  # one graph, two sets of thresholds
    assert found.verdict == "reject" and "REJECT" in told and "ACCEPT" in told
    assert "do not compare" in told and found.model[:12] in told and OTHER[:12] in told


def test_an_image_that_one_cannot_read_or_a_model_alone_is_told(opened, results) -> None:
    page = opened(results.settings, models.BESIDE, "samples")
    page.segmented_control(key="way").set_value("Folder").run()
    broken = next(i for i, name in enumerate(page.selectbox(key="image beside").options) if "broken" in name)
    page.selectbox(key="image beside").set_value(broken).run()
    assert len(page.error) == 2 and not page.exception
    shutil.rmtree(results.models / "calm.bundle")
    assert "one bundle only" in words(opened(results.settings, models.BESIDE, "samples"))


# --- which is in use -----------------------------------------------------------------------------------------------


def chosen(page: AppTest) -> str:
    return next(one for one in page.selectbox if one.label == "Detector").value


def test_the_model_in_use_is_what_other_pages_begin_with_and_a_switch_is_for_everybody(
    opened, archive, results
) -> None:
    page = opened(results.settings, "inspect")
    assert chosen(page) == "calm"  # the first by name
    archive.activate(results.bundle, ENGINEER, "first")
    assert chosen(page.run()) == "samples" and not page.exception
    next(one for one in page.selectbox if one.label == "Detector").set_value("calm").run()
    assert chosen(page.run()) == "calm"  # one's own choice stays
    archive.activate(results.bundle, ENGINEER, "again")
    assert chosen(page.run()) == "samples"


def test_another_model_in_the_same_place_is_not_the_one_in_use(opened, archive, results) -> None:
    archive.activate(results.bundle, ENGINEER, "first")
    shutil.copytree(results.bundle, results.models / "moved.bundle")
    shutil.rmtree(results.bundle)
    shutil.copytree(results.models / "calm.bundle", results.bundle)
    assert chosen(opened(results.settings, "inspect")) == "moved"
    shutil.rmtree(results.models / "moved.bundle")
    page = opened(results.settings, "inspect")
    assert "is in none of the folders" in words(page) and not page.exception


def button(page: AppTest, label: str) -> Any:
    return next(one for one in page.button if one.label == label)


def make_active(page: AppTest, reason: str) -> str:
    assert button(page, "Make active").disabled
    next(one for one in page.text_input if one.label.startswith("Reason")).set_value(reason).run()
    button(page, "Make active").click().run()
    assert not page.exception
    return words(page)


def test_an_engineer_puts_a_model_into_use_with_a_reason(opened, archive, results) -> None:
    told = make_active(opened(results.settings, model="calm"), "it is calmer")
    event = archive.active()
    assert (event.who, event.reason, event.model) == ("Eve", "it is calmer", OTHER)
    assert "Now in use: calm" in told and "by Eve: it is calmer" in told
    assert "In use: calm" in words(opened(results.settings))


def test_an_operator_puts_no_model_into_use(opened, archive, results) -> None:
    told = make_active(opened(results.settings, model="calm", user=OPERATOR), "I like it")
    assert "Olaf is an operator: only an engineer may switch the model" in told and archive.active() is None


@pytest.fixture
def reviewed(archive, results) -> Archive:
    """`samples` is in use; people agree on a defective image that it rejects and on a normal one that it does not."""
    archive.activate(results.bundle, ENGINEER, "first")
    archive.review(archive.page(Filter(verdicts=("reject",))).rows[0], OPERATOR, "confirmed")
    archive.review(archive.page(Filter(verdicts=("review",))).rows[0], OPERATOR, "false alarm")
    return archive


def test_no_model_takes_the_place_of_another_before_both_were_compared(opened, reviewed, results) -> None:
    page = opened(results.settings, model="calm")
    assert "No model takes the place of another" in words(page)
    next(one for one in page.text_input if one.label.startswith("Reason")).set_value("it is calmer").run()
    assert button(page, "Make active").disabled
    button(page, "Compare on reviewed images").click().run()
    assert not page.exception and not page.error
    told, (row,) = words(page), reviewed.comparisons()
    assert (row.who, row.old_false_alarms, row.old_misses, row.new_false_alarms, row.new_misses) == ("Eve", 1, 0, 0, 1)
    assert "| misses of 1 defective images | 0 | 1 |" in told and "in use: samples | new: calm" in told
    assert "The bundle of the new model does not tell which images it was made with." in told
    (differ,) = [one.value for one in page.dataframe if "people say" in one.value]
    assert sorted(differ["people say"]) == ["defective", "normal"] and set(differ["new"]) == {"accept"}
    assert not button(page, "Make active").disabled
    button(page, "Make active").click().run()
    assert "Now in use: calm" in words(page) and reviewed.active().details["comparison"] == row.id


def test_what_changes_between_comparing_and_switching_is_told_and_nothing_is_switched(
    opened, reviewed, results
) -> None:
    page = opened(results.settings, model="calm")
    button(page, "Compare on reviewed images").click().run()
    next(one for one in page.text_input if one.label.startswith("Reason")).set_value("it is calmer").run()
    reviewed.review(reviewed.page(Filter(verdicts=("accept",))).rows[0], OPERATOR, "confirmed")
    button(page, "Make active").click().run()
    told = words(page)
    assert "other thresholds or reviews than when it was compared" in told and "compare them again" in told
    assert button(page, "Make active").disabled and reviewed.active().reason == "first"


def test_an_operator_compares_nothing(opened, reviewed, results) -> None:
    page = opened(results.settings, model="calm", user=OPERATOR)
    button(page, "Compare on reviewed images").click().run()
    assert "only an engineer may compare models" in words(page) and not reviewed.comparisons()


def understood(line: str) -> dict[str, Any]:
    """What the command line makes of a line that is copied from the page."""
    program, name, *rest = shlex.split(line)
    assert program == "anomalib-gan"
    return get_command(build([name])).commands[name].make_context(name, rest).params  # type: ignore[attr-defined]


def test_the_commands_for_the_next_model_are_understood_and_tell_no_password(results, monkeypatch) -> None:
    detector = load(results.bundle)
    for db, named in ((str(results.database),) * 2, ("postgresql+psycopg://me:secret@host/x", "DATABASE_URL")):
        for name, value in Settings(db=db).to_environment().items():
            monkeypatch.setenv(name, value)
        lines = retraining.commands(detector)
        assert "secret" not in lines
        train, calibrate, export = (understood(line) for line in lines.split("\n"))
        assert (str(train["folder"]), str(train["init_from"]), train["add_reviewed"]) == ("data_samples", "run", named)
        assert train["out"] == calibrate["run"] == export["run"] == Path("run-next")
        assert export["out"] == results.models / "run-next.bundle" and export["generator"]
    quoted = retraining.commands(load(results.models / "calm.bundle"))
    assert str(understood(quoted.split("\n")[0])["folder"]) == "/parts/good images"
    st.cache_resource.clear()
