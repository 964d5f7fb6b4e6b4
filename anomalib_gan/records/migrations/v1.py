"""Models, calibrations, batches, inspections and defects: made by version 1 itself, which had no migrations."""

revision = "0001"
down_revision = None
