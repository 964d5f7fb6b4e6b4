"""The map of a model that makes each image again, as normal material would have it: what the two differ by."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from anomalib_gan.model import Model, whole_strides
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.residuals import RESIDUALS, smooth

WINDOW = 4  # radius of SSIM's window
ROUNDED = 2  # px that resizing reaches, with a pixel to spare


class Compared(Model):
    """map = r(s^, s), smoothed, for images s at the working scale and what is made of them, s^ = `rebuilt(s)`.

    `residual`: r, by its name in RESIDUALS; `smoothing`: sigma in working pixels; `shrink`: the working scale is
    1/shrink of the image.
    """

    residual: str
    smoothing: float
    shrink: int = 1

    def compare(self, residual: str, smoothing: float, reach: float) -> None:
        """How the map is made, once there is a stride. `reach`: working px from s to what it can change in s^."""
        self.residual, self.smoothing = residual, smoothing
        around = reach + ROUNDED + (WINDOW + 3 * smoothing if self.mapped is True else 0)
        self.halo = whole_strides(around * self.shrink, self.stride)

    def rebuilt(self, s: Tensor) -> Tensor:
        """s^ of (N, C, h, w), of the same shape."""
        raise NotImplementedError

    def missed(self, again: Tensor, s: Tensor) -> Tensor:
        """The map (N, 1, H, W), at the size of the image, of s and what was made of it."""
        if self.mapped is not True:
            raise ValueError(f"there is no map: {self.mapped}")
        return enlarge(smooth(RESIDUALS[self.residual](again, s), self.smoothing), self.shrink)

    def anomaly_map(self, x: Tensor) -> Tensor:
        s = shrink(x, self.shrink)
        return self.missed(self.rebuilt(s), s)

    def reconstruct(self, x: Tensor) -> Tensor:
        """s^, brought back to the size of x."""
        return enlarge(self.rebuilt(shrink(x, self.shrink)), self.shrink)


class Coded(Compared):
    """One whose s^ is made from a field of codes that can be looked at as well."""

    def coded(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The field of codes (N, code, h', w') of (N, C, h, w), and s^."""
        raise NotImplementedError

    def rebuilt(self, s: Tensor) -> Tensor:
        return self.coded(s)[1]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """s^ at the size of (N, C, H, W), the field of codes, and the map."""
        s = shrink(x, self.shrink)
        code, again = self.coded(s)
        return {"reconstruction": enlarge(again, self.shrink), "code": code, "residual": self.missed(again, s)}


class Translating(Coded):
    """One whose generator G, told to be a translator, learns from images of two domains and has no map."""

    G: Any  # network

    def translates(self, pairs: Literal["paired", "unpaired"]) -> None:
        self.pairs = pairs
        self.mapped = self.exportable = (
            "it translates images, which says nothing of how normal they are; `anomalib-gan translate` applies it"
        )

    def translate(self, x: Tensor) -> Tensor:
        """G(x), an image of the other domain; both (N, C, H, W) in [-1, 1]."""
        return enlarge(self.G(shrink(x, self.shrink)), self.shrink)
