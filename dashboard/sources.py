"""Where images come from: dropped files, configured folders, cameras. Names are for people and never become paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from dashboard.files import resolve

GRABBED = 20
"""Pictures of a camera that a session keeps."""


class CameraError(ValueError):
    """A camera that gives no picture."""


@dataclass(frozen=True, eq=False)
class Item:
    """One image to look at; `key` tells it from all others of the session."""

    key: str
    name: str
    data: bytes | NDArray[Any] | None = field(default=None, repr=False)
    root: str = ""  # of a file: the configured folder, and
    relative: str = ""  # the path within it

    def open(self) -> Path | bytes | NDArray[Any]:
        """What an inspector takes; RefusedPathError where the path leads out of its folder."""
        return resolve(self.root, self.relative) if self.data is None else self.data

    def stamp(self) -> tuple[int, int]:
        """Changes with the file; RefusedPathError as `open`."""
        if self.data is not None:
            return (0, 0)
        found = resolve(self.root, self.relative).stat()
        return found.st_mtime_ns, found.st_size


def uploaded(files: Sequence[Any]) -> list[Item]:
    """Items of Streamlit's uploaded files."""
    return [Item(f"upload {file.file_id}", shown(file.name), file.getvalue()) for file in files]


def in_folder(root: str, names: Sequence[str]) -> list[Item]:
    return [Item(f"file {root} {name}", name, root=root, relative=name) for name in names]


def shown(name: str) -> str:
    """A name from elsewhere, as it may stand in a line of text."""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)
    return text if len(text) <= 120 else f"{text[:100]} ... {text[-15:]}"


class Camera:
    """An OpenCV capture that sessions share; a recording stands in for a camera and begins again at its end."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lock = Lock()
        self._capture: cv2.VideoCapture | None = None

    def grab(self) -> NDArray[np.uint8]:
        """The next picture, (height, width) where it has no colours, else (height, width, 3) in red, green, blue."""
        with self._lock:
            if self._capture is None or not self._capture.isOpened():
                live = self.source.isdecimal()
                self._capture = cv2.VideoCapture(int(self.source) if live else self.source)
                if live:
                    self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the part that lies there now, not a while ago
            there, frame = self._capture.read()
            if not there and not self.source.isdecimal():
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                there, frame = self._capture.read()
            if not there:
                self._capture.release()
                self._capture = None
                raise CameraError(
                    f"camera {Path(self.source).name} gives no picture: is it connected, and does no other program "
                    "use it?"
                )
        frame = np.asarray(frame, np.uint8)
        if frame.ndim == 3 and (frame == frame[..., :1]).all():
            return np.ascontiguousarray(frame[..., 0], np.uint8)
        return np.ascontiguousarray(frame[..., ::-1] if frame.ndim == 3 else frame, np.uint8)


@st.cache_resource
def camera(source: str) -> Camera:
    return Camera(source)


def grabbed(source: str, channels: int) -> Item:
    """A picture of the camera as the detector wants it: grey, or in colours."""
    frame = camera(source).grab()
    if channels == 1 and frame.ndim == 3:
        frame = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    now = datetime.now().astimezone()
    return Item(f"camera {source} {now.isoformat()}", f"camera {Path(source).name}, {now:%H:%M:%S.%f}"[:-5], frame)
