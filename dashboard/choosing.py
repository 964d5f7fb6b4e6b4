"""Which detector a page works with, and which images: one choice for all pages."""

from __future__ import annotations

import streamlit as st

from anomalib_gan.runtime.image import IMAGE_SUFFIXES
from dashboard import settings, sources
from dashboard.detectors import Detector, load
from dashboard.files import bundles, images
from dashboard.sources import Item
from dashboard.text import plain

DROP, FOLDER, CAMERA = "Drop", "Folder", "Camera"


def detector() -> Detector | None:
    """The detector that the person chose; None, with the reason on the page, where there is none to open."""
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
    # The widget of another page may hold the choice, so the value lives beside it.
    names = list(found)
    before = st.session_state.get("chosen detector")
    name = st.selectbox("Detector", names, index=names.index(before) if before in names else 0, key="detector")
    st.session_state["chosen detector"] = name
    try:
        chosen = load(found[name])
    except (ValueError, OSError, MemoryError) as error:
        st.error(plain(str(error) or "not enough memory"))
        return None
    manifest = chosen.manifest
    about = f"{manifest.spec['name']}, {manifest.precision}, {chosen.inspector.backend.hash[:12]}"
    st.caption(plain(about))
    return chosen


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
