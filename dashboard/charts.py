"""Charts of the dashboard as Vega-Lite, in colours that people with any colour vision tell apart.

They are written as the JSON that the browser gets: Altair, which would write it, takes ten times as long to check it as
the records take to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.records.archive import Bin
from dashboard.verdicts import BLUE, GREY, ORANGE, RED

Spec = dict[str, Any]
VERDICTS = {"accept": BLUE, "review": ORANGE, "reject": RED, "invalid": GREY}
HEIGHT = 240


def _chart(rows: Sequence[Mapping[str, Any]], height: int, mark: Spec, encoding: Spec) -> Spec:
    return {
        "datasets": {"rows": list(rows)}, "data": {"name": "rows"}, "height": height, "mark": mark,
        "encoding": encoding,
    }  # fmt: skip


def _number(field: str, title: str | None = None, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title or field, **more}


def _word(field: str, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", "title": field, **more}


def _scale(colours: Mapping[str, str]) -> Spec:
    return {"domain": list(colours), "range": list(colours.values())}


WHOLE = {"tickMinStep": 1, "format": "d"}
"""Of an axis that counts."""
ABOVE = {"orient": "top"}


def trend(bins: Sequence[Bin], where: tzinfo) -> Spec:
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
    return _chart(rows, HEIGHT + 40, {"type": "rect"}, {
        "x": _time("from", bins, where),
        "x2": {"field": "to"},
        "y": _number("foot", "images", axis=WHOLE),
        "y2": {"field": "top"},
        "color": _word("verdict", scale=_scale(VERDICTS), legend=ABOVE) | {"title": None},
        "tooltip": [
            {"field": "from", "type": "temporal", "format": "%d %b %H:%M"}, _word("verdict"), _number("images")
        ],
    })  # fmt: skip


def clock(time: datetime, where: tzinfo) -> str:
    """Local time without its zone, which the browser shows as it stands."""
    return f"{time.astimezone(where):%Y-%m-%dT%H:%M:%S}"


def _time(field: str, bins: Sequence[Bin], where: tzinfo) -> Spec:
    """The axis of local time, in hours up to a day and in days beyond."""
    begin, end = bins[0].begin, bins[-1].end
    axis = {"format": "%H:%M" if end - begin <= timedelta(days=1) else "%d %b", "labelOverlap": True}
    scale = {"domain": [clock(begin, where), clock(end, where)]}
    return {"field": field, "type": "temporal", "title": "local time", "scale": scale, "axis": axis}


def shares(bins: Sequence[Bin], where: tzinfo) -> Spec:
    """The share of rejects among the inspected images over local time; nothing where there was none."""
    rows = []
    for one in bins:
        inspected = sum(one.counts.values()) - one.counts["invalid"]
        if inspected:
            middle = one.begin + (one.end - one.begin) / 2
            rejects = 100 * one.counts["reject"] / inspected
            rows.append({"time": clock(middle, where), "rejects": rejects, "images": inspected})
    return _chart(rows, HEIGHT, {"type": "line", "color": RED, "point": {"color": RED, "size": 45}}, {
        "x": _time("time", bins, where),
        "y": _number("rejects", "rejects, % of inspected", scale={"domain": [0, 100]}),
        "tooltip": [
            {"field": "time", "type": "temporal", "format": "%d %b %H:%M"}, _number("rejects", format=".1f"),
            _number("images"),
        ],
    })  # fmt: skip


def places(grid: NDArray[np.int64]) -> Spec:
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
    return _chart(cells, HEIGHT + 40, {"type": "rect", "stroke": "#fff", "strokeWidth": 0.5}, {
        "x": _number("left", "across the image, % of its width", scale={"domain": [0, 100]}),
        "x2": {"field": "right"},
        "y": _number("top", "down the image, % of its height", scale={"domain": [100, 0]}),
        "y2": {"field": "bottom"},
        "color": _number("defects", scale={"scheme": "viridis", "domainMin": 0}, legend=WHOLE),
        "tooltip": [_number("defects")],
    })  # fmt: skip


def sizes(found: Mapping[tuple[int, int], int]) -> Spec:
    """How many defects there are by area."""
    rows = [
        {"area": f"{low:,} to {high - 1:,}" if high - low > 1 else f"{low:,}", "low": low, "defects": number}
        for (low, high), number in found.items()
    ]
    return _chart(rows, HEIGHT + 40, {"type": "bar", "color": BLUE}, {
        "y": _word("area", sort={"field": "low", "order": "ascending"}) | {"title": "area, px"},
        "x": _number("defects", axis=WHOLE),
        "tooltip": [_word("area"), _number("defects")],
    })  # fmt: skip


def scores(
    edges: Sequence[float], normal: NDArray[np.int64], production: NDArray[np.int64], lines: Mapping[str, float]
) -> Spec:
    """Normal and production scores, each in percent of their own number, with the thresholds in `lines`."""
    rows = []
    for name, counts in (("normal images", normal), ("production", production)):
        total = max(int(counts.sum()), 1)
        rows += [
            {"from": low, "to": high, "of": name, "none": 0, "share": 100 * int(count) / total, "images": int(count)}
            for (low, high), count in zip(pairwise(edges), counts, strict=True)
            if count
        ]
    colours = {"normal images": "#009e73", "production": "#8a6fb0"}
    score = _number(
        "from", "image score (larger = less normal)", scale={"domain": [edges[0], edges[-1]], "nice": False}
    )
    bars = {"data": {"name": "rows"}, "mark": {"type": "rect", "opacity": 0.55, "stroke": "#fff", "strokeWidth": 0.5}}
    bars["encoding"] = {
        "x": score,
        "x2": {"field": "to"},
        "y": _number("none", "% of the images"),
        "y2": {"field": "share"},
        "color": _word("of", scale=_scale(colours), legend=ABOVE) | {"title": None},
        "tooltip": [_word("of"), _number("from", format=".3f"), _number("to", format=".3f"), _number("images")],
    }
    marks = []
    for place, (name, value) in enumerate(lines.items()):
        colour = RED if "reject" in name else "#8f6300"
        dash = [2, 2] if "new" in name else [1, 0] if "reject" in name else [6, 4]
        side = ("right", -4) if place == 0 else ("left", 4)
        data = {"data": {"values": [{"at": value, "name": f"{name} {value:.4g}"}]}}
        at = {"field": "at", "type": "quantitative"}
        rule = {"type": "rule", "color": colour, "strokeWidth": 2, "strokeDash": dash}
        text = {"type": "text", "color": colour, "align": side[0], "dx": side[1], "dy": 14 * place + 6,
                "fontWeight": 600, "baseline": "top"}  # fmt: skip
        marks.append(data | {"mark": rule, "encoding": {"x": at}})
        told = {"x": at, "y": {"value": 0}, "text": {"field": "name", "type": "nominal"}}
        marks.append(data | {"mark": text, "encoding": told})
    return {"datasets": {"rows": rows}, "height": HEIGHT + 60, "layer": [bars, *marks]}
