"""The results database: opened, brought up to date, and written by the job that scores a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.orm import Session

from anomalib_gan.records.schema import (
    SCHEMA,
    VERDICTS,
    VERSION,
    Base,
    Batch,
    CalibrationRecord,
    DefectRecord,
    InspectionRecord,
    ModelRecord,
)

__all__ = ["VERDICTS", "DefectRecord", "InspectionRecord", "Records", "RecordsError", "connect", "exclusive"]


class RecordsError(ValueError):
    """The results cannot be used as asked; the message names the file and the mend."""


def is_url(database: str | os.PathLike[str]) -> bool:
    return isinstance(database, str) and "://" in database


def connect(database: str | os.PathLike[str]) -> Engine:
    """The engine of a SQLite file (a path) or of any other database (a URL), its tables made or brought up to date.

    A committed row survives a power cut: SQLite runs with a write-ahead log and full synchronisation. A database of an
    older version is upgraded in one transaction: killed, it is as before. Raises RecordsError for a file that is no
    results database, for one that a newer program wrote, and where a server does not answer.
    """
    url = str(database) if is_url(database) else f"sqlite:///{Path(database)}"
    try:
        if make_url(url).get_backend_name() not in ("sqlite", "postgresql"):
            raise RecordsError(
                f"{shown(url)} is neither SQLite nor PostgreSQL: give a file or postgresql+psycopg://..."
            )
        # A server may have been restarted since the last question, and its old connections with it.
        engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    except NoSuchModuleError as error:
        raise RecordsError(f"{shown(url)} names no known database: give a file or postgresql+psycopg://...") from error
    except ArgumentError as error:
        raise RecordsError("the database URL cannot be read: give postgresql+psycopg://user@host/name") from error
    except ModuleNotFoundError as error:
        raise RecordsError(
            f"{shown(url)} needs {error.name}, which is not installed: pip install 'anomalib_gan[postgres]'"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _harden)
    try:
        with answered(engine):
            with engine.connect() as connection:
                version = _version(connection)
            if version != SCHEMA:
                _bring_up(engine, shown(url) if is_url(database) else str(database))
    except BaseException as error:
        engine.dispose()
        if "not a database" in str(error) or "malformed" in str(error):
            raise RecordsError(
                f"{database} is not a results database or is damaged: move it away or choose another --out"
            ) from error
        raise
    return engine


@contextmanager
def answered(engine: Engine) -> Iterator[None]:
    """Where the database gives no answer (locked, damaged, gone) that becomes a RecordsError with the mend."""
    try:
        yield
    except (ProgrammingError, IntegrityError, DataError, NotSupportedError):
        raise  # it did answer: the question is wrong, or the rows are
    except (DBAPIError, NoConnectionError, sqlite3.Error) as error:  # sqlite3's own while a connection is being opened
        raise RecordsError(_refusal(engine, error)) from error


def _refusal(engine: Engine, error: Exception) -> str:
    told = str(getattr(error, "orig", error)).strip()
    name = shown(engine.url.render_as_string(hide_password=False))
    if isinstance(error, NoConnectionError):
        return f"{name} is asked too much at once: try again"
    if engine.dialect.name != "sqlite":
        return f"{name} does not answer: {told}; see to the server, then try again"
    name = engine.url.database or name
    if "locked" in told:
        return f"{name} is held by another program ({told}): try again when it is done"
    if "not a database" in told or "malformed" in told:
        return f"{name} is damaged ({told}): put a backup in its place"
    return f"{name} cannot be used ({told}): check the file, its folder, their rights and the room on the disk"


def shown(url: str) -> str:
    """The URL as it may stand in a message: without its password."""
    head, at, tail = url.rpartition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{tail}" if at else url


def _version(connection: Connection) -> int:
    """The schema version, 0 for an empty database; it takes one query where all is well."""
    if connection.dialect.name == "sqlite":
        version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        used = version or connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        return version if version else -1 if used else 0
    names = inspect(connection).get_table_names()
    if VERSION.name in names:
        found = connection.scalar(select(VERSION.c.version_num)) or ""
        return int(found) if found.isdecimal() else -1
    return -1 if set(names) & set(Base.metadata.tables) else 0


def _bring_up(engine: Engine, name: str) -> None:
    """Makes the tables, or upgrades those of an older version, alone and in one transaction."""
    if engine.dialect.name == "sqlite":  # its foreign keys must be off while a table is exchanged
        engine = create_engine(engine.url)
        event.listen(engine, "connect", _bare)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            version = _version(connection)
            if version == SCHEMA:  # another process was faster
                return
            if not 0 <= version < SCHEMA:
                told = f"schema version {version}" if version > 0 else "tables of something else"
                raise RecordsError(
                    f"{name} has {told}, this program knows up to version {SCHEMA}: use a newer program or another file"
                )
            if version == 0:
                Base.metadata.create_all(connection)
                connection.execute(insert(VERSION).values(version_num=f"{SCHEMA:04}"))
            else:
                from anomalib_gan.records.migrations import upgrade  # alembic takes a quarter of a second

                upgrade(connection, version)
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
    finally:
        if engine.dialect.name == "sqlite":
            engine.dispose()


BUSY = 30_000
"""Milliseconds to wait for a SQLite file that another process holds."""
LOCK = 0x616E6F6D
"""The key of the lock that one writer takes where two must not set up the same thing."""


def _bare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # else sqlite3 begins and commits as it thinks fit
    for pragma in (f"busy_timeout = {BUSY}", "journal_mode = WAL", "foreign_keys = OFF", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _harden(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in (f"busy_timeout = {BUSY}", "journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session to ask with; RecordsError where the database gives no answer."""
    with answered(engine), Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: Engine, *, alone: bool = False) -> Iterator[Session]:
    """One transaction that writes; what the disk refuses becomes an OSError, as it does for other files.

    `alone`: no other such transaction runs at the same time, so that what was read in it still holds when it writes.
    SQLite has one writer anyway.
    """
    with answered(engine):
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                if engine.dialect.name == "sqlite":  # one that begins by reading could not become a writer later
                    session.connection().exec_driver_sql("BEGIN IMMEDIATE")
                elif alone:
                    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
                yield session
        except OperationalError as error:
            full = "disk is full" in str(error.orig)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error.orig), str(engine.url.database)) from error


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def where(database: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> str:
    """How a batch's folder of results stands in the database: below the SQLite file's folder relative to that, so that
    both can be moved together, else absolute.
    """
    if is_url(database):
        if out is None:
            raise ValueError("a database on a server does not say where the pictures lie: give `out`")
        return Path(out).resolve().as_posix()
    beside = Path(database).resolve().parent
    place = beside if out is None else Path(out).resolve()
    return (place.relative_to(beside) if place.is_relative_to(beside) else place).as_posix()


class Records:
    """The results of one folder, looked at by one model with one calibration.

    `put` is one transaction per image and replaces what the image had before, so a job that is killed and started again
    neither repeats nor loses a row.
    """

    def __init__(
        self,
        database: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        model: str,
        card: dict[str, Any],
        calibration: dict[str, Any],
        *,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        """`out`: where the pictures lie; without it beside the database."""
        self.engine = connect(database)
        self.folder, self.model, self.card, self.thresholds = str(folder), model, card, calibration
        self.calibration = fingerprint({"model": model, **calibration})
        place = where(database, out)
        try:
            with writing(self.engine, alone=True) as session:
                session.merge(ModelRecord(hash=model, card=card))
                session.flush()
                session.merge(CalibrationRecord(id=self.calibration, model=model, content=calibration))
                batch = session.scalar(select(Batch).where(Batch.out == place))
                if batch is None:
                    batch = Batch(folder=self.folder, started=datetime.now(UTC), out=place)
                    session.add(batch)
                    session.flush()
                if batch.folder != self.folder:
                    raise RecordsError(
                        f"{out or Path(database).parent} holds the results of {batch.folder}, not of {folder}: "
                        "choose another --out"
                    )
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
        with reading(self.engine) as session:
            return session.scalar(select(InspectionRecord).where(*self._here(path)))

    def put(self, record: InspectionRecord) -> None:
        """Writes an image's row and its defects in one transaction, in the place of an older row of the same path."""
        record.batch, record.model, record.calibration = self.batch, self.model, self.calibration
        with writing(self.engine) as session:
            connection = session.connection()  # what a session knows of its objects takes as long as writing them
            connection.execute(delete(InspectionRecord).where(*self._here(record.path)))
            made = connection.execute(insert(InspectionRecord), _said(record)).inserted_primary_key
            assert made is not None  # it was one row
            if record.defects:
                connection.execute(
                    insert(DefectRecord), [{**_said(defect), "inspection": made[0]} for defect in record.defects]
                )

    def drop(self, path: str) -> None:
        """Takes an image's row away, with its defects: what it says is about to become untrue."""
        with writing(self.engine) as session:
            session.execute(delete(InspectionRecord).where(*self._here(path)))

    def touch(self, path: str, size: int, mtime_ns: int) -> None:
        """Notes the time of a file that was found to have the same bytes as when it was inspected."""
        with writing(self.engine) as session:
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
        with reading(self.engine) as session:
            yield from session.scalars(query.order_by(InspectionRecord.path).execution_options(yield_per=1000))

    def defects(self) -> Iterator[tuple[str, DefectRecord]]:
        """(path, defect) of all images, streamed, by path and falling peak."""
        query = (
            select(InspectionRecord.path, DefectRecord)
            .join(DefectRecord, DefectRecord.inspection == InspectionRecord.id)
            .where(InspectionRecord.batch == self.batch)
            .order_by(InspectionRecord.path, DefectRecord.number)
        )
        with reading(self.engine) as session:
            for row in session.execute(query.execution_options(yield_per=1000)):
                yield row.path, row.DefectRecord

    def counts(self) -> dict[str, int]:
        """Images per verdict, all four verdicts named."""
        query = select(InspectionRecord.verdict, func.count()).where(InspectionRecord.batch == self.batch)
        with reading(self.engine) as session:
            found = {verdict: count for verdict, count in session.execute(query.group_by(InspectionRecord.verdict))}
        return {verdict: found.get(verdict, 0) for verdict in VERDICTS}

    def span(self) -> tuple[float | None, float | None]:
        """The lowest and the highest score; None without any."""
        query = select(func.min(InspectionRecord.score), func.max(InspectionRecord.score))
        with reading(self.engine) as session:
            low, high = session.execute(query.where(InspectionRecord.batch == self.batch)).one()
        return low, high

    def older(self) -> int:
        """Rows that another model or calibration wrote: of files that have gone since."""
        query = select(func.count()).where(
            InspectionRecord.batch == self.batch, InspectionRecord.calibration != self.calibration
        )
        with reading(self.engine) as session:
            return session.scalar(query) or 0

    def _here(self, path: str) -> tuple[Any, ...]:
        return InspectionRecord.batch == self.batch, InspectionRecord.path == path


def _said(record: Base) -> dict[str, Any]:
    """The columns of a new record that have a value."""
    return {name: value for name, value in vars(record).items() if name in record.__table__.c}


@contextmanager
def exclusive(
    folder: Path, mend: str = "wait for it or choose another --out", *, lock: str = ".lock", wait: float = 0
) -> Iterator[None]:
    """Holds `folder` for this process alone; RecordsError when another one holds it for longer than `wait` seconds.

    The lock is SQLite's own file lock, which the operating system takes back when the process dies, however it dies; so
    no stale lock is left, on Windows either. Another name than `lock` is another lock, for a part of the folder.
    """
    with ExitStack() as held:
        try:
            connection = held.enter_context(closing(sqlite3.connect(folder / lock, timeout=wait, isolation_level=None)))
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise OSError(errno.EACCES, f"cannot be locked ({error})", str(folder)) from error
            raise RecordsError(f"another process is writing to {folder}: {mend}") from error
        yield
