"""Older results databases become those of this version: `v2` takes version 1 to 2, and so on, as Alembic's revisions.

What a revision does is frozen: it must find the tables as they were, so it knows nothing of `records.schema`.
"""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def upgrade(connection: Connection, version: int) -> None:
    """Takes a database of schema `version` to the newest one, within the caller's transaction, and says so in it."""
    folder = str(Path(__file__).parent)
    script = ScriptDirectory(folder, version_locations=[folder])
    context = MigrationContext.configure(connection)
    revisions = list(script.iterate_revisions("head", f"{version:04}"))
    with Operations.context(context):
        for revision in reversed(revisions):
            revision.module.upgrade()
    context.stamp(script, "head")
