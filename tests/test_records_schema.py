"""Laws of the schema: an old database becomes a new one whole or not at all, and events are never changed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, Integer, create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError
from test_records import MODEL, THRESHOLDS, row

from anomalib_gan.records.archive import Archive
from anomalib_gan.records.database import Records, RecordsError, connect, is_url, where
from anomalib_gan.records.schema import SCHEMA, VERSION, Base, EventRecord

OLD = Path(__file__).with_name("frozen") / "records_v1.sql"
FILL = f"""
INSERT INTO models VALUES ('{MODEL}', '{{"name": "x"}}');
INSERT INTO calibrations VALUES ('c1', '{MODEL}', '{{}}');
INSERT INTO batches VALUES (7, '/images', '2026-01-02 03:04:05.000006');
INSERT INTO inspections (id, batch, path, size, mtime_ns, sha256, model, calibration, settings, scored_at, score, peak,
    verdict, review, reject, pixel, defect_count, defect_area, largest_defect, warning, notes, reason, device)
VALUES (3, 7, 'a.png', 1, 1790000000000000000, 'ab', '{MODEL}', 'c1', '{{}}', '2026-01-02 03:04:06.000000', 1.5, 2.5,
    'review', 1.0, 2.0, 3.0, 1, 4, 4, '', '', '', 'cpu');
INSERT INTO defects VALUES (3, 0, 1, 2, 3, 4, 4, NULL, 9.0, 1.5, 2.5);
"""


def old(path: Path) -> dict[str, list[tuple[object, ...]]]:
    database = sqlite3.connect(path)
    database.executescript(OLD.read_text() + FILL)
    found = content(database)
    database.close()
    return found


def content(database: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    tables = ("models", "calibrations", "batches", "inspections", "defects")
    return {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def test_a_database_of_version_1_is_upgraded_in_place_and_loses_nothing(tmp_path: Path) -> None:
    before = old(tmp_path / "results.db")
    connect(tmp_path / "results.db").dispose()
    database = sqlite3.connect(tmp_path / "results.db")
    after = content(database)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(f"{SCHEMA:04}",)]
    database.close()
    assert after.pop("batches") == [(*before.pop("batches")[0], ".")]
    assert after.pop("defects") == [(*before.pop("defects")[0], "")]
    assert after == before
    with Records(tmp_path / "results.db", "/images", MODEL, {"name": "x"}, THRESHOLDS) as records:
        assert records.batch == 7 and records.started == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
        assert [one.path for one in records.inspections()] == ["a.png"]
        records.put(row("a.png"))
        assert not list(records.defects()), "the foreign keys of an upgraded database do not cascade"


def other_type(_context: object, _inspected: object, _column: object, found: object, wanted: object) -> bool | None:
    """SQLite's integers have 64 bits, whatever they are called."""
    return False if isinstance(found, Integer) and isinstance(wanted, Integer) else None


def test_an_upgraded_database_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    old(tmp_path / "old.db")
    shapes = []
    for name in ("old.db", "new.db"):
        engine = connect(tmp_path / name)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": other_type})
            assert not compare_metadata(context, Base.metadata)
            triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
            shapes.append(sorted((name, " ".join(sql.split())) for name, sql in triggers))
        engine.dispose()
    assert shapes[0] == shapes[1] and len(shapes[0]) == 2


FILL_2 = f"""
INSERT INTO models VALUES ('{MODEL}', '{{"name": "x"}}');
INSERT INTO calibrations VALUES ('c1', '{MODEL}', '{{}}');
INSERT INTO batches VALUES (7, '/images', '2026-01-02 03:04:05.000006%', '.');
INSERT INTO inspections (id, batch, path, size, mtime_ns, sha256, model, calibration, settings, scored_at, score, peak,
    verdict, review, reject, pixel, defect_count, defect_area, largest_defect, warning, notes, reason, device)
VALUES (3, 7, 'a.png', 1, 1790000000000000000, 'ab', '{MODEL}', 'c1', '{{}}', '2026-01-02 03:04:06.000000%', 1.5, 2.5,
    'review', 1.0, 2.0, 3.0, 1, 4, 4, '', '', '', 'cpu');
INSERT INTO defects VALUES (3, 0, 1, 2, 3, 4, 4, NULL, 9.0, 1.5, 2.5);
INSERT INTO reviews VALUES (5, 7, 'ab', 'a.png', 'Ann', 'operator', '2026-01-02 04:00:00.000000%', 'missed defect', '',
    1, 2, 3, 4, '{MODEL}', 'c1', 'review', 1.5, NULL, NULL);
INSERT INTO requests VALUES (6, 7, 'ab', 'Ann', '2026-01-02 03:30:00.000000%', 'odd');
INSERT INTO events VALUES (8, '2026-01-02 05:00:00.000000%', 'drift alarm', 'x', 'y', '{MODEL}', '{{}}');
INSERT INTO intents VALUES ('/gone', '2026-01-02 05:00:00.000000%', 'recalibrated', 'x', 'y', '{MODEL}', '{{}}');
"""


@pytest.fixture
def version_2(database: str) -> str:
    """A database that version 2 made and filled."""
    server = is_url(database)
    engine = create_engine(database if server else f"sqlite:///{database}")
    connection = engine.raw_connection()
    driver = connection.driver_connection
    assert driver is not None
    script = OLD.with_name("records_v2.postgresql.sql" if server else "records_v2.sql").read_text()
    (driver.execute if server else driver.executescript)(script + FILL_2.replace("%", "+00" if server else ""))
    connection.commit()
    connection.close()
    engine.dispose()
    return database


