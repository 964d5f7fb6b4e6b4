"""Review queue: what waits for a person, who confirms it, calls it a false alarm or draws the missed defect."""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter, Label
from anomalib_gan.records.schema import InspectionRecord, ReviewRecord
from dashboard.results import archive, batch_of, is_whole, local, said, scene
from dashboard.text import area, plain
from dashboard.verdicts import banner
from dashboard.viewer import Event, Judgement, Scene, viewer

QUEUED = 200
"""Images of the queue that are listed at a time, the newest; the next ones come up as these are reviewed."""
LABELS: dict[str, Label] = {"confirm": "confirmed", "false alarm": "false alarm", "missed defect": "missed defect"}
UNDO = Judgement("undo", "\N{LEFTWARDS ARROW WITH HOOK} Undo", "u", "Take back your last review", "Taken back")


def judgements(verdict: str) -> list[Judgement]:
    """What can be said of an image that has this verdict. Confirming says that the verdict is right."""
    missed = Judgement(
        "missed defect", "\N{BLACK SQUARE} Missed", "x", "There is a defect that was not found: draw it first", "Missed"
    )
    if verdict == "accept":
        good = Judgement("confirm", "\N{BLACK CIRCLE} Good", "c", "There is no defect, as the detector says", "Good")
        return [good, missed, UNDO]
    return [
        Judgement("confirm", "\N{BLACK SQUARE} Defect", "c", "There is a defect, as the detector says", "Defect"),
        Judgement("false alarm", "\N{BLACK CIRCLE} False alarm", "f", "There is no defect", "False alarm"),
        missed,
        UNDO,
    ]


def page(user: User) -> None:
    records = archive()
    if records is None:
        return
    st.session_state.pop("review done", None)
    filter = narrowed(records)
    progress(records, filter)
    with st.container():  # there in every run: what comes and goes above the viewer would have it made anew
        if told := st.session_state.pop("review told", None):
            (st.error if told[0] == "error" else st.success)(plain(told[1]))
    rows = records.queue(filter, limit=QUEUED).rows
    if not rows:
        st.info("Nothing waits for a review here.")
        undo_button(records, user)
        return
    row = records.inspection(rows[position(rows)].id)
    shown, missing = scene(records, row)
    left, right = st.columns([7, 3], gap="medium")
    with right:
        about(records, row, user)
    with left:
        with st.container():
            if missing:
                st.warning(plain(missing).replace("\\`", "`"))
        drawable = shown is not None and is_whole(shown, row)
        shown = shown or nothing(row)
        viewer(
            shown,
            "review viewer",
            take=partial(take, records, user, row, shown.key, [one.id for one in rows]),
            steps=len(rows) > 1,
            judging=judgements(row.verdict),
            drawing=drawable,
            marks=st.session_state.get("boxes", {}).get(shown.key, ()),
            height="clamp(300px, calc(100vh - 250px), 1400px)",
        )


def narrowed(records: Archive) -> Filter:
    """Which part of the queue, by the sidebar."""
    with st.sidebar:
        batches = records.batches()
        chosen = st.selectbox(
            "Batch", [None, *batches], key="review batch",
            format_func=lambda one: "All batches" if one is None else f"{one.id}: {one.folder}",
        )  # fmt: skip
        text = st.text_input("Path contains", key="review text", max_chars=200)
    return Filter(batch=None if chosen is None else chosen.id, text=text)


def progress(records: Archive, filter: Filter) -> None:
    """How far the queue is, and how far people agree."""
    waiting = records.waiting(filter)
    reviewed = records.reviewed_count(filter.batch)
    total = reviewed + waiting
    agreement = records.agreement(filter.batch)
    told = f"{reviewed} of {total} reviewed, {waiting} waiting"
    if agreement.share is None:
        told += " \N{MIDDLE DOT} no image was reviewed by two people yet"
    else:
        told += (
            f" \N{MIDDLE DOT} people agree on {agreement.agreed} of the {agreement.images} images that several reviewed"
        )
        if agreement.kappa is not None:
            told += f" (Cohen's kappa {agreement.kappa:.2f})"
    st.progress(reviewed / total if total else 1.0, told)


# --- which image ---------------------------------------------------------------------------------------------------


def position(rows: list[InspectionRecord]) -> int:
    """Where in the queue we are. The image stays while others leave the queue; when it leaves, the next one comes."""
    ids = [one.id for one in rows]
    before = st.session_state.get("review id")
    at = ids.index(before) if before in ids else min(st.session_state.get("review at", 0), len(ids) - 1)
    st.session_state["review id"], st.session_state["review at"] = ids[at], at
    return at


def step(by: int, ids: list[int]) -> None:
    before = st.session_state.get("review id")
    at = ((ids.index(before) if before in ids else 0) + by) % len(ids)
    st.session_state["review id"], st.session_state["review at"] = ids[at], at


