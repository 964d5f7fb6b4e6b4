"""What people called the defects that they confirmed or drew, each defect once and with the image that it is in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from anomalib_gan.records.listing import I, Listing
from anomalib_gan.records.schema import Batch, InspectionRecord, ReviewRecord
from anomalib_gan.runtime.tiling import Box


@dataclass(frozen=True)
class Labelled:
    """A defect that people gave a type: where it is in which file, and how that was read when it was inspected."""

    type: str
    box: Box
    path: Path
    sha256: str
    settings: Mapping[str, Any] = field(compare=False)


class Labelling(Listing):
    def labelled(self) -> tuple[list[Labelled], Counter[str]]:
        """(defects that reviews give a type, how many labels are left out by the reason why).

        A label belongs to the drawn box or, without one, to the image's largest defect. Of each person the last word
        counts, for each place; where people disagree about one, it is left out. Files are not looked at.
        """
        left: Counter[str] = Counter()
        found: dict[tuple[str, Box], set[str]] = defaultdict(set)
        where: dict[str, tuple[Path, dict[str, Any]]] = {}
        query = select(ReviewRecord).where(ReviewRecord.withdrawn_at.is_(None))
        said: dict[tuple[int, str], dict[str, dict[Any, str]]] = defaultdict(lambda: defaultdict(dict))
        with self._reading() as session:
            for review in session.scalars(query.order_by(ReviewRecord.at, ReviewRecord.id)):
                theirs = said[review.batch, review.sha256][review.who]
                if review.label == "false alarm":
                    theirs.clear()
                elif review.defect_type is not None:
                    theirs[review.box] = review.defect_type
            folders = {batch.id: Path(batch.folder) for batch in session.scalars(select(Batch))}
            for (batch, sha256), people in said.items():
                places = [one for theirs in people.values() for one in theirs.items()]
                if not places:
                    continue
                same = select(I).where(I.batch == batch, I.sha256 == sha256).options(selectinload(I.defects))
                row = session.scalars(same.order_by(I.scored_at.desc(), I.id.desc())).first()
                if row is None:
                    left["the image's row was pruned"] += len(places)
                    continue
                where.setdefault(sha256, (folders[batch] / row.path, row.settings))
                for place, kind in places:
                    box = largest(row) if place is None else Box(*place)
                    if box is None:
                        left["no box was drawn and no defect found"] += 1
                    else:
                        found[sha256, box].add(kind)
        agreed = [(sha256, box, min(kinds)) for (sha256, box), kinds in found.items() if len(kinds) == 1]
        if len(agreed) < len(found):
            left["people disagree on the type"] += len(found) - len(agreed)
        return [Labelled(kind, box, where[sha256][0], sha256, where[sha256][1]) for sha256, box, kind in agreed], left


def largest(row: InspectionRecord) -> Box | None:
    """The box of the defect with the largest area; None without any."""
    if not row.defects:
        return None
    one = max(row.defects, key=lambda defect: (defect.area, -defect.number))
    return Box(one.top, one.left, one.bottom, one.right)
