"""Bundles, opened once per process and shared by everybody who looks at images."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.bundle import GENERATOR, MANIFEST, PARTS, PRIOR, Bundle, BundleError, Manifest
from anomalib_gan.runtime.card import levels
from anomalib_gan.runtime.graphs import Graph, Kind, check_graph
from anomalib_gan.runtime.image import ImageError, Picture, open_image
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.session import OnnxGraph
from anomalib_gan.runtime.tiling import Grid
from dashboard.cards import CARD, document

MAX_PIXELS = 64 * 2**20
"""Larger images are for `anomalib-gan score`, which needs no more memory for them; here people share it."""
KEPT = 4
"""Detectors that stay open."""
LISTED = 256
"""Bundles whose manifests are remembered."""


@dataclass(eq=False)
class Detector:
    """One bundle: its inspector and, opened when first needed, the graphs beside it. Safe in several threads."""

    path: Path
    bundle: Bundle
    inspector: Inspector
    card: Mapping[str, Any]
    notes: tuple[str, ...]  # how its images are read

    def __post_init__(self) -> None:
        self._looked: dict[str, Graph] = {}
        self._graphs: dict[str, OnnxGraph] = {}
        self._lock = Lock()

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def has(self, name: str) -> bool:
        return name in self.manifest.files

    def open(self, source: str | os.PathLike[str] | bytes | NDArray[Any], name: str) -> Picture:
        """The image as the detector's inspector reads it; ImageError where it cannot be."""
        picture: Picture = self.inspector.opener(source, name=name)  # type: ignore[call-arg]
        return picture

    def parts(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """The outputs of parts.onnx for the image's content, by name: (content, width, channels) each.

        The reconstruction is in grey levels of the image, a component has one channel; for codes see `code`. Computed
        in the inspector's tiles. BundleError where the bundle has no parts.
        """
        graph, backend = self._graph(PARTS, "parts"), self.inspector.backend
        height, width = picture.content, picture.width
        pixels = self._grey(picture)
        found: dict[str, NDArray[np.float32]] = {}
        grid = Grid(self.inspector.grid.tile, max(backend.halo, backend.smallest - backend.stride), backend.stride)
        for core, window in grid.split(height, width):
            tall, wide = window.bottom - window.top, window.right - window.left
            piece = pixels[window.top : window.bottom, window.left : window.right]
            piece = np.pad(piece, ((0, tall - piece.shape[0]), (0, wide - piece.shape[1]), (0, 0)), mode="edge")
            image = np.ascontiguousarray(piece.transpose(2, 0, 1)[None], np.float32)
            bottom, right = min(core.bottom, height), min(core.right, width)
            for name, part in graph(image=image, white=np.array(picture.white, np.float32)).items():
                if name != "code":
                    whole = found.setdefault(name, np.empty((height, width, part.shape[1]), np.float32))
                    inside = (
                        slice(core.top - window.top, bottom - window.top),
                        slice(core.left - window.left, right - window.left),
                    )
                    whole[core.top : bottom, core.left : right] = part[0].transpose(1, 2, 0)[inside]
        return found

    def code(self, picture: Picture, height: int, width: int) -> NDArray[np.float32]:
        """The field of codes (1, code, h, w) of the image's upper left, `height` x `width`, multiples of the stride."""
        pixels = self._grey(picture)[:height, :width]
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        return self._graph(PARTS, "parts")(image=image, white=np.array(picture.white, np.float32))["code"]

    def draw(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """The generator's image (height, width, channels), in [0, 1], of a field of codes (1, code, h, w)."""
        return self._graph(GENERATOR, "generator")(z=z)["image"][0].transpose(1, 2, 0)

    def prior(self, rows: int, columns: int, seed: int, spread: float) -> NDArray[np.float32]:
        """A field of codes (1, code, rows, columns) as the generator draws normal images from, of `spread` times their
        spread: by prior.onnx or, where the bundle has none, of N(0, I).
        """
        lost = (0, 0)
        if self.has(PRIOR):
            tensors, _ = self._checked(PRIOR, "prior").trace((1, self.codes(), 64, 64))
            tall, wide = tensors["code"].shape[2:]
            if not (32 < tall <= 64 and 32 < wide <= 64):  # what is drawn together lies side by side
                raise BundleError(f"{PRIOR} makes {tall} x {wide} codes of 64 x 64: export the bundle again")
            lost = 64 - tall, 64 - wide
        shape = 1, self.codes(), rows + lost[0], columns + lost[1]
        z = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(spread)
        return self._graph(PRIOR, "prior")(z=z)["code"] if self.has(PRIOR) else z

    def codes(self) -> int:
        """Channels of the generator's codes."""
        channels = self._checked(GENERATOR, "generator").shape[1]
        assert channels is not None
        return channels

    def drawn(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of what the generator makes of `rows` x `columns` codes."""
        graph = self._checked(GENERATOR, "generator")
        tensors, _ = graph.trace((1, self.codes(), rows, columns))
        shape = tensors["image"].shape
        return shape[2], shape[3]

    def mixture(self) -> dict[str, float] | None:
        """The weight of each component in the map, where the bundle tells it: by manifest and card."""
        params, found = self.manifest.spec["params"], self.card.get("found")
        alpha = params.get("alpha")
        if alpha is None and isinstance(found, Mapping):
            alpha = found.get("alpha")
        likelihood = params.get("likelihood", 0.0)
        if not all(isinstance(one, int | float) for one in (alpha, likelihood)):
            return None
        return {"critic": float(alpha), "residual": 1 - float(alpha), "likelihood": float(likelihood)}

    def _grey(self, picture: Picture) -> NDArray[Any]:
        """(content, width, the detector's channels)."""
        pixels, channels = picture.rows(0, picture.content), self.manifest.channels
        if min(picture.content, picture.width) < self.manifest.smallest:
            raise ImageError(f"{picture.name}: smaller than the model's smallest image, {self.manifest.smallest} px")
        return pixels[..., :1] if channels == 1 else np.broadcast_to(pixels, (*pixels.shape[:2], channels))

    def _checked(self, name: str, kind: Kind) -> Graph:
        if not self.has(name):
            raise BundleError(f"{self.path.name} has no {name}: export it with --{kind}")
        with self._lock:
            if name not in self._looked:
                self._looked[name] = check_graph(self.bundle.read(name), self.manifest, kind)
            return self._looked[name]

    def _graph(self, name: str, kind: Kind) -> OnnxGraph:
        graph = self._checked(name, kind)
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = OnnxGraph(graph, spin=False)
            return self._graphs[name]


def manifest(path: Path) -> Manifest:
    """What a bundle's manifest says, read anew when it changes; no other file of the bundle is looked at."""
    stamp = (path / MANIFEST).stat()
    return _manifest(str(path), stamp.st_mtime_ns, stamp.st_size)


@st.cache_resource(max_entries=LISTED, show_spinner=False)
def _manifest(path: str, changed: int, size: int) -> Manifest:
    return bundle.read_manifest(path)


def load(path: Path) -> Detector:
    """The detector in a bundle's folder, opened anew when its manifest changes, as by calibrating it again."""
    stamp = (path / MANIFEST).stat()
    return _load(str(path), stamp.st_mtime_ns, stamp.st_size)


@st.cache_resource(max_entries=KEPT, show_spinner="Opening the detector ...")
def _load(path: str, changed: int, size: int) -> Detector:
    found = bundle.load(path)
    notes: list[str] = []
    card = document(found, CARD)
    bits, white = levels(card, None, None, tell=notes.append)
    opener = functools.partial(open_image, bits=bits, white=white, max_pixels=MAX_PIXELS)
    inspector = Inspector.load(path, spin=False, opener=opener, expect_sha256=bundle.fingerprint(found.manifest))
    return Detector(Path(path), found, inspector, card, tuple(notes))
