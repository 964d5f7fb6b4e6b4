"""Thresholds: what another one would do, before it is applied; the change itself with its reason; history, and back."""

from __future__ import annotations

from typing import Any

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter, Preview
from anomalib_gan.records.schema import EventRecord
from anomalib_gan.runtime.bundle import read_manifest
from anomalib_gan.runtime.calibration import Calibration
from dashboard.choosing import detector
from dashboard.detectors import Detector
from dashboard.results import archive, listed, local
from dashboard.scores import chart
from dashboard.text import plain

NAMES = ("review", "reject", "pixel")
MEANING = {
    "review": "Images that score higher go to a person.",
    "reject": "Images that score higher are rejected.",
    "pixel": "Where the map is higher there is a defect; an image with one goes to a person at least.",
}
LISTED = 200


def page(user: User) -> None:
    records = archive()
    if records is None:
        return
    with st.sidebar:
        chosen = detector()
    if chosen is None:
        return
    if told := st.session_state.pop("thresholds told", None):
        (st.error if told[0] == "error" else st.success)(plain(told[1]))
    calibration = read_manifest(chosen.path).calibration
    if calibration is None:
        st.warning("This detector is not calibrated: `anomalib-gan calibrate BUNDLE --good DIR` sets its thresholds.")
        return
    left, right = st.columns([3, 2], gap="medium")
    with right:
        wanted = inputs(calibration)
        try:
            preview = records.preview(
                calibration, review=wanted["review"], reject=wanted["reject"], pixel=wanted["pixel"]
            )
        except ValueError as error:
            st.error(plain(str(error)))
            return
    with left:
        picture(records, calibration, preview)
        alarms(calibration, preview)
    with right:
        applying(records, chosen, user, preview, calibration)
    decisions(records, preview)
    history(records, chosen, user)


def stamp(calibration: Calibration) -> str:
    """Fields begin anew with each calibration."""
    return (
        f"{calibration.model[:8]} {calibration.created} {calibration.review} {calibration.reject} {calibration.pixel}"
    )


def inputs(calibration: Calibration) -> dict[str, float]:
    wanted = {}
    columns = st.columns(3)
    for column, name in zip(columns, NAMES, strict=True):
        value = float(getattr(calibration, name))
        normal = calibration.peaks if name == "pixel" else calibration.scores
        with column:
            wanted[name] = st.number_input(
                f"{name.capitalize()} above", min_value=float(normal[0]), value=value, step=0.05, format="%.3f",
                key=f"{name} {stamp(calibration)}", help=MEANING[name],
            )  # fmt: skip
    return wanted


# --- what it would do ----------------------------------------------------------------------------------------------


def picture(records: Archive, calibration: Calibration, preview: Preview) -> None:
    new = preview.calibration
    lines = {"review": calibration.review, "reject": calibration.reject}
    lines |= {f"new {name}": getattr(new, name) for name in lines if getattr(new, name) != lines[name]}
    chart(records, Filter(model=calibration.model), calibration, lines)


def alarms(calibration: Calibration, preview: Preview) -> None:
    """Expected false alarms per 1,000 normal images, now and then, with what the calibration's size supports."""
    rows: dict[str, list[Any]] = {"threshold": [], "now": [], "new": [], "false alarms now": []}
    rows |= {"false alarms then": [], "at most (95 %)": []}
    for name in NAMES:
        before, after = calibration.false_alarms(name), preview.false_alarms[name]  # type: ignore[arg-type]
        rows["threshold"].append(name)
        rows["now"].append(f"{getattr(calibration, name):.4g}")
        rows["new"].append(f"{getattr(preview.calibration, name):.4g}")
        rows["false alarms now"].append(f"{1000 * before.share:.0f}")
        rows["false alarms then"].append(f"{1000 * after.share:.0f}")
        rows["at most (95 %)"].append(f"{1000 * after.bound:.0f}")
    st.markdown(f"**Expected false alarms per 1,000 normal images**, from {calibration.n} normal {calibration.unit}")
    st.dataframe(rows, hide_index=True, height=143)


