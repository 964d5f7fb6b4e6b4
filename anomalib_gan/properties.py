"""What can be measured on an image of fibres: how thick they are, how much of the image they cover, which way they run
and how bright it is. So what a generator's codes control is told in figures, and not by impressions.

Foreground is what lies above Otsu's threshold (Otsu, 1979). In a pile of fibres that is its upper layers.

Thickness: twice the distance from the fibres' centre lines to the background, the median over all places of the centre
lines, as DiameterJ has it (Hotaling et al., 2015). Centre lines are where the distance transform has no slope. Where
many fibres touch, their sum counts as one, so the figure rises with the density.

Orientation: the structure tensor (Bigun and Granlund, 1987), as in OrientationJ (Rezakhaniha et al., 2012). Its larger
eigenvalue belongs to the direction across the fibres; coherence is (l1 - l2) / (l1 + l2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating]  # (H, W) in [-1, 1]
Table = NDArray[np.float64]

SMOOTH = 1.0  # px: sigma by which noise is smoothed away before a threshold or a slope is taken
FINER = 2  # the mask is that of the image enlarged so much, else the width of a fibre is known to a whole pixel only
LEVEL = 0.6  # slope of the distance transform below which a pixel is on a centre line; beside one it is near 1
FLAT = 1e-6  # range of grey below which there is nothing in an image
SMALLEST = 8  # px


@dataclass(frozen=True)
class Measured:
    """Of one image: `thickness` of the fibres in px, `density`, the share of the image that is fibre, `brightness`, the
    mean grey from 0 black to 1 white, `angle` in degrees from 0 to 180, 0 along the rows and 45 from the upper left to
    the lower right, and its `coherence` from 0, no direction, to 1, only one. All 0 but for brightness if it is flat.
    """

    thickness: float
    density: float
    brightness: float
    angle: float
    coherence: float

    @property
    def orientation(self) -> float:
        """How far fibres run along the rows (1) rather than along the columns (-1): coherence x cos(2 angle).

        An angle has no mean and no slope, for 0 and 180 degrees are the same; this has.
        """
        return self.coherence * math.cos(2 * math.radians(self.angle))


PROPERTIES = {
    "thickness": "px",
    "density": "share of the image",
    "orientation": "-1 to 1",
    "brightness": "0 to 1",
}
"""Numbers of `Measured` that directions are found for, with their units."""


def measure(image: Image) -> Measured:
    """The properties of (H, W) in [-1, 1]; ValueError for another shape, or for less than SMALLEST px."""
    if image.ndim != 2 or min(image.shape) < SMALLEST:
        raise ValueError(
            f"an image of shape {image.shape} cannot be measured: give (H, W), both at least {SMALLEST} px"
        )
    grey = np.ascontiguousarray(image, np.float32)
    brightness = float(grey.mean() + 1) / 2
    smooth = cv2.GaussianBlur(grey, (0, 0), SMOOTH, borderType=cv2.BORDER_REPLICATE)
    low, high = float(smooth.min()), float(smooth.max())
    if high - low < FLAT:
        return Measured(0.0, 0.0, brightness, 0.0, 0.0)
    smooth = (smooth - low) / (high - low)
    above = cv2.threshold(np.rint(255 * smooth).astype(np.uint8), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] > 0
    level = float(smooth[above].mean() + smooth[~above].mean()) / 2  # Otsu's level, not rounded: half way up an edge
    angle, coherence = orientation(smooth)
    return Measured(thickness(smooth, level), float((smooth > level).mean()), brightness, angle, coherence)


def thickness(smooth: NDArray[Any], level: float) -> float:
    """Median width in px of what lies above `level` in (H, W), 0 where nothing does."""
    fine = cv2.resize(smooth, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR)
    mask = fine > level
    if not mask.any() or mask.all():
        return 0.0
    # What lies along the image's edge goes on beyond it: its width is that of the part that is seen.
    far = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    down, across = slopes(far)
    centre = mask & (down**2 + across**2 < LEVEL**2)
    # From a pixel's middle to the middle of the first one outside, half a pixel too far; the line itself lies up to
    # half a pixel beside, a quarter on average.
    return float(np.median(2 * far[centre] - 0.5)) / FINER if centre.any() else 0.0


def slopes(plane: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Slope of (H, W) downwards and to the right, per px, by central differences."""
    down, across = (cv2.Sobel(plane, cv2.CV_32F, *order, ksize=1, scale=0.5) for order in ((0, 1), (1, 0)))
    return down, across


def orientation(smooth: NDArray[Any]) -> tuple[float, float]:
    """(angle in degrees, coherence) of the whole of (H, W), see `Measured`."""
    down, across = slopes(smooth)
    yy, xx, xy = (float((a * b).mean(dtype=np.float64)) for a, b in ((down, down), (across, across), (down, across)))
    coherence = math.hypot(xx - yy, 2 * xy) / (xx + yy)
    angle = math.degrees(math.atan2(2 * xy, xx - yy)) / 2 + 90  # the fibres' slope is across them
    return angle % 180, coherence


def table(images: Iterable[Image]) -> Table:
    """(n, PROPERTIES) of n images."""
    found = [[getattr(one, name) for name in PROPERTIES] for one in map(measure, images)]
    return np.array(found, np.float64).reshape(-1, len(PROPERTIES))
