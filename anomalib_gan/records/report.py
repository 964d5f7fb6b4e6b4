"""report.html: one self-contained page to read, print or mail; it needs no script and no network."""

from __future__ import annotations

import base64
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomalib_gan.records.database import VERDICTS, DefectRecord, Records
from anomalib_gan.records.pictures import thumbnail
from anomalib_gan.runtime.files import atomic_write

GALLERY = 60
"""Images shown, the worst first."""
LISTED = 500
"""Invalid files and warnings listed; results.csv has them all."""
THUMBNAIL = 512
BINS = 48


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram in pixels of the drawing; `parts` are (verdict, top, height) from the bottom upwards."""

    left: float
    width: float
    parts: list[tuple[str, float, float]]
    label: str


@dataclass(frozen=True)
class Histogram:
    """Scores per verdict as stacked bars, with the thresholds, the calibration's scores and ticks, all in pixels."""

    width: int
    height: int
    plot: tuple[float, float, float, float]
    """Left, top, right, bottom of the drawing area."""
    bars: list[Bar]
    thresholds: list[tuple[str, float, float]]
    normals: list[float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    logarithmic: bool


def histogram(
    scores: Iterable[tuple[float, str]], span: tuple[float, float], review: float, reject: float, normals: list[float]
) -> Histogram:
    """Bins (score, verdict) pairs over `span`; counts are logarithmic where one bin would flatten the others."""
    width, height, (left, top, right, bottom) = 920, 300, (52.0, 34.0, 904.0, 236.0)
    low, high = min(span[0], review, *normals), max(span[1], reject, *normals)
    margin = 0.03 * (high - low) or 0.5
    low, high = low - margin, high + margin
    size = (high - low) / BINS
    counts = [dict.fromkeys(VERDICTS, 0) for _ in range(BINS)]
    for score, verdict in scores:
        counts[min(BINS - 1, max(0, int((score - low) / size)))][verdict] += 1
    totals = [sum(bin.values()) for bin in counts]
    used = sorted(total for total in totals if total)
    logarithmic = len(used) > 1 and used[-1] > 20 * used[len(used) // 2]

    def x(score: float) -> float:
        return left + (score - low) / (high - low) * (right - left)

    # A logarithmic axis starts below one, so that a single image still has a visible bar.
    floor, ceiling = 0.5, max(used, default=1) * (1.6 if logarithmic else 1.06)

    def y(count: float) -> float:
        share = math.log(max(count, floor) / floor) / math.log(ceiling / floor) if logarithmic else count / ceiling
        return bottom - share * (bottom - top)

    bars = []
    for place, (bin, total) in enumerate(zip(counts, totals, strict=True)):
        if not total:
            continue
        parts, foot = [], bottom
        for verdict in ("accept", "review", "reject"):
            if bin[verdict]:
                part = bin[verdict] / total * (bottom - y(total))
                foot -= part
                parts.append((verdict, foot, part))
        start = low + place * size
        told = ", ".join(f"{bin[verdict]} {verdict}" for verdict in ("accept", "review", "reject") if bin[verdict])
        bars.append(
            Bar(x(start) + 0.75, x(start + size) - x(start) - 1.5, parts, f"{start:.4g} to {start + size:.4g}: {told}")
        )
    x_ticks = [(x(value), f"{value:.6g}") for value in _ticks(low, high, 8)]
    if logarithmic:
        y_values = [10.0**power for power in range(int(math.log10(ceiling)) + 1)]
    else:
        y_values = sorted({float(round(value)) for value in _ticks(0, ceiling, 4)})
    return Histogram(
        width,
        height,
        (left, top, right, bottom),
        bars,
        [("review", review, x(review)), ("reject", reject, x(reject))],
        [x(score) for score in normals],
        x_ticks,
        [(y(value), f"{value:.0f}") for value in y_values],
        logarithmic,
    )


def write_report(records: Records, out: Path, *, summary: dict[str, Any]) -> Path:
    """Writes out/report.html from the database and the overlays in out/overlays; memory does not grow with the images.

    `summary`: `skipped` files without an image suffix, `gone` rows of files that are no longer in the folder.
    """
    counts, thresholds = records.counts(), records.thresholds
    low, high = records.span()
    shape = None
    if low is not None and high is not None:
        pairs = ((row.score, row.verdict) for row in records.inspections(valid=True) if row.score is not None)
        shape = histogram(
            pairs, (low, high), thresholds["review"], thresholds["reject"], sorted(thresholds.get("scores", []))[-2000:]
        )
    gallery = []
    for row in islice(records.inspections(worst_first=True, valid=True), GALLERY):
        picture = out / "overlays" / f"{row.path}.jpg"
        jpeg = base64.b64encode(thumbnail(picture, THUMBNAIL)).decode() if picture.is_file() else None
        gallery.append({"row": row, "jpeg": jpeg, "types": named(row.defects)})
    warned = list(islice((row for row in records.inspections(valid=True) if row.warning or row.notes), LISTED))
    page = (
        environment()
        .get_template("report.html.j2")
        .stream(
            records=records,
            card=records.card,
            thresholds=thresholds,
            counts=counts,
            total=sum(counts.values()),
            histogram=shape,
            gallery=gallery,
            invalid=list(islice(records.inspections(valid=False), LISTED)),
            warned=warned,
            older=records.older(),
            summary=summary,
            listed=LISTED,
            made=datetime.now(UTC),
        )
    )
    with atomic_write(out / "report.html", "w") as file:
        file.writelines(page)
    return out / "report.html"


def named(defects: Iterable[DefectRecord]) -> str:
    """How many defects are of which type, the commonest first; empty where no type was told."""
    count = Counter(defect.type for defect in defects if defect.type)
    return ", ".join(f"{number} {name}" for name, number in count.most_common())


def environment() -> Environment:
    """Of all templates: what comes from files is escaped, and what is missing is an error."""
    made = Environment(
        loader=PackageLoader("anomalib_gan.records"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["sig"] = lambda value: "–" if value is None else f"{value:.4g}"
    made.filters["area"] = lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return made


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers in [low, high]."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [power * factor for factor in (1, 2, 5, 10)]
    step = steps[min(3, bisect_right(steps, raw))]
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
