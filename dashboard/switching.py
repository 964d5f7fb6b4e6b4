"""Putting another model into use, with what speaks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive
from anomalib_gan.records.comparing import SIDES, compare, notes, table
from anomalib_gan.records.schema import ComparisonRecord
from dashboard.cards import table as markdown
from dashboard.choosing import InUse
from dashboard.detectors import Detector, load
from dashboard.results import local
from dashboard.text import plain

TOLD = "switch told"


def switching(records: Archive, user: User, found: Mapping[str, Path], used: InUse, name: str) -> None:
    """The way from the model in use to the model `name`: compare, look, and switch with a reason."""
    if told := st.session_state.pop(TOLD, None):
        (st.error if told[0] == "error" else st.success)(plain(told[1]))
    if name == used.name:
        st.caption("To put another model into use, choose it on the left.")
        return
    chosen = load(found[name])  # what cannot be opened is not put into use either
    st.markdown(f"**Put {plain(name)} into use**")
    event = used.event
    needed = event is not None and event.model != chosen.manifest.hash  # the first model takes nobody's place
    held = compared(records, user, found, used, chosen) if needed else None
    reason = st.text_input("Reason, for those who ask later", key=f"reason {chosen.manifest.hash}", max_chars=500)
    st.button(
        "Make active", type="primary", disabled=not reason.strip() or (needed and held is None), on_click=activate,
        args=(records, chosen, user, reason),
        help="Writes an event with your name and the reason. All pages then begin with this model.",
    )  # fmt: skip


def compared(
    records: Archive, user: User, found: Mapping[str, Path], used: InUse, chosen: Detector
) -> ComparisonRecord | None:
    """Shows the comparison of the model in use with `chosen` that holds now, if any; the button makes one."""
    assert used.event is not None
    if used.name is None:
        st.warning(
            "The model in use is in none of the folders of bundles, so nothing can be compared with it: start with "
            "its folder in `--models`."
        )
        return None
    if st.button("Compare on reviewed images", help="Both models judge the images that people agree on."):
        place = st.empty()

        def say(text: str) -> None:
            place.caption(plain(text))

        try:
            compare(records, found[used.name], chosen.path, user, say)
        except (PermissionError, ValueError, OSError, MemoryError) as error:
            st.error(plain(str(error) or "not enough memory"))
        place.empty()
    row = records.comparison(used.event.model, chosen.manifest.hash)
    if row is None:
        before = records.comparisons(used.event.model, chosen.manifest.hash)
        st.info(
            "Thresholds or reviews have changed since these two were compared: compare them again."
            if before
            else "No model takes the place of another before both were compared on what people said of the images."
        )
        return None
    about = f"{row.who}, {local(row.at)}: {row.normal} normal and {row.defective} defective images that people agree on"
    st.markdown(plain(about))
    lines = [[what, str(old), str(new)] for what, old, new in table(row)]
    st.markdown(markdown(("", f"in use: {used.name}", f"new: {chosen.path.stem}"), lines, right=(1, 2)))
    st.caption("  \n".join(plain(f"{note[:1].upper()}{note[1:]}.") for note in notes(row)))
    differ = [one for one in row.details["images"] if len({one[side]["verdict"] for side in SIDES}) > 1]
    if differ:
        with st.expander(f"The {len(differ)} images that they judge differently"):
            columns = {
                "image": [one["path"] for one in differ],
                "people say": [one["said"] for one in differ],
                "in use": [one["old"]["verdict"] for one in differ],
                "new": [one["new"]["verdict"] for one in differ],
            }
            st.dataframe(columns, hide_index=True, height=35 * min(len(differ), 8) + 38)
    return row


def activate(records: Archive, chosen: Detector, user: User, reason: str) -> None:
    try:
        event = records.activate(chosen.path, user, reason)
    except (PermissionError, ValueError, OSError) as error:
        st.session_state[TOLD] = ("error", str(error))
    else:
        st.session_state[TOLD] = ("done", f"Now in use: {event.details['name']} {event.model[:12]}")
