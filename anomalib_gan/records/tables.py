"""results.csv, results.parquet and defects.csv: the database's rows for spreadsheets and notebooks, streamed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anomalib_gan.records.database import InspectionRecord, Records
from anomalib_gan.runtime.files import atomic_write

GROUP = 10_000
"""Rows of a Parquet row group, and so the most that lie in memory."""

TIME = pa.timestamp("us", tz="UTC")
COLUMNS: dict[str, tuple[pa.DataType, Callable[[InspectionRecord], Any]]] = {
    "path": (pa.string(), lambda row: row.path),
    "verdict": (pa.string(), lambda row: row.verdict),
    "score": (pa.float64(), lambda row: row.score),
    "review_threshold": (pa.float64(), lambda row: row.review),
    "reject_threshold": (pa.float64(), lambda row: row.reject),
    "pixel_threshold": (pa.float64(), lambda row: row.pixel),
    "peak": (pa.float64(), lambda row: row.peak),
    "defects": (pa.int64(), lambda row: row.defect_count),
    "defect_area_px": (pa.int64(), lambda row: row.defect_area),
    "defect_area_um2": (pa.float64(), lambda row: row.defect_area_um2),
    "largest_defect_px": (pa.int64(), lambda row: row.largest_defect),
    "height": (pa.int64(), lambda row: row.height),
    "width": (pa.int64(), lambda row: row.width),
    "pixel_size_um": (pa.float64(), lambda row: row.pixel_size),
    "warning": (pa.string(), lambda row: row.warning),
    "notes": (pa.string(), lambda row: row.notes),
    "reason": (pa.string(), lambda row: row.reason),
    "sha256": (pa.string(), lambda row: row.sha256),
    "model": (pa.string(), lambda row: row.model),
    "calibration": (pa.string(), lambda row: row.calibration),
    "scored_at": (TIME, lambda row: row.scored_at),
    "device": (pa.string(), lambda row: row.device),
    "decode_s": (pa.float64(), lambda row: row.decode_s),
    "inference_s": (pa.float64(), lambda row: row.inference_s),
    "post_s": (pa.float64(), lambda row: row.post_s),
}
DEFECT_COLUMNS = ("top", "left", "bottom", "right", "area", "area_um2", "peak", "row", "col", "type")


def write_tables(records: Records, out: Path) -> None:
    """Writes the three files into `out`, each atomically and ordered by path."""
    results_csv(out / "results.csv", records.inspections())
    write_csv(
        out / "defects.csv",
        ["path", "number", *DEFECT_COLUMNS],
        (
            [path, str(defect.number), *(text_of(getattr(defect, name)) for name in DEFECT_COLUMNS)]
            for path, defect in records.defects()
        ),
    )
    results_parquet(out / "results.parquet", records.inspections())


def results_csv(path: Path, rows: Iterable[InspectionRecord]) -> None:
    """A line per inspection, written atomically."""
    write_csv(path, list(COLUMNS), ([text_of(value(row)) for _, value in COLUMNS.values()] for row in rows))


def results_parquet(path: Path, rows: Iterable[InspectionRecord]) -> None:
    """A row per inspection, written atomically."""
    schema, rows = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()]), iter(rows)
    with atomic_write(path) as file, pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, GROUP)):
            columns = {name: [value(row) for row in group] for name, (_, value) in COLUMNS.items()}
            writer.write_table(pa.table(columns, schema=schema))


def write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with atomic_write(path, "w") as file:
        file.write("\ufeff")  # tells spreadsheets that this is UTF-8; pandas, polars and R take it away
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def text_of(value: object) -> str:
    """Nothing for None; every digit of a float, so that the CSV says exactly what the database says."""
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)
