"""Several batches in one database; reviews, requests, events; indexes for a million inspections.

Only SQLite: version 1 could not write the times of files into PostgreSQL, so there is none of it there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INDEXES = {
    "inspections_by_time": ("inspections", "scored_at", "id"),
    "inspections_by_verdict": ("inspections", "verdict", "scored_at", "score"),
    "inspections_by_batch": ("inspections", "batch", "verdict", "scored_at", "score"),
    "inspections_by_model": ("inspections", "model", "verdict", "scored_at", "score"),
    "inspections_by_threshold": ("inspections", "model", "verdict", "score", "peak"),
    "inspections_by_calibration": ("inspections", "calibration", "scored_at", "id", "score"),
    "inspections_by_severity": ("inspections", "verdict", "score", "id"),
    "inspections_by_bytes": ("inspections", "batch", "sha256"),
    "defects_by_area": ("defects", "area"),
    "reviews_by_bytes": ("reviews", "batch", "sha256"),
    "requests_by_bytes": ("requests", "batch", "sha256"),
    "events_by_time": ("events", "at", "id"),
}


def upgrade() -> None:
    batches()
    people()
    events()
    op.drop_index("ix_inspections_verdict", "inspections")
    for name, (table, *columns) in INDEXES.items():
        op.create_index(name, table, columns)


def batches() -> None:
    """A batch is known by its folder of results, which in version 1 was the database's own."""
    op.execute(
        "CREATE TABLE batches_new (id INTEGER NOT NULL PRIMARY KEY, folder VARCHAR NOT NULL, "
        "started DATETIME NOT NULL, out VARCHAR NOT NULL, CONSTRAINT one_folder_of_results UNIQUE (out))"
    )
    op.execute("INSERT INTO batches_new SELECT id, folder, started, '.' FROM batches")
    op.execute("DROP TABLE batches")
    op.execute("ALTER TABLE batches_new RENAME TO batches")


def people() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("batch", sa.Integer, sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("label", sa.String(13), nullable=False),
        sa.Column("comment", sa.String, nullable=False),
        *(sa.Column(f"box_{side}", sa.Integer) for side in ("top", "left", "bottom", "right")),
        sa.Column("model", sa.String(64), sa.ForeignKey("models.hash"), nullable=False),
        sa.Column("calibration", sa.String(64), sa.ForeignKey("calibrations.id"), nullable=False),
        sa.Column("verdict", sa.String(7), nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("withdrawn_at", time),
        sa.Column("withdrawn_by", sa.String),
        sa.CheckConstraint("label IN ('confirmed', 'false alarm', 'missed defect')", name="label_is_known"),
        sa.CheckConstraint("(withdrawn_at IS NULL) = (withdrawn_by IS NULL)", name="withdrawn_by_somebody"),
        sa.CheckConstraint("(label = 'missed defect') <= (box_top IS NOT NULL)", name="missed_is_drawn"),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("batch", sa.Integer, sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("comment", sa.String, nullable=False),
    )


def events() -> None:
    def told() -> list[sa.Column]:
        return [
            sa.Column("at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("kind", sa.String(17), nullable=False),
            sa.Column("who", sa.String, nullable=False),
            sa.Column("reason", sa.String, nullable=False),
            sa.Column("model", sa.String(64), nullable=False),
            sa.Column("details", sa.JSON, nullable=False),
        ]

    known = "kind IN ('recalibrated', 'threshold changed', 'model switched', 'drift alarm')"
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        *told(),
        sa.CheckConstraint(known, name="kind_is_known"),
    )
    op.create_table("intents", sa.Column("bundle", sa.String, primary_key=True), *told())
    for what in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER events_refuse_{what} BEFORE {what.upper()} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
        )
