"""What kind a defect is, by the detector."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # The default is for the rows that are there; those that come say it themselves.
    op.add_column("defects", sa.Column("type", sa.String(64), nullable=False, server_default=""))
