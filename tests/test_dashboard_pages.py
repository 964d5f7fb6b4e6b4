"""The pages over a results database: real rows of a real bundle, by AppTest."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import streamlit as st
from pyarrow import parquet
from results import Results, make
from streamlit.testing.v1 import AppTest

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.database import writing
from anomalib_gan.records.schema import InspectionRecord
from anomalib_gan.records.shift import evidence, shift_report
from anomalib_gan.runtime.bundle import read_manifest
from dashboard.files import RefusedPathError, locate
from dashboard.pages import PAGES, reports
from dashboard.pages.inspect import label
from dashboard.pages.review import QUEUED, say, take
from dashboard.results import said
from dashboard.settings import Settings
from dashboard.viewer import Event

ENGINEER, OPERATOR = User("Eve", "engineer"), User("Olaf", "operator")
RECORDS = [page for page in PAGES if page.path not in ("inspect", "explore", "models")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("results"))


@pytest.fixture
def results(made: Results, tmp_path: Path) -> Results:
    """A copy of what was scored once, to change; its images lie where they were."""
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
    from unittest.mock import patch

    from anomalib_gan.records.access import User
    from dashboard import app
    from dashboard.pages import PAGES

    with patch.object(app, "guard", lambda: User(name, role)):
        app.show(next(page for page in PAGES if page.path == path))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    """A page, over some settings, as somebody sees it."""

    def open(path: str, known: dict[str, Any], user: User = ENGINEER) -> AppTest:
        for name, value in Settings(**known).to_environment().items():
            monkeypatch.setenv(name, value)
        page = AppTest.from_function(shown, default_timeout=60, args=(path, user.role, user.name)).run()
        assert not page.exception, page.exception
        return page

    yield open
    st.cache_resource.clear()


def words(page: AppTest) -> str:
    kinds = (page.error, page.info, page.warning, page.success, page.markdown, page.caption)
    told = [str(one.value) for kind in kinds for one in kind]
    return "\n".join([*told, *(one.proto.body for one in page.get("html"))]).replace("\\", "")


@pytest.mark.parametrize("page", RECORDS, ids=lambda page: page.path)
def test_without_a_database_a_page_says_what_to_give(opened, page, results, tmp_path) -> None:
    assert "--db" in words(opened(page.path, {}))
    told = words(opened(page.path, {"db": str(tmp_path / "no.db")}))
    assert "there is no results database" in told and not (tmp_path / "no.db").exists()


@pytest.mark.parametrize("page", RECORDS, ids=lambda page: page.path)
def test_a_page_over_real_rows_has_no_error(opened, page, results) -> None:
    assert not opened(page.path, results.settings).error


@pytest.mark.parametrize("page", RECORDS, ids=lambda page: page.path)
def test_a_database_that_is_damaged_while_pages_are_open_is_told(opened, page, results) -> None:
    seen = opened(page.path, results.settings)
    st.cache_resource.clear()  # what a connection has read before it remembers
    with open(results.database, "rb+") as file:
        file.seek(4096)  # it is still a database, whose rows cannot be read
        file.write(bytes(range(256)) * (results.database.stat().st_size // 256 - 16))
    seen.run()
    assert not seen.exception and "results.db is" in words(seen) and "damaged" in words(seen)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
@pytest.mark.parametrize("file", ["manifest.json", "parts.onnx", "whole"])
def test_a_bundle_that_is_damaged_while_pages_are_open_is_told(opened, page, file, results) -> None:
    seen = opened(page.path, results.settings)
    if file == "whole":
        shutil.rmtree(results.bundle)
    else:
        (results.bundle / file).write_bytes(b"damaged")
    seen.run()
    assert not seen.exception, seen.exception
    if file != "parts.onnx" and page.path in ("inspect", "explore", "thresholds"):
        assert "bundle" in words(seen) and not seen.number_input


# --- review queue --------------------------------------------------------------------------------------------------


def test_the_queue_holds_what_went_to_review_and_what_somebody_asked_for(opened, archive, results) -> None:
    waiting = archive.totals()["review"]
    assert waiting and f"{waiting} waiting" in str(opened("review", results.settings).get("progress")[0].proto.text)
    rejected = archive.page(Filter(verdicts=("reject",))).rows[0]
    archive.ask(rejected, OPERATOR)
    page = opened("review", results.settings)
    assert f"{waiting + 1} waiting" in page.get("progress")[0].proto.text


def test_what_is_said_becomes_a_row_with_the_comment_and_undo_withdraws_it(archive, monkeypatch) -> None:
    monkeypatch.setattr(st, "session_state", {})
    row = archive.queue(limit=QUEUED).rows[0]
    key = "scene"
    st.session_state[f"comment {row.id}"] = "a fibre"

    def press(kind: str, **more: Any) -> None:
        take(archive, OPERATOR, row, key, [row.id], Event(kind, more.get("scene", key), more.get("box")))  # type: ignore[arg-type]

    press("confirm", scene="another image")
    assert not archive.reviews(row)
    press("false alarm")
    press("false alarm")  # the second was on its way before the image changed
    (written,) = archive.reviews(row)
    assert (written.label, written.who, written.comment) == ("false alarm", "Olaf", "a fibre")
    assert row.id not in [one.id for one in archive.queue().rows]
    press("undo")
    assert not archive.reviews(row) and archive.reviews(row, withdrawn=True)
    assert row.id in [one.id for one in archive.queue().rows]


def test_a_missed_defect_is_drawn_first(archive, monkeypatch) -> None:
    monkeypatch.setattr(st, "session_state", {})
    row = archive.queue().rows[0]
    assert say(archive, OPERATOR, row, "missed defect", "scene") is None
    assert "needs a box" in st.session_state["review told"][1]
    take(archive, OPERATOR, row, "scene", [row.id], Event("box", "scene", (10, 20, 30, 50)))
    written = say(archive, OPERATOR, row, "missed defect", "scene")
    assert written is not None and written.box == (10, 20, 30, 50)


def test_the_type_that_was_chosen_goes_with_the_review_and_with_no_false_alarm(archive, monkeypatch) -> None:
    monkeypatch.setattr(st, "session_state", {})
    row = archive.queue().rows[0]
    st.session_state[f"type {row.id}"] = " bead "
    assert say(archive, OPERATOR, row, "false alarm", "scene") is None
    assert "none of type 'bead': clear it" in st.session_state["review told"][1]
    written = say(archive, OPERATOR, row, "confirmed", "scene")
    assert written is not None and written.defect_type == "bead"


def test_types_in_use_are_offered_a_new_one_can_be_named_and_reviews_show_theirs(opened, archive, results) -> None:
    row = archive.queue().rows[-1]
    archive.review(row, ENGINEER, "confirmed", defect_type="bead *1*")
    archive.ask(row, ENGINEER)
    page = opened("review", results.settings)
    page.session_state["review id"] = row.id
    page.run()
    (box,) = [one for one in page.selectbox if one.label == "Type of defect"]
    assert box.options == ["bead *1*"] and box.value is None and box.proto.accept_new_options
    assert "said **confirmed** (bead *1*)" in words(page)
    assert "confirmed: bead *1*" in evidence(archive, row.id)


def test_of_several_drawn_boxes_each_becomes_a_row_and_undo_takes_back_all(archive, monkeypatch) -> None:
    monkeypatch.setattr(st, "session_state", {})
    row, boxes = archive.queue().rows[0], [(10, 20, 30, 50), (40, 20, 60, 50)]
    for box in boxes:
        take(archive, OPERATOR, row, "scene", [row.id], Event("box", "scene", box))
    take(archive, OPERATOR, row, "scene", [row.id], Event("missed defect", "scene", None))
    assert sorted(one.box for one in archive.reviews(row)) == boxes
    assert said(archive.reviews(row))[0].startswith("Olaf said **missed defect** in 2 places")
    take(archive, OPERATOR, row, "scene", [row.id], Event("undo", "scene", None))
    assert not archive.reviews(row) and len(archive.reviews(row, withdrawn=True)) == 2


def test_a_damaged_map_is_told_beside_the_image(opened, results) -> None:
    for file in (results.root / "out/maps").rglob("*.tif"):
        file.write_bytes(file.read_bytes()[:300])
    page = opened("review", results.settings)
    assert "score the image again" in words(page) and not page.error


def test_an_image_outside_the_configured_folders_is_not_read_and_the_mend_is_told(opened, results, tmp_path) -> None:
    known = results.settings | {"images": (str(tmp_path),)}
    told = words(opened("review", known))
    assert "--images" in told and "overlay" in told
    with pytest.raises(RefusedPathError):
        locate([results.images], results.images / "../results.db")
    with pytest.raises(RefusedPathError):
        locate([results.images], Path("/etc/passwd"))
    assert locate([results.images], results.images / "good/000.png").is_file()


def test_an_image_that_changed_since_it_was_inspected_is_not_shown_as_if_it_were_the_same(opened, results) -> None:
    moved = results.root / "images"
    shutil.copytree(results.images, moved)
    with Archive(results.database) as archive:
        path = archive.queue().rows[0].path
    (moved / path).write_bytes((moved / "film/000.png").read_bytes())
    from dashboard.results import image_file

    known = results.settings | {"images": (str(moved),)}
    opened("review", known)
    with Archive(results.database) as archive:
        row, batch = archive.queue().rows[0], archive.batches()[0]
        batch.folder = str(moved)
        with pytest.raises(ValueError, match="has changed"):
            image_file(row, batch)


# --- inspect -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "decision", "expected"),
    [("reject", "reject", "confirmed"), ("reject", "accept", "false alarm"), ("review", "reject", "confirmed"),
     ("review", "accept", "false alarm"), ("accept", "accept", "confirmed"), ("accept", "reject", "missed defect")],
)  # fmt: skip
def test_a_decision_is_the_review_that_it_means(verdict, decision, expected) -> None:
    assert label(verdict, decision) == expected


def test_a_decision_about_an_image_of_the_database_becomes_one_review(opened, archive, results) -> None:
    from dashboard.pages.inspect import decide

    page = opened("inspect", results.settings, OPERATOR)
    page.segmented_control(key="way").set_value("Folder").run()
    names = page.selectbox(key="images 0").options
    page.selectbox(key="images 0").set_value(next(i for i, name in enumerate(names) if "film/000" in name)).run()
    assert "Your decision becomes a review" in words(page)
    (row,) = archive.page(Filter(text="film/000")).rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "session_state", {})
        decide(OPERATOR, "item", "accept", row)
        decide(OPERATOR, "item", "reject", row)
    (left,) = archive.reviews(row)
    assert (left.label, left.who) == ("confirmed", "Olaf") and len(archive.reviews(row, withdrawn=True)) == 2
    assert "confirmed" in words(page.run())


# --- production ----------------------------------------------------------------------------------------------------


def test_production_counts_what_the_records_count_and_lists_the_invalid(opened, archive, results) -> None:
    page, totals = opened("production", results.settings), archive.totals()
    assert totals["invalid"] == 1
    found = {one.label: one.value for one in page.metric}
    assert found["Images"] == str(sum(totals.values())) and found["Invalid images"] == "1"
    inspected = sum(totals.values()) - totals["invalid"]
    assert found["Rejects"] == f"{100 * totals['reject'] / inspected:.1f} %"
    reasons = [why for table in page.dataframe if "why" in table.value for why in table.value["why"]]
    assert len(reasons) == 1 and "truncated" in reasons[0]
    assert "No sign of drift" in words(page) or "have left the calibration" in words(page)
    for span in ("1 h", "1 w", "1 m", "6 m"):
        page.segmented_control(key="span").set_value(span).run()
        assert not page.exception and {one.label: one.value for one in page.metric}["Images"] == found["Images"]


# --- thresholds ----------------------------------------------------------------------------------------------------


def field(page: AppTest, name: str) -> Any:
    return next(one for one in page.number_input if one.label.startswith(name))


def test_the_preview_is_what_applying_and_scoring_again_gives(opened, archive, results) -> None:
    page = opened("thresholds", results.settings)
    before, old = archive.totals(), read_manifest(results.bundle).calibration
    assert "None of the 14 past decisions" in words(page)
    field(page, "Review").set_value(2.3).run()
    field(page, "Reject").set_value(3.2).run()
    preview = archive.preview(old, review=2.3, reject=3.2)
    moves = {pair: n for pair, n in preview.changes.items() if pair[0] != pair[1] and n}
    assert moves and f"**{sum(moves.values())} of 14 past decisions" in words(page)
    (alarms,) = [one.value for one in page.dataframe if "at most (95 %)" in one.value]
    bound = preview.false_alarms["review"].bound
    assert next(iter(alarms["at most (95 %)"])) == f"{1000 * bound:.0f}"
    apply = next(one for one in page.button if one.label == "Apply")
    assert apply.disabled and read_manifest(results.bundle).calibration == old
    next(one for one in page.text_input if "Reason" in one.label).set_value("fewer rejects").run()
    next(one for one in page.button if one.label == "Apply").click().run()
    assert not page.error and not page.exception, words(page)
    assert read_manifest(results.bundle).calibration == preview.calibration
    (event,) = archive.events("threshold changed")
    assert (event.who, event.reason) == ("Eve", "fewer rejects")
    results.score()
    expected = dict.fromkeys(before, 0) | {"invalid": before["invalid"]}
    for (_, new), number in preview.changes.items():
        expected[new] += number
    assert archive.totals() == expected
    archive.rollback(results.bundle, event.id, ENGINEER, "no")
    assert read_manifest(results.bundle).calibration == old


def test_an_operator_cannot_apply_thresholds(opened, archive, results) -> None:
    page, old = opened("thresholds", results.settings, OPERATOR), read_manifest(results.bundle).calibration
    field(page, "Review").set_value(2.3).run()
    next(one for one in page.text_input if "Reason" in one.label).set_value("I like it").run()
    next(one for one in page.button if one.label == "Apply").click().run()
    assert "Olaf is an operator: only an engineer may change thresholds" in words(page) and not page.exception
    assert read_manifest(results.bundle).calibration == old and not archive.events()


# --- reports -------------------------------------------------------------------------------------------------------


def test_a_report_is_one_file_with_the_picture_of_every_reject(archive) -> None:
    page = shift_report(archive, Filter(batch=1), "Batch <1>")
    totals = archive.totals()
    assert page.count("data:image/jpeg;base64,") == totals["reject"] > 0 and "Batch &lt;1&gt;" in page
    for row in archive.rows(Filter(verdicts=("reject", "invalid"))):
        assert row.path in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "<script" not in page


def test_evidence_names_what_decided_and_what_was_said(archive, results) -> None:
    row = archive.page(order="worst").rows[0]
    archive.withdraw(archive.review(row, OPERATOR, "false alarm", "<b>sure</b>").id, OPERATOR)
    archive.review(row, ENGINEER, "confirmed", boxes=[(1, 2, 30, 40)])
    page = evidence(archive, row.id, image=results.images / row.path)
    assert page.count("data:image/jpeg;base64,") == 2
    for told in (row.sha256, row.model, row.calibration, f"{row.reject:.4g}", "taken back by Olaf", "Eve (engineer)",
                 "&lt;b&gt;sure&lt;/b&gt;", "box 2, 1 to 40, 30"):  # fmt: skip
        assert told in page


@pytest.mark.parametrize("top", [1000, 4095])
def test_the_image_of_an_evidence_has_the_declared_grey_levels(archive, tmp_path, top) -> None:
    """12 bits in 16: neither dark, as of 65535, nor as bright as it can be."""
    row = archive.page(order="worst").rows[0]
    with writing(archive.engine) as session:
        session.get(InspectionRecord, row.id).settings = {"bits": 12, "white": None}
    ramp = np.tile(np.linspace(0, top, 64).astype(np.uint16), (64, 1))
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp)
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", evidence(archive, row.id, image=tmp_path / "ramp.png"))
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(found[0]), np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_allclose(shown, ramp * (255 / 4095), atol=4)


def test_every_image_of_a_report_is_listed_page_by_page(opened, archive, results, monkeypatch) -> None:
    monkeypatch.setattr(reports, "LISTED", 4)
    page = opened("reports", results.settings)
    page.segmented_control(key="report on").set_value("A batch").run()
    for order, name in (("worst", "Worst first"), ("newest", "Newest first")):
        page.segmented_control(key="report order").set_value(name).run()
        seen = list(page.dataframe[0].value["image"])
        while not page.button(key="report after").disabled:
            page.button(key="report after").click().run()
            seen.extend(page.dataframe[0].value["image"])
        assert seen == [one.path for one in archive.page(Filter(batch=1), order=order, limit=99).rows]
        assert "13 to 15" in words(page) and not page.exception
        while not page.button(key="report before").disabled:
            page.button(key="report before").click().run()
        assert list(page.dataframe[0].value["image"]) == seen[:4]
    page.text_input(key="report text").set_value("film").run()
    assert [path.split("/")[0] for path in page.dataframe[0].value["image"]] == ["film"] * 2
    page.text_input(key="report text").set_value("nowhere").run()
    assert not page.exception and not page.dataframe and "none" in words(page)


def test_a_second_click_that_was_on_its_way_turns_one_page() -> None:
    begins: list[str | None] = [None]
    reports.turn(begins, "a")
    reports.turn(begins, "a")
    assert begins == [None, "a"]
    for _ in range(3):
        reports.turn(begins, None)
    assert begins == [None]


def test_tables_of_a_report_hold_the_rows_of_the_report(opened, archive, results) -> None:
    from anomalib_gan.records.tables import results_csv, results_parquet
    from dashboard.pages.reports import table

    filter = Filter(verdicts=("reject",))
    paths = sorted(row.path for row in archive.rows(filter))
    lines = list(csv.DictReader(io.StringIO(table(results_csv, archive.rows(filter)).decode("utf-8-sig"))))
    assert sorted(line["path"] for line in lines) == paths
    read = parquet.read_table(io.BytesIO(table(results_parquet, archive.rows(filter))))
    assert sorted(read["path"].to_pylist()) == paths
    page = opened("reports", results.settings)
    page.segmented_control(key="report on").set_value("A batch").run()
    assert "**15 images**" in words(page) and not page.exception
