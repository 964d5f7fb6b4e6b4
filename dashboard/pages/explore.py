"""Explore: what the detector has learnt. Samples of its generator, the way between two images, what its map is made of;
and, of its run, an image inverted and edited, and directions in the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from anomalib_gan.records.access import User
from anomalib_gan.runtime.bundle import GENERATOR, PARTS, PRIOR
from dashboard.choosing import choose, detector
from dashboard.detectors import Detector
from dashboard.exploring import directions, inversion
from dashboard.sources import Item
from dashboard.text import plain
from dashboard.viewer import Bytes, Scene, heat_picture, toned, viewer, warmed

SAMPLE, BETWEEN, MADE_OF = "Sample", "Between two images", "What the map is made of"
INVERSION, DIRECTIONS = "Inversion", "Directions"
MARGIN = 2
"""Codes around a sample that are drawn and cut off: what lies along the edge is not drawn like the rest."""
SIDE = 1024
"""Pixels of the sides that are encoded, from the upper left."""
PIXELS = 4 * 2**20
"""Of an image whose map is taken apart."""
EXACT = 0.01
"""By so much of the normal scale a map may differ from the detector's and still be called the same."""


def page(user: User) -> None:
    with st.sidebar:
        chosen = detector()
    if chosen is None:
        return
    ways: dict[str, Callable[[Detector], None]] = {
        SAMPLE: sample, BETWEEN: between, MADE_OF: made_of,
        INVERSION: lambda one: inversion(one, user), DIRECTIONS: lambda one: directions(one, user),
    }  # fmt: skip
    way = st.segmented_control("Explore", list(ways), default=SAMPLE, key="explore", label_visibility="collapsed")
    try:
        ways[way or SAMPLE](chosen)
    except (ValueError, OSError, MemoryError) as error:
        st.error(plain(str(error) or "not enough memory"))


def missing(chosen: Detector, *names: str) -> bool:
    """Says which graph the bundle lacks, if any, and how to have it."""
    options = {PARTS: "--parts", GENERATOR: "--generator"}
    lacking = [name for name in names if not chosen.has(name)]
    if lacking:
        st.info(
            f"This bundle has no {' and no '.join(f'`{name}`' for name in lacking)}. Export it again with "
            f"`{' '.join(options[name] for name in lacking)}`."
        )
    return bool(lacking)


# --- samples -------------------------------------------------------------------------------------------------------


def sample(chosen: Detector) -> None:
    if missing(chosen, GENERATOR):
        return
    with st.sidebar:
        width = st.number_input("Width, px", 16, 4096, 768, step=16)
        height = st.number_input("Height, px", 16, 4096, 512, step=16)
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, help="The same seed draws the same picture.")
        spread = st.slider("Spread of the codes", 0.0, 1.5, 1.0, 0.05, help="1 is the prior; 0 its mean everywhere.")
    with st.spinner("Drawing ..."):
        picture = sampled(chosen, height, width, seed, spread)
    codes = (
        "Drawn from a field of codes that vary and go together as those of normal images do"
        if chosen.has(PRIOR)
        else "Drawn from codes z ~ N(0, I), one for each place"
    )
    st.caption(f"{codes}, so any size goes. What lies below the detector's working scale is left out.")
    label = f"Sample of {width} x {height} px, seed {seed}"
    key = f"sample {chosen.manifest.hash[:16]} {height} {width} {seed} {spread}"
    viewer(Scene(key, label, toned(picture, picture)), "sample viewer")


