"""The results database: which model and calibration looked at which image, and what they found."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    String,
    TypeDecorator,
    UniqueConstraint,
    case,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

SCHEMA = 1
VERDICTS = ("reject", "review", "invalid", "accept")


class RecordsError(ValueError):
    """The results cannot be used as asked; the message names the file and the mend."""


class UTCTime(TypeDecorator[datetime]):
    """An aware UTC time, also in SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UTCTime, dict[str, Any]: JSON}  # noqa: RUF012


class ModelRecord(Base):
    """A trained model: the SHA-256 of its weights and its card."""

    __tablename__ = "models"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    card: Mapped[dict[str, Any]]


class CalibrationRecord(Base):
    """Thresholds of one model; the id is the SHA-256 of their JSON, so equal thresholds are one row."""

    __tablename__ = "calibrations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    content: Mapped[dict[str, Any]]


class Batch(Base):
    """One scored folder."""

    __tablename__ = "batches"
    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(unique=True)
    started: Mapped[datetime]


class InspectionRecord(Base):
    """What was found in one image; or, with verdict `invalid`, why it could not be inspected.

    Lengths and areas are in pixels unless the name says um (micrometres); times are in seconds.
    """

    __tablename__ = "inspections"
    __table_args__ = (
        UniqueConstraint("batch", "path"),
        CheckConstraint("verdict IN ('accept', 'review', 'reject', 'invalid')", name="verdict_is_known"),
        CheckConstraint("(verdict = 'invalid') = (score IS NULL)", name="score_unless_invalid"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    batch: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    path: Mapped[str]
    """Relative to the folder, with forward slashes."""
    size: Mapped[int]
    """Bytes; with `mtime_ns` a cheap sign that the file is still the one that was inspected."""
    mtime_ns: Mapped[int]
    sha256: Mapped[str | None] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    calibration: Mapped[str] = mapped_column(ForeignKey("calibrations.id"))
    settings: Mapped[dict[str, Any]]
    """Options that change the result (info bar, rescaling, ...)."""
    scored_at: Mapped[datetime]
    height: Mapped[int | None]
    width: Mapped[int | None]
    score: Mapped[float | None]
    peak: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(String(7), index=True)
    review: Mapped[float]
    """The three thresholds that were used."""
    reject: Mapped[float]
    pixel: Mapped[float]
    defect_count: Mapped[int] = mapped_column(default=0)
    defect_area: Mapped[int] = mapped_column(default=0)
    defect_area_um2: Mapped[float | None]
    largest_defect: Mapped[int] = mapped_column(default=0)
    pixel_size: Mapped[float | None]
    """Micrometres per pixel, where known."""
    warning: Mapped[str] = mapped_column(default="")
    """About the pixel size: the map of an image at another magnification than the training images' is worth little."""
    notes: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    """Why the image is invalid."""
    device: Mapped[str] = mapped_column(default="")
    """Where the map was computed, for people to read."""
    decode_s: Mapped[float | None]
    inference_s: Mapped[float | None]
    post_s: Mapped[float | None]
    defects: Mapped[list[DefectRecord]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="DefectRecord.number"
    )


class DefectRecord(Base):
    """One connected region above the pixel threshold; the box is half-open, row and column are the centroid's."""

    __tablename__ = "defects"
    inspection: Mapped[int] = mapped_column(ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    top: Mapped[int]
    left: Mapped[int]
    bottom: Mapped[int]
    right: Mapped[int]
    area: Mapped[int]
    area_um2: Mapped[float | None]
    peak: Mapped[float]
    row: Mapped[float]
    col: Mapped[float]


def connect(database: str | Path) -> Engine:
    """The engine of a SQLite file (a path) or of any other database (a URL), with the tables made.

    A committed row survives a power cut: SQLite runs with a write-ahead log and full synchronisation. Raises
    RecordsError for a file that is no results database of this version.
    """
    url = database if isinstance(database, str) and "://" in database else f"sqlite:///{Path(database)}"
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _harden)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                used = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
                if used and version != SCHEMA:
                    raise RecordsError(
                        f"{database} has schema version {version}, this program writes {SCHEMA}: choose another --out"
                    )
                connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
            Base.metadata.create_all(connection)
    except BaseException as error:
        engine.dispose()
        if "not a database" in str(error) or "malformed" in str(error):
            raise RecordsError(
                f"{database} is not a results database or is damaged: move it away or choose another --out"
            ) from error
        raise
    return engine


def _harden(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}")


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Records:
    """The results of one folder, looked at by one model with one calibration.

    `put` is one transaction per image and replaces what the image had before, so a job that is killed and started again
    neither repeats nor loses a row.
    """

    def __init__(
        self, database: str | Path, folder: str | Path, model: str, card: dict[str, Any], calibration: dict[str, Any]
    ) -> None:
        self.engine = connect(database)
        self.folder, self.model, self.card, self.thresholds = str(folder), model, card, calibration
        self.calibration = fingerprint({"model": model, **calibration})
        try:
            with Session(self.engine) as session, session.begin():
                session.merge(ModelRecord(hash=model, card=card))
                session.flush()
                session.merge(CalibrationRecord(id=self.calibration, model=model, content=calibration))
                batches = session.scalars(select(Batch)).all() if self.engine.dialect.name == "sqlite" else []
                if batches and batches[0].folder != self.folder:
                    raise RecordsError(
                        f"{database} holds the results of {batches[0].folder}, not of {folder}: choose another --out"
                    )
                batch = session.scalar(select(Batch).where(Batch.folder == self.folder))
                if batch is None:
                    batch = Batch(folder=self.folder, started=datetime.now(UTC))
                    session.add(batch)
                    session.flush()
                self.batch, self.started = batch.id, batch.started
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def find(self, path: str) -> InspectionRecord | None:
        """The row of an image, by its path relative to the folder."""
        with Session(self.engine) as session:
            return session.scalar(select(InspectionRecord).where(*self._here(path)))

    def put(self, record: InspectionRecord) -> None:
        """Writes an image's row and its defects in one transaction, in the place of an older row of the same path."""
        record.batch, record.model, record.calibration = self.batch, self.model, self.calibration
        with self._writing() as session:
            session.execute(delete(InspectionRecord).where(*self._here(record.path)))
            session.add(record)

    def drop(self, path: str) -> None:
        """Takes an image's row away, with its defects: what it says is about to become untrue."""
        with self._writing() as session:
            session.execute(delete(InspectionRecord).where(*self._here(path)))

    def touch(self, path: str, size: int, mtime_ns: int) -> None:
        """Notes the time of a file that was found to have the same bytes as when it was inspected."""
        with self._writing() as session:
            row = session.scalars(select(InspectionRecord).where(*self._here(path))).one()
            row.size, row.mtime_ns = size, mtime_ns

    def inspections(self, *, worst_first: bool = False, valid: bool | None = None) -> Iterator[InspectionRecord]:
        """All rows, streamed: by path, or by verdict and falling score."""
        query = select(InspectionRecord).where(InspectionRecord.batch == self.batch)
        if valid is not None:
            query = query.where((InspectionRecord.verdict != "invalid") == valid)
        if worst_first:
            severity = case({name: place for place, name in enumerate(VERDICTS)}, value=InspectionRecord.verdict)
            query = query.order_by(severity, InspectionRecord.score.desc())
        with Session(self.engine) as session:
            yield from session.scalars(query.order_by(InspectionRecord.path).execution_options(yield_per=1000))

    def defects(self) -> Iterator[tuple[str, DefectRecord]]:
        """(path, defect) of all images, streamed, by path and falling peak."""
        query = (
            select(InspectionRecord.path, DefectRecord)
            .join(DefectRecord, DefectRecord.inspection == InspectionRecord.id)
            .where(InspectionRecord.batch == self.batch)
            .order_by(InspectionRecord.path, DefectRecord.number)
        )
        with Session(self.engine) as session:
            for row in session.execute(query.execution_options(yield_per=1000)):
                yield row.path, row.DefectRecord

    def counts(self) -> dict[str, int]:
        """Images per verdict, all four verdicts named."""
        query = select(InspectionRecord.verdict, func.count()).where(InspectionRecord.batch == self.batch)
        with Session(self.engine) as session:
            found = {verdict: count for verdict, count in session.execute(query.group_by(InspectionRecord.verdict))}
        return {verdict: found.get(verdict, 0) for verdict in VERDICTS}

    def span(self) -> tuple[float | None, float | None]:
        """The lowest and the highest score; None without any."""
        query = select(func.min(InspectionRecord.score), func.max(InspectionRecord.score))
        with Session(self.engine) as session:
            low, high = session.execute(query.where(InspectionRecord.batch == self.batch)).one()
        return low, high

    def older(self) -> int:
        """Rows that another model or calibration wrote: of files that have gone since."""
        query = select(func.count()).where(
            InspectionRecord.batch == self.batch, InspectionRecord.calibration != self.calibration
        )
        with Session(self.engine) as session:
            return session.scalar(query) or 0

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """One transaction; what the disk refuses becomes an OSError, as it does for other files."""
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except OperationalError as error:
            full = "disk is full" in str(error.orig)
            raise OSError(
                errno.ENOSPC if full else errno.EIO, str(error.orig), str(self.engine.url.database)
            ) from error

    def _here(self, path: str) -> tuple[Any, ...]:
        return InspectionRecord.batch == self.batch, InspectionRecord.path == path


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process alone; RecordsError when another one holds it.

    The lock is SQLite's own file lock, which the operating system takes back when the process dies, however it dies; so
    no stale lock is left, on Windows either.
    """
    connection = sqlite3.connect(folder / ".lock", timeout=0, isolation_level=None)
    try:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise RecordsError(
                f"another process is writing to {folder}: wait for it or choose another --out"
            ) from error
        yield
    finally:
        connection.close()
