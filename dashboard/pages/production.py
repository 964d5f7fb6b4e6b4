"""Production: images, rejects, invalid files, defects, and whether the scores have left the calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.runtime.calibration import Calibration
from dashboard import charts
from dashboard.results import archive, local, zone
from dashboard.scores import chart
from dashboard.text import plain

SPANS: dict[str, tuple[timedelta, int]] = {
    "1 h": (timedelta(hours=1), 60),
    "1 d": (timedelta(days=1), 48),
    "1 w": (timedelta(weeks=1), 56),
    "1 m": (timedelta(days=30), 30),
    "6 m": (timedelta(days=182), 26),
}
"""How far back, and into how many bars that is cut."""
GRID = 16
LISTED = 200
"""Invalid files that are listed, the newest."""


def page(user: User) -> None:
    records = archive()
    if records is None:
        return
    here = zone()
    top = st.columns([3, 2], vertical_alignment="center")
    with top[0]:
        name = st.segmented_control("Time", list(SPANS), default="1 d", key="span", label_visibility="collapsed")
    length, bins = SPANS[name or "1 d"]
    end = rounded_up(datetime.now(UTC), here, length / bins)
    filter = narrowed(records, Filter(begin=end - length, end=end))
    with top[1]:
        st.caption(f"{local(end - length, here)[:-3]} to {local(end, here)[:-3]}, time zone {here}")
    if not figures(records, filter):
        last = records.page(Filter(model=filter.model, batch=filter.batch), limit=1).rows
        when = f" The last image was scored on {local(last[0].scored_at, here)}." if last else ""
        st.info(f"No image was scored in this time.{when}")
    else:
        trends(records, filter, end - length, end, bins, here)
        defects(records, filter)
        invalid(records, filter)
    drift(records, filter)


def rounded_up(now: datetime, where: tzinfo, step: timedelta) -> datetime:
    """The end of the bar that `now` lies in, so that bars begin at full minutes, half hours or local midnight."""
    midnight = now.astimezone(where).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + math.ceil((now - midnight) / step) * step


def narrowed(records: Archive, filter: Filter) -> Filter:
    with st.sidebar:
        models = records.models()
        model = st.selectbox(
            "Model", [None, *(one.hash for one in models)], key="production model",
            format_func=lambda one: "All models" if one is None else one[:12],
        )  # fmt: skip
        batches = records.batches()
        batch = st.selectbox(
            "Batch", [None, *batches], key="production batch",
            format_func=lambda one: "All batches" if one is None else f"{one.id}: {one.folder}",
        )  # fmt: skip
    return replace(filter, model=model, batch=None if batch is None else batch.id)


# --- in numbers ----------------------------------------------------------------------------------------------------


def figures(records: Archive, filter: Filter) -> int:
    """The row of figures; how many images there are."""
    totals, speed = records.totals(filter), records.throughput(filter)
    images = sum(totals.values())
    inspected = images - totals["invalid"]
    columns = st.columns(5)
    columns[0].metric("Images", f"{images:,}")
    columns[1].metric(
        "Rejects", f"{100 * totals['reject'] / inspected:.1f} %" if inspected else "\N{EN DASH}",
        f"{totals['reject']:,} of {inspected:,} inspected", delta_color="off", delta_arrow="off",
    )  # fmt: skip
    columns[2].metric("For review", f"{totals['review']:,}")
    columns[3].metric(
        "Invalid images", f"{totals['invalid']:,}", "not inspected, listed below" if totals["invalid"] else "none",
        delta_color="inverse" if totals["invalid"] else "off", delta_arrow="off",
    )  # fmt: skip
    per_hour = "\N{EN DASH}" if speed.per_hour is None else f"{speed.per_hour:,.0f} / h"
    columns[4].metric("Throughput", per_hour, "between first and last image", delta_color="off", delta_arrow="off")
    return images


def trends(records: Archive, filter: Filter, begin: datetime, end: datetime, bins: int, where: tzinfo) -> None:
    found = records.trend(filter, begin, end, bins)
    left, right = st.columns(2, gap="medium")
    with left:
        st.vega_lite_chart(spec=charts.trend(found, where))
    with right:
        st.vega_lite_chart(spec=charts.shares(found, where))


def defects(records: Archive, filter: Filter) -> None:
    grid, sizes = records.defect_positions(filter, GRID, GRID), records.defect_sizes(filter)
    if not sizes:
        st.markdown("**No defects in this time**")
        return
    places, commonest, largest = st.columns([4, 3, 4], gap="medium")
    with places:
        st.markdown("**Where on the image defects fall**")
        st.vega_lite_chart(spec=charts.places(grid))
    with commonest:
        st.markdown("**How large they are**")
        st.vega_lite_chart(spec=charts.sizes(sizes))
    with largest:
        st.markdown("**The largest**")
        found = records.largest_defects(filter, 8)
        table = {
            "image": [path for _, path in found],
            "area px": [one.area for one, _ in found],
            "area \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}": [one.area_um2 for one, _ in found],
            "peak": [round(one.peak, 2) for one, _ in found],
        }
        if all(one.area_um2 is None for one, _ in found):
            del table["area \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}"]
        st.dataframe(table, hide_index=True, height=285)


def invalid(records: Archive, filter: Filter) -> None:
    """Files that gave no verdict: what came out of the line uninspected is to be seen, not counted away."""
    found = records.page(replace(filter, verdicts=("invalid",)), limit=LISTED)
    if not found.rows:
        return
    more = f", the newest {LISTED} are listed" if found.after else ""
    st.markdown(f"**Invalid images**{more}")
    table = {
        "image": [one.path for one in found.rows],
        "why": [one.reason for one in found.rows],
        "time": [local(one.scored_at) for one in found.rows],
    }
    columns = {"image": st.column_config.Column(width="medium"), "time": st.column_config.Column(width="small")}
    st.dataframe(table, hide_index=True, column_config=columns, height=35 * min(len(found.rows), 6) + 38)


# --- drift ---------------------------------------------------------------------------------------------------------


def drift(records: Archive, filter: Filter) -> None:
    st.markdown("**Drift: have the scores left the calibration?**")
    model = filter.model
    if model is None:
        last = records.page(limit=1).rows
        if not last:
            st.info("There are no inspections yet.")
            return
        model = last[0].model
    try:
        found = records.drift(model)
    except KeyError as error:
        st.info(plain(str(error.args[0])))
        return
    except ValueError as error:
        st.info(plain(f"Not tested: {error}"))
        return
    chance = f"{100 * found.level:g} %"
    if found.alarm:
        since = f" The alarm was noted on {local(found.event.at)}." if found.event else ""
        st.error(
            f"**The scores have left the calibration.**{since} Look at the newest images; if the change is wanted, "
            f"calibrate again. A line that has not changed ever raises this with a probability of at most {chance}.",
            icon=":material/warning:",
        )
    else:
        st.success(
            f"**No sign of drift** in the last {found.seen:,} images. A line that has not changed ever raises the "
            f"alarm with a probability of at most {chance}, however often somebody looks.",
            icon=":material/check_circle:",
        )
    share = f"{100 * found.above / found.seen:.1f} %" if found.seen else "none"
    st.caption(
        f"Model {model[:12]}, calibration {found.calibration[:12]}: wealth {found.wealth:.3g}, its peak "
        f"{found.peak:.3g}, alarm at {found.limit:.4g}; {share} of these images above the review threshold."
    )
    content = next(one.content for one in records.calibrations(model) if one.id == found.calibration)
    calibration = Calibration.from_json(content)
    lines = {"review": calibration.review, "reject": calibration.reject}
    chart(records, replace(filter, model=model), calibration, lines)
