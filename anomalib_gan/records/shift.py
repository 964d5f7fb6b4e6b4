"""Reports for people who were not there: a shift or a batch with all its rejects, and one inspection as evidence.

Each is one self-contained page to read, print or mail; it needs no script and no network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment

from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.outputs import Outputs
from anomalib_gan.records.pictures import plainly, thumbnail
from anomalib_gan.records.report import LISTED, THUMBNAIL, environment
from anomalib_gan.records.schema import Batch, InspectionRecord
from anomalib_gan.runtime.card import levels
from anomalib_gan.runtime.image import open_image

REJECTS = 2000
"""Rejects that one page holds with their pictures; it says so where there were more."""


def shift_report(records: Archive, filter: Filter, title: str, where: tzinfo = UTC) -> str:
    """HTML of the inspections of a filter: figures, thresholds used, pictures of all rejects, invalid files, reviews.

    `where`: the time zone that times are told in.
    """
    batches = {one.id: one for one in records.batches()}
    totals, models = records.totals(filter), {one.hash: one for one in records.models()}
    rejected = Filter(**{**vars(filter), "verdicts": ("reject",)})
    rejects = [
        {"row": row, "jpeg": overlay(records, batches[row.batch], row, THUMBNAIL)}
        for row in islice(_pages(records, rejected), REJECTS)
    ]
    invalid = list(islice(_pages(records, Filter(**{**vars(filter), "verdicts": ("invalid",)})), LISTED))
    speed = records.throughput(filter)
    page = _environment(where).get_template("shift.html.j2")
    return page.render(
        title=title, totals=totals, total=sum(totals.values()), rejects=rejects, invalid=invalid, listed=LISTED,
        speed=speed, used=records.thresholds_used(filter), models=models, made=datetime.now(UTC), batches=batches,
        where=str(where),
    )  # fmt: skip


def evidence(records: Archive, id: int, where: tzinfo = UTC, image: Path | None = None) -> str:
    """HTML of one inspection: the image itself where its file is given, the overlay, defects, the thresholds that were
    used, the hashes of image and model, and all that was said of it, also what was taken back.

    The image has the grey levels that the detector saw: white is what the inspection's settings or the model's card
    say, not the brightest pixel. KeyError where there is no such inspection; ImageError where the image cannot be read.
    """
    row = records.inspection(id)
    batch = next(one for one in records.batches() if one.id == row.batch)
    model = next(one for one in records.models() if one.hash == row.model)
    calibration = next(one for one in records.calibrations(row.model) if one.id == row.calibration)
    shown = None
    if image is not None:
        bits, white = levels(model.card, row.settings.get("bits"), row.settings.get("white"), tell=lambda _note: None)
        with open_image(image, info_bar=0, bits=bits, white=white) as picture:
            shown = base64.b64encode(plainly(picture, 1200)).decode()
    page = _environment(where).get_template("evidence.html.j2")
    return page.render(
        row=row, batch=batch, card=model.card, calibration=calibration.content, image=shown,
        overlay=overlay(records, batch, row, 1200), reviews=records.reviews(row, withdrawn=True),
        made=datetime.now(UTC), where=str(where),
    )  # fmt: skip


def overlay(records: Archive, batch: Batch, row: InspectionRecord, side: int) -> str | None:
    """Base64 of a JPEG of the overlay; None where none was written, or its name leads elsewhere."""
    folder = records.pictures(batch).resolve()
    file = Outputs(folder, (0, 1)).overlay(row.path).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        return None
    return base64.b64encode(thumbnail(file, side)).decode()


def _pages(records: Archive, filter: Filter) -> Iterator[InspectionRecord]:
    after: str | None = None
    while True:
        page = records.page(filter, after=after, limit=500, order="worst")
        yield from page.rows
        if page.after is None:
            return
        after = page.after


def _environment(where: tzinfo) -> Environment:
    made = environment()

    def local(time: datetime | None) -> Any:
        return "–" if time is None else f"{time.astimezone(where):%Y-%m-%d %H:%M:%S}"

    made.filters["local"] = local
    return made
