"""Putting another model into use, with what speaks for it; and how to make a better one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive
from anomalib_gan.records.database import is_url
from dashboard import settings
from dashboard.cards import entry
from dashboard.choosing import InUse
from dashboard.detectors import Detector, load
from dashboard.text import plain

TOLD = "switch told"


def switching(records: Archive, user: User, found: Mapping[str, Path], used: InUse, name: str) -> None:
    if told := st.session_state.pop(TOLD, None):
        (st.error if told[0] == "error" else st.success)(plain(told[1]))
    if name == used.name:
        st.caption("To put another model into use, choose it on the left.")
        return
    chosen = load(found[name])  # what cannot be opened is not put into use either
    st.markdown(f"**Put {plain(name)} into use**")
    reason = st.text_input("Reason, for those who ask later", key=f"reason {chosen.manifest.hash}", max_chars=500)
    st.button(
        "Make active", type="primary", disabled=not reason.strip(), on_click=activate,
        args=(records, chosen, user, reason),
        help="Writes an event with your name and the reason. The other pages then begin with this model.",
    )  # fmt: skip


def activate(records: Archive, chosen: Detector, user: User, reason: str) -> None:
    try:
        event = records.activate(chosen.path, user, reason)
    except (PermissionError, ValueError, OSError) as error:
        st.session_state[TOLD] = ("error", str(error))
    else:
        st.session_state[TOLD] = ("done", f"Now in use: {event.details['name']} {event.model[:12]}")


def retraining(chosen: Detector) -> None:
    """The commands that make the next model from this one and from what people said of its images."""
    with st.expander("Train the next model with the reviewed images"):
        st.caption(
            "Reviewed false alarms become normal images. Run this where the run's folder and the training images are, "
            "after `pip install 'anomalib_gan[train]'`:"
        )
        st.code(command(chosen), None)


def command(chosen: Detector) -> str:
    """The database's URL is left out: it may hold a password, which is nobody's business here."""
    folder, run, db = entry(chosen.card, "data", "folder"), entry(chosen.card, "name"), settings.read().db
    folder, run = (one if isinstance(one, str) else name for one, name in ((folder, "NORMAL_DIR"), (run, "RUN")))
    options = {"--out": f"{run}-next", "--init-from": run, "--add-reviewed": "DATABASE_URL" if is_url(db) else db}
    return shlex.join(["anomalib-gan", "train", folder, *(part for pair in options.items() for part in pair)])
