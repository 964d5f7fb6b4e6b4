"""Inspect: drop images, pick a folder or take a picture, and see at once what the detector makes of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Label
from anomalib_gan.records.schema import InspectionRecord
from anomalib_gan.runtime.naming import UNKNOWN, Types
from dashboard import settings
from dashboard.choosing import choose, detector, go_to
from dashboard.detectors import Detector
from dashboard.looking import Look, look
from dashboard.results import local, open_archive, said
from dashboard.sources import Item
from dashboard.text import area, plain, seconds
from dashboard.verdicts import banner, defect_table, gauge
from dashboard.viewer import JUDGEMENTS, Box, Event, Scene, viewer, wanted

WORDS = {"accept": "accepted", "reject": "rejected"}
SHOWN = 20
"""Scenes of a session whose keys and clicks may still be on their way."""


def page(user: User) -> None:
    with st.sidebar:
        chosen = detector()
        items = choose(chosen) if chosen else []
    if chosen is None:
        return
    if not items:
        st.info("Drop images on the left, or choose where else they come from.")
        return
    at = position(items)
    item = items[at]
    try:
        with st.spinner("Inspecting ..."):
            seen = look(chosen, item, wanted("viewer"))
    except (ValueError, OSError, MemoryError) as error:  # about this image; the others are still there
        st.error(f"**This image cannot be inspected.** {plain(str(error) or 'not enough memory')}")
        if len(items) > 1:  # the same viewer, so that its keys lead on
            viewer(nothing(item), "viewer", take=partial(take, user, len(items)), steps=True, height="120px")
        return
    left, right = st.columns([7, 3], gap="medium")
    with right:
        report(chosen, item, seen)
        row = recorded(user, seen)
    remember(seen.scene.key, item.key, row)
    with left:
        viewer(
            seen.scene,
            "viewer",
            take=partial(take, user, len(items)),
            steps=len(items) > 1,
            judging=JUDGEMENTS,
            drawing=True,
            marks=st.session_state.get("boxes", {}).get(item.key, ()),
        )


# --- which image ---------------------------------------------------------------------------------------------------


def position(items: list[Item]) -> int:
    """Where among the images we are; the list in the sidebar and the keys both move it."""
    count = len(items)
    at = st.session_state.get("at", 0)
    at = at if at < count else 0
    with st.sidebar:
        # A new list after each step: with every key a browser also sends what its list shows, which is an older place
        # where keys come faster than the page.
        chosen = st.selectbox(
            f"Image, of {count}", range(count), index=at, format_func=lambda i: f"{i + 1}: {items[i].name}",
            key=f"images {st.session_state.get('images', 0)}",
        )  # fmt: skip
    # Streamlit knows a choice by its label: of one that is gone only the label is left.
    st.session_state["at"] = chosen if isinstance(chosen, int) and chosen < count else 0
    return int(st.session_state["at"])


def remember(scene: str, key: str, row: InspectionRecord | None) -> None:
    """Which image the scene shows, and what the records hold of it, for what is done in it."""
    shown: dict[str, tuple[str, InspectionRecord | None]] = st.session_state.setdefault("shown", {})
    shown.pop(scene, None)
    shown[scene] = key, row
    if len(shown) > SHOWN:
        del shown[next(iter(shown))]


def step(by: int, count: int) -> None:
    go_to((st.session_state.get("at", 0) + by) % count)


def nothing(item: Item) -> Scene:
    """Stands for an image that cannot be shown."""
    return Scene(f"nothing {item.key}", f"{item.name} cannot be inspected", np.full((60, 400), 24, np.uint8))


# --- what people do ------------------------------------------------------------------------------------------------


def take(user: User, count: int, event: Event) -> None:
    """What was done in the viewer, to the image that it showed then."""
    if event.kind in ("next", "previous"):
        step(1 if event.kind == "next" else -1, count)
        return
    shown = st.session_state.get("shown", {}).get(event.scene)
    if shown is None:  # no image that this session has shown
        return
    key, row = shown
    if event.box is not None:
        st.session_state.setdefault("boxes", {}).setdefault(key, []).append(event.box)
    else:
        decide(user, key, event.kind, row)


def decide(user: User, key: str, decision: str, row: InspectionRecord | None) -> None:
    """Notes what the person says of the image, for this session; as a review where it is one of the records.

    The review takes the place of the one that they wrote of it here before.
    """
    if row is not None:
        records = open_archive(settings.read().db)
        written: dict[str, int] = st.session_state.setdefault("written", {})
        boxes: list[Box] = st.session_state.get("boxes", {}).get(key, [])
        try:
            new = records.review(row, user, label(row.verdict, decision), boxes=boxes)
            if key in written:
                records.withdraw(written[key], user)
        except (PermissionError, ValueError, OSError) as error:
            st.session_state["undecided"] = str(error)
            return
        written[key] = new.id
    st.session_state.setdefault("decisions", {})[key] = decision


def label(verdict: str, decision: str) -> Label:
    """The review that a decision is: "confirmed" where it is the detector's verdict, which review is not."""
    if verdict == "accept":
        return "confirmed" if decision == "accept" else "missed defect"
    return "false alarm" if decision == "accept" else "confirmed"


