"""Thresholds: what a change would do, the change itself, and its history.

A bundle's manifest is the truth about its thresholds, the table of events their history. One is a file, the other a
row, so no transaction spans both. The protocol, under a lock on the bundle that dies with its process:

1. a row in `intents` says what is about to be done (one transaction);
2. the manifest is written anew (one rename);
3. the event is added and the intent taken away (one transaction).

Killed before 2, the manifest still holds the old thresholds: whoever opens the database next takes the intent away, and
neither has changed. Killed after 2, the manifest holds what was intended: then step 3 is done now, and both have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, case, func, select

from anomalib_gan.records.access import User, require
from anomalib_gan.records.comparing import Comparing, calibration_id, is_calibrated
from anomalib_gan.records.database import RecordsError, exclusive, writing
from anomalib_gan.records.listing import EVERYTHING, Filter, I, Page, cursor_of, key_of
from anomalib_gan.records.schema import CalibrationRecord, ComparisonRecord, EventRecord, IntentRecord, ModelRecord
from anomalib_gan.runtime.bundle import BundleError, Manifest, read_manifest, recalibrate
from anomalib_gan.runtime.calibration import Calibration, FalseAlarms
from anomalib_gan.runtime.card import read_card

Kind = Literal["recalibrated", "threshold changed", "model switched", "drift alarm"]
DECIDED = ("reject", "review", "accept")


@dataclass(frozen=True)
class Preview:
    """What a change of thresholds would do.

    calibration: with the new thresholds, for `apply` · false_alarms: of normal images, by threshold ("review",
    "reject", "pixel"), as known from the normal scores · changes: past images by (verdict then, verdict now), also
    where these are the same · unknown: what cannot be told from the records, empty where all can.
    """

    calibration: Calibration
    false_alarms: dict[str, FalseAlarms]
    changes: dict[tuple[str, str], int]
    unknown: str


class Thresholds(Comparing):
    def __init__(self, database: str | os.PathLike[str]) -> None:
        super().__init__(database)
        self.recover()

    def preview(
        self,
        calibration: Calibration,
        *,
        review: float | None = None,
        reject: float | None = None,
        pixel: float | None = None,
        filter: Filter = EVERYTHING,
    ) -> Preview:
        """What it would do to set these thresholds, those not given staying; nothing is changed.

        Past images are those of the filter that the calibration's model scored, with whatever thresholds. ValueError
        for thresholds that `Calibration.moved` refuses.
        """
        moved = calibration.moved(review=review, reject=reject, pixel=pixel)
        changes: dict[tuple[str, str], int] = {}
        with self._reading() as session:
            for old in DECIDED:
                if filter.verdicts and old not in filter.verdicts:
                    continue
                asked = self._narrow(session, replace(filter, model=calibration.model, verdicts=(old,)))
                # One pass over an index that has score and peak.
                sums = (func.sum(case((_becomes(moved, new), 1), else_=0)) for new in DECIDED)
                row = session.execute(select(*sums).where(*asked)).one()
                changes |= {(old, new): int(number or 0) for new, number in zip(DECIDED, row, strict=True)}
        known = {name: moved.false_alarms(name) for name in ("review", "reject", "pixel")}
        unknown = ""
        if moved.pixel != calibration.pixel:
            unknown = (
                "the verdicts follow from the stored peaks; number, area and outline of defects at another pixel "
                "threshold do not: score the images again for these"
            )
        return Preview(moved, known, changes, unknown)

    def changed(
        self,
        preview: Preview,
        old: str,
        new: str,
        *,
        filter: Filter = EVERYTHING,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """The past images whose verdict would go from `old` to `new`, the newest first."""
        if not {old, new} <= set(DECIDED):
            raise ValueError(f"{old} to {new}: both are verdicts out of {', '.join(DECIDED)}")
        model = preview.calibration.model
        with self._reading() as session:
            asked = self._narrow(session, replace(filter, model=model, verdicts=(old,)))
            query = select(I).where(*asked, _becomes(preview.calibration, new))
            if after is not None:
                time, id = key_of(after, "newest")
                query = query.where((I.scored_at < time) | ((I.scored_at == time) & (I.id < id)))
            rows = list(session.scalars(query.order_by(I.scored_at.desc(), I.id.desc()).limit(limit + 1)))
        return Page(rows[:limit], cursor_of(rows[limit - 1], "newest") if len(rows) > limit else None)

    def apply(self, bundle: str | os.PathLike[str], calibration: Calibration, user: User, reason: str) -> EventRecord:
        """Makes `calibration` that of the bundle, with an event that says who and why; both or neither.

        The event is "threshold changed" where the normal scores stay and "recalibrated" where they do not; its details
        hold the calibrations `from` (null without one) and `to`. PermissionError unless the user is an engineer;
        ValueError for no reason, a calibration of another model and one that changes nothing; RecordsError while
        another process changes the same bundle.
        """
        return self._apply(bundle, calibration, user, reason, {})

    def rollback(self, bundle: str | os.PathLike[str], event: int, user: User, reason: str) -> EventRecord:
        """Gives the bundle the thresholds that it had before an event of `apply`, which is an event of its own."""
        require(user, "engineer", "roll back thresholds")
        with self._reading() as session:
            found = session.get(EventRecord, event)
        if found is None or "from" not in found.details:
            raise KeyError(f"event {event} changed no thresholds")
        if found.details["from"] is None:
            raise ValueError(f"before event {event} the bundle had no calibration to go back to")
        calibration = Calibration.from_json(found.details["from"])
        return self._apply(bundle, calibration, user, reason, {"rolls back": event})

    def activate(self, bundle: str | os.PathLike[str], user: User, reason: str) -> EventRecord:
        """Notes that from now on the bundle's model is the one in use: the event "model switched".

        Its details hold the `bundle`, and where another model was in use before, the `comparison` of the two (its id).
        PermissionError unless the user is an engineer. ValueError for no reason, and unless the two were compared on
        what people agree on now, with the thresholds that both have now: see `compare`. The first model has nothing
        to be compared with.
        """
        require(user, "engineer", "switch the model")
        folder, reason = Path(bundle).resolve(), _given(reason)
        manifest = read_manifest(folder)
        with writing(self.engine, alone=True) as session:
            active, row = self.active(), None
            if active is not None and active.model != manifest.hash:
                row = self._compared(active, folder, manifest)
            event = EventRecord(
                at=datetime.now(UTC), kind="model switched", who=user.name, reason=reason, model=manifest.hash,
                details={"bundle": str(folder), "name": manifest.name, "comparison": row and row.id},
            )  # fmt: skip
            session.add(event)
        return event

    def _compared(self, active: EventRecord, folder: Path, manifest: Manifest) -> ComparisonRecord:
        """The comparison without which the bundle may not take the place of the active one."""
        old = Path(active.details["bundle"])
        row = self.comparison(active.model, manifest.hash)
        if row is not None and is_calibrated(manifest, row.new_calibration):
            try:
                before = read_manifest(old)
            except (BundleError, OSError):  # then that of its model which was compared has to do
                return row
            if before.hash != active.model or is_calibrated(before, row.old_calibration):
                return row
        never = not self.comparisons(active.model, manifest.hash)
        problem = "was not compared with" if never else "has other thresholds or reviews than when it was compared with"
        raise ValueError(
            f"{folder} {problem} the active model, {old}: run "
            f"`anomalib-gan records compare {old} {folder} --db {self.name}` and look at what it says"
        )

    def active(self) -> EventRecord | None:
        """The newest "model switched"; its details hold the `bundle`. None where no model was chosen yet."""
        return next(iter(self.events("model switched", limit=1)), None)

    def events(self, kind: Kind | None = None, *, model: str | None = None, limit: int = 200) -> list[EventRecord]:
        """The newest first."""
        if kind is not None and kind not in get_args(Kind):
            raise ValueError(f"{kind!r} is no kind of event: choose from {', '.join(get_args(Kind))}")
        query = select(EventRecord).order_by(EventRecord.at.desc(), EventRecord.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(EventRecord.kind == kind)
        if model is not None:
            query = query.where(EventRecord.model == model)
        with self._reading() as session:
            return list(session.scalars(query))

    def recover(self) -> None:
        """Brings to an end what a killed process began, either way; what one is still doing is left to it."""
        with self._reading() as session:
            begun = list(session.scalars(select(IntentRecord.bundle)))
        for bundle in begun:
            folder = Path(bundle)
            if not folder.is_dir():  # perhaps on a disk that is not there now
                continue
            with _suppress_busy(), exclusive(folder):
                self._settle(folder)

    def _apply(
        self,
        bundle: str | os.PathLike[str],
        calibration: Calibration,
        user: User,
        reason: str,
        more: dict[str, Any],
    ) -> EventRecord:
        require(user, "engineer", "change thresholds")
        folder, reason = Path(bundle).resolve(), _given(reason)
        read_manifest(folder)  # before anything is put into a folder that is no bundle
        with exclusive(folder, "try again when it is done"):
            self._settle(folder)
            manifest = read_manifest(folder)
            old = manifest.calibration
            if calibration.model not in {manifest.hash, old.model if old else manifest.hash}:
                raise ValueError(f"the calibration is of model {calibration.model[:16]}, not of {manifest.hash[:16]}")
            if calibration == old:
                raise ValueError(f"{folder} has these thresholds already")
            same = old is not None and (old.scores, old.peaks) == (calibration.scores, calibration.peaks)
            details = {"bundle": str(folder), "from": old and old.to_json(), "to": calibration.to_json(), **more}
            intent = IntentRecord(
                bundle=str(folder), at=datetime.now(UTC), kind="threshold changed" if same else "recalibrated",
                who=user.name, reason=reason, model=manifest.hash, details=details,
            )  # fmt: skip
            with writing(self.engine) as session:
                session.add(intent)
            try:
                recalibrate(folder, calibration)
            finally:
                event = self._settle(folder)
            assert event is not None  # the manifest is as intended, and the lock is ours
            return event

    def _settle(self, folder: Path) -> EventRecord | None:
        """Step 3, or the way back, by what the manifest says; the caller holds the bundle's lock."""
        with writing(self.engine, alone=True) as session:
            intent = session.get(IntentRecord, str(folder))
            if intent is None:
                return None
            calibration = read_manifest(folder).calibration
            event = None
            if calibration is not None and calibration.to_json() == intent.details["to"]:
                names = ("at", "kind", "who", "reason", "model", "details")
                event = EventRecord(**{name: getattr(intent, name) for name in names})
                session.add(event)
                if session.get(ModelRecord, intent.model) is None:
                    session.add(ModelRecord(hash=intent.model, card=read_card(folder / "card")))
                    session.flush()
                id = calibration_id(intent.model, calibration)
                session.merge(CalibrationRecord(id=id, model=intent.model, content=calibration.to_json()))
            session.delete(intent)
        return event


def _becomes(calibration: Calibration, verdict: str) -> ColumnElement[bool]:
    """Would these thresholds give the verdict? As `Calibration.verdict`: there is a defect where the peak is above."""
    if verdict == "reject":
        return I.score > calibration.reject
    below = I.score <= calibration.reject
    if verdict == "review":
        return below & ((I.score > calibration.review) | (I.peak > calibration.pixel))
    return below & (I.score <= calibration.review) & (I.peak <= calibration.pixel)


def _given(reason: str) -> str:
    if not reason.strip():
        raise ValueError("a change needs a reason: say why, for those who ask later")
    return reason.strip()


@contextmanager
def _suppress_busy() -> Iterator[None]:
    """A bundle that somebody is working on, or that was damaged since, is left for the next time."""
    try:
        yield
    except (RecordsError, BundleError):
        return
