"""What inspects, and what it says of an image: the backend's contract, and the results."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.calibration import Verdict
from anomalib_gan.runtime.defects import Defect
from anomalib_gan.runtime.image import ImageError, Picture

Map = NDArray[np.float32]


class Backend(Protocol):
    """A trained detector, ready to run. Pre- and post-processing that the map needs lie inside.

    One that gains from being called by several threads at a time has an attribute `concurrent` that is true; one for
    stacks, of which `volume` tells, an attribute `dim` that is 3.
    """

    @property
    def channels(self) -> int: ...
    @property
    def stride(self) -> int:
        """Height and width must be multiples of it; shifts by it shift the map."""
        ...

    @property
    def halo(self) -> int:
        """No pixel farther away than this influences a pixel of the map."""
        ...

    @property
    def smallest(self) -> int:
        """Least height and width, a multiple of `stride`."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """(low, high) of the map on normal images: the fixed scale of all heat maps."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of the weights, in hex."""
        ...

    @property
    def device(self) -> str:
        """Where it computes, for people to read."""
        ...

    @property
    def pixel_size(self) -> float | None:
        """Micrometres per pixel of the training images, where known."""
        ...

    def __call__(self, image: NDArray[np.float32], white: float) -> NDArray[np.float32]:
        """(N, C, H, W) raw grey levels in [0, white] -> (N, 1, H, W), finite, larger where less normal.

        What does not fit into memory raises MemoryError; any other error is taken for a fault of the program.
        """
        ...


@dataclass(eq=False)
class Inspection:
    """What was found in one image."""

    name: str
    map: Map | None = field(repr=False)  # (height, width), NaN in the info bar; None where a sink took it
    score: float
    peak: float  # maximum of the map
    verdict: Verdict | None  # None without a calibration
    defects: tuple[Defect, ...]  # by falling peak; none without a calibration
    defect_count: int  # larger than len(defects) where there were too many to keep
    height: int  # px, info bar included
    width: int
    content: int  # rows that are image; the info bar lies below
    pixel_size: float | None  # micrometres per px
    scale_warning: str | None  # the pixel size differs from the training images'
    sha256: str | None  # of the file
    model: str  # hash of the weights
    device: str  # where the map was computed
    timing: dict[str, float]  # seconds: decode, inference, post, types where named; what a sink takes is not counted
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        found = f"{self.defect_count} defect{'' if self.defect_count == 1 else 's'}"
        verdict = f"{self.verdict}, {found}" if self.verdict else "not calibrated"
        return f"Inspection({self.name!r}, {self.width}x{self.height}: score {self.score:.4g}, {verdict})"


@dataclass(frozen=True)
class InvalidImage:
    """An image that could not be inspected, and why."""

    name: str
    reason: str


def name_of(source: Any) -> str:
    """What to call an image before it is opened."""
    if isinstance(source, Picture):
        return source.name
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else f"<{type(source).__name__}>"


def told_of(error: Exception) -> str:
    """What to say of an error that an image met with."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return f"{type(error).__name__}: {error}"
