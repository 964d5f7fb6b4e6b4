"""Inspects a folder of stacks: a row, a map and a picture of the worst slice for each, and a row for every defect.

`results.json` is what the tables are made of. Stopped at any moment, the same call goes on where it ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_gan.records.database import exclusive
from anomalib_gan.records.pictures import write_overlay, write_volume
from anomalib_gan.records.scoring import survey
from anomalib_gan.records.tables import text_of, write_csv
from anomalib_gan.runtime.files import read_json, sha256_file, write_json
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspection import told_of
from anomalib_gan.runtime.volume import VolumeDefect, VolumeInspection, VolumeInspector

ROWS = "results.json"
COLUMNS = (
    *("path", "verdict", "score", "review_threshold", "reject_threshold", "voxel_threshold", "peak", "defects"),
    *("defect_voxels", "depth", "height", "width", "notes", "reason", "sha256", "model", "device", "seconds"),
)


def score_stacks(
    inspector: VolumeInspector,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    maps: bool = True,
    overlays: bool = True,
    settings: dict[str, Any] | None = None,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Counter[str]:
    """Inspects all stacks below `folder` into `out`: results.csv, defects.csv, maps/PATH.tif with a page for every
    slice, overlays/PATH.jpg of the slice with the peak. How many have which verdict; "invalid": could not be read.

    A stack whose row and files are there, made from the same bytes by the same model, calibration and `settings`
    (options that change results), is not inspected again. ValueError when nothing could be run.
    """
    folder, out, calibration = Path(folder).resolve(), Path(out).resolve(), inspector.calibration
    if calibration is None:
        raise ValueError("the inspector has no calibration: give it one, or there are no verdicts")
    if out == folder:
        raise ValueError(f"the results would lie among the stacks of {folder}: choose another --out")
    paths, _ = survey(folder, out)
    if not paths:
        raise ValueError(f"{folder} holds no stack: give a folder of multi-page TIFF files")
    described = json.dumps([calibration.to_json(), settings or {}], sort_keys=True)
    by = {"model": inspector.backend.hash, "by": hashlib.sha256(described.encode()).hexdigest()}
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        known = {row["path"]: row for row in read_json(out / ROWS)} if (out / ROWS).exists() else {}
        rows: list[dict[str, Any]] = []
        for path in progress(paths):
            name = path.relative_to(folder).as_posix()
            wanted = [(maps, out / "maps" / f"{name}.tif"), (overlays, out / "overlays" / f"{name}.jpg")]
            files = [file if want else None for want, file in wanted]
            row = known.get(name)
            if row is None or not _done(row, path, by, files):
                for file in files:
                    if file is not None:
                        file.unlink(missing_ok=True)
                row = {**_inspected(inspector, path, files), "path": name, **by}
            rows.append(row)
            write_json(out / ROWS, [*rows, *(one for key, one in known.items() if key > name)])
        write_json(out / ROWS, rows)
        _tables(rows, out)
    return Counter(row["verdict"] for row in rows)


def _done(row: dict[str, Any], path: Path, by: dict[str, str], files: Sequence[Path | None]) -> bool:
    """Was this very file inspected in this very way, and is all that was made of it still there?"""
    same = all(row[key] == value for key, value in by.items()) and row["verdict"] != "invalid"
    return same and all(file is None or file.is_file() for file in files) and row["sha256"] == sha256_file(path)


def _inspected(inspector: VolumeInspector, path: Path, files: Sequence[Path | None]) -> dict[str, Any]:
    """The row of a stack, once its files are written."""
    try:
        with inspector.opener(path) as stack:
            found = inspector(stack)
            assert found.map is not None and inspector.calibration is not None  # no sink was given
            content = found.map[:, : found.content]
            number = int(content.max((1, 2)).argmax())
            slice = stack.slices(number, number + 1)[0]
    except (ImageError, MemoryError) as error:
        return {"verdict": "invalid", "reason": told_of(error), "sha256": None, "found": []}
    scale, (map_file, overlay_file) = inspector.backend.scale, files
    if map_file is not None:
        write_volume(map_file, found.map, scale)
    if overlay_file is not None:
        write_overlay(
            overlay_file,
            lambda top, bottom: slice[top:bottom],
            lambda top, bottom: np.asarray(content[number, top:bottom]),
            found.content,
            found.width,
            scale,
            inspector.calibration.pixel,
        )
    return _row(found, inspector)


def _row(found: VolumeInspection, inspector: VolumeInspector) -> dict[str, Any]:
    calibration = inspector.calibration
    assert calibration is not None
    return {
        "verdict": found.verdict,
        "score": found.score,
        "review_threshold": calibration.review,
        "reject_threshold": calibration.reject,
        "voxel_threshold": calibration.pixel,
        "peak": found.peak,
        "defects": found.defect_count,
        "defect_voxels": sum(defect.volume for defect in found.defects),
        "depth": found.depth,
        "height": found.height,
        "width": found.width,
        "notes": "; ".join(found.notes),
        "reason": "",
        "sha256": found.sha256,
        "device": found.device,
        "seconds": round(sum(found.timing.values()), 3),
        "found": [asdict(defect) for defect in found.defects],
    }


def _tables(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """results.csv and defects.csv."""
    write_csv(out / "results.csv", list(COLUMNS), [[text_of(row.get(key)) for key in COLUMNS] for row in rows])
    names = [one.name for one in fields(VolumeDefect)]
    write_csv(
        out / "defects.csv",
        ["path", "number", *names],
        (
            [row["path"], str(number), *(text_of(defect[name]) for name in names)]
            for row in rows
            for number, defect in enumerate(row["found"], 1)
        ),
    )
