"""Two models side by side on one image, each with its own scale, thresholds and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from dashboard.choosing import InUse, choose, marked
from dashboard.detectors import load
from dashboard.looking import look
from dashboard.sources import Item
from dashboard.text import area, plain, seconds
from dashboard.verdicts import banner, gauge
from dashboard.viewer import viewer


def beside(found: Mapping[str, Path], used: InUse, name: str) -> None:
    """The model `name` and another one of those found, which the person chooses with the image in the sidebar."""
    others = [one for one in found if one != name]
    if not others:
        st.info("There is one bundle only. Put another into a folder of `--models` to see both side by side.")
        return
    with st.sidebar:
        first = used.name if used.name in others else others[0]
        other = st.selectbox(
            "Beside it", others, index=others.index(first), format_func=lambda one: marked(one, used),
            key=f"beside {name}",
        )  # fmt: skip
        images = choose(load(found[name]))
        if images:
            at = st.selectbox(
                f"Image, of {len(images)}", range(len(images)), key="image beside",
                format_func=lambda i: f"{i + 1}: {images[i].name}",
            )  # fmt: skip
    if not images:
        st.info("Drop images on the left, or choose where else they come from.")
        return
    image = images[at if isinstance(at, int) and at < len(images) else 0]
    columns = st.columns(2, gap="medium")
    for place, one in zip(columns, (name, other if other in found else first), strict=True):
        with place:
            half(found[one], marked(one, used), image, f"viewer of {one}")
    st.caption(
        "Scores, heat colours and thresholds of two models do not compare: each model has a scale of its own, taken "
        "from its normal images. Verdicts, defects and times do."
    )


def half(path: Path, title: str, image: Item, key: str) -> None:
    """One model's side; what is wrong with it or with the image for it stands in its place."""
    try:
        detector = load(path)
        with st.spinner("Inspecting ..."):
            seen = look(detector, image)
    except (ValueError, OSError, MemoryError) as error:
        st.markdown(f"**{plain(title)}**")
        st.error(plain(str(error) or "not enough memory"))
        return
    found, calibration = seen.found, detector.inspector.calibration
    st.markdown(f"**{plain(title)}** &nbsp; {plain(detector.manifest.precision)}, {found.model[:12]}")
    st.html(banner(found.verdict))
    if calibration is None:
        st.warning("Not calibrated, so it gives no verdicts: `anomalib-gan calibrate BUNDLE --good DIR`.")
    else:
        st.html(gauge(found.score, calibration))
    limits = "" if calibration is None else f"review above {calibration.review:.4g}, reject {calibration.reject:.4g}"
    st.markdown(f"Score **{found.score:.4g}** &nbsp; {limits}")
    viewer(seen.scene, key, height="clamp(220px, calc(100vh - 470px), 900px)")
    largest = max(found.defects, key=lambda one: one.area, default=None)
    more = "" if largest is None else f", the largest {area(largest.area, largest.area_um2)}"
    st.markdown(f"**{found.defect_count} defect{'' if found.defect_count == 1 else 's'}**{more}")
    timing = ", ".join(f"{step} {seconds(value)}" for step, value in found.timing.items())
    place, _, _ = found.device.partition(" (")
    st.caption(f"{timing}; {plain(place)}")
