"""The tables of the results database: what was inspected with what, what was found, and what people made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA = 4
VERDICTS = ("reject", "review", "invalid", "accept")


LABELS = ("confirmed", "false alarm", "missed defect")
EVENTS = ("recalibrated", "threshold changed", "model switched", "drift alarm")


class UTCTime(TypeDecorator[datetime]):
    """An aware UTC time, also in SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UTCTime, float: Double, dict[str, Any]: JSON}  # noqa: RUF012


VERSION = Table("alembic_version", Base.metadata, Column("version_num", String(32), primary_key=True))
"""One row: the schema version of this database, as four digits. Alembic's own table."""


class ModelRecord(Base):
    """A trained model: the SHA-256 of its weights and its card."""

    __tablename__ = "models"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    card: Mapped[dict[str, Any]]


class CalibrationRecord(Base):
    """Thresholds of one model; the id is the SHA-256 of their JSON, so equal thresholds are one row."""

    __tablename__ = "calibrations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    content: Mapped[dict[str, Any]]


class Batch(Base):
    """One folder, scored into one folder of results."""

    __tablename__ = "batches"
    __table_args__ = (UniqueConstraint("out", name="one_folder_of_results"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str]
    started: Mapped[datetime]
    out: Mapped[str]
    """Where its maps, masks and overlays lie: absolute, or relative to the folder of the SQLite file."""


class InspectionRecord(Base):
    """What was found in one image; or, with verdict `invalid`, why it could not be inspected.

    Lengths and areas are in pixels unless the name says um (micrometres); times are in seconds.
    """

    __tablename__ = "inspections"
    __table_args__ = (
        UniqueConstraint("batch", "path"),
        CheckConstraint("verdict IN ('accept', 'review', 'reject', 'invalid')", name="verdict_is_known"),
        CheckConstraint("(verdict = 'invalid') = (score IS NULL)", name="score_unless_invalid"),
        # Each answers its question without a look at the row: a million rows are then counted in a tenth of a second.
        Index("inspections_by_time", "scored_at", "id"),
        Index("inspections_by_verdict", "verdict", "scored_at", "score"),
        Index("inspections_by_batch", "batch", "verdict", "scored_at", "score"),
        Index("inspections_by_model", "model", "verdict", "scored_at", "score"),
        Index("inspections_by_threshold", "model", "verdict", "score", "peak"),
        Index("inspections_by_calibration", "calibration", "scored_at", "id", "score"),
        Index("inspections_by_severity", "verdict", "score", "id"),
        Index("inspections_by_bytes", "batch", "sha256"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    batch: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    path: Mapped[str]
    """Relative to the folder, with forward slashes."""
    size: Mapped[int] = mapped_column(BigInteger)
    """Bytes; with `mtime_ns` a cheap sign that the file is still the one that was inspected."""
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    calibration: Mapped[str] = mapped_column(ForeignKey("calibrations.id"))
    settings: Mapped[dict[str, Any]]
    """Options that change the result (info bar, rescaling, ...)."""
    scored_at: Mapped[datetime]
    height: Mapped[int | None]
    width: Mapped[int | None]
    score: Mapped[float | None]
    peak: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(String(7))
    review: Mapped[float]
    """The three thresholds that were used."""
    reject: Mapped[float]
    pixel: Mapped[float]
    defect_count: Mapped[int] = mapped_column(default=0)
    defect_area: Mapped[int] = mapped_column(BigInteger, default=0)
    defect_area_um2: Mapped[float | None]
    largest_defect: Mapped[int] = mapped_column(default=0)
    pixel_size: Mapped[float | None]
    """Micrometres per pixel, where known."""
    warning: Mapped[str] = mapped_column(default="")
    """About the pixel size: the map of an image at another magnification than the training images' is worth little."""
    notes: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    """Why the image is invalid."""
    device: Mapped[str] = mapped_column(default="")
    """Where the map was computed, for people to read."""
    decode_s: Mapped[float | None]
    inference_s: Mapped[float | None]
    post_s: Mapped[float | None]
    defects: Mapped[list[DefectRecord]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="DefectRecord.number"
    )


class DefectRecord(Base):
    """One connected region above the pixel threshold; the box is half-open, row and column are the centroid's."""

    __tablename__ = "defects"
    __table_args__ = (Index("defects_by_area", "area"),)
    inspection: Mapped[int] = mapped_column(ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    top: Mapped[int]
    left: Mapped[int]
    bottom: Mapped[int]
    right: Mapped[int]
    area: Mapped[int]
    area_um2: Mapped[float | None]
    peak: Mapped[float]
    row: Mapped[float]
    col: Mapped[float]
    type: Mapped[str] = mapped_column(String(64), default="")
    """What kind of defect it is by the bundle's head; empty where that had none."""


class ReviewRecord(Base):
    """What a person said about an image. It belongs to the image's bytes within the batch: scoring again replaces the
    inspection and leaves the review. Model, calibration, verdict and score are those that the person saw.
    """

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("label IN ('confirmed', 'false alarm', 'missed defect')", name="label_is_known"),
        CheckConstraint("(withdrawn_at IS NULL) = (withdrawn_by IS NULL)", name="withdrawn_by_somebody"),
        CheckConstraint("(label = 'missed defect') <= (box_top IS NOT NULL)", name="missed_is_drawn"),
        Index("reviews_by_bytes", "batch", "sha256"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    batch: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    """Relative to the batch's folder, as it was then."""
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(8))
    at: Mapped[datetime]
    label: Mapped[str] = mapped_column(String(13))
    comment: Mapped[str] = mapped_column(default="")
    box_top: Mapped[int | None]
    """The drawn box in pixels of the image, half-open."""
    box_left: Mapped[int | None]
    box_bottom: Mapped[int | None]
    box_right: Mapped[int | None]
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    calibration: Mapped[str] = mapped_column(ForeignKey("calibrations.id"))
    verdict: Mapped[str] = mapped_column(String(7))
    score: Mapped[float | None]
    withdrawn_at: Mapped[datetime | None]
    withdrawn_by: Mapped[str | None]
    defect_type: Mapped[str | None] = mapped_column(String(64))
    """What kind of defect it is, in the reviewer's words; None where nothing was said."""

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(top, left, bottom, right) of the drawn box in pixels, half-open; None where none was drawn."""
        if self.box_top is None or self.box_left is None or self.box_bottom is None or self.box_right is None:
            return None
        return self.box_top, self.box_left, self.box_bottom, self.box_right


class RequestRecord(Base):
    """Somebody wants an image looked at; it waits in the queue until a review that is newer."""

    __tablename__ = "requests"
    __table_args__ = (Index("requests_by_bytes", "batch", "sha256"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    batch: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    who: Mapped[str]
    at: Mapped[datetime]
    comment: Mapped[str] = mapped_column(default="")


class EventRecord(Base):
    """Something that changes what verdicts mean. Append-only: the database itself refuses to change or delete one."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('recalibrated', 'threshold changed', 'model switched', 'drift alarm')", name="kind_is_known"
        ),
        Index("events_by_time", "at", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(17))
    who: Mapped[str]
    reason: Mapped[str]
    model: Mapped[str] = mapped_column(String(64))
    details: Mapped[dict[str, Any]]


class ComparisonRecord(Base):
    """What an old and a new model, each with its thresholds, say of the images that people reviewed.

    A false alarm is a normal image that is not accepted, a miss a defective one that is. The calibrations are known by
    the SHA-256 of their JSON, as in `CalibrationRecord`.
    """

    __tablename__ = "comparisons"
    __table_args__ = (Index("comparisons_by_models", "old", "new"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str]
    old: Mapped[str] = mapped_column(String(64))
    """The two models' hashes."""
    new: Mapped[str] = mapped_column(String(64))
    old_calibration: Mapped[str] = mapped_column(String(64))
    new_calibration: Mapped[str] = mapped_column(String(64))
    normal: Mapped[int]
    """Images compared, by what people said of them."""
    defective: Mapped[int]
    old_false_alarms: Mapped[int]
    new_false_alarms: Mapped[int]
    old_misses: Mapped[int]
    new_misses: Mapped[int]
    details: Mapped[dict[str, Any]]
    """What each model said of each image, and which images could not be read."""


class IntentRecord(Base):
    """A change of a bundle's thresholds that has begun; see `records.thresholds`. There is none in quiet times."""

    __tablename__ = "intents"
    bundle: Mapped[str] = mapped_column(primary_key=True)
    """The bundle's absolute path."""
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(17))
    who: Mapped[str]
    reason: Mapped[str]
    model: Mapped[str] = mapped_column(String(64))
    details: Mapped[dict[str, Any]]


GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER events_refuse_{what} BEFORE {what.upper()} ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
        for what in ("update", "delete")
    ],
    "postgresql": [
        "CREATE FUNCTION events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'events are append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        "CREATE TRIGGER events_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse()",
    ],
}
"""Statements that make the table of events append-only."""
for _dialect, _statements in GUARDS.items():
    for _statement in _statements:
        event.listen(EventRecord.__table__, "after_create", DDL(_statement).execute_if(dialect=_dialect))