def everything(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables that version 2 had."""
    names = {"models", "calibrations", "batches", "inspections", "defects", "reviews", "requests", "events", "intents"}
    with engine.connect() as connection:
        return {name: [tuple(one) for one in connection.execute(text(f"SELECT * FROM {name}"))] for name in names}


def test_a_database_of_version_2_is_upgraded_in_place_and_loses_nothing(version_2: str) -> None:
    bare = create_engine(version_2 if is_url(version_2) else f"sqlite:///{version_2}")
    before = everything(bare)
    bare.dispose()
    assert all(len(rows) == 1 for rows in before.values())
    engine = connect(version_2)
    after = everything(engine)
    with engine.connect() as connection:
        assert connection.scalar(select(VERSION.c.version_num)) == f"{SCHEMA:04}"
        context = MigrationContext.configure(connection, opts={"compare_type": other_type})
        assert not compare_metadata(context, Base.metadata)
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text("DELETE FROM events"))
    engine.dispose()
    (review,) = before.pop("reviews")
    assert after.pop("reviews") == [(*review, None)], "only the kind of defect is new, and nobody named one"
    (defect,) = before.pop("defects")
    assert after.pop("defects") == [(*defect, "")], "only the detector's name for it is new, and it had none"
    assert after == before
    with Archive(version_2) as archive:
        (found,) = archive.reviews()
        assert (found.who, found.box, found.defect_type) == ("Ann", (1, 2, 3, 4), None)
        assert archive.comparisons() == [] and [one.path for one in archive.rows()] == ["a.png"]


def test_a_new_database_is_what_the_models_say(database: str) -> None:
    engine = connect(database)
    with engine.connect() as connection:
        assert not compare_metadata(MigrationContext.configure(connection), Base.metadata)
        assert connection.scalar(select(VERSION.c.version_num)) == f"{SCHEMA:04}"
    engine.dispose()


KILLED = """
import os, signal, sys
from alembic.operations import Operations
from anomalib_gan.records.database import connect
after, real = int(sys.argv[2]), Operations.create_index
def stop(self, *arguments, **named):
    global after
    after -= 1
    if after < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments, **named)
Operations.create_index = stop
connect(sys.argv[1])
"""


@pytest.mark.parametrize("after", [0, 5, 10])
def test_an_upgrade_that_is_killed_leaves_the_old_database(tmp_path: Path, after: int) -> None:
    path = tmp_path / "results.db"
    before = old(path)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", KILLED, path, str(after)], cwd=root, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    database = sqlite3.connect(path)
    assert content(database) == before and database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()
    connect(path).dispose()


def test_a_database_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    connect(tmp_path / "results.db").dispose()
    program = (
        "import sys; from anomalib_gan.records.database import connect; connect(sys.argv[1]); "
        "connect(sys.argv[1] + '.new'); sys.exit('alembic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, tmp_path / "results.db"], check=True, env=environment)


def test_a_newer_database_is_refused_and_left_alone(database: str) -> None:
    engine = connect(database)
    with engine.begin() as connection:
        connection.execute(VERSION.update().values(version_num="0099"))
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA user_version = 99")
    engine.dispose()
    with pytest.raises(RecordsError, match=r"schema version 99.*use a newer program"):
        connect(database)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://ann:secret@host/x", "neither SQLite nor PostgreSQL"),
        ("nosuch://ann:secret@host/x", "neither SQLite nor PostgreSQL"),
        ("postgresql+nosuch://ann:secret@host/x", "names no known database"),
        ("postgresql+psycopg://ann:secret@/x?host=/nowhere", "does not answer"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(RecordsError, match=problem) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("change", ["UPDATE events SET reason = 'other'", "DELETE FROM events"])
def test_events_can_only_be_added(database: str, change: str) -> None:
    engine = connect(database)
    told = {"kind": "drift alarm", "who": "Ann", "reason": "seen", "model": MODEL, "details": {}}
    with engine.begin() as connection:
        connection.execute(insert(EventRecord).values(at=datetime.now(UTC), **told))
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(change))
    with engine.connect() as connection:
        assert connection.scalars(select(EventRecord.reason)).all() == ["seen"]
    engine.dispose()


def test_several_folders_share_one_database(database: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        out = tmp_path / "out" / name
        with Records(database, f"/images/{name}", MODEL, {}, THRESHOLDS, out=out) as records:
            records.put(row("1.png"))
            records.put(row(f"{name}.png"))
            assert [one.path for one in records.inspections()] == ["1.png", f"{name}.png"]
    with pytest.raises(RecordsError, match=r"holds the results of /images/a, not of /images/b: choose another --out"):
        Records(database, "/images/b", MODEL, {}, THRESHOLDS, out=tmp_path / "out" / "a")


def test_results_beside_their_database_move_with_it(tmp_path: Path) -> None:
    assert where(tmp_path / "results.db", None) == where(tmp_path / "results.db", tmp_path) == "."
    assert where(tmp_path / "results.db", tmp_path / "x" / "y") == "x/y"
    assert where(tmp_path / "a" / "results.db", tmp_path / "b") == (tmp_path / "b").as_posix()
    assert where("postgresql://host/x", tmp_path / "b") == (tmp_path / "b").as_posix()
    with pytest.raises(ValueError, match="does not say where the pictures lie"):
        where("postgresql://host/x", None)
