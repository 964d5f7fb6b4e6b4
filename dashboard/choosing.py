"""Which detector a page works with, and which images: one choice for all pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from anomalib_gan.records.schema import EventRecord
from anomalib_gan.runtime.image import IMAGE_SUFFIXES
from dashboard import settings, sources
from dashboard.detectors import Detector, load, manifest
from dashboard.files import bundles, images
from dashboard.results import open_archive
from dashboard.sources import Item
from dashboard.text import plain

DROP, FOLDER, CAMERA = "Drop", "Folder", "Camera"


class InUse(NamedTuple):
    """The model in use. event: the newest switch, None where no model was chosen yet. name: of its bundle among those
    that were found, None where none of them holds that model.
    """

    event: EventRecord | None
    name: str | None


def offered() -> dict[str, Path] | None:
    """The bundles by name; None, with the reason on the page, where there are none."""
    roots = settings.read().models
    try:
        found = bundles(roots)
    except (ValueError, OSError) as error:
        st.error(plain(str(error)))
        return None
    if not found:
        where = " or ".join(plain(root) for root in roots)
        told = f"There is no bundle in {where}." if roots else "No folder of bundles was given."
        st.warning(f"{told} Make one with `anomalib-gan export` and start with `--models DIR`.")
        return None
    return found


def in_use(found: Mapping[str, Path]) -> InUse:
    """By the results, where there are some. The model counts, not its place: what was exported over it is another."""
    db = settings.read().db
    try:
        event = open_archive(db).active() if db else None
    except (ValueError, OSError) as error:
        st.caption(plain(f"Which model is in use is not known: {error}"))
        return InUse(None, None)
    if event is None:
        return InUse(None, None)
    same = [name for name, path in found.items() if _model(path) == event.model]
    there = [name for name in same if str(found[name]) == event.details.get("bundle")]
    return InUse(event, next(iter(there or same), None))


def _model(path: Path) -> str | None:
    """The hash of a bundle's model; None where its manifest cannot be read, which whoever opens it is told."""
    try:
        return manifest(path).hash
    except (ValueError, OSError):
        return None


def detector() -> Detector | None:
    """The detector that the person chose, at first the one in use; None, with the reason, where none can be opened."""
    found = offered()
    if found is None:
        return None
    names, used = list(found), in_use(found)
    if used.event is not None and used.name is None:
        st.warning(plain(f"The model in use, {short_name(used.event)}, is in none of the folders of bundles."))
    # The widget of another page may hold the choice, so the value lives beside it. A switch is for everybody: what was
    # chosen before it is forgotten.
    switch = 0 if used.event is None else used.event.id
    before, chosen_at = st.session_state.get("chosen detector", (None, 0))
    default = before if before in names and chosen_at == switch else used.name or names[0]
    name = st.selectbox(
        "Detector", names, index=names.index(default), key=f"detector {switch}",
        format_func=lambda one: marked(one, used),
    )  # fmt: skip
    name = name if name in found else default  # it may have been moved away
    st.session_state["chosen detector"] = (name, switch)
    try:
        chosen = load(found[name])
    except (ValueError, OSError, MemoryError) as error:
        st.error(plain(str(error) or "not enough memory"))
        return None
    about = f"{chosen.manifest.spec['name']}, {chosen.manifest.precision}, {chosen.inspector.backend.hash[:12]}"
    st.caption(plain(about))
    return chosen


def marked(name: str, used: InUse) -> str:
    return f"{name} (in use)" if name == used.name else name


def short_name(event: EventRecord) -> str:
    """What people call the model of a switch."""
    return f"{event.details.get('name', '')} {event.model[:12]}".strip()


def choose(chosen: Detector) -> list[Item]:
    """The images at hand, by what the person chose in the sidebar."""
    known = settings.read()
    ways = [DROP] + [FOLDER] * bool(known.images) + [CAMERA] * bool(known.cameras)
    # As for the detector: without this, whoever comes back from another page would have to choose again.
    before = st.session_state.get("chosen way")
    before = before if before in ways else DROP
    way = st.segmented_control("Images", ways, default=before, key="way") if len(ways) > 1 else DROP
    st.session_state["chosen way"] = way
    if way == FOLDER:
        before = st.session_state.get("chosen root")
        at = known.images.index(before) if before in known.images else 0
        root = st.selectbox("Folder", known.images, at, key="root") if len(known.images) > 1 else known.images[0]
        st.session_state["chosen root"] = root
        names = listed(root)
        if not names:
            st.caption("There are no images in this folder.")
        return sources.in_folder(root, names)
    if way == CAMERA:
        return pictures(chosen, known.cameras)
    suffixes = sorted(suffix[1:] for suffix in IMAGE_SUFFIXES)
    files = st.file_uploader("Images to inspect", type=suffixes, accept_multiple_files=True, key="files")
    return sources.uploaded(files)


@st.cache_data(ttl=10, max_entries=16, show_spinner=False)
def listed(root: str) -> list[str]:
    return images(root)


def pictures(chosen: Detector, cameras: tuple[str, ...]) -> list[Item]:
    taken: list[Item] = st.session_state.setdefault("pictures", [])
    source = st.selectbox(
        "Camera", cameras, format_func=lambda one: sources.shown(one.replace("\\", "/").split("/")[-1])
    )
    if st.button("Take a picture", type="primary", icon=":material/photo_camera:", width="stretch"):
        try:
            taken.append(sources.grabbed(source, chosen.manifest.channels))
        except ValueError as error:
            st.error(plain(str(error)))
        else:
            del taken[: -sources.GRABBED]
            go_to(len(taken) - 1)
    return taken


def go_to(at: int) -> None:
    """That image is shown next, whatever the list of images shows in the browser now."""
    st.session_state["at"] = at
    st.session_state["images"] = st.session_state.get("images", 0) + 1
