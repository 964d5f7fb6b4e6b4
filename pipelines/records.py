"""The results database: exported, pruned, backed up; and models compared and activated over it."""

from __future__ import annotations

import getpass
import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomalib_gan import terminal
from anomalib_gan.records import comparing
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import EVERYTHING, Archive, Filter, Pruned
from anomalib_gan.records.database import RecordsError, is_url
from anomalib_gan.records.schema import ComparisonRecord, EventRecord
from anomalib_gan.records.tables import results_csv, results_parquet

WRITERS = {".csv": results_csv, ".parquet": results_parquet}


def opened(database: str | os.PathLike[str]) -> Archive:
    """The archive of a database that is there already."""
    if not is_url(database) and not Path(database).is_file():
        raise RecordsError(f"{database} is no file: give the results.db that `score` wrote, or its --db")
    return Archive(database)


def export(database: str | os.PathLike[str], out: str | os.PathLike[str], filter: Filter = EVERYTHING) -> Path:
    """Writes the filter's inspections to `out`, the oldest first; its suffix, .csv or .parquet, says how."""
    out = Path(out)
    if out.suffix.lower() not in WRITERS:
        raise ValueError(f"{out} ends neither in .csv nor in .parquet, so its format is not known")
    with opened(database) as archive:
        WRITERS[out.suffix.lower()](out, archive.rows(filter))
    return out


def prune(database: str | os.PathLike[str], older: timedelta, *, reviewed: bool = False, dry: bool = True) -> Pruned:
    """Deletes inspections older than that, or counts them: see `Archive.prune`."""
    with opened(database) as archive:
        return archive.prune(older, engineer(), reviewed=reviewed, dry=dry)


def backup(database: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Copies a SQLite database while it is in use: see `Archive.backup`."""
    with opened(database) as archive:
        return archive.backup(out)


def compare(
    database: str | os.PathLike[str], old: str | os.PathLike[str], new: str | os.PathLike[str], *, who: str = ""
) -> ComparisonRecord:
    """Lets two bundles judge what people reviewed, and writes down what came out: see `records.comparing.compare`."""
    with opened(database) as archive, Console(stderr=True).status("opening the models") as status:
        return comparing.compare(archive, old, new, engineer(who), lambda text: status.update(Text(text)))


def activate(
    database: str | os.PathLike[str], bundle: str | os.PathLike[str], reason: str, *, who: str = ""
) -> EventRecord:
    """Notes that the bundle's model is the one in use from now on: see `Archive.activate`."""
    with opened(database) as archive:
        return archive.activate(bundle, engineer(who), reason)


def engineer(name: str = "") -> User:
    """Who gives the command. Whoever may write the file, or knows the server's password, could change all of it."""
    return User(name.strip() or getpass.getuser(), "engineer")


def age(text: str) -> timedelta:
    """The value of --older.

    >>> age("180d"), age("2w"), age("12h")
    (datetime.timedelta(days=180), datetime.timedelta(days=14), datetime.timedelta(seconds=43200))
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age such as 180d, 26w or 12h", param_hint="--older")
    return int(found[1]) * {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}[found[2]]


def moment(text: str) -> datetime:
    """The value of --begin and --end: without a zone it is local time."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time such as 2026-03-01 or 2026-03-01T06:00+01:00") from error


# --- the commands ----------------------------------------------------------------------------------------------------

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look after the results database of `score`.

    `export` writes a table of what a filter holds, `prune` deletes what is old, `backup` copies a database in use,
    `compare` lets two models judge what people reviewed, and `activate` says which one is in use from now on.
    """


Database = Annotated[
    str, typer.Option("--db", metavar="FILE_OR_URL", help="OUT/results.db of `score`, or what was given as its --db.")
]
Moment = Annotated[Any, typer.Option(parser=moment, metavar="TIME", help="ISO 8601; local time without a zone.")]


@app.command("export")
def export_command(
    db: Database,
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    batch: Annotated[int | None, typer.Option(help="Only this batch, by its number.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, by its whole hash.")] = None,
    verdict: Annotated[list[str] | None, typer.Option(help="Only this verdict; may be repeated.")] = None,
    begin: Moment = None,
    end: Moment = None,
    text: Annotated[str, typer.Option(help="Only paths that hold this.")] = "",
    reviewed: Annotated[bool | None, typer.Option(help="Only images with, or without, a review.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Only this score and above.")] = None,
) -> None:
    """Write inspections as a table, with the columns of results.csv, the oldest first."""
    wanted = Filter(batch, model, tuple(verdict or ()), begin, end, text, reviewed, min_score)
    print(export(db, out, wanted))


@app.command("prune")
def prune_command(
    db: Database,
    older: Annotated[Any, typer.Option(parser=age, metavar="AGE", help="Such as 180d, 26w or 12h.")],
    reviewed: Annotated[bool, typer.Option("--reviewed", help="Also reviewed images, with the reviews.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it they are only counted.")] = False,
) -> None:
    """Delete old inspections with their defects. Events, models and the pictures in the results' folders stay."""
    found = prune(db, older, reviewed=reviewed, dry=not yes)
    done = "deleted" if yes else "would be deleted"
    print(
        f"{found.inspections} inspections before {found.before.astimezone():%Y-%m-%d %H:%M} {done}, "
        f"with {found.reviews} reviews; {found.kept} that were reviewed stay"
    )
    if not yes:
        print("nothing was changed: give --yes to delete them")


@app.command("backup")
def backup_command(
    db: Database, out: Annotated[Path, typer.Option(help="File of the copy, which must not be there yet.")]
) -> None:
    """Copy a SQLite database as it is now, also while it is written to."""
    print(backup(db, out))


Who = Annotated[str, typer.Option(help="Who decides this; default: the name you are logged in with.")]


@app.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Bundle of the model that is in use.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Bundle of the model that shall take its place.")],
    db: Database,
    who: Who = "",
) -> None:
    """Count the false alarms and misses of two models on the images that people reviewed, and keep the result.

    An image counts where all who reviewed it agree. Without such a comparison, made with the present thresholds and
    reviews, no model takes the place of another.
    """
    row = compare(db, old, new, who=who)
    shown = Table("", escape(f"old: {old.name}"), escape(f"new: {new.name}"), box=None, pad_edge=False)
    for what, before, after in comparing.table(row):
        shown.add_row(what, str(before), str(after))
    Console(highlight=False).print(shown)
    for note in comparing.notes(row):
        terminal.plain().print(f"{note}.")


@app.command("activate")
def activate_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle of the model.")],
    db: Database,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")],
    who: Who = "",
) -> None:
    """Say that a model is the one in use from now on. It must have been compared with the one that was."""
    event = activate(db, bundle, reason, who=who)
    print(f"{event.details['bundle']} is active: {event.who}, {event.reason}")
