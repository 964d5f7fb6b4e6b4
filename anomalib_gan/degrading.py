"""What restoration undoes, a known degradation, and the plain filters that it has to beat.

    y = m . (k * x) + n,   k: a Gaussian, m: 0 in the hole and 1 elsewhere, n ~ N(0, noise^2)

Filters: non-local means (Buades et al., 2005), Wiener's deconvolution (1949), inpainting after Telea (2004) and by
Navier-Stokes (Bertalmio et al., 2001); Gaussian, median and unsharp mask. All but Wiener's are OpenCV's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan.residuals import gaussian, smooth
from anomalib_gan.runtime.tiling import Box

STRENGTH = {"noise": 0.1, "blur": 2.0, "hole": 24.0}
"""Kinds of degradation, and how strong each is where nobody says: see `degradation`; of holes, their diameter in px."""
GRAIN = 0.01  # share of white, noise of a blurred image: without any, a blur could be undone by a division
APART = 128  # px: one hole to so many squared

Picture = NDArray[np.float32]  # (H, W, C) in [-1, 1]
Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Degradation:
    """`blur`: sigma in px, edges replicated. `noise`: its standard deviation as a share of white. `hole`: (N or 1, 1,
    H, W), true where nothing is known; mid-grey stands there.
    """

    blur: float = 0.0
    noise: float = 0.0
    hole: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What is linear in it, of images (N, C, H, W) in [-1, 1]: m . (k * x)."""
        seen = smooth(x, self.blur)
        return seen if self.hole is None else seen.masked_fill(self.hole, 0.0)

    def spoilt(self, x: Tensor, seed: int) -> Tensor:
        """y, not cut off at black and white: of N images, the noise of each is another."""
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
        y = self(x) + 2 * self.noise * noise
        return y if self.hole is None else y.masked_fill(self.hole, 0.0)

    def judged(self, x: Tensor) -> Tensor:
        """Where figures of a restoration count, (N, 1, H, W): in the hole or, without one, everywhere."""
        here = torch.ones_like(x[:, :1], dtype=torch.bool) if self.hole is None else self.hole
        return here.expand(len(x), -1, -1, -1)

    def within(self, window: Box) -> Degradation:
        """The same, of a part of the image."""
        if self.hole is None:
            return self
        top, left, bottom, right = window
        return replace(self, hole=self.hole[..., top:bottom, left:right])


def degradation(kind: str, strength: float, hole: Tensor | None = None) -> Degradation:
    """`strength`: of "noise" its standard deviation as a share of white; of "blur" sigma in px, with GRAIN as noise; of
    a "hole" nothing, for that is given.
    """
    if kind == "noise":
        return Degradation(noise=strength)
    return Degradation(blur=strength, noise=GRAIN) if kind == "blur" else Degradation(hole=hole)


