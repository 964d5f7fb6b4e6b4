"""One look at one image: its inspection, as the viewer shows it. The latest are kept, for everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.bundle import PARTS
from anomalib_gan.runtime.inspection import Inspection
from anomalib_gan.runtime.manifest import fingerprint
from dashboard.detectors import Detector
from dashboard.kept import PICTURES
from dashboard.sources import Item
from dashboard.text import defect
from dashboard.viewer import Scene, toned, warmed

RECONSTRUCTED = 16 * 2**20
"""Pixels up to which an image is also reconstructed, which takes as long as its map."""


@dataclass(eq=False)
class Look:
    """What was found (without the map, which the scene has as heat) and what the viewer shows."""

    found: Inspection
    scene: Scene
    sha256: str | None = None  # of the file's bytes; a camera's picture has none


def look(detector: Detector, item: Item, reconstructed: bool = False) -> Look:
    """Inspects the image, or remembers it. ImageError, MemoryError or another ValueError says why it cannot be."""
    key = (str(detector.path), fingerprint(detector.manifest), item.key, item.stamp())
    seen: Look | None = PICTURES.get(key)
    if seen is None or (reconstructed and seen.scene.more):
        seen = inspect(detector, item, reconstructed)
        PICTURES.put(key, seen, seen.scene.bytes)
    return seen


def inspect(detector: Detector, item: Item, reconstructed: bool = False) -> Look:
    """What the detector makes of the image. A reconstruction takes as long again, so it comes only when asked for."""
    start = perf_counter()
    with detector.open(item.open(), item.name) as picture:
        opened = perf_counter() - start
        found = detector.inspector(picture)
        found.timing["decode"] += opened
        assert found.map is not None
        pixels = picture.rows(0, picture.height)
        reconstruction, without = None, ""
        if not detector.has(PARTS):
            without = f"This bundle has no {PARTS}, so there is no reconstruction: export it with --parts."
        elif picture.content * picture.width > RECONSTRUCTED:
            without = f"Images above {RECONSTRUCTED // 2**20} Mpx are not reconstructed here."
        elif reconstructed:
            start = perf_counter()
            again = detector.parts(picture)["reconstruction"]
            found.timing["reconstruction"] = perf_counter() - start
            reconstruction = _beside(again, pixels, picture.content)
        like = pixels[: picture.content]
        scene = Scene(
            key=f"{item.key} {found.model[:16]}",
            label=describe(found),
            image=toned(pixels, like),
            heat=warmed(found.map, detector.inspector.backend.scale),
            scale=detector.inspector.backend.scale,
            reconstruction=None if reconstruction is None else toned(reconstruction, like),
            more=reconstruction is None and not without,
            without=without,
            defects=[
                ((one.top, one.left, one.bottom, one.right), defect(number, one))
                for number, one in enumerate(found.defects[:200], 1)
            ],
        )
    return Look(replace(found, map=None), scene, picture.sha256)


def _beside(again: NDArray[np.float32], pixels: NDArray[Any], content: int) -> NDArray[Any]:
    """The reconstruction at the image's size; below its content stands the image itself."""
    channels = max(again.shape[2], pixels.shape[2])
    bar = np.broadcast_to(pixels[content:], (len(pixels) - content, pixels.shape[1], channels))
    return np.concatenate([np.broadcast_to(again, (*again.shape[:2], channels)), bar])


def describe(found: Inspection) -> str:
    """The inspection in a sentence, for who cannot see the picture."""
    count = f"{found.defect_count} defect{'' if found.defect_count == 1 else 's'}"
    verdict = f"{found.verdict}, {count}" if found.verdict else "not calibrated"
    return f"{found.name}, {found.width} x {found.height} px: {verdict}, score {found.score:.3g}"
