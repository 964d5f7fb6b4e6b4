"""What people agree on: images that all who reviewed them call normal, or defective. File names have no say in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select

from anomalib_gan.records.database import RecordsError, fingerprint
from anomalib_gan.records.listing import I, Listing
from anomalib_gan.records.schema import Batch, ReviewRecord
from anomalib_gan.runtime.files import sha256_file

Truth = Literal["normal", "defective"]


@dataclass(frozen=True)
class ReviewedImage:
    """An image by its bytes, `sha256`.

    batch, path: where it was inspected last · places: where its file may lie, the likeliest first · settings: the
    options it was inspected with then (info bar, grey levels, rescaling), empty where its row has gone.
    """

    sha256: str
    batch: int
    path: str
    places: tuple[Path, ...]
    settings: dict[str, Any]

    def file(self) -> Path:
        """The file that still has these bytes; a RecordsError names the one that is missing or has changed."""
        problems = []
        for place in self.places:
            try:
                if sha256_file(place) == self.sha256:
                    return place
                problems.append(f"{place} has changed since it was reviewed")
            except OSError as error:
                problems.append(f"{place} cannot be read ({error.strerror})")
        raise RecordsError(f"{'; '.join(problems)}: put the reviewed file back")


@dataclass(frozen=True)
class ReviewedSet:
    """The reviewed images, each once: normal where all people's last words say so, defective likewise; disputed where
    they differ, or where what they said is neither.
    """

    normal: tuple[ReviewedImage, ...]
    defective: tuple[ReviewedImage, ...]
    disputed: tuple[ReviewedImage, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of which images are normal and which defective."""
        return fingerprint({"normal": _hashes(self.normal), "defective": _hashes(self.defective)})


def meaning(label: str, verdict: str) -> Truth | None:
    """What a review says of an image whose `verdict` its author saw; "confirmed" is said of the verdict.

    None where it says nothing of the image: of an invalid one, and a "false alarm" where there was no alarm.
    """
    if label == "missed defect":
        return "defective"
    if verdict == "accept":
        return "normal" if label == "confirmed" else None
    if verdict in ("review", "reject"):
        return "defective" if label == "confirmed" else "normal"
    return None


class Reviewed(Listing):
    def reviewed(self) -> ReviewedSet:
        """What people agree on by now. In each batch a person's last word on an image counts, not one taken back."""
        words: dict[str, dict[tuple[int, str], Truth | None]] = defaultdict(dict)
        lay: dict[str, dict[tuple[int, str], dict[str, Any]]] = defaultdict(dict)  # the likeliest place last
        same = (ReviewRecord.batch == I.batch) & (ReviewRecord.sha256 == I.sha256)
        valid = ReviewRecord.withdrawn_at.is_(None)
        with self._reading() as session:
            folders = {id: Path(folder) for id, folder in session.execute(select(Batch.id, Batch.folder))}
            for one in session.scalars(select(ReviewRecord).where(valid).order_by(ReviewRecord.at, ReviewRecord.id)):
                words[one.sha256][one.batch, one.who] = meaning(one.label, one.verdict)
                lay[one.sha256][one.batch, one.path] = {}
            rows = select(I.batch, I.sha256, I.path, I.settings).join(ReviewRecord, same).where(valid)
            for row in session.execute(rows.order_by(I.id)):
                lay[row.sha256].pop((row.batch, row.path), None)
                lay[row.sha256][row.batch, row.path] = row.settings
        sets: dict[Truth | None, list[ReviewedImage]] = {"normal": [], "defective": [], None: []}
        for sha256, said in sorted(words.items()):
            places = list(reversed(lay[sha256]))
            batch, path = places[0]
            files = tuple(folders[id] / name for id, name in places)
            agreed = set(said.values())
            sets[agreed.pop() if len(agreed) == 1 else None].append(
                ReviewedImage(sha256, batch, path, files, lay[sha256][batch, path])
            )
        return ReviewedSet(tuple(sets["normal"]), tuple(sets["defective"]), tuple(sets[None]))


def located(images: Iterable[ReviewedImage]) -> tuple[dict[str, Path], list[str]]:
    """The files of the images, by SHA-256, and what is wrong with those that cannot be had."""
    files, problems = {}, []
    for image in images:
        try:
            files[image.sha256] = image.file()
        except RecordsError as error:
            problems.append(str(error))
    return files, problems


def _hashes(images: Iterable[ReviewedImage]) -> list[str]:
    return sorted(image.sha256 for image in images)
