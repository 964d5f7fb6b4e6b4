"""What happens to a results database while it is in use becomes one sentence with the mend, and no traceback."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from conftest import empty_database
from sqlalchemy.exc import ProgrammingError
from test_records_archive import fill

from anomalib_gan.records import database as module
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.database import RecordsError, reading, writing

ANN = User("Ann", "operator")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(str(tmp_path / "results.db"), tmp_path, 40)
    return tmp_path / "results.db"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    with Archive(path) as opened:
        yield opened


def test_a_file_that_is_damaged_while_it_is_read_is_named_with_the_mend(archive: Archive, path: Path) -> None:
    with Archive(path) as other:  # what a connection has read before it remembers
        row = other.page().rows[0]
    with open(path, "rb+") as file:
        file.write(bytes(range(256)) * (path.stat().st_size // 256))
    for ask in (archive.page, archive.totals, archive.queue, archive.agreement, lambda: list(archive.rows())):
        with pytest.raises(RecordsError, match=r"results\.db is damaged .* backup"):
            ask()
    with pytest.raises(RecordsError, match="is damaged"):
        archive.review(row, ANN, "confirmed")
    with pytest.raises(RecordsError, match="is damaged"):
        archive.backup(path.parent / "copy.db")
    assert not (path.parent / "copy.db").exists() and not list(path.parent.glob(".tmp-*"))


def test_a_file_that_another_program_keeps_to_itself_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY", 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RecordsError, match="is held by another program"):
            Archive(path)
        other.execute("COMMIT")
    with Archive(path) as opened:
        assert sum(opened.totals().values()) == 40


def test_a_server_that_has_gone_is_told_and_one_that_came_back_is_asked_again(postgres: str, tmp_path: Path) -> None:
    with empty_database(postgres) as url:
        fill(url, tmp_path, 40)
        with Archive(url) as archive:
            assert sum(archive.totals().values()) == 40
            name = url.split("@/")[1].split("?")[0]
            with psycopg.connect(f"host={postgres} user=postgres dbname=postgres", autocommit=True) as server:
                end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                server.execute(end, [name])
                assert sum(archive.totals().values()) == 40
                server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
                server.execute(end, [name])
                with pytest.raises(RecordsError, match="does not answer"):
                    archive.totals()
                server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
            assert archive.count(Filter(batch=1)) == 20


def test_a_wrong_question_is_no_trouble_of_the_database(postgres: str, tmp_path: Path) -> None:
    with (
        empty_database(postgres) as url, Archive(url) as archive,
        pytest.raises(ProgrammingError), reading(archive.engine) as session,
    ):  # fmt: skip
        session.connection().exec_driver_sql("SELECT nothing FROM nowhere")


def test_the_disk_that_is_full_stays_an_error_of_the_disk(archive: Archive) -> None:
    with pytest.raises(OSError, match="disk is full") as told, writing(archive.engine) as session:
        session.connection().exec_driver_sql("PRAGMA max_page_count = 1")
        session.connection().exec_driver_sql("CREATE TABLE more AS SELECT randomblob(100000) AS x")
    assert not isinstance(told.value, RecordsError)
