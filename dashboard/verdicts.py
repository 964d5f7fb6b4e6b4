"""The verdict in words, colour and shape, the score against its thresholds, and the list of defects.

Colours are of the palette of Okabe and Ito, which people with any colour vision tell apart; shape and word say the same
again. The markup is made of what stands in this file, of numbers and of escaped text. It is drawn with boxes, for
Streamlit lets no SVG through.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from anomalib_gan.runtime.calibration import Calibration, Verdict
from anomalib_gan.runtime.defects import Defect

BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#b5300a", "#5f6368"
# Colour, ink, word, outline of the shape, the sign within.
_LOOKS = {
    "accept": (BLUE, "#fff", "ACCEPT", "circle(50%)", "\N{CHECK MARK}"),
    "review": (ORANGE, "#111", "REVIEW", "polygon(50% 0, 100% 100%, 0 100%)", "!"),
    "reject": (
        RED,
        "#fff",
        "REJECT",
        "polygon(30% 0, 70% 0, 100% 30%, 100% 70%, 70% 100%, 30% 100%, 0 70%, 0 30%)",
        "\N{MULTIPLICATION SIGN}",
    ),
    None: (GREY, "#fff", "NO VERDICT", "inset(5%)", "\N{EN DASH}"),
}


def banner(verdict: Verdict | None) -> str:
    """HTML of the verdict, as large as the column."""
    colour, ink, word, outline, sign = _LOOKS[verdict]
    shape = (
        f"display:flex;align-items:{'flex-end' if verdict == 'review' else 'center'};justify-content:center;width:48px;"
        f"height:48px;background:{ink};color:{colour};clip-path:{outline};font-size:34px;font-weight:800;line-height:1.1"
    )
    return (
        '<div style="display:flex;align-items:center;gap:14px;padding:10px 16px;border-radius:8px;'
        f'background:{colour};color:{ink}"><div aria-hidden="true" style="{shape}">{sign}</div>'
        f'<div style="font-size:2rem;font-weight:700;letter-spacing:.04em;line-height:1">{word}</div></div>'
    )


def gauge(score: float, calibration: Calibration) -> str:
    """HTML of the score on a line: the zones of the three verdicts, and below them the normal scores as ticks."""
    review, reject = calibration.review, calibration.reject
    if not all(math.isfinite(value) for value in (score, review, reject)):
        raise ValueError(f"the score {score} or a threshold is not finite")
    lowest, highest = min(calibration.scores[0], score), max(reject, score)
    room = max(highest - lowest, 1e-9)
    low, high = lowest - 0.08 * room, highest + 0.12 * room

    def at(value: float) -> float:
        """In percent of the width."""
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    def block(left: float, width: str, top: int, height: int, colour: str, more: str = "") -> str:
        return (
            f'<div style="position:absolute;left:{left}%;width:{width};top:{top}px;height:{height}px;'
            f'background:{colour};{more}"></div>'
        )

    zones = [(BLUE, low, review), (ORANGE, review, reject), (RED, reject, high)]
    shown = calibration.scores[:: max(1, len(calibration.scores) // 200)]
    parts = [block(at(a), f"{max(at(b) - at(a), 0):.2f}%", 14, 12, colour) for colour, a, b in zones]
    parts += [block(at(one), "1px", 29, 6, "currentColor", "opacity:.5") for one in shown]
    parts.append(
        block(at(score), "14px", 0, 12, "currentColor", "margin-left:-7px;clip-path:polygon(0 0, 100% 0, 50% 100%)")
    )
    parts.append(block(at(score), "2px", 12, 14, "#fff", "margin-left:-1px"))
    return f'<div aria-hidden="true" style="position:relative;height:36px;margin-top:4px">{"".join(parts)}</div>'


def defect_table(defects: Sequence[Defect]) -> str:
    """HTML of a table of defects, from 1; the viewer looks at the one that is clicked."""
    columns = {
        "type": [html.escape(one.type or "") for one in defects],
        "area px": [f"{one.area:,}" for one in defects],
    }
    if any(one.area_um2 is not None for one in defects):
        unit = "area \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}"
        columns[unit] = ["" if one.area_um2 is None else f"{one.area_um2:.3g}" for one in defects]
    columns["peak"] = [f"{one.peak:.2f}" for one in defects]
    columns["x"], columns["y"] = [f"{one.col:.0f}" for one in defects], [f"{one.row:.0f}" for one in defects]
    if not any(columns["type"]):
        del columns["type"]
    head = "".join(f"<th>{name}</th>" for name in ("no.", *columns))
    rows = (
        f'<tr data-defect="{number}"><td><button type="button">{number}</button></td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for number, cells in enumerate(zip(*columns.values(), strict=True), 1)
    )
    return f'<div class="defects"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
