"""Laws of the archive: what the database answers is what plain Python finds in all rows, on every database."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from test_records import THRESHOLDS, row

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter, Label, Order
from anomalib_gan.records.database import Records, RecordsError, writing
from anomalib_gan.records.schema import VERDICTS, DefectRecord, InspectionRecord

ANN, BOB, ENA = User("Ann", "operator"), User("Bob", "operator"), User("Ena", "engineer")
BEGIN = datetime(2026, 3, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
MODELS = ("aa" * 32, "bb" * 32)


def fill(database: str, out: Path, number: int = 240) -> None:
    """Rows in two batches of two models, some at the same time and with the same score."""
    random.seed(1)
    for batch, model in enumerate(MODELS):
        records = Records(database, f"/images/{batch}", model, {}, THRESHOLDS | {"model": model}, out=out / str(batch))
        with records, writing(records.engine) as session:
            for place in range(batch, number, 2):
                verdict = random.choices(VERDICTS, (1, 2, 1, 6))[0]
                height, width = random.choice([(80, 100), (37, 53)])
                one = row(
                    f"line_{place % 7}/{place:04}.PNG", verdict, random.choice([0.5, 1.0, random.random() * 4]),
                    scored_at=BEGIN + random.randrange(48) * HOUR, sha256=f"{place:064x}", height=height, width=width,
                    batch=records.batch, model=model, calibration=records.calibration, peak=random.random(),
                )  # fmt: skip
                for k in range(random.randrange(3) if verdict in ("reject", "review") else 0):
                    y, x = random.randrange(height), random.randrange(width)
                    one.defects.append(
                        DefectRecord(number=k, top=y, left=x, bottom=y + 1, right=x + 1, area=random.randrange(1, 99),
                                     peak=1.0, row=float(y), col=float(x))
                    )  # fmt: skip
                session.add(one)


@pytest.fixture
def archive(database: str, tmp_path: Path) -> Iterator[Archive]:
    fill(database, tmp_path)
    with Archive(database) as opened:
        yield opened


FILTERS: dict[str, tuple[Filter, Callable[[InspectionRecord], bool]]] = {
    "all": (Filter(), lambda row: True),
    "batch": (Filter(batch=2), lambda row: row.batch == 2),
    "model": (Filter(model=MODELS[0]), lambda row: row.model == MODELS[0]),
    "verdicts": (Filter(verdicts=("review", "reject")), lambda row: row.verdict in ("review", "reject")),
    "invalid": (Filter(verdicts=("invalid",)), lambda row: row.verdict == "invalid"),
    "times": (
        Filter(begin=BEGIN + 5 * HOUR, end=(BEGIN + 30 * HOUR).astimezone(timezone(timedelta(hours=-7)))),
        lambda row: BEGIN + 5 * HOUR <= row.scored_at < BEGIN + 30 * HOUR,
    ),
    "text": (Filter(text="_3/00"), lambda row: "_3/00" in row.path),
    "case": (Filter(text="7.png"), lambda row: "7.PNG" in row.path),
    "wildcard": (Filter(text="%"), lambda row: False),
    "score": (Filter(min_score=1.0), lambda row: row.score is not None and row.score >= 1),
    "several": (
        Filter(batch=1, verdicts=("accept",), begin=BEGIN + HOUR, min_score=0.5, text="line"),
        lambda row: row.batch == 1 and row.verdict == "accept" and row.scored_at > BEGIN and (row.score or 0) >= 0.5,
    ),
}
KEYS: dict[Order, Callable[[InspectionRecord], tuple[float, ...]]] = {
    "newest": lambda row: (-row.scored_at.timestamp(), -row.id),
    "worst": lambda row: (VERDICTS.index(row.verdict), -(row.score or 0), -row.id),
}


def test_pages_hold_every_row_of_the_filter_once_and_in_order(archive: Archive) -> None:
    everything = list(archive.rows())
    assert len(everything) == 240
    for name, (filter, holds) in FILTERS.items():
        wanted = [row for row in everything if holds(row)]
        assert archive.count(filter) == len(wanted), name
        assert [one.id for one in archive.rows(filter)] == [one.id for one in wanted], name
        for order, key in KEYS.items():
            found, after = list[int](), None
            while True:
                page = archive.page(filter, after=after, limit=17, order=order)
                found += [one.id for one in page.rows]
                if (after := page.after) is None:
                    break
            assert found == [one.id for one in sorted(wanted, key=key)], (name, order)
            for place in range(0, len(found), 23):
                before, after_ = archive.neighbours(found[place], filter, order=order)
                assert before == (found[place - 1] if place else None), (name, order)
                assert after_ == (found[place + 1] if place + 1 < len(found) else None), (name, order)


def test_sums_are_those_of_the_rows(archive: Archive) -> None:
    everything = [archive.inspection(row.id) for row in archive.rows()]
    for name, (filter, holds) in FILTERS.items():
        wanted = [row for row in everything if holds(row)]
        assert archive.totals(filter) == {v: sum(row.verdict == v for row in wanted) for v in VERDICTS}, name

        bins = archive.trend(filter, BEGIN + HOUR, BEGIN + 25 * HOUR, 7)
        for bin in bins:
            inside = [row for row in wanted if bin.begin <= row.scored_at < bin.end]
            assert bin.counts == {v: sum(row.verdict == v for row in inside) for v in VERDICTS}, name
            scores = [row.score for row in inside if row.score is not None]
            assert bin.mean == (pytest.approx(np.mean(scores)) if scores else None), name
        assert (bins[0].begin, bins[-1].end) == (BEGIN + HOUR, BEGIN + 25 * HOUR)

        edges = [0, 0.25, 0.5, 1.0, 3.0]
        scores = [row.score for row in wanted if row.score is not None]
        assert archive.histogram(filter, edges).tolist() == np.histogram(scores, edges)[0].tolist(), name

        grid = np.zeros((5, 3), int)
        for one in wanted:
            for defect in one.defects:
                grid[int((defect.row + 0.5) * 5 / one.height), int((defect.col + 0.5) * 3 / one.width)] += 1
        np.testing.assert_array_equal(archive.defect_positions(filter, 5, 3), grid, name)

        areas = sorted((defect.area for row in wanted for defect in row.defects), reverse=True)
        assert [defect.area for defect, _ in archive.largest_defects(filter, 9)] == areas[:9], name
        sizes = archive.defect_sizes(filter)
        assert sizes == {s: sum(s[0] <= area < s[1] for area in areas) for s in sizes}
        assert sum(sizes.values()) == len(areas)
        assert list(sizes.values()) == sorted(sizes.values(), reverse=True)

        used = {(row.model, row.review, row.reject, row.pixel) for row in wanted}
        assert archive.thresholds_used(filter) == sorted(used), name

        told = archive.throughput(filter)
        times = sorted(row.scored_at for row in wanted)
        assert (told.images, told.first, told.last) == (len(times), *((times[0], times[-1]) if times else (None, None)))
        if len(set(times)) > 1:
            hours = (times[-1] - times[0]) / HOUR
            assert told.per_hour == pytest.approx((len(times) - 1) / hours)


def test_what_cannot_be_asked_is_named(archive: Archive) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        Filter(begin=datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="'fine' is no verdict"):
        Filter(verdicts=("fine",))
    for cursor in ("x", "[]", '["2026", "x"]', '["fine", 1, 2]'):
        for order in KEYS:
            with pytest.raises(ValueError, match="is no cursor"):
                archive.page(after=cursor, order=order)
    with pytest.raises(KeyError, match="no inspection 999999"):
        archive.inspection(999999)


def test_models_calibrations_and_batches_are_listed(archive: Archive, tmp_path: Path) -> None:
    assert [model.hash for model in archive.models()] == list(MODELS)
    assert [one.content["model"] for one in archive.calibrations(MODELS[1])] == [MODELS[1]]
    assert [archive.pictures(batch) for batch in archive.batches()] == [tmp_path / "1", tmp_path / "0"]


def test_a_review_outlives_the_row_and_two_people_may_disagree(archive: Archive, database: str, tmp_path: Path) -> None:
    seen = archive.queue().rows[0]
    archive.review(seen, ANN, "false alarm", "  a hair ")
    archive.review(seen.id, BOB, "confirmed")
    with Records(
        database, f"/images/{seen.batch - 1}", MODELS[0], {}, THRESHOLDS, out=tmp_path / str(seen.batch - 1)
    ) as records:
        records.put(row(seen.path, "accept", 0.1, sha256=seen.sha256))
    assert [(one.who, one.label) for one in archive.reviews()] == [("Bob", "confirmed"), ("Ann", "false alarm")]
    first = archive.reviews()[1]
    assert (first.verdict, first.score, first.model, first.comment) == ("review", seen.score, seen.model, "a hair")
    (again,) = archive.page(Filter(reviewed=True)).rows
    assert again.id != seen.id and archive.reviews(again.id)[0].who == "Bob"
    assert archive.count(Filter(reviewed=False)) == 239


def test_the_queue_holds_what_waits_until_it_is_reviewed(archive: Archive) -> None:
    waiting = archive.queue(limit=500).rows
    assert {one.id for one in waiting} == {one.id for one in archive.rows(Filter(verdicts=("review",)))}
    assert archive.waiting() == len(waiting)

    accepted = archive.page(Filter(verdicts=("accept",))).rows[0]
    archive.ask(accepted.id, ANN, "looks odd")
    archive.ask(waiting[3].id, BOB)  # which is there anyway
    asked = {accepted.id} | {one.id for one in waiting}
    found, after = list[int](), None
    while True:
        page = archive.queue(after=after, limit=7)
        found += [one.id for one in page.rows]
        if (after := page.after) is None:
            break
    assert len(found) == len(set(found)) == archive.waiting() and set(found) == asked
    assert archive.waiting(Filter(verdicts=("accept",))) == 1

    done = archive.review(accepted.id, ANN, "missed defect", boxes=[(0, 1, 5, 6)])
    assert done.box == (0, 1, 5, 6)
    archive.review(waiting[3].id, ANN, "confirmed")
    assert archive.waiting() == len(waiting) - 1
    archive.withdraw(done.id, ANN)
    assert accepted.id in {one.id for one in archive.queue(limit=500).rows}


def test_own_reviews_are_taken_back_and_an_engineer_takes_back_any(archive: Archive) -> None:
    id = archive.queue().rows[0].id
    first, second = archive.review(id, ANN, "confirmed"), archive.review(id, ANN, "false alarm")
    with pytest.raises(PermissionError, match="Bob is an operator: only an engineer may withdraw a review of Ann"):
        archive.withdraw(first.id, BOB)
    archive.withdraw(first.id, ANN)
    assert archive.withdraw(second.id, ENA).withdrawn_by == "Ena"
    with pytest.raises(ValueError, match="withdrawn by Ann before"):
        archive.withdraw(first.id, ANN)
    assert archive.reviews() == [] and len(archive.reviews(withdrawn=True)) == 2
    with pytest.raises(KeyError, match="no review 999"):
        archive.withdraw(999, ANN)


def test_several_boxes_are_one_statement_that_counts_once_and_is_taken_back_as_one(archive: Archive) -> None:
    seen, other = archive.page(Filter(verdicts=("accept",))).rows[:2]
    boxes = [(0, 1, 5, 6), (7, 8, 20, 30), (2, 2, 4, 4)]
    earlier = archive.review(seen, ANN, "confirmed")
    first = archive.review(seen, ANN, "missed defect", "three", boxes)
    archive.review(other, ANN, "missed defect", boxes=boxes[:1])
    assert sorted(one.box for one in archive.reviews(seen) if one.box) == sorted(boxes) and first.box == boxes[0]
    archive.review(seen, BOB, "missed defect", boxes=boxes[1:2])
    assert (archive.agreement().images, archive.agreement().agreed, archive.reviewed_count()) == (1, 1, 2)
    archive.review(seen, ANN, "false alarm")  # her last word, against three boxes before
    assert archive.agreement().agreed == 0
    archive.withdraw(first.id, ANN)
    assert {one.label for one in archive.reviews(seen) if one.who == "Ann"} == {"confirmed", "false alarm"}
    assert {one.withdrawn_by for one in archive.reviews(seen, withdrawn=True) if one.comment} == {"Ann"}
    assert earlier.id in [one.id for one in archive.reviews(seen)] and archive.reviewed_count(seen.batch) == 2
    wrong = [boxes[0], (0, 0, 5, 101)]
    with pytest.raises(ValueError, match="does not lie in"):
        archive.review(other, BOB, "missed defect", boxes=wrong)
    assert not [one for one in archive.reviews(other) if one.who == "Bob"], "a part of a statement was written"


def test_a_review_that_says_nothing_certain_is_refused(archive: Archive) -> None:
    seen = archive.page(Filter(verdicts=("accept",))).rows[0]
    with pytest.raises(ValueError, match="'good' is no label"):
        archive.review(seen, ANN, "good")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a missed defect in .* needs a box"):
        archive.review(seen, ANN, "missed defect")
    for box in ((5, 5, 5, 9), (-1, 0, 5, 5), (0, 0, 5, 101)):
        with pytest.raises(ValueError, match="does not lie in"):
            archive.review(seen, ANN, "missed defect", boxes=[box])
    with pytest.raises(ValueError, match="Eve has the role 'guest'"):
        archive.review(seen, User("Eve", "guest"), "confirmed")  # type: ignore[arg-type]
    seen.sha256 = None
    with pytest.raises(RecordsError, match="has no hash: score it again"):
        archive.review(seen, ANN, "confirmed")
    assert archive.reviews(withdrawn=True) == []


def test_agreement_counts_last_words_and_kappa_is_that_of_the_textbook(archive: Archive) -> None:
    assert archive.agreement().share is None
    rows = archive.page(Filter(verdicts=("accept",)), limit=50).rows
    # Cohen (1960): 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no give kappa 0.4.
    pairs: list[tuple[Label, Label]] = [("confirmed", "confirmed")] * 20 + [("confirmed", "false alarm")] * 5
    pairs += [("false alarm", "confirmed")] * 10 + [("false alarm", "false alarm")] * 15
    for seen, (first, second) in zip(rows, pairs, strict=True):
        archive.review(seen, ANN, "false alarm" if first == "confirmed" else "confirmed")
        archive.review(seen, ANN, first)
        archive.review(seen, BOB, second)
    found = archive.agreement()
    assert (found.images, found.agreed, found.share) == (50, 35, 0.7)
    assert found.kappa == pytest.approx(0.4)
    archive.review(rows[0], ENA, "false alarm")
    assert archive.agreement().kappa is None and archive.agreement().agreed == 34
