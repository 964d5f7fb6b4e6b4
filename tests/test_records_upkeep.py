"""Laws of upkeep: nothing that was reviewed goes unasked, a copy is whole, a table holds what its filter holds."""

from __future__ import annotations

import csv
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_records import THRESHOLDS, row

from anomalib_gan.records import upkeep
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.database import Records, RecordsError
from pipelines import cli
from pipelines.records import export

ANN, ENA = User("Ann", "operator"), User("Ena", "engineer")
MODEL = THRESHOLDS["model"]
DAY = timedelta(days=1)


def fill(database: str, out: Path) -> None:
    """Ten images, one a day until now, of which the two oldest have the same bytes; 3 and 8 were reviewed."""
    with Records(database, "/images", MODEL, {}, THRESHOLDS, out=out) as records:
        for place in range(10):
            at = datetime.now(UTC) - (9.5 - place) * DAY
            verdict = "review" if place % 2 else "accept"
            records.put(row(f"{place}.png", verdict, float(place), 2, scored_at=at, sha256=f"{max(1, place):064x}"))
    with Archive(database) as archive:
        for seen in archive.rows():
            if seen.path in ("3.png", "8.png"):
                archive.review(seen, ANN, "confirmed")
            if seen.path in ("2.png", "9.png"):
                archive.ask(seen, ANN)


def left(archive: Archive) -> list[str]:
    return [one.path.removesuffix(".png") for one in archive.rows()]


def test_what_is_old_goes_with_its_defects_and_what_was_reviewed_stays(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHUNK", 2)
    fill(database, tmp_path / "out")
    with Archive(database) as archive:
        counted = archive.prune(5 * DAY, ENA)
        assert (counted.inspections, counted.reviews, counted.kept) == (4, 0, 1)
        assert len(left(archive)) == 10
        done = archive.prune(5 * DAY, ENA, dry=False)
        assert (done.inspections, done.kept) == (4, 1)
        assert left(archive) == list("356789")
        assert sum(archive.defect_sizes().values()) == 2 * 6
        assert len(archive.reviews()) == 2

        counted = archive.prune(5 * DAY, ENA, reviewed=True)
        assert (counted.inspections, counted.reviews, counted.kept) == (1, 1, 0)
        archive.prune(5 * DAY, ENA, reviewed=True, dry=False)
        assert left(archive) == list("56789") and [one.path for one in archive.reviews()] == ["8.png"]


def test_a_review_goes_only_with_the_last_image_of_its_bytes(database: str, tmp_path: Path) -> None:
    with Records(database, "/images", MODEL, {}, THRESHOLDS, out=tmp_path / "out") as records:
        for place, days in enumerate((9, 1)):
            records.put(row(f"{place}.png", scored_at=datetime.now(UTC) - days * DAY, sha256="ab" * 32))
    with Archive(database) as archive:
        archive.review(archive.page().rows[0], ANN, "confirmed")
        assert archive.prune(5 * DAY, ENA, reviewed=True, dry=False).reviews == 0
        assert len(archive.reviews()) == 1 and left(archive) == ["1"]


def test_who_may_not_delete_deletes_nothing(database: str, tmp_path: Path) -> None:
    fill(database, tmp_path / "out")
    with Archive(database) as archive:
        with pytest.raises(PermissionError, match="only an engineer may delete records"):
            archive.prune(DAY, ANN, dry=False)
        with pytest.raises(ValueError, match="is no age"):
            archive.prune(timedelta(0), ENA, dry=False)
        assert len(left(archive)) == 10


def test_a_copy_made_while_others_write_is_whole(tmp_path: Path) -> None:
    fill(str(tmp_path / "results.db"), tmp_path)
    with (
        Records(tmp_path / "results.db", "/images", MODEL, {}, THRESHOLDS, out=tmp_path) as records,
        Archive(tmp_path / "results.db") as archive,
    ):
        records.put(row("new.png"))
        archive.backup(tmp_path / "copies" / "copy.db")
        records.put(row("later.png"))
        with pytest.raises(FileExistsError, match=r"copy\.db is there already"):
            archive.backup(tmp_path / "copies" / "copy.db")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["copy.db"]
    with Archive(tmp_path / "copies" / "copy.db") as archive:
        assert archive.count() == 11 and len(archive.reviews()) == 2
        assert {one.path for one in archive.rows()} >= {"new.png"}


def test_postgresql_is_copied_with_its_own_tool(database: str, tmp_path: Path) -> None:
    with Archive(database) as archive:
        if archive.engine.dialect.name == "postgresql":
            with pytest.raises(RecordsError, match="pg_dump"):
                archive.backup(tmp_path / "copy.db")
        else:
            assert sqlite3.connect(archive.backup(tmp_path / "copy.db")).close() is None


def test_a_table_holds_what_its_filter_holds(database: str, tmp_path: Path) -> None:
    fill(database, tmp_path / "out")
    wanted = Filter(verdicts=("review",), min_score=3.0)
    names = ["3.png", "5.png", "7.png", "9.png"]
    with open(export(database, tmp_path / "a.csv", wanted), encoding="utf-8-sig", newline="") as file:
        assert [line["path"] for line in csv.DictReader(file)] == names
    table = pq.read_table(export(database, tmp_path / "a.parquet", wanted))
    assert table["path"].to_pylist() == names and table["score"].to_pylist() == [3.0, 5.0, 7.0, 9.0]
    with pytest.raises(ValueError, match=r"neither in \.csv nor in \.parquet"):
        export(database, tmp_path / "a.txt")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["anomalib-gan", "records", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


def test_the_commands_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database, day = tmp_path / "results.db", f"{datetime.now().astimezone() - 3 * DAY:%Y-%m-%d}"
    fill(str(database), tmp_path)

    def ask(*words: object) -> tuple[int, str]:
        return command(monkeypatch, capsys, *words)

    code, told = ask("export", "--db", database, "--out", tmp_path / "a.csv", "--verdict", "accept", "--begin", day)
    assert code == 0 and len((tmp_path / "a.csv").read_text().splitlines()) in (2, 3), told
    code, told = ask("prune", "--db", database, "--older", "5d")
    assert code == 0 and "4 inspections before" in told and "would be deleted" in told and "give --yes" in told
    code, told = ask("prune", "--db", database, "--older", "5d", "--yes")
    assert code == 0 and "deleted" in told and "1 that were reviewed stay" in told
    code, told = ask("backup", "--db", database, "--out", tmp_path / "copy.db")
    with Archive(tmp_path / "copy.db") as archive:
        assert code == 0 and archive.count() == 6
    for words, problem in (
        (("prune", "--db", database, "--older", "soon"), "is no age such as 180d"),
        (("export", "--db", tmp_path / "no.db", "--out", "a.csv"), "is no file"),
        (("export", "--db", database, "--out", "a.csv", "--begin", "noon"), "is no time such as"),
        (("export", "--db", database, "--out", "a.csv", "--verdict", "fine"), "is no verdict"),
    ):
        code, told = ask(*words)
        assert code == 2 and problem in " ".join(told.replace("│", " ").split()), told
    assert not (tmp_path / "no.db").exists()