def ask(user: User, row: InspectionRecord) -> None:
    try:
        open_archive(settings.read().db).ask(row, user)
    except (PermissionError, ValueError, OSError) as error:
        st.session_state["undecided"] = str(error)


def forget_boxes(key: str) -> None:
    st.session_state["boxes"][key] = []


def recorded(user: User, seen: Look) -> InspectionRecord | None:
    """What the records hold of the shown image by the same model, if anything, and what can be done about it."""
    if told := st.session_state.pop("undecided", None):
        st.error(plain(told))
    db = settings.read().db
    if not db or seen.sha256 is None:
        return None
    try:
        records = open_archive(db)
        row = next(iter(records.of_bytes(seen.sha256, seen.found.model)), None)
    except (ValueError, OSError) as error:
        st.error(plain(str(error)))
        return None
    if row is None:
        st.caption("This image is not in the results, so decisions last for this session.")
        return None
    st.caption(f"In the results: {row.verdict}, scored {local(row.scored_at)}. Your decision becomes a review.")
    for line in said(records.reviews(row))[:3]:
        st.markdown(line)
    st.button(
        "Put it into the review queue", on_click=ask, args=(user, row), help="Somebody else shall look at it, too."
    )
    return row


# --- what was found ------------------------------------------------------------------------------------------------


def report(chosen: Detector, item: Item, seen: Look) -> None:
    """Verdict, score, defects and timing."""
    found, calibration = seen.found, chosen.inspector.calibration
    st.html(banner(found.verdict))
    if calibration is None:
        st.warning(
            "This detector is not calibrated, so it gives no verdicts: `anomalib-gan calibrate BUNDLE --good DIR`."
        )
        st.markdown(f"Score **{found.score:.4g}**")
    else:
        st.html(gauge(found.score, calibration))
        st.markdown(
            f"Score **{found.score:.4g}** &nbsp; review above {calibration.review:.4g}, reject above "
            f"{calibration.reject:.4g}"
        )
    if found.defects:
        count = f"{found.defect_count} defect{'' if found.defect_count == 1 else 's'}"
        st.markdown(f"**{count}**; choose one to look at it")
        st.html(defect_table(found.defects[: len(seen.scene.defects)]))
    elif found.verdict:
        st.markdown("**No defects**")
    if found.defects and chosen.inspector.naming is not None:
        st.caption(plain(told_types(chosen.inspector.naming.types)))
    timing = ", ".join(f"{name} {seconds(value)}" for name, value in found.timing.items())
    place, _, _ = found.device.partition(" (")
    st.caption(f"{plain(item.name)}, {found.width} x {found.height} px  \n{timing}; {plain(place)}")
    decision = st.session_state.get("decisions", {}).get(item.key)
    if decision:
        st.markdown(f"You **{WORDS[decision]}** it.")
    boxes = st.session_state.get("boxes", {}).get(item.key, [])
    if boxes:
        told = "; ".join(_size(box, found.pixel_size) for box in boxes[-4:])
        st.markdown(f"{len(boxes)} drawn: {told}")
        st.button("Remove the drawn boxes", on_click=forget_boxes, args=(item.key,))
    unmeasured = "the file states no pixel size, so areas are in pixels alone"
    for note in dict.fromkeys((*found.notes, *chosen.notes, *[unmeasured] * (found.pixel_size is None))):
        st.caption(plain(note))
    if seen.scene.without:
        st.caption(plain(seen.scene.without))


def told_types(types: Types) -> str:
    """How far the names of types can be trusted."""
    return (
        f"Types ({', '.join(types.names)}): of {sum(types.labels)} labelled defects, {types.accuracy:.0%} were named "
        f"right when their images were left out of the learning, and {types.unknown:.0%} called {UNKNOWN}."
    )


def _size(box: Box, pixel_size: float | None) -> str:
    height, width = box[2] - box[0], box[3] - box[1]
    px = height * width
    return f"{width} x {height} px ({area(px, None if pixel_size is None else px * pixel_size**2)})"
