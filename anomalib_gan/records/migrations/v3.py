"""What kind of defect a review names, and how an old and a new model compare on what people reviewed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("reviews", sa.Column("defect_type", sa.String(64)))
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String, nullable=False),
        *(sa.Column(name, sa.String(64), nullable=False) for name in ("old", "new")),
        *(sa.Column(f"{name}_calibration", sa.String(64), nullable=False) for name in ("old", "new")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("normal", "defective")),
        *(sa.Column(f"{name}_false_alarms", sa.Integer, nullable=False) for name in ("old", "new")),
        *(sa.Column(f"{name}_misses", sa.Integer, nullable=False) for name in ("old", "new")),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_index("comparisons_by_models", "comparisons", ["old", "new"])
