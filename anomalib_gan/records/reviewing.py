"""What people made of the verdicts: the queue, their reviews, and how far they agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from sqlalchemy import ColumnElement, func, select

from anomalib_gan.records.access import User, require
from anomalib_gan.records.database import RecordsError, writing
from anomalib_gan.records.listing import EVERYTHING, Filter, I, Listing, Page, cursor_of, has_review, key_of
from anomalib_gan.records.schema import InspectionRecord, RequestRecord, ReviewRecord
from anomalib_gan.runtime.files import short
from anomalib_gan.runtime.naming import LONGEST, UNKNOWN, is_name

Label = Literal["confirmed", "false alarm", "missed defect"]
Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels of the image, half-open."""


@dataclass(frozen=True)
class Agreement:
    """Of the `images` that two or more people reviewed, on how many (`agreed`) all last said the same.

    share: agreed / images, None without any · kappa: Cohen's, only where the same two people reviewed all of them and
    chance alone would not make them agree on all.
    """

    images: int
    agreed: int
    share: float | None
    kappa: float | None


class Reviewing(Listing):
    def queue(self, filter: Filter = EVERYTHING, *, after: str | None = None, limit: int = 50) -> Page:
        """What waits for a person, the newest first: verdict "review" without a review, or asked for since the last."""
        key = None if after is None else key_of(after, "newest")
        found: dict[int, InspectionRecord] = {}
        with self._reading() as session:
            for part, extra in self._waiting(filter):
                query = select(I).where(*self._narrow(session, part, verdicts=False), extra)
                if key is not None:
                    time, id = key
                    query = query.where((I.scored_at < time) | ((I.scored_at == time) & (I.id < id)))
                query = query.order_by(I.scored_at.desc(), I.id.desc()).limit(limit + 1)
                found |= {row.id: row for row in session.scalars(query)}
        rows = sorted(found.values(), key=lambda row: (row.scored_at, row.id), reverse=True)
        return Page(rows[:limit], cursor_of(rows[limit - 1], "newest") if len(rows) > limit else None)

    def waiting(self, filter: Filter = EVERYTHING) -> int:
        """How many images `queue` goes through."""
        with self._reading() as session:
            (first, extra), (second, asked) = self._waiting(filter)
            number = select(func.count()).select_from(I)
            total = session.scalar(number.where(*self._narrow(session, first), extra)) or 0
            # What was asked for and would be there anyway is counted once.
            both = (I.verdict == "review") & ~has_review()
            return total + (session.scalar(number.where(*self._narrow(session, second), asked, ~both)) or 0)

    def ask(self, inspection: int | InspectionRecord, user: User, comment: str = "") -> RequestRecord:
        """Puts an image into the queue."""
        require(user, "operator", "ask for a review")
        seen = self._seen(inspection)
        row = RequestRecord(
            batch=seen.batch, sha256=seen.sha256, who=user.name, at=datetime.now(UTC), comment=comment.strip()
        )
        with writing(self.engine) as session:
            session.add(row)
        return row

    def review(
        self,
        inspection: int | InspectionRecord,
        user: User,
        label: Label,
        comment: str = "",
        boxes: Sequence[Box] = (),
        *,
        defect_type: str = "",
    ) -> ReviewRecord:
        """Notes what `user` says about an image, beside what others say and said.

        Give the row that the person saw: with its id alone, what stands there now is taken for it. Of several `boxes`
        each gets a row, all of one time and in one transaction: they are one statement, which counts once where people
        are compared and is withdrawn as one. A "missed defect" needs a box where it is. `defect_type` says what kind of
        defect is in the boxes or, without one, what kind the image's largest is. Returns the first row. ValueError for
        an unknown label, a box outside the image, and a type that is none or belongs to no defect; RecordsError for a
        file that has no hash because it still changed.
        """
        require(user, "operator", "review images")
        if label not in get_args(Label):
            raise ValueError(f"{label!r} is no label: choose from {', '.join(get_args(Label))}")
        seen = self._seen(inspection)
        if label == "missed defect" and not boxes:
            raise ValueError(f"a missed defect in {seen.path} needs a box: draw it")
        for box in boxes:
            top, left, bottom, right = box
            if not (0 <= top < bottom <= (seen.height or 0) and 0 <= left < right <= (seen.width or 0)):
                raise ValueError(f"the box {box} does not lie in {seen.path}, {seen.height} x {seen.width} pixels")
        kind = _type(defect_type)
        if kind is not None and (label == "false alarm" or (label == "confirmed" and seen.verdict == "accept")):
            raise ValueError(
                f"{label!r} says that {seen.path} has no defect, so there is none of type {kind!r}: clear it"
            )
        now, places = datetime.now(UTC), list[Box | tuple[None, None, None, None]](boxes)
        rows = [
            ReviewRecord(
                batch=seen.batch, sha256=seen.sha256, path=seen.path, who=user.name, role=user.role, at=now,
                label=label, comment=comment.strip(), box_top=top, box_left=left, box_bottom=bottom, box_right=right,
                model=seen.model, calibration=seen.calibration, verdict=seen.verdict, score=seen.score,
                defect_type=kind,
            )
            for top, left, bottom, right in places or [(None, None, None, None)]
        ]  # fmt: skip
        with writing(self.engine) as session:
            session.add_all(rows)
        return rows[0]

    def withdraw(self, review: int, user: User) -> ReviewRecord:
        """Takes a review back, with the rows of all boxes that were drawn for it; they stay and say who did.

        Operators take back their own, engineers any.
        """
        require(user, "operator", "withdraw reviews")
        with writing(self.engine, alone=True) as session:
            row = session.get(ReviewRecord, review)
            if row is None:
                raise KeyError(f"there is no review {review}")
            if row.who != user.name:
                require(user, "engineer", f"withdraw a review of {row.who}")
            if row.withdrawn_at is not None:
                raise ValueError(f"review {review} was withdrawn by {row.withdrawn_by} before")
            same = (getattr(ReviewRecord, name) == getattr(row, name) for name in ("batch", "sha256", "who", "at"))
            for one in session.scalars(select(ReviewRecord).where(*same)):
                one.withdrawn_at, one.withdrawn_by = datetime.now(UTC), user.name
        return row

    def reviews(
        self,
        inspection: int | InspectionRecord | None = None,
        *,
        batch: int | None = None,
        label: Label | None = None,
        withdrawn: bool = False,
        limit: int | None = None,
    ) -> list[ReviewRecord]:
        """Reviews, the newest first: of one image's bytes, a batch, a label or all; those taken back only if asked."""
        query = select(ReviewRecord).order_by(ReviewRecord.at.desc(), ReviewRecord.id.desc())
        if inspection is not None:
            seen = self.inspection(inspection) if isinstance(inspection, int) else inspection
            query = query.where(ReviewRecord.batch == seen.batch, ReviewRecord.sha256 == (seen.sha256 or ""))
        if batch is not None:
            query = query.where(ReviewRecord.batch == batch)
        if label is not None:
            query = query.where(ReviewRecord.label == label)
        if not withdrawn:
            query = query.where(ReviewRecord.withdrawn_at.is_(None))
        with self._reading() as session:
            return list(session.scalars(query if limit is None else query.limit(limit)))

    def defect_types(self) -> dict[str, int]:
        """How many reviews name each type of defect, those taken back left out; the commonest first."""
        number, kind = func.count(), ReviewRecord.defect_type
        query = select(kind, number).where(kind.is_not(None), ReviewRecord.withdrawn_at.is_(None)).group_by(kind)
        with self._reading() as session:
            found = session.execute(query).all()
        return {str(name): count for name, count in sorted(found, key=lambda one: (-one[1], str(one[0])))}

    def reviewed_count(self, batch: int | None = None) -> int:
        """How many images somebody said something of, in a batch or all, that was not withdrawn."""
        some = select(ReviewRecord.batch, ReviewRecord.sha256).where(*_valid(batch)).distinct().subquery()
        with self._reading() as session:
            return session.scalar(select(func.count()).select_from(some)) or 0

    def agreement(self, batch: int | None = None) -> Agreement:
        """How far people agree on the images that more than one of them reviewed; each one's last word counts."""
        image = ReviewRecord.batch, ReviewRecord.sha256
        people = func.count(ReviewRecord.who.distinct())
        both = select(*image).where(*_valid(batch)).group_by(*image).having(people > 1).subquery()
        query = select(*image, ReviewRecord.who, ReviewRecord.label).where(*_valid(batch))
        query = query.join(both, (both.c.batch == ReviewRecord.batch) & (both.c.sha256 == ReviewRecord.sha256))
        said: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
        with self._reading() as session:
            for place, bytes, who, label in session.execute(query.order_by(ReviewRecord.at, ReviewRecord.id)):
                said[place, bytes][who] = label
        shared = list(said.values())
        agreed = sum(len(set(words.values())) == 1 for words in shared)
        share = agreed / len(shared) if shared else None
        return Agreement(len(shared), agreed, share, _kappa(shared))

    def _waiting(self, filter: Filter) -> list[tuple[Filter, ColumnElement[bool]]]:
        """Two parts, each found by an index: what its verdict sends to review, and what was asked for."""
        open_ = (ReviewRecord.batch == RequestRecord.batch) & (ReviewRecord.sha256 == RequestRecord.sha256)
        newer = select(ReviewRecord.id).where(
            open_, ReviewRecord.withdrawn_at.is_(None), ReviewRecord.at >= RequestRecord.at
        )
        other = I.__table__.alias()
        asked = (
            select(other.c.id)
            .join(RequestRecord, (other.c.batch == RequestRecord.batch) & (other.c.sha256 == RequestRecord.sha256))
            .where(~newer.correlate(RequestRecord).exists())
        )
        review = "review" in filter.verdicts or not filter.verdicts
        return [
            (replace(filter, verdicts=("review",)), ~has_review() if review else I.id.is_(None)),
            (filter, I.id.in_(asked)),
        ]

    def _seen(self, inspection: int | InspectionRecord) -> InspectionRecord:
        seen = self.inspection(inspection) if isinstance(inspection, int) else inspection
        if seen.sha256 is None:
            raise RecordsError(f"{seen.path} was still changing when it was read, so it has no hash: score it again")
        return seen


def _type(text: str) -> str | None:
    """The name of a type of defect, trimmed; None where nothing was said."""
    name = text.strip()
    if not name:
        return None
    if name.lower() == UNKNOWN:
        raise ValueError(f"{UNKNOWN!r} is what the detector says where it is not sure: leave the type empty")
    if not is_name(name):
        raise ValueError(f"{short(name)} is no name of a type: give at most {LONGEST} characters in one line")
    return name


def _valid(batch: int | None) -> list[ColumnElement[bool]]:
    """Of reviews: not withdrawn, and of the batch where one is given."""
    ours = [] if batch is None else [ReviewRecord.batch == batch]
    return [ReviewRecord.withdrawn_at.is_(None), *ours]


def _kappa(shared: list[dict[str, str]]) -> float | None:
    people = sorted({who for words in shared for who in words})
    if len(people) != 2:
        return None
    first, second = (Counter(words[who] for words in shared) for who in people)
    n = len(shared)
    chance = sum(first[label] * second[label] for label in first) / n**2
    observed = sum(words[people[0]] == words[people[1]] for words in shared) / n
    return None if chance == 1 else (observed - chance) / (1 - chance)
