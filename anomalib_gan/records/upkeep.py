"""Keeping the results database small and safe: what is old goes, what is there is copied."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select, tuple_

from anomalib_gan.records.access import User, require
from anomalib_gan.records.database import RecordsError, answered, writing
from anomalib_gan.records.listing import I, Listing
from anomalib_gan.records.schema import RequestRecord, ReviewRecord

CHUNK = 2000
"""Inspections that one transaction deletes, so that a job that scores meanwhile never waits long."""


@dataclass(frozen=True)
class Pruned:
    """before: the limit of age · inspections, reviews: how many go, or went · kept: old inspections that stay because
    somebody reviewed them."""

    before: datetime
    inspections: int
    reviews: int
    kept: int


class Upkeep(Listing):
    def prune(self, older: timedelta, user: User, *, reviewed: bool = False, dry: bool = True) -> Pruned:
        """Deletes inspections that are `older` than now, with their defects; with `dry` it only counts them.

        Those whose bytes have a review, even one that was withdrawn, stay unless `reviewed`, which takes their reviews
        and requests along. Events, batches, models and calibrations stay, and so do the pictures in the folders of
        results. PermissionError unless the user is an engineer.
        """
        require(user, "engineer", "delete records")
        if older <= timedelta(0):
            raise ValueError(f"{older} is no age: give a time that has passed, such as 180d")
        before = datetime.now(UTC) - older
        said = select(ReviewRecord.id).where(ReviewRecord.batch == I.batch, ReviewRecord.sha256 == I.sha256)
        has_word = said.correlate(I).exists()
        goes = I.scored_at < before if reviewed else (I.scored_at < before) & ~has_word
        with self._reading() as session:
            number = select(func.count()).select_from(I)
            inspections = session.scalar(number.where(goes)) or 0
            kept = 0 if reviewed else session.scalar(number.where(I.scored_at < before, has_word)) or 0
            orphans = 0
            if reviewed:
                other = I.__table__.alias()
                stays = select(other.c.id).where(
                    other.c.batch == ReviewRecord.batch, other.c.sha256 == ReviewRecord.sha256,
                    other.c.scored_at >= before,
                )  # fmt: skip
                old = select(other.c.id).where(
                    other.c.batch == ReviewRecord.batch, other.c.sha256 == ReviewRecord.sha256,
                    other.c.scored_at < before,
                )  # fmt: skip
                query = select(func.count()).select_from(ReviewRecord)
                orphans = session.scalar(query.where(old.exists(), ~stays.exists())) or 0
        while not dry and self._delete(goes, words=reviewed):
            pass
        return Pruned(before, inspections, orphans, kept)

    def _delete(self, goes: object, words: bool) -> int:
        """One chunk; with `words` also what people said of bytes that no inspection has any more."""
        with writing(self.engine, alone=True) as session:
            query = select(I.id, I.batch, I.sha256).where(goes).order_by(I.scored_at, I.id)  # type: ignore[arg-type]
            rows = session.execute(query.limit(CHUNK)).all()
            session.execute(delete(I).where(I.id.in_([row.id for row in rows])))
            for table in (ReviewRecord, RequestRecord):
                same = tuple_(table.batch, table.sha256)
                left = select(I.id).where(I.batch == table.batch, I.sha256 == table.sha256).correlate(table).exists()
                gone = delete(table).where(same.in_([(row.batch, row.sha256) for row in rows]), ~left)
                if rows and (words or table is RequestRecord):
                    session.execute(gone.execution_options(synchronize_session=False))
        return len(rows)

    def backup(self, target: str | os.PathLike[str]) -> Path:
        """Copies a SQLite database as it is at one moment, also while others write; the copy is checked.

        FileExistsError where there is something at `target`; RecordsError for PostgreSQL, which has its own tools.
        """
        target = Path(target)
        if self.engine.dialect.name != "sqlite":
            raise RecordsError("a PostgreSQL database is copied with PostgreSQL's own tool: pg_dump --format=custom")
        if os.path.lexists(target):
            raise FileExistsError(f"{target} is there already: choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.parent / f".tmp-{uuid.uuid4().hex}.part"
        try:
            with (
                answered(self.engine),
                closing(sqlite3.connect(scratch)) as copy,
                closing(self.engine.raw_connection()) as source,
            ):
                driver = source.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, whole without its log
                if (told := copy.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                    raise RecordsError(f"the copy is damaged, and so is the database: {told}")
            with open(scratch, "rb+") as file:
                os.fsync(file.fileno())
            os.rename(scratch, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(scratch)
            raise
        return target