def holes(height: int, width: int, side: float, seed: int) -> Tensor:
    """Round holes of the diameter `side`, one to APART x APART px, at random places: (1, 1, height, width)."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(max(1, height * width // APART**2)):
        centre = int(draw.integers(width)), int(draw.integers(height))
        cv2.circle(mask, centre, max(1, round(side / 2)), 1, cv2.FILLED)
    return torch.from_numpy(mask.astype(bool))[None, None]


class Filter(NamedTuple):
    """`apply` takes a picture, which may also be a difference of two, and its hole."""

    name: str
    setting: str
    apply: Callable[[Picture, Mask | None], Picture]


def filters(kind: str, A: Degradation) -> list[Filter]:
    """The plain filters that suit a kind of degradation, each with several settings."""
    if kind == "noise":
        return [*_gaussians(), *_medians(), *_non_local_means(255 * A.noise)]
    return [*_unsharp(A.blur), *_wiener(A.blur)] if kind == "blur" else list(_inpaint())


NOTHING = Filter("nothing", "", lambda picture, _: np.zeros_like(picture))


def _gaussians() -> Sequence[Filter]:
    def at(sigma: float) -> Filter:
        return Filter("Gaussian", f"sigma {sigma:g} px", lambda picture, _: _blurred(picture, sigma))

    return [at(sigma) for sigma in (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)]


def _medians() -> Sequence[Filter]:
    def of(side: int) -> Filter:
        return Filter(
            "median", f"{side} x {side} px", lambda picture, _: _each(picture, lambda c: cv2.medianBlur(c, side))
        )

    return [of(3), of(5)]


def _non_local_means(sigma: float) -> Sequence[Filter]:
    def of(h: float) -> Filter:
        def apply(picture: Picture, _: Mask | None) -> Picture:
            return _signed(_each(_bytes(picture), lambda c: cv2.fastNlMeansDenoising(c, None, h, 7, 21)))

        return Filter("non-local means", f"h {h:.3g} of 255", apply)

    return [of(share * sigma) for share in (0.4, 0.6, 0.8, 1.0, 1.2)]


def _unsharp(sigma: float) -> Sequence[Filter]:
    def by(amount: float) -> Filter:
        return Filter(
            "unsharp mask",
            f"amount {amount:g}",
            lambda picture, _: picture + amount * (picture - _blurred(picture, sigma)),
        )

    return [by(amount) for amount in (0.5, 1.0, 2.0, 4.0)]


def _wiener(sigma: float) -> Sequence[Filter]:
    def of(noise: float) -> Filter:
        return Filter("Wiener", f"noise to signal {noise:g}", lambda picture, _: wiener(picture, sigma, noise))

    return [of(noise) for noise in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)]


def _inpaint() -> Sequence[Filter]:
    def of(name: str, how: int, radius: int) -> Filter:
        def apply(picture: Picture, hole: Mask | None) -> Picture:
            assert hole is not None  # only what has a hole is inpainted
            spoilt = hole.astype(np.uint8)
            filled = _signed(_each(_bytes(picture), lambda c: cv2.inpaint(c, spoilt, radius, how)))
            return np.where(hole[..., None], filled, picture)

        return Filter(name, f"radius {radius} px", apply)

    ways = (("inpainting (Telea)", cv2.INPAINT_TELEA), ("inpainting (Navier-Stokes)", cv2.INPAINT_NS))
    return [of(name, how, radius) for name, how in ways for radius in (3, 6, 12)]


def wiener(picture: Picture, sigma: float, noise: float) -> Picture:
    """Undoes a Gaussian blur as far as `noise`, the ratio of its power to the signal's, allows; the mean stays."""
    kernel = gaussian(sigma, torch.ones(1, dtype=torch.float64)).numpy()
    edge = 2 * len(kernel)  # mirrored, so that what goes around the Fourier transform's edge is like what is there
    mean = picture.mean((0, 1), dtype=np.float64)
    wide = np.pad(picture - mean, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    line = [np.fft.fft(np.roll(np.pad(kernel, (0, n - len(kernel))), -(len(kernel) // 2))) for n in wide.shape[:2]]
    gain = np.outer(*line)[..., None]
    gain = gain.conj() / (np.abs(gain) ** 2 + noise)
    sharp = np.fft.ifft2(np.fft.fft2(wide, axes=(0, 1)) * gain, axes=(0, 1)).real
    return (sharp[edge:-edge, edge:-edge] + mean).astype(np.float32)


def _blurred(picture: Picture, sigma: float) -> Picture:
    return _each(picture, lambda c: cv2.GaussianBlur(c, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _each(picture: NDArray, apply: Callable[[NDArray], NDArray]) -> NDArray:
    """Channel by channel."""
    channels = [apply(np.ascontiguousarray(picture[..., c])) for c in range(picture.shape[2])]
    return np.stack(channels, -1)


def _bytes(picture: Picture) -> NDArray[np.uint8]:
    """In [-1, 1] -> grey levels of 8 bits, which is what some of OpenCV's filters take."""
    return np.clip(np.rint((picture + 1) * 127.5), 0, 255).astype(np.uint8)


def _signed(levels: NDArray[np.uint8]) -> Picture:
    return levels.astype(np.float32) / np.float32(127.5) - 1
