"""Two models, each with its thresholds, side by side on the images that people agree on: the regression set.

No model takes the place of another without such a comparison; see `Thresholds.activate`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from anomalib_gan.records.access import User, require
from anomalib_gan.records.database import RecordsError, fingerprint, writing
from anomalib_gan.records.reviewed import Reviewed, ReviewedImage
from anomalib_gan.records.schema import ComparisonRecord
from anomalib_gan.runtime.bundle import BundleError, Manifest, read_manifest
from anomalib_gan.runtime.calibrating import SPLIT, held_back, trained_on
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import CARD, levels, read_card
from anomalib_gan.runtime.image import ImageError, open_image
from anomalib_gan.runtime.inspector import Inspector

SIDES = ("old", "new")


class Comparing(Reviewed):
    def comparison(self, old: str, new: str) -> ComparisonRecord | None:
        """The newest comparison of these models (hashes) that still holds: None where there is none.

        It holds as long as people agree on the same images, and both bundles have the thresholds they had.
        """
        current = self.reviewed().fingerprint
        for row in self.comparisons(old, new):
            if row.details["set"] == current and all(_holds(row, side) for side in SIDES):
                return row
        return None

    def comparisons(self, old: str | None = None, new: str | None = None) -> list[ComparisonRecord]:
        """All comparisons, also those that hold no longer, or those of an old and a new model; the newest first."""
        query = select(ComparisonRecord).order_by(ComparisonRecord.at.desc(), ComparisonRecord.id.desc())
        if old is not None:
            query = query.where(ComparisonRecord.old == old)
        if new is not None:
            query = query.where(ComparisonRecord.new == new)
        with self._reading() as session:
            return list(session.scalars(query))


def compare(
    archive: Comparing,
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    user: User,
    say: Callable[[str], object] | None = None,
) -> ComparisonRecord:
    """Lets two bundles judge the images that people agree on, as `score` would, and writes down what came out.

    `say` is told how far it is. In the row's details: `bundles`, their absolute paths; `set`, the fingerprint of the
    reviewed images; `images`, for each batch, path, sha256, what people said, the verdict and score of old and new, and
    under `seen` which of the models was made with it (trained on it, or held it back for thresholds); `unreadable`,
    images left out of all counts, with the reason; `unknown`, the models that do not tell what they were made with;
    `warnings`, those of both calibrations.

    PermissionError unless the user is an engineer; BundleError for a folder that is no whole bundle, ValueError for one
    without a calibration.
    """
    require(user, "engineer", "compare models")
    models = {"old": _Judge(old), "new": _Judge(new)}
    reviewed = archive.reviewed()
    asked = [("normal", image) for image in reviewed.normal] + [("defective", image) for image in reviewed.defective]
    judged: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    for number, (said, image) in enumerate(asked, 1):
        if say is not None:
            say(f"image {number} of {len(asked)}: {image.path}")
        told: dict[str, Any] = {"batch": image.batch, "path": image.path, "sha256": image.sha256, "said": said}
        try:
            file = image.file()
            told |= {side: model(image, file) for side, model in models.items()}
        except (RecordsError, ImageError) as error:
            unreadable.append({**told, "reason": str(error)})
            continue
        judged.append(told | {"seen": [side for side, model in models.items() if image.sha256 in (model.seen or ())]})
    counts: dict[str, int] = {}
    for side in SIDES:
        counts[f"{side}_false_alarms"] = sum(_wrong(one, side) and one["said"] == "normal" for one in judged)
        counts[f"{side}_misses"] = sum(_wrong(one, side) and one["said"] == "defective" for one in judged)
    row = ComparisonRecord(
        at=datetime.now(UTC), who=user.name,
        old=models["old"].hash, new=models["new"].hash,
        old_calibration=models["old"].calibration, new_calibration=models["new"].calibration,
        normal=sum(one["said"] == "normal" for one in judged),
        defective=sum(one["said"] == "defective" for one in judged),
        **counts,
        details={
            "set": reviewed.fingerprint, "bundles": {side: str(model.path) for side, model in models.items()},
            "images": judged, "unreadable": unreadable,
            "unknown": [side for side, model in models.items() if model.seen is None],
            "warnings": {side: model.warnings for side, model in models.items()},
        },
    )  # fmt: skip
    with writing(archive.engine) as session:
        session.add(row)
    return row


def table(row: ComparisonRecord) -> list[tuple[str, int, int]]:
    """What a comparison found: (what was counted, of the old model, of the new one)."""
    images = row.details["images"]
    fresh = [one for one in images if one["said"] == "normal" and not one["seen"]]
    found = [(f"false alarms of {row.normal} normal images", row.old_false_alarms, row.new_false_alarms)]
    if len(fresh) < row.normal:
        old, new = (sum(_wrong(one, side) for one in fresh) for side in SIDES)
        found.append((f"of these on the {len(fresh)} that are new to both models", old, new))
    found.append((f"misses of {row.defective} defective images", row.old_misses, row.new_misses))
    old, new = (
        sum(_wrong(one, side) and not _wrong(one, other) for one in images) for side, other in (SIDES, SIDES[::-1])
    )
    found.append(("images that only this model judges wrongly", old, new))
    return found


def notes(row: ComparisonRecord) -> list[str]:
    """What has to be said beside the table of a comparison, in sentences."""
    told = []
    if not row.normal + row.defective:
        told.append("0 images were compared: this shows nothing of either model")
    for side in SIDES:
        known = [one["said"] for one in row.details["images"] if side in one["seen"]]
        if normal := known.count("normal"):
            told.append(f"the {side} model was made with {normal} of the normal images: these are no test of it")
        if defective := known.count("defective"):
            told.append(
                f"the {side} model was made with {defective} of the defective images as if they were normal: "
                "take them out of its folder and train again"
            )
        if side in row.details["unknown"]:
            told.append(f"the bundle of the {side} model does not tell which images it was made with")
        told += [f"thresholds of the {side} model: {warning}" for warning in row.details["warnings"][side]]
    told += [f"left out: {one['path']}: {one['reason']}" for one in row.details["unreadable"]]
    return told


def calibration_id(model: str, calibration: Calibration) -> str:
    """As which a model's calibration is known in the records."""
    return fingerprint({"model": model, **calibration.to_json()})


