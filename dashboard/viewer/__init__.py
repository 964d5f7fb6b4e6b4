"""The one component of ours: an image under its heat map, to zoom, pan, judge by keys and draw boxes on.

An image of up to WHOLE pixels goes to the browser pixel by pixel. A larger one goes reduced, the image by the mean and
the map by the maximum; whoever looks closely gets the pixels of the part that is looked at. So a message holds a few
megabytes at most, however large the image is.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from anomalib_gan.records.pictures import heat_colours
from anomalib_gan.runtime.heat import heat_range

WHOLE = 4 * 2**20
"""Pixels of an image that goes to the browser as it is, and of what a reduced one is brought to at most."""
SAMPLED = 2**16
"""About so many pixels tell which grey levels are dark and bright."""
LIGHT = 235
"""Grey level that white has under the heat, so that heat shows on it."""

Bytes = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, bottom, right, half-open
Kind = Literal["next", "previous", "accept", "reject", "confirm", "false alarm", "missed defect", "undo", "box"]


class Event(NamedTuple):
    """What a person did in the viewer, and in which scene."""

    kind: Kind
    scene: str  # its key
    box: Box | None  # of "box"; in pixels of the image


class Judgement(NamedTuple):
    """A button of the viewer, and its key, by which a person says something of the image."""

    kind: Kind
    label: str
    key: str
    title: str  # what it means
    told: str  # once it was pressed


JUDGEMENTS = (
    Judgement("accept", "\N{BLACK CIRCLE} Accept", "a", "Accept the image", "Accepted"),
    Judgement("reject", "\N{BLACK SQUARE} Reject", "r", "Reject the image", "Rejected"),
)


@dataclass(eq=False)
class Scene:
    """What the viewer shows; sessions share it. All arrays have one height and width; colours are red, green, blue.

    key: names the scene in events. image: (height, width[, 3]) tones of `toned`. heat: levels of `warmed`, scale: the
    map's on normal images. reconstruction: as the image, `more`: it comes when it is `wanted`; `without`: why there is
    none. The arrays are encoded at once, and stay only where a closer look needs them.
    """

    key: str
    label: str  # for who cannot see the picture
    image: InitVar[Bytes]
    heat: InitVar[Bytes | None] = None
    scale: tuple[float, float] | None = None
    reconstruction: InitVar[Bytes | None] = None
    more: bool = False
    without: str = ""
    defects: Sequence[tuple[Box, str]] = ()
    size: tuple[int, int] = field(init=False)  # height, width
    layers: _Layers = field(init=False, repr=False)
    stamp: str = field(init=False)  # tells the browser whether the layers are those that it has decoded already
    _arrays: dict[str, Bytes] = field(init=False, repr=False)

    def __post_init__(self, image: Bytes, heat: Bytes | None, reconstruction: Bytes | None) -> None:
        self.size = (image.shape[0], image.shape[1])
        given = {"image": image, "reconstruction": reconstruction, "heat": heat}
        self._arrays = {name: one for name, one in given.items() if one is not None}
        self.layers = self.crop((0, 0, *self.size))
        digest = hashlib.sha256()
        for name, data in self.layers.items():
            digest.update(f"{name} {len(data)} ".encode())
            digest.update(data)
        self.stamp = digest.hexdigest()[:16]
        if self.step == 1:
            self._arrays = {}

    @property
    def step(self) -> int:
        """By which whole number the image is reduced."""
        return reduction(*self.size)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.layers.values())) + sum(one.nbytes for one in self._arrays.values())

    def crop(self, box: Box) -> _Layers:
        """The layers of a part of a reduced image, itself reduced where it is large."""
        top, left, bottom, right = box
        step = reduction(bottom - top, right - left)
        layers = {}
        for name, one in self._arrays.items():
            part = one[top:bottom, left:right]
            layers[name] = png(largest_of(part, step) if name == "heat" else mean_of(part, step))
        if "heat" in layers:
            layers["colours"] = colours()
        return layers


_Layers = dict[str, bytes]


def reduction(height: int, width: int) -> int:
    """The whole number that brings a picture to WHOLE pixels.

    >>> reduction(2048, 2048), reduction(2049, 2048), reduction(20000, 20000)
    (1, 2, 10)
    """
    step = 1
    while -(-height // step) * -(-width // step) > WHOLE:
        step += 1
    return step


def toned(pixels: NDArray[Any], like: NDArray[Any]) -> Bytes:
    """Grey levels (height, width[, C]) as tones for the eye: the darkest and brightest of `like` become 0 and LIGHT."""
    flat = like.reshape(-1)
    dark, bright = np.percentile(flat[:: max(1, flat.size // SAMPLED)], (0.5, 99.5))
    tones = (pixels - np.float32(dark)) * np.float32(LIGHT / max(float(bright - dark), 1e-9))
    return np.asarray(np.clip(tones, 0, LIGHT) + 0.5, np.uint8).squeeze()


def warmed(map: NDArray[np.float32], scale: tuple[float, float]) -> Bytes:
    """Heat levels of a map: 1 to 255 over the one range of heat colours, 0 where there is no value."""
    low, high = heat_range(scale)
    levels = np.clip((map - np.float32(low)) * np.float32(254 / (high - low)), 0, 254) + np.float32(1.5)
    return np.where(np.isnan(levels), np.float32(0), levels).astype(np.uint8)


@lru_cache(1)
def colours() -> bytes:
    """Red, green, blue and opacity of each of the 256 levels of `warmed`."""
    palette, covering = heat_colours()
    at = np.rint(np.maximum(np.arange(256) - 1, 0) / 254 * 255).astype(int)
    table = np.concatenate([palette[at, ::-1], np.rint(255 * covering[at]).astype(np.uint8)[:, None]], 1)
    table[0] = 0
    return table.tobytes()


def heat_picture(map: NDArray[np.float32], scale: tuple[float, float]) -> Bytes:
    """A map (height, width) in full heat colours, red, green, blue; grey where it has no value."""
    levels = warmed(map, scale)
    table = np.frombuffer(colours(), np.uint8).reshape(256, 4)[:, :3].copy()
    table[0] = 128
    return table[levels]


def mean_of(tones: Bytes, step: int) -> Bytes:
    """Reduced by the mean of blocks of step x step; those at the border may reach beyond it."""
    if step == 1:
        return tones
    size = -(-tones.shape[1] // step), -(-tones.shape[0] // step)
    below, beside = size[1] * step - tones.shape[0], size[0] * step - tones.shape[1]
    whole = cv2.copyMakeBorder(tones, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def largest_of(levels: Bytes, step: int) -> Bytes:
    """Reduced by the maximum, so that a small defect stays visible."""
    if step == 1:
        return levels
    padded = np.pad(levels, [(0, -side % step) for side in levels.shape])
    return padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).max((1, 3))


def png(picture: Bytes) -> bytes:
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    encoded, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise ValueError(f"OpenCV cannot encode a picture of {picture.shape}")
    return data.tobytes()


def packed(header: Mapping[str, Any], groups: Mapping[str, _Layers]) -> bytes:
    """One block of bytes: see viewer.js. Each group of layers becomes a table of places in it."""
    blobs: list[bytes] = []
    tables: dict[str, dict[str, tuple[int, int]]] = {}
    place = 0
    for group, layers in groups.items():
        tables[group] = {}
        for name, data in layers.items():
            aligned = data + bytes(-len(data) % 4)
            tables[group][name] = (place, len(data))
            blobs.append(aligned)
            place += len(aligned)
    complete = dict(header) | {"layers": tables["layers"]}
    if "crop" in tables:
        complete["crop"] = {"box": header["crop"], "layers": tables["crop"]}
    text = json.dumps(complete, allow_nan=False).encode()
    return b"".join([struct.pack("<I", len(text)), text, *blobs])


@cache
def _component() -> Callable[..., Any]:
    """Registered once per process: the text of the files beside this one, and nothing else, becomes markup and code."""
    html, css, js = ((Path(__file__).parent / f"viewer.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return st.components.v2.component("anomalib_gan_viewer", html=html, css=css, js=js)


def viewer(
    scene: Scene,
    key: str,
    *,
    take: Callable[[Event], None] | None = None,
    steps: bool = False,
    judging: Sequence[Judgement] = (),
    drawing: bool = False,
    marks: Sequence[Box] = (),
    height: str = "clamp(300px, calc(100vh - 170px), 1400px)",
) -> None:
    """Shows the scene. `take` is called with each event, before the page is run again, each once and in order.

    steps: there are images to go to, by n and p. judging: what can be said of it. drawing: boxes can be drawn.
    marks: boxes that were. height: of the picture, in CSS. Whatever on the page has data-defect="1", or another number
    of the scene's defects, makes the viewer look at that one when it is clicked.
    """
    header: dict[str, Any] = {
        "image": scene.key,
        "stamp": scene.stamp,
        "label": scene.label,
        "height": scene.size[0],
        "width": scene.size[1],
        "step": scene.step,
        "heat": None if scene.scale is None else heat_range(scene.scale),
        "more": scene.more,
        "without": scene.without,
        "defects": [{"box": box, "text": text} for box, text in scene.defects],
        "marks": list(marks),
        "keys": take is not None,
        "steps": steps,
        "judging": [one._asdict() for one in judging],
        "drawing": drawing,
        "tall": height,
        "crop": None,
    }
    groups = {"layers": scene.layers}
    if scene.step > 1 and (box := _view(st.session_state.get(key), scene)) is not None:
        header["crop"], groups["crop"] = box, _crop(scene, box, key)

    def changed() -> None:
        for event in _fresh(key, st.session_state.get(key)):
            if take is not None:
                take(event)

    _component()(
        key=key,
        data=packed(header, groups),
        on_log_change=changed,
        on_view_change=_nothing,
        on_wanted_change=_nothing,
        default={"log": None},
    )


def _crop(scene: Scene, box: Box, key: str) -> _Layers:
    """The layers of the part that is looked at; the session keeps those of the last one."""
    kept = st.session_state.get(f"{key} crop")
    if kept is None or kept[0] != (scene.stamp, box):
        kept = (scene.stamp, box), scene.crop(box)
        st.session_state[f"{key} crop"] = kept
    layers: _Layers = kept[1]
    return layers


def wanted(key: str) -> bool:
    """Whether somebody looks at reconstructions in the viewer of this key."""
    state = st.session_state.get(key)
    return isinstance(state, Mapping) and state.get("wanted") is True


def _nothing() -> None:
    """The page is run again, which is all that a new view or wish asks for."""


def _fresh(key: str, state: Any) -> list[Event]:
    """The events that were not taken yet. What a browser sends is checked; what does not fit is no event."""
    log = state.get("log") if isinstance(state, Mapping) else None
    if not isinstance(log, Mapping) or not isinstance(log.get("events"), list):
        return []
    taken = st.session_state.setdefault(f"{key} taken", {})
    mount = str(log.get("mount"))[:40]
    found = []
    for entry in log["events"][:50]:
        if not isinstance(entry, Mapping) or entry.get("kind") not in get_args(Kind):
            continue
        sequence, box = entry.get("sequence"), _box(entry.get("box"))
        if (
            type(sequence) is not int
            or sequence <= taken.get(mount, 0)
            or (entry["kind"] == "box") != (box is not None)
        ):
            continue
        taken[mount] = sequence
        found.append(Event(entry["kind"], str(entry.get("image")), box))
    return found


def _view(state: Any, scene: Scene) -> Box | None:
    view = state.get("view") if isinstance(state, Mapping) else None
    if not isinstance(view, Mapping) or view.get("image") != scene.key:
        return None
    box = _box(view.get("box"))
    return box if box is not None and box[2] <= scene.size[0] and box[3] <= scene.size[1] else None


def _box(value: Any) -> Box | None:
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(side, int | float) and math.isfinite(side) for side in value):
        return None
    top, left, bottom, right = (int(side) for side in value)
    return (top, left, bottom, right) if 0 <= top < bottom and 0 <= left < right else None