def decisions(records: Archive, preview: Preview) -> None:
    """Which past decisions would be others."""
    moves = {pair: number for pair, number in preview.changes.items() if pair[0] != pair[1] and number}
    total = sum(preview.changes.values())
    if preview.unknown:
        st.info(plain(f"{preview.unknown[:1].upper()}{preview.unknown[1:]}."))
    if not moves:
        st.markdown(f"**None of the {total:,} past decisions would be another.**")
        return
    changed = sum(moves.values())
    st.markdown(f"**{changed:,} of {total:,} past decisions would be others**")
    named = {f"{old} \N{RIGHTWARDS ARROW} {new}: {number:,}": (old, new) for (old, new), number in moves.items()}
    name = st.segmented_control("Change", list(named), default=next(iter(named)), label_visibility="collapsed")
    found = records.changed(preview, *named[name or next(iter(named))], limit=LISTED)
    table = {
        "image": [one.path for one in found.rows],
        "score": [one.score for one in found.rows],
        "peak": [one.peak for one in found.rows],
        "scored": [local(one.scored_at) for one in found.rows],
    }
    st.dataframe(table, hide_index=True, height=35 * min(len(found.rows), 6) + 38)
    if found.after:
        st.caption(f"The newest {LISTED} are listed.")


# --- doing it ------------------------------------------------------------------------------------------------------


def applying(records: Archive, chosen: Detector, user: User, preview: Preview, calibration: Calibration) -> None:
    same = preview.calibration == calibration
    reason = st.text_input(
        "Reason, for those who ask later", key=f"reason {stamp(calibration)}", max_chars=500, disabled=same
    )
    st.button(
        "Apply", type="primary", disabled=same or not reason.strip(), on_click=apply,
        args=(records, chosen, user, preview, reason),
        help="Writes the thresholds into the bundle and an event with your name and the reason.",
    )  # fmt: skip
    if same:
        st.caption("These are the bundle's thresholds. Change one to see what that would do.")
    else:
        st.caption(
            f"By {plain(user.name)}, for {plain(chosen.path.name)}. Images that were scored keep their verdicts."
        )


def apply(records: Archive, chosen: Detector, user: User, preview: Preview, reason: str) -> None:
    _tell(lambda: records.apply(chosen.path, preview.calibration, user, reason))


def roll_back(records: Archive, chosen: Detector, user: User, event: int, reason: str) -> None:
    _tell(lambda: records.rollback(chosen.path, event, user, reason))


def _tell(act: Any) -> None:
    """Does it and keeps what there is to say for the run that follows."""
    try:
        event: EventRecord = act()
    except (PermissionError, ValueError, KeyError, OSError) as error:
        told = error.args[0] if isinstance(error, KeyError) else error
        st.session_state["thresholds told"] = ("error", str(told))
    else:
        new = event.details["to"]
        st.session_state["thresholds told"] = (
            "done",
            f"Now: review above {new['review']:.4g}, reject above {new['reject']:.4g}, defect above {new['pixel']:.4g}",
        )


def history(records: Archive, chosen: Detector, user: User) -> None:
    st.markdown("**History**")
    events = records.events(model=chosen.manifest.hash)
    if not events:
        st.caption("Nothing was changed yet.")
        return
    picked = st.dataframe(
        listed(events), hide_index=True, on_select="rerun", selection_mode="single-row", key="events",
        height=35 * min(len(events), 6) + 38,
    )  # fmt: skip
    rows = [at for at in picked["selection"]["rows"] if at < len(events)]
    if not rows:
        st.caption("Choose a line to go back to the thresholds before it.")
        return
    event = events[rows[0]]
    if not isinstance(event.details.get("from"), dict):
        st.caption("This event has no thresholds before it to go back to.")
        return
    reason = st.text_input("Reason to roll back", key=f"back {event.id}", max_chars=500)
    st.button(
        f"Roll back to before {local(event.at)}", disabled=not reason.strip(), on_click=roll_back,
        args=(records, chosen, user, event.id, reason),
    )  # fmt: skip
