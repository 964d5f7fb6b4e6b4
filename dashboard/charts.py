"""Charts of the dashboard, in colours that people with any colour vision tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from anomalib_gan.records.archive import Bin
from dashboard.verdicts import BLUE, GREY, ORANGE, RED

VERDICTS = {"accept": BLUE, "review": ORANGE, "reject": RED, "invalid": GREY}
HEIGHT = 240


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])


def trend(bins: Sequence[Bin], where: tzinfo) -> alt.Chart:
    """Images by verdict over local time, stacked. `where`: the time zone of who looks."""
    rows = []
    for one in bins:
        foot = 0
        for verdict in VERDICTS:
            number = one.counts[verdict]
            if number:
                begin, end = (clock(time, where) for time in (one.begin, one.end))
                rows.append(
                    {"from": begin, "to": end, "verdict": verdict, "foot": foot, "top": foot + number, "images": number}
                )
            foot += number
    return (
        alt.Chart(_data(rows), height=HEIGHT + 40)
        .mark_rect()
        .encode(
            x=_time("from", bins, where),
            x2="to:T",
            y=alt.Y("foot:Q", title="images", axis=alt.Axis(tickMinStep=1, format="d")),
            y2="top:Q",
            color=alt.Color(
                "verdict:N", title=None, scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[alt.Tooltip("from:T", format="%d %b %H:%M"), "verdict:N", "images:Q"],
        )
    )  # fmt: skip


def clock(time: datetime, where: tzinfo) -> str:
    """Local time without its zone, which the browser shows as it stands."""
    return f"{time.astimezone(where):%Y-%m-%dT%H:%M:%S}"


def _time(field: str, bins: Sequence[Bin], where: tzinfo) -> alt.X:
    """The axis of local time, in hours up to a day and in days beyond."""
    begin, end = bins[0].begin, bins[-1].end
    axis = alt.Axis(format="%H:%M" if end - begin <= timedelta(days=1) else "%d %b", labelOverlap=True)
    scale = alt.Scale(domain=[clock(begin, where), clock(end, where)])
    return alt.X(f"{field}:T", title="local time", scale=scale, axis=axis)


def shares(bins: Sequence[Bin], where: tzinfo) -> alt.Chart:
    """The share of rejects among the inspected images over local time; nothing where there was none."""
    rows = []
    for one in bins:
        inspected = sum(one.counts.values()) - one.counts["invalid"]
        if inspected:
            middle = one.begin + (one.end - one.begin) / 2
            rows.append(
                {
                    "time": clock(middle, where),
                    "rejects": 100 * one.counts["reject"] / inspected,
                    "images": inspected,
                }
            )
    return (
        alt.Chart(_data(rows), height=HEIGHT)
        .mark_line(color=RED, point=alt.OverlayMarkDef(color=RED, size=45))
        .encode(
            x=_time("time", bins, where),
            y=alt.Y("rejects:Q", title="rejects, % of inspected", scale=alt.Scale(domain=[0, 100])),
            tooltip=[alt.Tooltip("time:T", format="%d %b %H:%M"), alt.Tooltip("rejects:Q", format=".1f"), "images:Q"],
        )
    )


def places(grid: NDArray[np.int64]) -> alt.Chart:
    """How many defects fall where on the image; both sides in percent, whatever the images' sizes."""
    rows, cols = grid.shape
    cells = [
        {
            "left": 100 * col / cols, "right": 100 * (col + 1) / cols,
            "top": 100 * row / rows, "bottom": 100 * (row + 1) / rows, "defects": int(grid[row, col]),
        }
        for row in range(rows)
        for col in range(cols)
    ]  # fmt: skip
    return (
        alt.Chart(_data(cells), height=HEIGHT + 40)
        .mark_rect(stroke="#fff", strokeWidth=0.5)
        .encode(
            x=alt.X("left:Q", title="across the image, % of its width", scale=alt.Scale(domain=[0, 100])),
            x2="right:Q",
            y=alt.Y("top:Q", title="down the image, % of its height", scale=alt.Scale(domain=[100, 0])),
            y2="bottom:Q",
            color=alt.Color(
                "defects:Q", title="defects", scale=alt.Scale(scheme="viridis", domainMin=0),
                legend=alt.Legend(tickMinStep=1, format="d"),
            ),
            tooltip=["defects:Q"],
        )
    )  # fmt: skip


def sizes(found: Mapping[tuple[int, int], int]) -> alt.Chart:
    """How many defects there are by area."""
    rows = [
        {"area": f"{low:,} to {high - 1:,}" if high - low > 1 else f"{low:,}", "low": low, "defects": number}
        for (low, high), number in found.items()
    ]
    return (
        alt.Chart(_data(rows), height=HEIGHT + 40)
        .mark_bar(color=BLUE)
        .encode(
            y=alt.Y("area:N", title="area, px", sort=alt.EncodingSortField("low", order="ascending")),
            x=alt.X("defects:Q", title="defects", axis=alt.Axis(tickMinStep=1, format="d")),
            tooltip=["area:N", "defects:Q"],
        )
    )


def scores(
    edges: Sequence[float], normal: NDArray[np.int64], production: NDArray[np.int64], lines: Mapping[str, float]
) -> alt.LayerChart | alt.FacetChart:
    """Normal and production scores, each in percent of their own number, with the thresholds in `lines`."""
    rows = []
    for name, counts in (("normal images", normal), ("production", production)):
        total = max(int(counts.sum()), 1)
        rows += [
            {"from": low, "to": high, "of": name, "none": 0, "share": 100 * int(count) / total, "images": int(count)}
            for (low, high), count in zip(pairwise(edges), counts, strict=True)
            if count
        ]
    bars = (
        alt.Chart(_data(rows))
        .mark_rect(opacity=0.55, stroke="#fff", strokeWidth=0.5)
        .encode(
            x=alt.X(
                "from:Q", title="image score (larger = less normal)",
                scale=alt.Scale(domain=[edges[0], edges[-1]], nice=False),
            ),
            x2="to:Q",
            y=alt.Y("none:Q", title="% of the images"),
            y2="share:Q",
            color=alt.Color(
                "of:N", title=None, legend=alt.Legend(orient="top"),
                scale=alt.Scale(domain=["normal images", "production"], range=["#009e73", "#8a6fb0"]),
            ),
            tooltip=["of:N", alt.Tooltip("from:Q", format=".3f"), alt.Tooltip("to:Q", format=".3f"), "images:Q"],
        )
    )  # fmt: skip
    layers: list[alt.Chart] = [bars]
    for place, (name, value) in enumerate(lines.items()):
        colour = RED if "reject" in name else "#8f6300"
        at = _data([{"at": value, "name": f"{name} {value:.4g}"}])
        dash = [1, 0] if "reject" in name else [6, 4]
        if "new" in name:
            dash = [2, 2]
        layers.append(alt.Chart(at).mark_rule(color=colour, strokeWidth=2, strokeDash=dash).encode(x="at:Q"))
        layers.append(
            alt.Chart(at)
            .mark_text(
                color=colour,
                align="right" if place == 0 else "left",
                dx=-4 if place == 0 else 4,
                dy=14 * place + 6,
                fontWeight=600,
                baseline="top",
            )
            .encode(x="at:Q", y=alt.value(0), text="name:N")
        )
    return alt.layer(*layers).properties(height=HEIGHT + 60)
