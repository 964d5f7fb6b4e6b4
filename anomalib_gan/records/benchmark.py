"""How long a large database takes to answer: makes one like a line's half year, and measures every question."""

from __future__ import annotations

import statistics as numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from sqlalchemy import insert

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.database import connect, fingerprint, writing
from anomalib_gan.records.schema import Batch, CalibrationRecord, DefectRecord, InspectionRecord, ModelRecord
from anomalib_gan.runtime.calibration import Calibration

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=182)
BATCHES = 20
CHUNK = 20_000
ENGINEER = User("benchmark", "engineer")


@dataclass(frozen=True)
class Measured:
    """Milliseconds that a question took: the median and the longest of its repeats."""

    question: str
    median: float
    longest: float


def make(database: str | Path, number: int, seed: int = 0, batches: int = BATCHES) -> list[Calibration]:
    """Fills an empty database with `number` inspections over half a year, of two models, in that many batches.

    3 % are for review or rejected, with two defects each, one in 500 is invalid; a tenth of what waited was reviewed.
    Returns the calibrations of both models.
    """
    rng, engine = np.random.default_rng(seed), connect(database)
    calibrations = []
    with writing(engine) as session:
        for place in range(2):
            model = f"{place + 1:064x}"
            one = Calibration.fit(rng.gamma(4, 1, 1000), rng.gamma(9, 1, 1000), rate=0.02, model=model)
            calibrations.append(one)
            session.add(ModelRecord(hash=model, card={}))
            session.flush()
            content = one.to_json()
            session.add(CalibrationRecord(id=fingerprint({"model": model, **content}), model=model, content=content))
        for place in range(batches):
            session.add(Batch(id=place + 1, folder=f"/line/{place}", out=f"out/{place}", started=BEGIN))
    ids = [fingerprint({"model": one.model, **one.to_json()}) for one in calibrations]
    seconds = np.sort(rng.random(number)) * SPAN.total_seconds()
    for begin in range(0, number, CHUNK):
        rows, defects = [], []
        for place in range(begin, min(number, begin + CHUNK)):
            which = int(place > 0.4 * number)
            one, score, peak = calibrations[which], float(rng.gamma(4, 1)), float(rng.gamma(9, 1)) * 0.5
            verdict = "invalid" if place % 500 == 0 else one.verdict(score, peak > one.pixel)
            shown = verdict in ("review", "reject")
            rows.append({
                "id": place + 1, "batch": place * batches // number + 1,
                "path": f"shift{place % 3}/part_{place:08}.png", "size": 2**20,
                "mtime_ns": 1_790_000_000_000_000_000 + place, "sha256": f"{place:064x}", "model": one.model,
                "calibration": ids[which], "settings": {"info_bar": "auto", "bits": None},
                "scored_at": BEGIN + timedelta(seconds=float(seconds[place])), "height": 1024, "width": 1280,
                "score": None if verdict == "invalid" else score, "peak": None if verdict == "invalid" else peak,
                "verdict": verdict, "review": one.review, "reject": one.reject, "pixel": one.pixel,
                "defect_count": 2 * shown, "defect_area": 80 * shown, "largest_defect": 50 * shown, "warning": "",
                "notes": "", "reason": "", "device": "cpu", "decode_s": 0.01, "inference_s": 0.2, "post_s": 0.01,
            })  # fmt: skip
            for k in range(2 * shown):
                y, x, side = float(rng.random() * 1000), float(rng.random() * 1200), int(rng.integers(2, 60))
                defects.append({
                    "inspection": place + 1, "number": k, "top": int(y), "left": int(x), "bottom": int(y) + side,
                    "right": int(x) + side, "area": side * side // 2, "area_um2": None, "peak": peak,
                    "row": y, "col": x,
                })  # fmt: skip
        with writing(engine) as session:
            session.execute(insert(InspectionRecord), rows)
            if defects:
                session.execute(insert(DefectRecord), defects)
    engine.dispose()
    with Archive(database) as archive:
        for row in archive.queue(limit=max(1, number // 500)).rows:
            archive.review(row, ENGINEER, "confirmed")
    return calibrations


def questions(archive: Archive, calibration: Calibration) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(what is asked, the call), as the dashboard's pages ask it."""
    model, month = calibration.model, Filter(begin=BEGIN + SPAN / 2, end=BEGIN + SPAN / 2 + timedelta(days=30))
    deep = archive.page(Filter(end=BEGIN + SPAN / 3)).after
    middle = archive.page(Filter(end=BEGIN + SPAN / 2), limit=1).rows[0].id
    bad = Filter(verdicts=("review", "reject"))
    yield "page: the newest 50", archive.page
    yield "page: 50 in the middle", lambda: archive.page(after=deep)
    yield "page: the worst 50", lambda: archive.page(order="worst")
    yield "page: the worst 50 of a batch", lambda: archive.page(Filter(batch=7), order="worst")
    yield "page: review and reject of a model", lambda: archive.page(Filter(model=model, verdicts=bad.verdicts))
    yield "page: text that one path holds", lambda: archive.page(Filter(text="part_00000123"))
    yield "page: text that no path holds", lambda: archive.page(Filter(text="nowhere"))
    yield "page: text that all paths hold", lambda: archive.page(Filter(text="part_"))
    yield "page: reviewed", lambda: archive.page(Filter(reviewed=True))
    yield "one inspection and its neighbours", lambda: (archive.inspection(middle), archive.neighbours(middle, bad))
    yield "count: all", archive.count
    yield "count: a model in a month", lambda: archive.count(Filter(model=model, begin=month.begin, end=month.end))
    yield "count: text", lambda: archive.count(Filter(text="shift1/part_0005"))
    yield "totals: all", archive.totals
    yield "totals: a batch", lambda: archive.totals(Filter(batch=7))
    yield "totals: a model", lambda: archive.totals(Filter(model=model))
    yield "trend: half a year in 60 bins", lambda: archive.trend(Filter(), BEGIN, BEGIN + SPAN, 60)
    yield "trend: a model, half a year in 60 bins", lambda: archive.trend(Filter(model=model), BEGIN, BEGIN + SPAN, 60)
    yield "trend: an hour in 60 bins", lambda: archive.trend(Filter(), BEGIN, BEGIN + timedelta(hours=1), 60)
    yield "throughput: all", archive.throughput
    yield "histogram: all, 60 bins", lambda: archive.histogram(Filter(), [*np.linspace(0, 20, 61)])
    yield "histogram: a model, 60 bins", lambda: archive.histogram(Filter(model=model), [*np.linspace(0, 20, 61)])
    yield "histogram: a batch, 60 bins", lambda: archive.histogram(Filter(batch=7), [*np.linspace(0, 20, 61)])
    yield "defect positions: all, 16 x 16", archive.defect_positions
    yield "defect positions: a month", lambda: archive.defect_positions(month)
    yield "largest defects", archive.largest_defects
    yield "defect sizes: all", archive.defect_sizes
    yield "defect sizes: a month", lambda: archive.defect_sizes(month)
    yield "queue: the newest 50", archive.queue
    yield "queue: how many wait", archive.waiting
    yield "how many were reviewed, and agreement", lambda: (archive.reviewed_count(), archive.agreement())
    review, reject = calibration.review * 1.1, calibration.reject * 1.1
    yield "preview of thresholds", lambda: archive.preview(calibration, review=review, reject=reject)
    preview = archive.preview(calibration, review=review, reject=reject)
    yield "preview: 50 that would change", lambda: archive.changed(preview, "review", "accept")
    yield "batches and models", lambda: (archive.batches(), archive.models(), archive.calibrations(model))
    yield "drift", lambda: archive.drift(model)


def measure(database: str | Path, calibration: Calibration, repeats: int = 5) -> list[Measured]:
    """Every question `repeats` times after one that is not counted, which brings the pages into memory."""
    found = []
    with Archive(database) as archive:
        for question, call in questions(archive, calibration):
            call()
            spent = []
            for _ in range(repeats):
                begin = perf_counter()
                call()
                spent.append(1e3 * (perf_counter() - begin))
            found.append(Measured(question, numbers.median(spent), max(spent)))
    return found


def markdown(number: int, bytes: int, machine: str, measured: list[Measured]) -> str:
    lines = [f"| {number:,} inspections in SQLite | median ms | longest ms |", "|---|---|---|"]
    lines += [f"| {one.question} | {one.median:.1f} | {one.longest:.1f} |" for one in measured]
    return "\n".join([*lines, "", f"{machine}; the file has {bytes / 1e6:,.0f} MB."]) + "\n"
