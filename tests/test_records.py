"""Laws of the records: rows are replaced and never repeated, pictures say what the map says, reports stand alone."""

from __future__ import annotations

import re
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sqlalchemy.exc import IntegrityError

from anomalib_gan.records import pictures
from anomalib_gan.records.database import (
    VERDICTS,
    DefectRecord,
    InspectionRecord,
    Records,
    RecordsError,
    connect,
    fingerprint,
)
from anomalib_gan.records.report import histogram, write_report
from anomalib_gan.records.tables import write_tables
from anomalib_gan.runtime.calibration import Calibration

MODEL = "cd" * 32
THRESHOLDS = Calibration.fit([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], model=MODEL).to_json()


def opened(out: Path, thresholds: dict[str, Any] = THRESHOLDS, folder: str = "/images") -> Records:
    return Records(out / "results.db", folder, MODEL, {"name": "x"}, thresholds)


def row(
    path: str, verdict: str = "accept", score: float | None = 1.0, defects: int = 0, **more: Any
) -> InspectionRecord:
    found = [
        DefectRecord(number=k, top=1, left=2, bottom=3, right=4, area=4, area_um2=None, peak=9.0 - k, row=1.5, col=2.5)
        for k in range(defects)
    ]
    return InspectionRecord(
        **{
            "path": path, "size": 1, "mtime_ns": 1, "settings": {}, "scored_at": datetime.now(UTC), "verdict": verdict,
            "score": None if verdict == "invalid" else score, "review": 1.0, "reject": 2.0, "pixel": 3.0,
            "height": 8, "width": 8, "defect_count": defects, "defects": found,
        } | more
    )  # fmt: skip


def count(out: Path, table: str) -> int:
    database = sqlite3.connect(out / "results.db")
    number: int = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    database.close()
    return number


@settings(max_examples=15, deadline=None)
@given(paths=st.lists(st.sampled_from("abc"), max_size=8), defects=st.integers(0, 3))
def test_put_replaces_an_image_with_its_defects(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], defects: int
) -> None:
    out = tmp_path_factory.mktemp("out")
    with opened(out) as records:
        for place, path in enumerate(paths):
            records.put(row(path, score=float(place), defects=defects))
        assert [one.path for one in records.inspections()] == sorted(set(paths))
        last = {path: float(place) for place, path in enumerate(paths)}
        assert {one.path: one.score for one in records.inspections()} == last
        assert sum(records.counts().values()) == len(last)
        assert [path for path, _ in records.defects()] == [path for path in sorted(last) for _ in range(defects)]
    assert count(out, "defects") == defects * len(last)


def test_rows_outlive_the_process_and_the_same_model_is_one_row(tmp_path: Path) -> None:
    for path in ("a", "b"):
        with opened(tmp_path) as records:
            records.put(row(path))
    with opened(tmp_path) as records:
        assert [one.path for one in records.inspections()] == ["a", "b"]
        assert records.find("c") is None
    assert [count(tmp_path, table) for table in ("models", "calibrations", "batches")] == [1, 1, 1]
    other = Calibration.fit([1.0, 5.0], [1.0, 2.0], model=MODEL).to_json()
    with opened(tmp_path, other) as records:
        assert records.older() == 2
    assert count(tmp_path, "calibrations") == 2


def test_a_drop_takes_the_defects_along(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        records.put(row("a", defects=2))
        records.drop("a")
        assert records.find("a") is None
    assert count(tmp_path, "defects") == 0


def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    engine = connect(tmp_path / "results.db")
    with engine.connect() as connection:
        answers = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
        assert answers == ["wal", 1, 2]
        with pytest.raises(IntegrityError):
            connection.exec_driver_sql("INSERT INTO calibrations VALUES ('x', 'no such model', '{}')")
    engine.dispose()


@pytest.mark.parametrize(("verdict", "score"), [("fine", 1.0), ("accept", None)])
def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path, verdict: str, score: float | None) -> None:
    with opened(tmp_path) as records, pytest.raises(IntegrityError):
        records.put(row("a", verdict, score))


def test_times_are_utc(tmp_path: Path) -> None:
    local = datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    with opened(tmp_path) as records:
        records.put(row("a", scored_at=local))
        found = records.find("a")
        assert found is not None and found.scored_at == local and found.scored_at.utcoffset() == timedelta(0)