def sampled(chosen: Detector, height: int, width: int, seed: int, spread: float = 1.0) -> NDArray[np.float32]:
    """A picture (height, width, channels), in [0, 1], from codes of the prior times `spread`."""
    (a, b), (c, d) = chosen.drawn(8, 8), chosen.drawn(9, 9)
    lattice, short = (c - a, d - b), (8 * (c - a) - a, 8 * (d - b) - b)  # an unpadded generator draws less
    rows, columns = (
        -(-(size + lost) // each) + 2 * MARGIN for size, lost, each in zip((height, width), short, lattice, strict=True)
    )
    drawn = chosen.draw(chosen.prior(rows, columns, seed, spread))
    top, left = (drawn.shape[0] - height) // 2, (drawn.shape[1] - width) // 2
    return drawn[top : top + height, left : left + width]


# --- between two images --------------------------------------------------------------------------------------------


def between(chosen: Detector) -> None:
    if missing(chosen, PARTS, GENERATOR):
        return
    with st.sidebar:
        items = choose(chosen)
    if len(items) < 2:
        st.info("Choose at least two images on the left.")
        return
    columns = st.columns(3, gap="small")
    picks = []
    for column, name, at in ((columns[0], "From", 0), (columns[2], "To", 1)):
        with column:
            picks.append(st.selectbox(name, items, index=at, format_func=lambda item: item.name, key=f"between {name}"))
    with columns[1]:
        share = st.slider("Share of the second", 0.0, 1.0, 0.5, 0.05)
    first, again, second = interpolated(chosen, picks[0], picks[1], share)
    for column, picture, name in zip(columns, (first, again, second), ("image", "drawn", "image"), strict=True):
        with column:
            st.image(picture, caption=name, width="stretch")
    st.caption(
        f"The codes (1 - t) E(a) + t E(b), with t = {share:.2f}, drawn by the generator: at 0 and 1 the images as the "
        "detector reconstructs them."
    )


def interpolated(chosen: Detector, a: Item, b: Item, share: float) -> tuple[Bytes, Bytes, Bytes]:
    """Both images' upper left, of one size, and what the generator draws between them, as tones."""
    stride = chosen.manifest.stride
    with chosen.open(a.open(), a.name) as first, chosen.open(b.open(), b.name) as second:
        height = min(first.content, second.content, SIDE) // stride * stride
        width = min(first.width, second.width, SIDE) // stride * stride
        if min(height, width) < chosen.manifest.smallest:
            raise ValueError(f"the images are smaller than the model's smallest, {chosen.manifest.smallest} px")
        ends = [chosen.code(one, height, width) for one in (first, second)]
        pixels = [one.rows(0, height)[:, :width] / np.float32(one.white) for one in (first, second)]
    code = np.float32(1 - share) * ends[0] + np.float32(share) * ends[1]
    like = np.concatenate([one.reshape(-1) for one in pixels])
    return toned(pixels[0], like), toned(chosen.draw(code), like), toned(pixels[1], like)


# --- what the map is made of ---------------------------------------------------------------------------------------


def made_of(chosen: Detector) -> None:
    if missing(chosen, PARTS):
        return
    with st.sidebar:
        items = choose(chosen)
    if not items:
        st.info("Choose an image on the left.")
        return
    with st.sidebar:
        item = st.selectbox("Image", items, format_func=lambda one: one.name, key="made of")
    pixels, map, components = taken_apart(chosen, item)
    scale = chosen.manifest.map_scale
    mixture = chosen.mixture()
    weights = mixture if mixture is not None and set(mixture) == set(components) else None
    shown, name = map, "The detector's map"
    if weights is None:
        st.info(
            "This bundle does not tell how its map is mixed from its components, so there is no alpha to try: "
            f"its manifest and its card name none that fits {', '.join(components)}."
        )
    else:
        with st.sidebar:
            alpha = st.slider(
                "alpha: the critic's share in the map, the residual has the rest", 0.0, 1.0, weights["critic"], 0.01,
                key=f"alpha {chosen.manifest.hash[:16]}",
            )  # fmt: skip
        shown, name = mixed(components, weights, alpha), f"Map at alpha {alpha:.2f}"
        off = float(np.abs(mixed(components, weights, weights["critic"]) - map).max()) / (scale[1] - scale[0])
        if off <= EXACT:
            st.caption(
                f"The detector's own alpha is {weights['critic']:g}, and there this is its map. Its thresholds hold "
                "for that alpha only."
            )
        else:
            st.warning(
                f"At the alpha that the bundle names, {weights['critic']:g}, this differs from the detector's map by "
                f"up to {off:.2g} of its normal scale: take it as an illustration."
            )
    key = f"made of {item.key} {chosen.manifest.hash[:16]} {name}"
    scene = Scene(key, f"{name} of {item.name}", toned(pixels, pixels), warmed(shown, scale), scale)
    viewer(scene, "made of viewer", height="clamp(240px, calc(100vh - 420px), 900px)")
    pictures = {name: shown, **components}
    for column, (title, one) in zip(st.columns(len(pictures)), pictures.items(), strict=True):
        with column:
            st.image(heat_picture(one, scale), caption=title, width="stretch")
    st.caption("All in the colours of the detector's normal scale.")


def mixed(
    components: Mapping[str, NDArray[np.float32]], weights: Mapping[str, float], alpha: float
) -> NDArray[np.float32]:
    """The map that the components give with the critic at the share `alpha`, the residual at the rest."""
    shares = dict(weights) | {"critic": alpha, "residual": 1 - alpha}
    total = sum(np.float32(shares[name]) * part for name, part in components.items())
    return np.asarray(total, np.float32)


def taken_apart(
    chosen: Detector, item: Item
) -> tuple[NDArray[Any], NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """(pixels of the image's content, the detector's map of it, the components by name); the last are remembered."""
    key = (chosen, item.key)
    kept = st.session_state.get("taken apart")
    if kept is None or kept[0] != key:
        with st.spinner("Taking the map apart ..."), chosen.open(item.open(), item.name) as picture:
            if picture.content * picture.width > PIXELS:
                raise ValueError(
                    f"{item.name} has {picture.width} x {picture.height} px: "
                    f"this page takes up to {PIXELS // 2**20} Mpx"
                )
            found = chosen.inspector(picture)
            assert found.map is not None
            parts = chosen.parts(picture)
            components = {name: part[..., 0] for name, part in parts.items() if name != "reconstruction"}
            kept = (key, (picture.rows(0, picture.content), found.map[: picture.content], components))
        st.session_state["taken apart"] = kept
    value: tuple[NDArray[Any], NDArray[np.float32], dict[str, NDArray[np.float32]]] = kept[1]
    return value