def nothing(row: InspectionRecord) -> Scene:
    """Stands for an image that cannot be shown."""
    return Scene(f"nothing {row.id}", f"{row.path} cannot be shown", np.full((60, 400), 24, np.uint8))


# --- what people do ------------------------------------------------------------------------------------------------


def take(records: Archive, user: User, row: InspectionRecord, key: str, ids: list[int], event: Event) -> None:
    """What was done in the viewer, to the image that it showed then."""
    if event.kind in ("next", "previous"):
        step(1 if event.kind == "next" else -1, ids)
    elif event.kind == "undo":
        undo(records, user)
    elif event.scene != key or st.session_state.get("review done") == key:
        return  # the image changed while the key was on its way: what was meant is not here any more
    elif event.box is not None:
        st.session_state.setdefault("boxes", {}).setdefault(key, []).append(event.box)
    elif event.kind in LABELS:
        say(records, user, row, LABELS[event.kind], key)


def say(records: Archive, user: User, row: InspectionRecord, label: Label, key: str) -> ReviewRecord | None:
    """Writes a review of the row that the person sees; None, with the reason for the next run, where it cannot be."""
    boxes = st.session_state.get("boxes", {}).get(key, [])
    comment, kind = st.session_state.get(f"comment {row.id}", ""), st.session_state.get(f"type {row.id}") or ""
    try:
        written = records.review(row, user, label, comment, boxes, defect_type=kind)
    except (PermissionError, ValueError, OSError) as error:
        st.session_state["review told"] = ("error", str(error))
        return None
    st.session_state.setdefault("said", []).append((written.id, row.id))
    st.session_state.get("boxes", {}).pop(key, None)
    st.session_state["review done"] = key
    st.session_state["review told"] = ("done", f"{row.path}: {label}")
    return written


def undo(records: Archive, user: User) -> None:
    """Withdraws the last review of this session; its image is shown again."""
    said: list[tuple[int, int]] = st.session_state.get("said", [])
    if not said:
        st.session_state["review told"] = ("error", "there is no review of this session to take back")
        return
    review, inspection = said.pop()
    try:
        gone = records.withdraw(review, user)
    except (PermissionError, ValueError, KeyError, OSError) as error:
        st.session_state["review told"] = ("error", str(error.args[0] if isinstance(error, KeyError) else error))
        return
    st.session_state["review id"] = inspection
    st.session_state["review told"] = ("done", f"{gone.path}: {gone.label} was taken back")


def undo_button(records: Archive, user: User) -> None:
    if st.session_state.get("said"):
        st.button("Undo the last review", on_click=undo, args=(records, user))


def forget_boxes(key: str) -> None:
    st.session_state["boxes"].pop(key, None)


# --- what is known of it -------------------------------------------------------------------------------------------


def about(records: Archive, row: InspectionRecord, user: User) -> None:
    st.html(banner(row.verdict))  # type: ignore[arg-type]
    st.markdown(
        f"**{plain(row.path)}**  \nScore **{row.score:.4g}** &nbsp; review above {row.review:.4g}, reject above "
        f"{row.reject:.4g}"
        if row.score is not None
        else f"**{plain(row.path)}**  \n{plain(row.reason)}"
    )
    count = f"{row.defect_count} defect{'' if row.defect_count == 1 else 's'}" if row.defect_count else "No defects"
    found = f", {area(row.defect_area, row.defect_area_um2)}" if row.defect_count else ""
    st.markdown(f"{count}{found}")
    key = f"inspection {row.id} {row.scored_at.isoformat()}"
    if boxes := st.session_state.get("boxes", {}).get(key):
        places = (f"{right - left} x {bottom - top} px at x {left}, y {top}" for top, left, bottom, right in boxes)
        st.markdown(f"Drawn: {'; '.join(places)}")
        st.button("Remove what was drawn", on_click=forget_boxes, args=(key,))
    st.text_area(
        "Comment, before you decide", key=f"comment {row.id}", max_chars=2000, height=90,
        help="It goes with the next review of this image.",
    )  # fmt: skip
    st.selectbox(
        "Type of defect", list(records.defect_types()), index=None, key=f"type {row.id}", accept_new_options=True,
        placeholder="Choose one or name a new one",
        help="Of the drawn box or, without one, of the largest defect. From 10 of a type on, `anomalib-gan types` "
        "teaches the detector to name it.",
    )  # fmt: skip
    for line in said(records.reviews(row))[:5]:
        st.markdown(line)
    batch = batch_of(records, row)
    size = f"{row.width} x {row.height} px, " if row.width else ""
    st.caption(f"{size}batch {batch.id}, scored {local(row.scored_at)}")
    for note in (row.warning, row.notes):
        if note:
            st.caption(plain(note))
