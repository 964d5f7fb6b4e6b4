"""Reports: a shift or a batch as a page that prints, as CSV and Parquet; one inspection as evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter, Order
from anomalib_gan.records.schema import InspectionRecord
from anomalib_gan.records.shift import REJECTS, evidence, shift_report
from anomalib_gan.records.tables import results_csv, results_parquet
from dashboard.detectors import MAX_PIXELS
from dashboard.results import archive, batch_of, image_file, local, zone
from dashboard.text import plain

SHIFT, BATCH = "A shift", "A batch"
LISTED = 2000
"""Images that a page of the table holds; the browser draws only what is in sight."""
ORDERS: dict[str, Order] = {"Worst first": "worst", "Newest first": "newest"}
HTML = "text/html"


def page(user: User) -> None:
    records = archive()
    if records is None:
        return
    here = zone()
    way = st.segmented_control(
        "Report on", [SHIFT, BATCH], default=SHIFT, key="report on", label_visibility="collapsed"
    )
    chosen = shift(here) if way != BATCH else batch(records)
    if chosen is None:
        return
    filter, title, name = chosen
    totals = records.totals(filter)
    total = sum(totals.values())
    if not total:
        last = records.page(limit=1).rows
        when = f" The last one was scored on {local(last[0].scored_at, here)}." if last else ""
        st.info(f"There are no images in this report.{when}")
        return
    counts = ", ".join(f"{number:,} {verdict}" for verdict, number in totals.items())
    st.markdown(f"**{total:,} image{'' if total == 1 else 's'}**: {counts}")
    downloads(records, filter, title, name, here)
    if totals["reject"] > REJECTS:
        st.caption(f"The page holds the {REJECTS:,} worst rejects. Choose a shorter time to have all.")
    listing(records, filter, here)


def shift(here: tzinfo) -> tuple[Filter, str, str] | None:
    now = datetime.now(here).replace(tzinfo=None, second=0, microsecond=0)
    left, right, _ = st.columns([1, 1, 1])
    with left:
        begin = st.datetime_input("From", now - timedelta(hours=8), key="report begin", format="YYYY-MM-DD")
    with right:
        end = st.datetime_input("Until", now + timedelta(minutes=1), key="report end", format="YYYY-MM-DD")
    st.caption(f"Times are of {here}.")
    if begin is None or end is None or begin >= end:
        st.info("Choose a beginning that lies before the end.")
        return None
    begin, end = begin.replace(tzinfo=here), end.replace(tzinfo=here)
    told = f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
    return Filter(begin=begin, end=end), f"Shift of {told}", f"shift-{begin:%Y-%m-%d-%H%M}"


def batch(records: Archive) -> tuple[Filter, str, str] | None:
    found = records.batches()
    if not found:
        st.info("There are no batches yet.")
        return None
    chosen = st.selectbox(
        "Batch", found, key="report batch",
        format_func=lambda one: f"{one.id}: {one.folder}, begun {local(one.started)}",
    )  # fmt: skip
    return Filter(batch=chosen.id), f"Batch {chosen.id} of {chosen.folder}", f"batch-{chosen.id}"


def downloads(records: Archive, filter: Filter, title: str, name: str, here: tzinfo) -> None:
    """Made only once somebody asks for them."""
    columns = st.columns(3)
    files = (
        ("Page to print, with all rejects", "html", HTML, lambda: shift_report(records, filter, title, here).encode()),
        ("CSV", "csv", "text/csv", lambda: table(results_csv, records.rows(filter))),
        ("Parquet", "parquet", "application/vnd.apache.parquet", lambda: table(results_parquet, records.rows(filter))),
    )
    for column, (label, suffix, mime, make) in zip(columns, files, strict=True):
        column.download_button(
            label, make, f"{name}.{suffix}", mime, key=f"report {suffix}", on_click="ignore", width="stretch",
            icon=":material/download:", type="primary" if suffix == "html" else "secondary",
        )  # fmt: skip


def table(write: Callable[[Path, Iterable[InspectionRecord]], None], rows: Iterable[InspectionRecord]) -> bytes:
    """The file that `write` makes of the rows."""
    with TemporaryDirectory(prefix="anomalib_gan-") as folder:
        write(Path(folder) / "table", rows)
        return (Path(folder) / "table").read_bytes()


def listing(records: Archive, filter: Filter, here: tzinfo) -> None:
    """All images of the report, a page at a time; the chosen one as evidence."""
    st.markdown("**Images**; choose one for its evidence")
    left, middle, right = st.columns([2, 2, 3], vertical_alignment="bottom")
    with left:
        name = st.segmented_control("Order", list(ORDERS), default="Worst first", key="report order")
    with middle:
        text = st.text_input("Path contains", key="report text", max_chars=200)
    order, filter = ORDERS[name or "Worst first"], replace(filter, text=text)
    begins = cursors(filter, order)
    found = records.page(filter, after=begins[-1], limit=LISTED, order=order)
    first = (len(begins) - 1) * LISTED
    with right, st.container(horizontal=True, vertical_alignment="center"):
        st.button("Before", on_click=turn, args=(begins, None), disabled=len(begins) == 1, key="report before")
        st.button("After", on_click=turn, args=(begins, found.after), disabled=found.after is None, key="report after")
        st.caption(f"{first + 1:,} to {first + len(found.rows):,}" if found.rows else "none")
    if not found.rows:
        return
    rows = {
        "image": [one.path for one in found.rows],
        "verdict": [one.verdict for one in found.rows],
        "score": [one.score for one in found.rows],
        "defects": [one.defect_count for one in found.rows],
        "scored": [local(one.scored_at, here) for one in found.rows],
    }
    picked = st.dataframe(
        rows, hide_index=True, on_select="rerun", selection_mode="single-row",
        key=f"report rows {hash((filter, order, begins[-1]))}",
        height=35 * min(len(found.rows), 12) + 38,
    )  # fmt: skip
    at = [one for one in picked["selection"]["rows"] if one < len(found.rows)]
    if not at:
        return
    row = found.rows[at[0]]
    image: Path | None = None
    try:
        if (row.height or 0) * (row.width or 0) > MAX_PIXELS:
            raise ValueError(f"it has more than {MAX_PIXELS // 2**20} Mpx")
        image = image_file(row, batch_of(records, row))
    except (ValueError, OSError) as error:
        st.caption(f"Without the image itself: {plain(str(error))}")
    st.download_button(
        f"Evidence of {plain(row.path)}", lambda: proof(records, row.id, here, image), f"inspection-{row.id}.html",
        HTML, key="evidence", on_click="ignore", icon=":material/download:",
    )  # fmt: skip


def cursors(filter: Filter, order: Order) -> list[str | None]:
    """Where the pages of the table begin, the shown one last; anew where something else is listed."""
    begins: list[str | None]
    listed, begins = st.session_state.get("report pages", (None, []))
    if listed != (filter, order):
        begins = [None]
        st.session_state["report pages"] = (filter, order), begins
    return begins


def turn(begins: list[str | None], after: str | None) -> None:
    """To the page that begins after a cursor or, without one, back. A second click on its way changes nothing."""
    if after is None:
        del begins[max(1, len(begins) - 1) :]
    elif begins[-1] != after:
        begins.append(after)


def proof(records: Archive, id: int, here: tzinfo, image: Path | None) -> bytes:
    try:
        return evidence(records, id, here, image).encode()
    except (ValueError, OSError):  # an image that cannot be read any more: the overlay stands for it
        return evidence(records, id, here).encode()
