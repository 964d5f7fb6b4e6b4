"""The results database of the dashboard, and the pictures of what stands in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from functools import partial
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import cv2
import numpy as np
import streamlit as st

from anomalib_gan.records.archive import Archive
from anomalib_gan.records.database import RecordsError, is_url
from anomalib_gan.records.pictures import map_scale, read_map
from anomalib_gan.records.schema import Batch, EventRecord, InspectionRecord, ReviewRecord
from anomalib_gan.runtime.files import sha256_file
from anomalib_gan.runtime.image import open_image
from dashboard import settings
from dashboard.detectors import MAX_PIXELS
from dashboard.files import RefusedPathError, locate, resolve
from dashboard.kept import PICTURES
from dashboard.text import defect, plain
from dashboard.viewer import Scene, toned, warmed


def archive() -> Archive | None:
    """The results; None, with what to do on the page, where there are none."""
    db = settings.read().db
    if not db:
        st.warning(
            "This page needs a results database. Start with `--db FILE`, the `results.db` of `anomalib-gan score` or "
            "what was given to its `--db`."
        )
        return None
    try:
        return open_archive(db)
    except (ValueError, OSError) as error:
        st.error(plain(str(error)))
        return None


def open_archive(db: str) -> Archive:
    """RecordsError where there is no such database: a page makes none."""
    if not is_url(db) and not Path(db).is_file():
        raise RecordsError(f"there is no results database {db}: score images into it first, or give another --db")
    return _opened(db)


@st.cache_resource(max_entries=2, show_spinner="Opening the results ...")
def _opened(db: str) -> Archive:
    return Archive(db)


# --- times ---------------------------------------------------------------------------------------------------------


def zone() -> tzinfo:
    """The time zone of the browser; UTC where it tells none."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def local(time: datetime, where: tzinfo | None = None) -> str:
    return f"{time.astimezone(where or zone()):%Y-%m-%d %H:%M:%S}"


def said(reviews: Sequence[ReviewRecord]) -> list[str]:
    """Who said what and when, as Markdown, a line for a statement: of several boxes each has a row of its own."""
    lines = []
    for (who, label, at), rows in groupby(reviews, lambda one: (one.who, one.label, one.at)):
        first, *more = rows
        boxes = f" in {len(more) + 1} places" if more else ""
        comment = f": {plain(first.comment)}" if first.comment else ""
        kind = f" ({plain(first.defect_type)})" if first.defect_type else ""
        lines.append(f"{plain(who)} said **{label}**{kind}{boxes} on {local(at)}{comment}")
    return lines


# --- events --------------------------------------------------------------------------------------------------------


def listed(events: Sequence[EventRecord]) -> dict[str, list[str]]:
    """A table of events, with the thresholds that they moved."""
    moves = {name: [_move(one, name) for one in events] for name in ("review", "reject", "pixel")}
    return {
        "time": [local(one.at) for one in events],
        "what": [one.kind for one in events],
        "who": [one.who for one in events],
        **moves,
        "reason": [one.reason for one in events],
    }


def _move(event: EventRecord, name: str) -> str:
    old, new = event.details.get("from"), event.details.get("to")
    if not isinstance(new, dict):
        return ""
    if not isinstance(old, dict) or old[name] == new[name]:
        return f"{new[name]:.4g}"
    return f"{old[name]:.4g} \N{RIGHTWARDS ARROW} {new[name]:.4g}"


# --- pictures ------------------------------------------------------------------------------------------------------


def image_file(row: InspectionRecord, batch: Batch) -> Path:
    """The image of a row, where it lies in a configured folder and is the one that was inspected; else a ValueError."""
    found = locate(settings.read().images, Path(batch.folder) / row.path)
    if row.sha256 is not None and sha256_file(found) != row.sha256:
        raise ValueError(f"{row.path} has changed since it was inspected")
    return found


def picture_file(records: Archive, batch: Batch, kind: str, name: str) -> Path | None:
    """A map or an overlay of the batch, None where it was not written."""
    try:
        return resolve(records.pictures(batch), f"{kind}/{name}")
    except (RefusedPathError, OSError):
        return None


def batch_of(records: Archive, row: InspectionRecord) -> Batch:
    return next(one for one in records.batches() if one.id == row.batch)


def scene(records: Archive, row: InspectionRecord) -> tuple[Scene | None, str]:
    """(what the viewer shows of an inspection with its defects, or None; what is missing of it and the mend).

    The image under its map; where it cannot be read, the overlay that `score` wrote, if that has the image's size.
    """
    key = (settings.read().db, row.id, row.scored_at, _stamp(batch := batch_of(records, row), row))
    shown: tuple[Scene | None, str] | None = PICTURES.get(key)
    if shown is None:
        shown = _scene(records, batch, row)
        if shown[0] is not None and not shown[1]:  # what is missing may be mended
            PICTURES.put(key, shown, shown[0].bytes)
    return shown


def _stamp(batch: Batch, row: InspectionRecord) -> tuple[int, int] | None:
    """Changes with the image's file; None where it is not there."""
    try:
        found = locate(settings.read().images, Path(batch.folder) / row.path).stat()
    except (ValueError, OSError):
        return None
    return found.st_mtime_ns, found.st_size


def _scene(records: Archive, batch: Batch, row: InspectionRecord) -> tuple[Scene | None, str]:
    show = partial(Scene, f"inspection {row.id} {row.scored_at.isoformat()}", f"{row.path}: {row.verdict}")
    defects = [
        ((one.top, one.left, one.bottom, one.right), defect(number, one))
        for number, one in enumerate(row.defects[:200], 1)
    ]
    try:
        file = image_file(row, batch)
        read = row.settings
        with open_image(
            file, info_bar=read.get("info_bar", "auto"), bits=read.get("bits"), white=read.get("white"),
            max_pixels=MAX_PIXELS,
        ) as picture:  # fmt: skip
            pixels, content = picture.rows(0, picture.height), picture.content
    except (ValueError, OSError, MemoryError) as error:
        missing = str(error) or "not enough memory for the image"
        overlay = picture_file(records, batch, "overlays", f"{row.path}.jpg")
        shown = None if overlay is None else cv2.imread(str(overlay), cv2.IMREAD_COLOR)
        if shown is None:
            return None, missing
        if shown.shape[:2] != (row.height, row.width):  # reduced: places in it are not those of the image
            return show(image=np.asarray(shown[..., ::-1], np.uint8)), f"{missing}; this is a reduced overlay"
        picture_ = np.ascontiguousarray(shown[..., ::-1], np.uint8)
        return show(image=picture_, defects=defects), f"{missing}; this is the overlay of `score`"
    image = toned(pixels, pixels[:content])
    map_file = picture_file(records, batch, "maps", f"{row.path}.tif")
    if map_file is None:
        return show(image=image, defects=defects), "there is no map of this image: it was scored with --no-maps"
    try:
        map, scale = read_map(map_file), map_scale(map_file)
    except (ValueError, OSError, MemoryError) as error:
        return show(image=image, defects=defects), str(error) or "not enough memory for the map"
    if map.shape != image.shape[:2]:
        return show(image=image, defects=defects), "the map is of another size than the image: score it again"
    return show(image=image, heat=warmed(map, scale), scale=scale, defects=defects), ""


def is_whole(shown: Scene, row: InspectionRecord) -> bool:
    """Are places in the scene those of the image, so that boxes can be drawn?"""
    return shown.size == (row.height, row.width)