def test_what_is_no_results_database_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(RecordsError, match=r"/images, not of /elsewhere.*--out"):
        opened(tmp_path, folder="/elsewhere")
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one by its size" * 20)
    with pytest.raises(RecordsError, match=r"text\.db is not a results database"):
        connect(tmp_path / "text.db")
    database = sqlite3.connect(tmp_path / "newer.db")
    database.executescript("CREATE TABLE x (y); PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RecordsError, match="version 99"):
        connect(tmp_path / "newer.db")


def test_the_fingerprint_is_of_the_content_not_of_the_order() -> None:
    assert fingerprint({"a": 1, "b": [1.5]}) == fingerprint({"b": [1.5], "a": 1}) != fingerprint({"a": 1, "b": [1.6]})


MAPS = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 600)),
    elements=st.floats(-5, 50, width=32) | st.just(np.nan),
    fill=st.floats(-5, 50, width=32),
)


@settings(max_examples=40, deadline=None)
@given(map=MAPS, low=st.floats(-1, 1), length=st.floats(0.1, 2))
def test_a_map_file_is_true_to_half_a_step(
    tmp_path_factory: pytest.TempPathFactory, map: np.ndarray, low: float, length: float
) -> None:
    path = tmp_path_factory.mktemp("maps") / "a.tif"
    pictures.write_map(path, lambda top, bottom: map[top:bottom], *map.shape, (low, low + length))
    found, reach = pictures.read_map(path), pictures.SPAN * length
    np.testing.assert_array_equal(np.isnan(found), np.isnan(map))
    np.testing.assert_allclose(found, map.clip(low, low + reach), atol=0.51 * reach / 65534 + 1e-5)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.is_tiled and file.pages.first.dtype == np.uint16


def test_a_map_needs_a_scale(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scale"):
        pictures.write_map(tmp_path / "a.tif", lambda top, bottom: np.zeros((bottom - top, 4)), 4, 4, (1.0, 1.0))
    assert not list(tmp_path.iterdir())


def test_the_mask_is_the_same_as_png_and_as_tiff(tmp_path: Path) -> None:
    map = np.random.default_rng(0).random((300, 310), np.float32)
    map[290:] = np.nan
    for name in ("a.png", "a.tif"):
        pictures.write_mask(tmp_path / name, lambda top, bottom: map[top:bottom], 300, 310, 0.5)
    png = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(png, tifffile.imread(tmp_path / "a.tif"))
    np.testing.assert_array_equal(png, np.where(map > 0.5, 255, 0))


def overlay(path: Path, image: np.ndarray, map: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    height, width = map.shape
    pictures.write_overlay(path, lambda t, b: image[t:b], lambda t, b: map[t:b], height, width, (0.0, 0.3), threshold)
    return cv2.imread(str(path)).astype(int)


def colour(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=2) - picture.min(axis=2)


@pytest.mark.parametrize("white", [255, 65535])
def test_an_overlay_is_grey_where_normal_and_coloured_where_not(tmp_path: Path, white: int) -> None:
    image = np.random.default_rng(0).integers(0, white, (200, 300, 1)).astype(np.uint8 if white == 255 else np.uint16)
    map = np.zeros((200, 300), np.float32)
    map[50:80, 60:100] = 0.6
    map[180:] = np.nan
    found = colour(overlay(tmp_path / "a.jpg", image, map))
    assert found[55:75, 65:95].mean() > 50 > 6 > found[100:170].mean()
    assert found[185:].mean() < 6
    # The same map over another image or beside a hotter place has the same heat: the scale is fixed.
    map[150:160, 250:260] = 5.0
    hotter = colour(overlay(tmp_path / "b.jpg", image, map))
    np.testing.assert_allclose(hotter[40:90, 50:110], found[40:90, 50:110], atol=2)


def test_a_small_defect_survives_the_reduction_of_a_large_image(tmp_path: Path) -> None:
    image, map = np.full((3000, 5000, 3), 90, np.uint8), np.zeros((3000, 5000), np.float32)
    map[1501, 2501] = 0.6
    map[2900:] = np.nan
    found = overlay(tmp_path / "a.jpg", image, map)
    assert found.shape == (1000, 1667, 3)
    hot = np.argwhere(colour(found) > 40)
    assert len(hot) and (abs(hot - (500, 833)) < 8).all()
    small = cv2.imdecode(np.frombuffer(pictures.thumbnail(tmp_path / "a.jpg", 200), np.uint8), cv2.IMREAD_COLOR)
    assert max(small.shape) == 200


def test_an_image_without_contrast_has_an_overlay(tmp_path: Path) -> None:
    flat = np.zeros((16, 16), np.float32)
    assert overlay(tmp_path / "a.jpg", np.full((16, 16, 1), 7, np.uint8), flat).shape == (16, 16, 3)
    assert overlay(tmp_path / "b.jpg", np.full((16, 16, 1), 7, np.uint8), flat * np.nan).shape == (16, 16, 3)


def test_a_spool_gives_back_what_it_took(tmp_path: Path) -> None:
    map = np.random.default_rng(0).random((50, 7), np.float32)
    spool = pictures.Spool(tmp_path, 7)
    for top in range(0, 50, 9):
        spool(top, map[top : top + 9])
    np.testing.assert_array_equal(spool.rows(3, 41), map[3:41])
    with pytest.raises(ValueError, match="does not continue"):
        spool(0, map[:2])
    spool.close()
    assert not list(tmp_path.iterdir())


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.sampled_from(["accept", "review", "reject"])), min_size=1),
    st.floats(-10, 10),
    st.floats(0, 10),
)
def test_the_histogram_stays_in_its_frame(pairs: list[tuple[float, str]], review: float, more: float) -> None:
    span = min(score for score, _ in pairs), max(score for score, _ in pairs)
    drawn = histogram(pairs, span, review, review + more, [review - 1, review])
    left, top, right, bottom = drawn.plot
    told = [int(number) for bar in drawn.bars for number in re.findall(r"(\d+) (?:accept|review|reject)", bar.label)]
    assert sum(told) == len(pairs)
    for bar in drawn.bars:
        assert left <= bar.left and bar.left + bar.width <= right + 1e-6
        assert all(top - 1e-6 <= y and y + height <= bottom + 1e-6 and height > 0 for _, y, height in bar.parts)
    places = [*drawn.normals, *(x for _, _, x in drawn.thresholds), *(x for x, _ in drawn.x_ticks)]
    assert all(left <= x <= right for x in places)
    assert all(top - 1e-6 <= y <= bottom + 1e-6 for y, _ in drawn.y_ticks)


