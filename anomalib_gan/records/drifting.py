"""Has the line left its calibration? The test of `runtime.drift` on the stream of inspections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from anomalib_gan.records.database import writing
from anomalib_gan.records.listing import I, Listing
from anomalib_gan.records.schema import CalibrationRecord, EventRecord
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.drift import LEVEL, Drift

STRETCH = 5_000
"""At most so many inspections are tested together: each week since the calibration's first use is cut into stretches
of so many. The k-th week has 6 / (pi k)^2 of the level, and its j-th stretch 6 / (pi j)^2 of that, which sums up to it.
"""
WEEK = timedelta(weeks=1)
WHO = "drift test"


@dataclass(frozen=True)
class DriftReport:
    """How the newest stretch of a model's inspections stands to their calibration.

    calibration: its id · seen: inspections in the stretch · above: those above the review threshold · wealth, peak: of
    the gambler, against `limit`, which raises the alarm · level: probability that a line without drift ever raises one,
    over all stretches · event: of the alarm, if there is one.
    """

    calibration: str
    seen: int
    above: int
    wealth: float
    peak: float
    limit: float
    level: float
    event: EventRecord | None

    @property
    def alarm(self) -> bool:
        return self.peak >= self.limit


class Drifting(Listing):
    def drift(self, model: str, *, level: float = LEVEL) -> DriftReport:
        """Tests the newest stretch of the model's inspections against the calibration that they were decided by.

        The first look that finds drift in a stretch adds the event "drift alarm". As long as inspections are neither
        pruned nor scored again, stretches stay where they are and looking again and again keeps the level. KeyError for
        a model without inspections, ValueError where the calibration cannot be compared with (see `Drift`).
        """
        with self._reading() as session:
            used = {}
            for one in session.scalars(select(CalibrationRecord.id).where(CalibrationRecord.model == model)):
                if (last := session.scalar(select(func.max(I.scored_at)).where(I.calibration == one))) is not None:
                    used[one] = last
            if not used:
                raise KeyError(f"model {model[:16]} has no inspections")
            id = max(used, key=lambda one: (used[one], one))
            content = session.scalars(select(CalibrationRecord.content).where(CalibrationRecord.id == id)).one()
            first = session.scalar(select(func.min(I.scored_at)).where(I.calibration == id))
            assert first is not None  # there is a last one
            week = (used[id] - first) // WEEK
            ours = I.calibration == id, I.score.is_not(None), I.scored_at >= first + week * WEEK
            number = session.scalar(select(func.count()).select_from(I).where(*ours)) or 0
            stretch = max(0, number - 1) // STRETCH
            query = select(I.score).where(*ours).order_by(I.scored_at, I.id).offset(stretch * STRETCH)
            scores = [score for score in session.scalars(query.limit(STRETCH)) if score is not None]
        share = level * 6 / (math.pi * (week + 1)) ** 2 * 6 / (math.pi * (stretch + 1)) ** 2
        found = Drift(Calibration.from_json(content), share, seed=stretch).update(scores)
        event = self._alarm(model, id, (week, stretch), found) if found.alarm else None
        return DriftReport(id, found.seen, found.above, found.wealth, found.peak, 1 / share, level, event)

    def _alarm(self, model: str, calibration: str, stretch: tuple[int, int], found: Drift) -> EventRecord:
        with writing(self.engine, alone=True) as session:
            told = select(EventRecord).where(EventRecord.kind == "drift alarm", EventRecord.model == model)
            for event in session.scalars(told):
                if (event.details["calibration"], event.details["stretch"]) == (calibration, list(stretch)):
                    return event
            event = EventRecord(
                at=datetime.now(UTC), kind="drift alarm", who=WHO, model=model,
                reason=f"scores have left the calibration: wealth {found.peak:.3g} of {1 / found.level:.3g}",
                details={
                    "calibration": calibration, "stretch": list(stretch), "seen": found.seen, "above": found.above,
                },
            )  # fmt: skip
            session.add(event)
        return event
