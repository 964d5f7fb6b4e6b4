"""Which inspections are meant, and going through them page by page, however many there are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.orm import Session, selectinload

from anomalib_gan.records.database import connect, is_url, reading, shown
from anomalib_gan.records.schema import (
    VERDICTS,
    Batch,
    CalibrationRecord,
    InspectionRecord,
    ModelRecord,
    ReviewRecord,
)

Order = Literal["newest", "worst"]
FEW = 5000
"""So many images whose path holds a text are looked up one by one; more are met on the way through an index."""

I = InspectionRecord  # noqa: E741


@dataclass(frozen=True)
class Filter:
    """Which inspections are meant: those that fulfil all that is given.

    batch: its id · model: hash · verdicts: any of these, all where empty · begin, end: aware times, scored at `begin`
    or later and before `end` · text: part of the path, whatever the case of its ASCII letters · reviewed: has a review
    that was not withdrawn, or has none · min_score: this score or a higher one.
    """

    batch: int | None = None
    model: str | None = None
    verdicts: tuple[str, ...] = ()
    begin: datetime | None = None
    end: datetime | None = None
    text: str = ""
    reviewed: bool | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.verdicts) - set(VERDICTS):
            raise ValueError(f"{min(unknown)!r} is no verdict: choose from {', '.join(VERDICTS)}")
        for name, time in (("begin", self.begin), ("end", self.end)):
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name} {time} has no time zone: say which it is, such as UTC")

    def conditions(self, *, verdicts: bool = True) -> list[ColumnElement[bool]]:
        """What the rows fulfil, but for `text`; with `verdicts` they are always named, for most indexes begin so."""
        asked: list[ColumnElement[bool]] = []
        if self.batch is not None:
            asked.append(I.batch == self.batch)
        if self.model is not None:
            asked.append(I.model == self.model)
        if verdicts or self.verdicts:
            asked.append(I.verdict.in_(self.verdicts or VERDICTS))
        if self.begin is not None:
            asked.append(I.scored_at >= self.begin)
        if self.end is not None:
            asked.append(I.scored_at < self.end)
        if self.reviewed is not None:
            asked.append(has_review() if self.reviewed else ~has_review())
        if self.min_score is not None:
            asked.append(I.score >= self.min_score)
        return asked


EVERYTHING = Filter()


def has_review() -> ColumnElement[bool]:
    """Is there a review of the image's bytes that was not withdrawn?"""
    same = (ReviewRecord.batch == I.batch) & (ReviewRecord.sha256 == I.sha256)
    return select(ReviewRecord.id).where(same, ReviewRecord.withdrawn_at.is_(None)).correlate(I).exists()


@dataclass(frozen=True)
class Page:
    """Some rows, and the cursor that `page` takes for the next ones; None after the last."""

    rows: list[InspectionRecord]
    after: str | None