def is_calibrated(manifest: Manifest, id: str) -> bool:
    """Has the bundle this calibration?"""
    return manifest.calibration is not None and calibration_id(manifest.hash, manifest.calibration) == id


class _Judge:
    """A bundle that judges images as `score` would, each with the options it was scored with."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self.inspector = Inspector.load(self.path, spin=False)
        if self.inspector.calibration is None:
            raise ValueError(f"{path} has no calibration, so no verdicts: run `anomalib-gan calibrate {path}` first")
        self.hash = self.inspector.backend.hash
        self.calibration = calibration_id(self.hash, self.inspector.calibration)
        self.warnings = list(self.inspector.calibration.warnings)
        folder = self.path / "card"
        self.card = read_card(folder)
        told = {f"card/{CARD}", f"card/{SPLIT}"} <= set(read_manifest(self.path).files) and "data" in self.card
        self.seen = trained_on(folder).union(str(one.sha256) for one in held_back(folder)) if told else None

    def __call__(self, image: ReviewedImage, file: Path) -> dict[str, Any]:
        given = image.settings
        bits, white = levels(self.card, given.get("bits"), given.get("white"), tell=lambda _text: None)
        self.inspector.rescale = given.get("rescale", False)
        opener = partial(open_image, info_bar=given.get("info_bar", "auto"), bits=bits, white=white)
        with opener(file) as picture:
            found = self.inspector(picture, sink=lambda _top, _rows: None)
        return {"verdict": found.verdict, "score": found.score}


def _wrong(one: dict[str, Any], side: str) -> bool:
    """A false alarm or a miss."""
    return (one["said"] == "normal") != (one[side]["verdict"] == "accept")


def _holds(row: ComparisonRecord, side: str) -> bool:
    """Has the bundle that was compared still the thresholds that it had?"""
    try:
        manifest = read_manifest(row.details["bundles"][side])
    except (BundleError, OSError):  # it has gone, or is damaged
        return False
    return manifest.hash == getattr(row, side) and is_calibrated(manifest, getattr(row, f"{side}_calibration"))
