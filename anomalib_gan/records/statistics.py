"""What happened, in numbers: verdicts, trends, scores, where defects fall. All are made by the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Integer, bindparam, case, cast, func, select

from anomalib_gan.records.listing import EVERYTHING, Filter, I, Listing
from anomalib_gan.records.schema import VERDICTS, DefectRecord

MOST = 1000
"""Bins of a trend or a histogram."""


@dataclass(frozen=True)
class Bin:
    """Images scored from `begin` until before `end` (UTC): how many by verdict, and the mean score."""

    begin: datetime
    end: datetime
    counts: dict[str, int]
    mean: float | None


@dataclass(frozen=True)
class Throughput:
    """How many images, the times (UTC) of the first and the last, and images per hour between; None under two."""

    images: int
    first: datetime | None
    last: datetime | None
    per_hour: float | None


class Statistics(Listing):
    def totals(self, filter: Filter = EVERYTHING) -> dict[str, int]:
        """Images by verdict, all four verdicts named."""
        with self._reading() as session:
            query = select(I.verdict, func.count()).where(*self._narrow(session, filter)).group_by(I.verdict)
            found = {verdict: number for verdict, number in session.execute(query)}
        return {verdict: found.get(verdict, 0) for verdict in VERDICTS}

    def trend(self, filter: Filter, begin: datetime, end: datetime, bins: int) -> list[Bin]:
        """`bins` equal spans of time from `begin` until before `end`; the filter's own times narrow them further."""
        if not 1 <= bins <= MOST or begin >= end:
            raise ValueError(f"a trend has 1 to {MOST} bins of a time that passes, not {bins} from {begin} to {end}")
        width = (end - begin) / bins
        edges = [begin + place * width for place in range(bins)] + [end]
        found = []
        with self._reading() as session:
            asked = self._narrow(session, filter)
            # One range of an index per bin: grouping by a computed bin would sort a million rows. Written once: the
            # writing would take longer than the answers.
            inside = I.scored_at >= bindparam("low"), I.scored_at < bindparam("high")
            query = select(I.verdict, func.count(), func.sum(I.score)).where(*asked, *inside).group_by(I.verdict)
            for low, high in pairwise(edges):
                rows = session.execute(query, {"low": low, "high": high}).all()
                counts = dict.fromkeys(VERDICTS, 0) | {verdict: number for verdict, number, _ in rows}
                scored = sum(counts.values()) - counts["invalid"]
                total = sum(score for _, _, score in rows if score is not None)
                found.append(Bin(low, high, counts, total / scored if scored else None))
        return found

    def throughput(self, filter: Filter = EVERYTHING) -> Throughput:
        with self._reading() as session:
            asked = self._narrow(session, filter, verdicts=False)
            query = select(I.scored_at).where(*asked)
            first = session.scalar(query.order_by(I.scored_at, I.id).limit(1))
            last = session.scalar(query.order_by(I.scored_at.desc(), I.id.desc()).limit(1))
        images = self.count(filter)
        hours = 0.0 if first is None or last is None else (last - first).total_seconds() / 3600
        return Throughput(images, first, last, (images - 1) / hours if hours else None)

    def histogram(self, filter: Filter, edges: Sequence[float]) -> NDArray[np.int64]:
        """How many scores lie in each bin: from its edge until below the next, the last bin with its upper edge."""
        if not 2 <= len(edges) <= MOST + 1 or any(not low < high for low, high in pairwise(edges)):
            raise ValueError(f"a histogram needs 2 to {MOST + 1} rising edges")
        plain = filter == Filter(model=filter.model, verdicts=filter.verdicts)
        with self._reading() as session:
            if plain:
                ours = () if filter.model is None else (I.model == filter.model,)
                verdicts = [verdict for verdict in filter.verdicts or VERDICTS if verdict != "invalid"]
                counts = []
                for low, high in pairwise(edges):
                    top = I.score <= high if high == edges[-1] else I.score < high
                    asked = *ours, I.verdict.in_(verdicts), I.score >= low, top
                    counts.append(session.scalar(select(func.count()).select_from(I).where(*asked)) or 0)
                return np.array(counts, np.int64)
            query = select(I.score).where(*self._narrow(session, filter), I.score.is_not(None))
            scores = np.fromiter(session.scalars(query.execution_options(yield_per=10_000)), np.float64)
        return np.histogram(scores, edges)[0].astype(np.int64)

    def defect_positions(self, filter: Filter = EVERYTHING, rows: int = 16, cols: int = 16) -> NDArray[np.int64]:
        """(rows, cols): how many defects have their centroid in each cell of the image, whatever its size."""
        if not (1 <= rows <= MOST and 1 <= cols <= MOST):
            raise ValueError(f"the grid is {rows} x {cols}: give 1 to {MOST} rows and columns")

        def cell(place: Any, side: Any, number: int) -> ColumnElement[int]:
            whole = cast(func.floor((place + 0.5) * number / side), Integer)
            return case((whole >= number, number - 1), else_=whole)

        grid = np.zeros((rows, cols), np.int64)
        with self._reading() as session:
            where = self._narrow(session, replace(filter, verdicts=filter.verdicts or ("reject", "review")))
            down, right = cell(DefectRecord.row, I.height, rows), cell(DefectRecord.col, I.width, cols)
            query = select(down.label("down"), right.label("right_"), func.count()).select_from(DefectRecord)
            query = query.join(I, I.id == DefectRecord.inspection).where(*where).group_by("down", "right_")
            for row, col, number in session.execute(query):
                grid[row, col] = number
        return grid

    def largest_defects(self, filter: Filter = EVERYTHING, limit: int = 20) -> list[tuple[DefectRecord, str]]:
        """(defect, path of its image), the largest areas in px first; the defect has the inspection's id."""
        with self._reading() as session:
            query = select(DefectRecord, I.path).join(I, I.id == DefectRecord.inspection)
            query = query.where(*self._narrow(session, filter, verdicts=False)).order_by(DefectRecord.area.desc())
            return [(defect, path) for defect, path in session.execute(query.limit(limit))]

    def defect_sizes(self, filter: Filter = EVERYTHING) -> dict[tuple[int, int], int]:
        """How many defects there are by size: (from, until below) px of area, in powers of four, commonest first."""
        bounds = [4**power for power in range(16)]
        size = case(*((DefectRecord.area < bound, bound) for bound in bounds[1:]), else_=4**16)
        with self._reading() as session:
            query = select(size.label("size_class"), func.count()).select_from(DefectRecord).group_by("size_class")
            if filter != EVERYTHING:
                query = query.join(I, I.id == DefectRecord.inspection).where(*self._narrow(session, filter))
            found = {(high // 4, high): number for high, number in session.execute(query)}
        return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))