class Listing:
    """An open results database, to ask and to write what people decide; any number may be open at a time."""

    def __init__(self, database: str | os.PathLike[str]) -> None:
        """`database`: a SQLite file, which is made where there is none, or the URL of a PostgreSQL database."""
        self.engine = connect(database)
        self.folder = None if is_url(database) else Path(database).resolve().parent
        self.name = shown(str(database))

    def close(self) -> None:
        self.engine.dispose()

    def page(
        self, filter: Filter = EVERYTHING, *, after: str | None = None, limit: int = 50, order: Order = "newest"
    ) -> Page:
        """At most `limit` rows that follow the cursor `after`; as fast on the last page as on the first.

        "newest" goes back in time; "worst" begins with rejects, then review, invalid and accept, each by falling score.
        Rows that are written meanwhile neither repeat nor hide others. Defects are not loaded: see `inspection`.
        """
        if limit < 1:
            raise ValueError(f"the limit is {limit}: a page has at least one row")
        with self._reading() as session:
            rows = list(self._walk(session, filter, order, None if after is None else key_of(after, order), limit + 1))
        more = len(rows) > limit
        return Page(rows[:limit], cursor_of(rows[limit - 1], order) if more else None)

    def rows(self, filter: Filter = EVERYTHING) -> Iterator[InspectionRecord]:
        """All rows, the oldest first, streamed."""
        with self._reading() as session:
            query = select(I).where(*self._narrow(session, filter, verdicts=False)).order_by(I.scored_at, I.id)
            yield from session.scalars(query.execution_options(yield_per=1000))

    def count(self, filter: Filter = EVERYTHING) -> int:
        with self._reading() as session:
            return session.scalar(select(func.count()).select_from(I).where(*self._narrow(session, filter))) or 0

    def thresholds_used(self, filter: Filter = EVERYTHING) -> list[tuple[str, float, float, float]]:
        """(model, review, reject, pixel) by which the filter's inspections were decided, each once, sorted."""
        with self._reading() as session:
            query = select(I.model, I.review, I.reject, I.pixel).distinct()
            found = session.execute(query.where(*self._narrow(session, filter, verdicts=False))).all()
        return sorted((model, review, reject, pixel) for model, review, reject, pixel in found)

    def inspection(self, id: int) -> InspectionRecord:
        """One row with its defects; a KeyError where there is none, for instance since the image was scored again."""
        with self._reading() as session:
            found = session.get(I, id, options=[selectinload(I.defects)])
        if found is None:
            raise KeyError(f"there is no inspection {id}: it was pruned, or its image scored again; load the list anew")
        return found

    def of_bytes(self, sha256: str, model: str) -> list[InspectionRecord]:
        """What a model found in an image with these bytes, in any batch, the newest first; without defects."""
        with self._reading() as session:
            query = select(I).where(I.batch.in_(select(Batch.id)), I.sha256 == sha256, I.model == model)
            return list(session.scalars(query.order_by(I.scored_at.desc(), I.id.desc())))

    def neighbours(
        self, id: int, filter: Filter = EVERYTHING, *, order: Order = "newest"
    ) -> tuple[int | None, int | None]:
        """(the id before, the id after) in the order of `page`; None at either end."""
        key = key_of(cursor_of(self.inspection(id), order), order)
        with self._reading() as session:
            before = next(self._walk(session, filter, order, key, 1, back=True), None)
            after = next(self._walk(session, filter, order, key, 1), None)
        return before.id if before else None, after.id if after else None

    def batches(self) -> list[Batch]:
        """The newest first."""
        with self._reading() as session:
            return list(session.scalars(select(Batch).order_by(Batch.started.desc(), Batch.id.desc())))

    def pictures(self, batch: Batch) -> Path:
        """The folder of a batch's maps, masks and overlays."""
        return Path(batch.out) if self.folder is None else self.folder / batch.out

    def models(self) -> list[ModelRecord]:
        """By hash."""
        with self._reading() as session:
            return list(session.scalars(select(ModelRecord).order_by(ModelRecord.hash)))

    def calibrations(self, model: str) -> list[CalibrationRecord]:
        """All that a model was ever used with, the newest first by their own date."""
        with self._reading() as session:
            found = session.scalars(select(CalibrationRecord).where(CalibrationRecord.model == model)).all()
        return sorted(found, key=lambda one: (str(one.content.get("created", "")), one.id), reverse=True)

    def _reading(self) -> AbstractContextManager[Session]:
        return reading(self.engine)

    def _narrow(self, session: Session, filter: Filter, *, verdicts: bool = True) -> list[ColumnElement[bool]]:
        """The filter's conditions, its text turned into ids where those are few."""
        if not filter.text:
            return filter.conditions(verdicts=verdicts)
        escaped = filter.text.replace("/", "//").replace("%", "/%").replace("_", "/_")
        like = I.path.like if self.engine.dialect.name == "sqlite" else I.path.ilike
        holds = like(f"%{escaped}%", escape="/")
        found = session.scalars(select(I.id).where(holds).limit(FEW + 1)).all()
        if len(found) <= FEW:
            return [*filter.conditions(verdicts=False), I.id.in_(found)]
        return [*filter.conditions(verdicts=verdicts), holds]

    def _walk(
        self, session: Session, filter: Filter, order: Order, key: Sequence[Any] | None, limit: int, back: bool = False
    ) -> Iterator[InspectionRecord]:
        """At most `limit` rows after (or before) a key, one index range at a time."""
        asked = self._narrow(session, filter, verdicts=False)
        for query in _ranges(select(I).where(*asked), filter, order, key, back):
            for row in session.scalars(query.limit(limit)):
                yield row
                limit -= 1
            if not limit:
                return


def _ranges(
    query: Select[Any], filter: Filter, order: Order, key: Sequence[Any] | None, back: bool
) -> Iterator[Select[Any]]:
    """The query for each range of an index that the order goes through, beginning after `key`."""

    def beyond(columns: Sequence[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        ours, theirs = tuple_(*columns), tuple_(*values)
        return ours > theirs if back else ours < theirs

    def ordered(query: Select[Any], *columns: Any) -> Select[Any]:
        return query.order_by(*(column.asc() if back else column.desc() for column in columns))

    if order == "newest":
        columns = (I.scored_at, I.id)
        yield ordered(query if key is None else query.where(beyond(columns, key)), *columns)
        return
    verdicts = [verdict for verdict in VERDICTS if not filter.verdicts or verdict in filter.verdicts]
    place = VERDICTS.index(key[0]) if key is not None else 0
    for verdict in reversed(verdicts) if back else verdicts:
        here = VERDICTS.index(verdict)
        if key is not None and (here > place if back else here < place):
            continue
        columns = (I.id,) if verdict == "invalid" else (I.score, I.id)  # type: ignore[assignment]
        part = query.where(I.verdict == verdict)
        if key is not None and here == place:
            part = part.where(beyond(columns, key[2:] if verdict == "invalid" else key[1:]))
        yield ordered(part, *columns)


def cursor_of(row: InspectionRecord, order: Order) -> str:
    return json.dumps([row.scored_at.isoformat(), row.id] if order == "newest" else [row.verdict, row.score, row.id])


def key_of(cursor: str, order: Order) -> list[Any]:
    if order not in get_args(Order):
        raise ValueError(f"{order!r} is no order: choose from {', '.join(get_args(Order))}")
    try:
        value = json.loads(cursor)
        if order == "newest":
            time, id = value
            return [datetime.fromisoformat(time), int(id)]
        verdict, score, id = value
        if verdict in VERDICTS:
            return [verdict, None if score is None else float(score), int(id)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{cursor!r} is no cursor of the order {order}: begin with the first page") from error
    raise ValueError(f"{cursor!r} is no cursor of the order {order}: begin with the first page")