def test_one_full_bin_does_not_flatten_the_others() -> None:
    pairs = [(1.0, "accept")] * 5000 + [(float(score), "reject") for score in range(2, 30)]
    drawn = histogram(pairs, (1.0, 29.0), 1.5, 2.0, [])
    assert drawn.logarithmic
    assert min(height for bar in drawn.bars for _, _, height in bar.parts) > 5
    assert not histogram(pairs[4990:], (1.0, 29.0), 1.5, 2.0, []).logarithmic


class Reader(HTMLParser):
    """Collects the text, what is loaded and whether tags are balanced."""

    EMPTY = frozenset({"meta", "img", "line", "rect", "path", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.loaded = "", set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_stands_alone_and_tells_everything(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        for place in range(70):
            records.put(row(f"{place}.png", VERDICTS[place % 4], place / 10, defects=place % 3, reason=f"why {place}"))
        records.put(row("<script>alert(1)</script>.png", "reject", 99.0, warning="pixel size differs"))
        (tmp_path / "overlays").mkdir()
        cv2.imwrite(str(tmp_path / "overlays" / "68.png.jpg"), np.zeros((30, 40, 3), np.uint8))
        page = write_report(records, tmp_path, summary={"skipped": 2, "gone": 1}).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert "script" not in reader.tags
    assert len(reader.loaded) == 1 and reader.loaded[0].startswith("data:image/jpeg;base64,")
    assert "http" not in page
    text = " ".join(reader.text.split())
    for told in ("<script>alert(1)</script>.png", "pixel size differs", "why 2", "2 files of the folder", *(
        warning for warning in THRESHOLDS["warnings"]
    )):  # fmt: skip
        assert told in text
    shown = re.findall(r"\S+\.png", text[text.index("Least normal first") : text.index("Files that could not")])
    assert shown[:3] == ["<script>alert(1)</script>.png", "68.png", "64.png"]


def test_a_folder_of_nothing_but_bad_files_has_a_report(tmp_path: Path) -> None:
    with opened(tmp_path) as records:
        records.put(row("a.png", "invalid", reason="is empty"))
        write_tables(records, tmp_path)
        assert "is empty" in write_report(records, tmp_path, summary={"skipped": 0, "gone": 0}).read_text("utf-8")
    assert (tmp_path / "results.csv").read_text("utf-8-sig").count("\n") == 2
