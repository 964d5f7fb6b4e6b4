"""Types: the bundle learns to name kinds of defects from what people called them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from anomalib_gan import terminal
from anomalib_gan.records.naming import Fitted, features, fit, lacking, store
from anomalib_gan.runtime.bundle import Manifest, fingerprint, read_manifest
from anomalib_gan.runtime.naming import UNKNOWN, Types
from pipelines import options
from pipelines.records import opened


def learn_types(
    bundle: str | os.PathLike[str],
    database: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    console: Console | None = None,
) -> Types:
    """Learns types of defects from the reviews in a results database and puts the head that names them into `bundle`.

    ValueError where labels are too few, or where the bundle's code does not tell the types apart; nothing is written
    then.
    """
    console = console or terminal.plain()
    manifest = read_manifest(bundle)
    with opened(database) as archive:
        labels, left = archive.labelled()
    x, defects, unread = features(bundle, labels, device=device, threads=threads, progress=terminal.track)
    for reason, count in (left + unread).items():
        terminal.note(f"left out, {count} label{'' if count == 1 else 's'}: {reason}")
    fitted = fit(x, [one.type for one in defects], [one.sha256 for one in defects], manifest)
    show(fitted, Counter(one.type for one in defects), console)
    if not fitted.tells:
        raise ValueError(
            f"what {bundle} sees of them does not tell these types apart: {fitted.types.accuracy:.0%} are named right, "
            f"and always saying the commonest type is right for {fitted.commonest:.0%}; nothing is written"
        )
    changed(bundle, store(bundle, fitted), console)
    return fitted.types


def remove_types(bundle: str | os.PathLike[str], *, console: Console | None = None) -> None:
    """Takes the head away; the bundle is then what it was before it had one."""
    changed(bundle, store(bundle, None), console or terminal.plain())


def show(fitted: Fitted, number: Counter[str], console: Console) -> None:
    """Labels, and what they were called when they were left out."""
    types, n = fitted.types, sum(fitted.types.labels)
    table = Table("type", "labels", box=None, pad_edge=False)
    for name in (*types.names, UNKNOWN):
        table.add_column(f"called {name}", overflow="fold")
    for name, labels, row in zip(types.names, types.labels, types.confusion, strict=True):
        table.add_row(name, str(labels), *map(str, row))
    console.print(table)
    console.print(
        f"Cross-validation in {types.folds} folds, all defects of an image left out together: {types.accuracy:.0%} of "
        f"{n} defects are named right; always saying the commonest type would be right for {fitted.commonest:.0%}."
    )
    console.print(
        f"Unknown is what has no type with a probability of {types.probability:.2f}, or lies farther than "
        f"{types.distance:.2f} from all types. A defect of a known type fails either test with a probability of about "
        f"{types.rate:.0%}; here {types.unknown:.0%} of them failed one."
    )
    for one in lacking(number):
        console.print(f"Not learnt: {one}.")


def changed(bundle: str | os.PathLike[str], manifest: Manifest, console: Console) -> None:
    console.print(f"{bundle} gives the same verdicts as before; its fingerprint is now {fingerprint(manifest)}")


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an exported detector, with its parts.")],
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="FILE_OR_URL", help="Results database with reviews that name types of defects."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the head away again.")] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Teach a bundle to name the types of defects that people named in reviews.

    From 10 labels a type on, in at least two types, a logistic regression on the detector's code and the components of
    its map learns to tell them apart; it becomes part of the bundle, and `score` and the dashboard then give every
    defect its type, or "unknown". How often it is right is found by cross-validation and told. Give the same command
    again when there are more labels.

    Verdicts and thresholds stay as they are. The fingerprint changes: whoever pins the bundle by it has to pin the new
    one.
    """
    if remove == (db is not None):
        raise typer.BadParameter("give either the database with the reviews (--db) or --remove")
    if remove:
        remove_types(bundle)
    else:
        learn_types(bundle, str(db), device=device, threads=threads)
