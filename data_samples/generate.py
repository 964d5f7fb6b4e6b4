"""Draws SEM-like images of electrospun nanofibres, normal or with a defect, and the exact mask of the defect.

    python data_samples/generate.py --out data_samples --seed 0

A picture is a pile of items (fibres, and the defect's parts) painted from the deepest to the topmost. Fibres are curved
tubes with the bright edges of a secondary-electron image, a tilt of light across them, and a shadow on what lies
beneath. The same pile is painted with and without the defect, and the mask is where the two differ by more than noise.
Everything is a function of the seed. The stacks of slices in volumes/ are drawn by `foam.py`.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import foam
import numpy as np
import tifffile
from scipy import ndimage

HEIGHT, WIDTH, BAR = 384, 512, 40  # px
PIXEL_SIZE = 25e-9  # m
THRESHOLD = 12.0  # grey levels of 255: a change below this is lost in the noise
SPECK = 24  # px: smaller pieces of a mask are dropped, smaller holes in it are filled

Array = np.ndarray


class Item(Protocol):
    """Something in the pile."""

    @property
    def depth(self) -> float:
        """0 at the top of the pile, 1 at its bottom."""

    def paint(self, canvas: Array) -> None:
        """Paints itself over canvas, float32 (H, W) in [0, 1], in place."""


def _brightness(depth: float | Array) -> float | Array:
    """Electrons from deep in the pile seldom reach the detector."""
    return 1.1 * np.exp(-3.2 * depth**1.3)


def _cover(canvas: Array, where: tuple[Array, ...] | tuple[slice, slice], alpha: Array, grey: Array) -> None:
    canvas[where] += alpha * (grey - canvas[where])


@dataclass(frozen=True)
class Fibre:
    """A tube: centre line v(u) = offset + sum of sines; u along it, v across, from the image's centre (px)."""

    depth: float
    angle: float  # radians
    offset: float
    radius: float
    waves: tuple[tuple[float, float, float], ...]  # amplitude (px), wave number (1/px), phase
    nodes: tuple[tuple[float, float, float], ...]  # the same for the radius, amplitude relative
    shade: float  # factor on the brightness
    bulges: tuple[tuple[float, float, float], ...] = ()  # beads: place u, height and half-length (px)
    gap: tuple[float, float] | None = None  # broken from u to u
    centre: tuple[float, float] = (0.0, 0.0)  # y, x of the image's centre

    def line(self, u: Array) -> tuple[Array, Array]:
        """Centre line v and its slope at u."""
        v, slope = np.full_like(u, self.offset), np.zeros_like(u)
        for amplitude, k, phase in self.waves:
            v += amplitude * np.sin(k * u + phase)
            slope += amplitude * k * np.cos(k * u + phase)
        return v, slope

    def width(self, u: Array) -> Array:
        """Radius at u."""
        r = np.full_like(u, self.radius)
        for amplitude, k, phase in self.nodes:
            r += self.radius * amplitude * np.sin(k * u + phase)
        for place, height, half in self.bulges:
            r += height * np.exp(-(((u - place) / half) ** 2))
        return r

    def point(self, u: float) -> tuple[float, float]:
        """Pixel (y, x) of the centre line at u."""
        v = float(self.line(np.array([u]))[0][0])
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.centre[0] + u * s + v * c, self.centre[1] + u * c - v * s

    def across(self, shape: tuple[int, int], reach: float) -> tuple[tuple[Array, Array], Array, Array, Array]:
        """Pixels nearer than reach to the surface: their indices, u, signed distance to the centre line, and radius."""
        y = np.arange(shape[0], dtype=np.float32)[:, None] - self.centre[0]
        x = np.arange(shape[1], dtype=np.float32)[None] - self.centre[1]
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        sway = sum(a for a, _, _ in self.waves) + sum(h for _, h, _ in self.bulges) + 1.3 * self.radius + reach
        where = np.nonzero(np.abs(y * c - x * s - np.float32(self.offset)) < sway)
        u = x[0, where[1]] * c + y[where[0], 0] * s
        v, slope = self.line(u)
        d = (y[where[0], 0] * c - x[0, where[1]] * s - v) / np.sqrt(1 + slope**2)
        r = self.width(u)
        near = np.abs(d) < r + reach
        return (where[0][near], where[1][near]), u[near], d[near], r[near]

    def surface(self, t: Array) -> Array:
        """Grey at t = distance / radius in [-1, 1]: edges emit more electrons, and one flank faces the detector."""
        flank = np.cos(self.angle) * 0.8 - np.sin(self.angle) * 0.6
        profile = 0.84 + 0.17 * np.abs(t) ** 3 - 0.11 * flank * t - 0.2 * np.clip((np.abs(t) - 0.84) / 0.16, 0, 1)
        return self.shade * _brightness(self.depth) * profile

    def paint(self, canvas: Array) -> None:
        where, u, d, r = self.across(canvas.shape, 14.0)
        gone = np.zeros_like(u)
        if self.gap is not None:  # rounded ends
            middle, half = (self.gap[0] + self.gap[1]) / 2, (self.gap[1] - self.gap[0]) / 2
            inward = half - np.abs(u - middle)  # > 0 inside the gap
            end = r * (1 - np.sqrt(np.clip(1 - (d / r) ** 2, 0, 1)))
            gone = np.clip(inward + end + 0.5, 0, 1)
        out = np.clip(np.abs(d) - r, 0, None)
        canvas[where] *= 1 - (1 - gone) * 0.42 * np.exp(-out / 4.5)
        grey = self.surface(np.clip(d / r, -1, 1))
        for place, height, half in self.bulges:  # a thick smooth body sends out fewer electrons than an edge
            grey *= 1 - 0.022 * min(height, 9) * np.exp(-(((u - place) / half) ** 2)) * (1 - (d / r) ** 4)
        _cover(canvas, where, (1 - gone) * np.clip(r - np.abs(d) + 0.5, 0, 1), grey)


@dataclass(frozen=True)
class Web:
    """Two crossing fibres melted together: the smooth union of both tubes around (y, x)."""

    depth: float
    first: Fibre
    second: Fibre
    at: tuple[float, float]
    reach: float  # px
    melt: float  # px: how far the union fills the corners

    def paint(self, canvas: Array) -> None:
        h, w = canvas.shape
        far = np.full((2, h, w), 99.0, np.float32)
        for plane, fibre in zip(far, (self.first, self.second), strict=True):
            where, _, d, r = fibre.across((h, w), 40.0)
            plane[where] = np.abs(d) - r
        y, x = np.mgrid[:h, :w].astype(np.float32)
        local = np.exp(-(((y - self.at[0]) ** 2 + (x - self.at[1]) ** 2) / self.reach**2))
        k = 0.3 + self.melt * local
        lower = far.min(0)
        union = lower - k * np.log1p(np.exp(-np.abs(far[0] - far[1]) / k))  # <= both, so it fills the corners
        alpha = np.clip(0.5 - union, 0, 1) * np.clip(4 * local - 0.4, 0, 1)
        out = np.clip(union, 0, 40)
        canvas *= 1 - 0.42 * np.clip(4 * local - 0.4, 0, 1) * np.exp(-out / 4.5)
        grey = self.first.surface(np.clip(1 + union / self.first.radius, 0, 1))
        _cover(canvas, (slice(0, h), slice(0, w)), alpha, grey)


@dataclass(frozen=True)
class Film:
    """A thin membrane stretched between the fibres above it; what lies below shines through."""

    depth: float
    at: tuple[float, float]
    size: float  # px, mean radius
    lobes: tuple[tuple[float, int, float], ...]  # cusps where a fibre pulls: amplitude, count, phase
    alpha: float
    grey: float
    tilt: tuple[float, float]  # change of grey per px down and right

    def paint(self, canvas: Array) -> None:
        y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
        y, x = y - self.at[0], x - self.at[1]
        phi, radius = np.arctan2(y, x), np.hypot(y, x)
        edge = self.size * (1 + sum(a * (1 - 1.6 * np.abs(np.sin(n * phi / 2 + p))) for a, n, p in self.lobes))
        inside = edge - radius
        wrinkle = 0.035 * np.sin((0.23 * x + 0.31 * y) + 2.2 * np.sin(0.045 * x - 0.06 * y))
        grey = self.grey + self.tilt[0] * y + self.tilt[1] * x + wrinkle + 0.12 * np.exp(-np.abs(inside) / 1.6)
        everywhere = (slice(0, canvas.shape[0]), slice(0, canvas.shape[1]))
        _cover(canvas, everywhere, self.alpha * np.clip(inside + 0.5, 0, 1), np.clip(grey, 0, 1))


@dataclass(frozen=True)
class Clump:
    """Dust: a heap of fused grains, bright on their edges, dark in the crevices between them."""

    depth: float
    grains: tuple[tuple[float, float, float, float, float, float], ...]  # y, x, height, radius, squeeze, angle
    shade: float

    def paint(self, canvas: Array) -> None:
        h, w = canvas.shape
        y, x = np.mgrid[:h, :w].astype(np.float32)
        top = np.zeros((h, w), np.float32)
        inside = np.full((h, w), -99.0, np.float32)
        for cy, cx, z, r, squeeze, angle in self.grains:
            t, b = max(0, int(cy - 2 * r - 3)), min(h, int(cy + 2 * r + 4))
            lo, hi = max(0, int(cx - 2 * r - 3)), min(w, int(cx + 2 * r + 4))
            if t >= b or lo >= hi:
                continue
            box = (slice(t, b), slice(lo, hi))
            c, s = np.cos(angle), np.sin(angle)
            u = ((x[box] - cx) * c + (y[box] - cy) * s) * squeeze
            v = ((y[box] - cy) * c - (x[box] - cx) * s) / squeeze
            q = np.hypot(u, v) / r
            top[box] = np.maximum(top[box], np.where(q < 1, z + r * np.sqrt(np.clip(1 - q**2, 0, 1)), 0))
            inside[box] = np.maximum(inside[box], r * (1 - q))
        smooth = cv2.GaussianBlur(top, (0, 0), 0.6)
        slope = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)) / 8
        hollow = cv2.GaussianBlur(top, (0, 0), 2.2) - smooth
        lit = ndimage.sobel(smooth, 0) * 0.6 + ndimage.sobel(smooth, 1) * 0.8
        profile = 0.78 + 0.20 * np.tanh(0.8 * slope) - 0.16 * np.clip(hollow, -0.8, 2.5) - 0.014 * np.clip(lit, -8, 8)
        shadow = cv2.GaussianBlur((inside > 0).astype(np.float32), (0, 0), 5.0)
        canvas *= 1 - 0.5 * shadow
        grey = np.clip(self.shade * _brightness(self.depth) * profile, 0.03, 1)
        _cover(canvas, (slice(0, h), slice(0, w)), np.clip(inside + 0.5, 0, 1), grey)


@dataclass(frozen=True)
class Streak:
    """Charging: lines scanned over a charged spot are lifted towards one grey and relax along the scan direction."""

    depth: float
    rows: tuple[tuple[int, float, float, float], ...]  # row, first column, relaxation length (px), strength
    grey: float

    def paint(self, canvas: Array) -> None:
        x = np.arange(canvas.shape[1], dtype=np.float32)
        for row, start, length, strength in self.rows:
            if 0 <= row < canvas.shape[0]:
                onset = np.clip((x - start) / 6 + 0.5, 0, 1)
                alpha = strength * onset * np.exp(-np.clip(x - start, 0, None) / length)
                canvas[row] += alpha * (self.grey - canvas[row])


Pile = list[Item]


def _waves(rng: np.random.Generator, lengths: Array, largest: float | Array) -> tuple[tuple[float, float, float], ...]:
    """Sines of those wave lengths (px): amplitude up to largest, wave number, phase."""
    amplitudes, phases = rng.uniform(0, largest, len(lengths)), rng.uniform(0, 2 * np.pi, len(lengths))
    parts = zip(amplitudes, 2 * np.pi / lengths, phases, strict=True)
    return tuple((float(amplitude), float(k), float(phase)) for amplitude, k, phase in parts)


def draw_fibres(rng: np.random.Generator, height: int, width: int) -> Pile:
    """A pile of normal fibres for an image of height x width px."""
    diagonal = float(np.hypot(height, width))
    pile: Pile = []
    for depth in np.sort(rng.uniform(0, 1, round(0.36 * diagonal)))[::-1] ** 0.85:
        bends = np.array([*rng.uniform(180, 900, 3), rng.uniform(50, 120)])
        fibre = Fibre(
            depth=float(depth),
            angle=rng.uniform(0, np.pi),
            offset=rng.uniform(-0.5, 0.5) * diagonal,
            radius=float(np.clip(rng.normal(5.1, 0.6), 4.0, 6.8) * (1 - 0.2 * depth)),
            waves=_waves(rng, bends, 0.01 * bends),
            nodes=_waves(rng, rng.uniform(16, 80, 4), 0.05),
            shade=rng.uniform(0.86, 1.1),
            centre=((height - 1) / 2, (width - 1) / 2),
        )
        pile.append(fibre)
        if rng.random() < 0.08:  # fibres like to run side by side for a while
            pile.append(
                replace(
                    fibre,
                    angle=fibre.angle + rng.normal(0, 0.03),
                    offset=fibre.offset + float(rng.choice([-1, 1])) * fibre.radius * rng.uniform(1.5, 2.2),
                    radius=fibre.radius * rng.uniform(0.8, 1.1),
                    shade=fibre.shade * rng.uniform(0.92, 1.05),
                )
            )
    return pile


def render(pile: Pile, height: int, width: int) -> Array:
    """The pile without noise: float32 (height, width) in [0, 255]."""
    canvas: Array = np.full((height, width), 0.012, np.float32)
    focus = [0.75, 0.5, 0.3]  # what lies deeper than these is a little out of focus
    for item in sorted(pile, key=lambda item: -item.depth):
        while focus and item.depth < focus[0]:
            canvas = cv2.GaussianBlur(canvas, (0, 0), 0.5)
            focus.pop(0)
        item.paint(canvas)
    soft = cv2.GaussianBlur(canvas, (0, 0), 0.6)
    return np.clip(255 * (soft + 0.008), 0, 252).astype(np.float32)


def expose(clean: Array, rng: np.random.Generator) -> Array:
    """Shot noise, a slight flicker of scan lines and the detector's noise; float32 in [0, 255].

    The same rng state gives the same noise to two pictures, apart from its growth with the signal.
    """
    shot, dark = rng.standard_normal((2, *clean.shape))
    line = rng.standard_normal((clean.shape[0], 1))
    noisy = clean + 0.28 * np.sqrt(clean) * shot + 1.2 * dark + 0.006 * clean * line + 0.35 * line
    return np.clip(noisy, 0, 255).astype(np.float32)


def draw(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """One normal picture: float32 (height, width), grey in [0, 255]."""
    return expose(render(draw_fibres(rng, height, width), height, width), rng)


def _fibres(rng: np.random.Generator, pile: Pile, low: float, high: float) -> list[tuple[int, Fibre]]:
    """The fibres of that depth and their places in the pile, in random order."""
    found = [(i, item) for i, item in enumerate(pile) if isinstance(item, Fibre) and low <= item.depth <= high]
    return [found[k] for k in rng.permutation(len(found))]


def _inside(point: tuple[float, float], shape: tuple[int, int], margin: int = 40) -> bool:
    return all(margin <= at < side - margin for at, side in zip(point, shape, strict=True))


def _choose(
    rng: np.random.Generator, pile: Pile, low: float, high: float, shape: tuple[int, int]
) -> tuple[int, Fibre, float]:
    """A fibre of that depth, its index, and a place u on it away from the border."""
    for i, fibre in _fibres(rng, pile, low, high):
        for u in rng.uniform(-0.5, 0.5, 50) * np.hypot(*shape):
            if _inside(fibre.point(u), shape):
                return i, fibre, float(u)
    raise ValueError(f"no fibre at depth {low} to {high} inside a {shape[0]}x{shape[1]} picture: enlarge it")


def _beads(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """Droplets on one or two fibres."""
    pile = list(pile)
    for _ in range(2):
        i, fibre, u = _choose(rng, pile, 0.0, 0.2, shape)
        bulge = (u, rng.uniform(7, 10) * size, rng.uniform(11, 16) * size)
        pile[i] = replace(fibre, bulges=(*fibre.bulges, bulge))
    return pile


def _broken(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """A top fibre with a piece missing, its ends swollen."""
    pile = list(pile)
    i, fibre, u = _choose(rng, pile, 0.0, 0.12, shape)
    half = rng.uniform(11, 15) * size
    ends = tuple((u + side * (half + 6), rng.uniform(4, 6) * size, 8.0) for side in (-1, 1))
    pile[i] = replace(fibre, gap=(u - half, u + half), bulges=(*fibre.bulges, *ends))
    return pile


def _fused(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """Two places where top fibres cross at an acute angle, their corners filled."""
    us = np.linspace(-0.5, 0.5, 160) * np.hypot(*shape)
    lines = [(fibre, np.array([fibre.point(u) for u in us])) for _, fibre in _fibres(rng, pile, 0.0, 0.25)]
    webs: Pile = []
    for n, (first, a) in enumerate(lines):
        for second, b in lines[:n]:
            apart = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
            y, x = a[np.unravel_index(apart.argmin(), apart.shape)[0]]
            acute = 0.3 < abs(np.sin(first.angle - second.angle)) < 0.8
            if acute and apart.min() < 4 and _inside((y, x), shape):
                webs.append(Web(min(first.depth, second.depth) - 1e-6, first, second, (y, x), 30 * size, 11 * size))
                break
        if len(webs) == 2:
            break
    return [*pile, *webs]


def _film(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """Two membranes below the top fibres."""
    films: Pile = []
    for _ in range(2):
        y, x = rng.uniform(0.15, 0.85, 2) * shape
        lobes = tuple((rng.uniform(0.12, 0.28), n, rng.uniform(0, np.pi)) for n in (2, 3, 5))
        down, right = rng.normal(0, 0.0025, 2)
        films.append(
            Film(0.08, (y, x), 44 * size, lobes, rng.uniform(0.8, 0.92), rng.uniform(0.45, 0.6), (down, right))
        )
    return [*pile, *films]


def _dust(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """Granular clusters resting on fibres."""
    pile = list(pile)
    for part in range(2):
        _, fibre, u = _choose(rng, pile, 0.03, 0.2, shape)
        cy, cx = fibre.point(u)
        extent = rng.uniform(20, 27) * size * (0.7 if part else 1.0)
        stretch, turn = rng.uniform(1.0, 1.5), rng.uniform(0, np.pi)
        grains = []
        for _ in range(int(0.62 * extent**2) + 8):
            q, phi = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            a, b = extent * q * np.cos(phi) * stretch, extent * q * np.sin(phi) / stretch
            y, x = cy + a * np.sin(turn) + b * np.cos(turn), cx + a * np.cos(turn) - b * np.sin(turn)
            z = 0.4 * extent * np.sqrt(1 - q**2) + rng.normal(0, 1.0) + 3
            grains.append((y, x, z, rng.uniform(1.6, 3.4), rng.uniform(1, 1.5), rng.uniform(0, np.pi)))
        pile.append(Clump(max(0.0, fibre.depth - 0.02), tuple(grains), rng.uniform(1.0, 1.1)))
    return pile


def _charging(rng: np.random.Generator, pile: Pile, shape: tuple[int, int], size: float) -> Pile:
    """Horizontal streaks behind charged spots."""
    rows: list[tuple[int, float, float, float]] = []
    for _ in range(2):
        row = int(rng.uniform(0.15, 0.85) * shape[0])
        start = rng.uniform(0.1, 0.6) * shape[1]
        for k in range(int(rng.integers(8, 13) * size)):
            rows.append((row + k, start + rng.normal(0, 5), rng.uniform(60, 90), rng.uniform(0.6, 1.0)))
    return [*pile, Streak(-1.0, tuple(rows), 0.95)]


DEFECTS: dict[str, Callable[[np.random.Generator, Pile, tuple[int, int], float], Pile]] = {
    "bead": _beads,
    "broken": _broken,
    "charging": _charging,
    "dust": _dust,
    "film": _film,
    "fused": _fused,
}


def add_defect(rng: np.random.Generator, pile: Pile, kind: str, height: int, width: int, size: float = 1.0) -> Pile:
    """The pile with a defect of that kind (a key of DEFECTS); size 1 is obvious, 0.6 subtle. Changes no argument."""
    if kind not in DEFECTS:
        raise ValueError(f"unknown kind of defect {kind!r}: take one of {', '.join(DEFECTS)}")
    return DEFECTS[kind](rng, pile, (height, width), size)


def mask_of(with_defect: Array, without: Array) -> Array:
    """bool (H, W): where two noise-free pictures differ by more than THRESHOLD; specks dropped, pinholes filled."""

    def small(of: Array) -> Array:
        labels, count = ndimage.label(of)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        return of & (sizes[labels] < SPECK)

    mask = np.abs(with_defect - without) > THRESHOLD
    mask &= ~small(mask)
    return mask | small(~mask)


def draw_defect(
    rng: np.random.Generator, kind: str, height: int = HEIGHT, width: int = WIDTH, size: float = 1.0
) -> tuple[Array, Array, Array]:
    """A picture with a defect, the same without it under the same noise, float32 (H, W) in [0, 255]; the mask, bool."""
    pile = draw_fibres(rng, height, width)
    clean = render(pile, height, width)
    for _ in range(50):
        spoilt = render(add_defect(rng, pile, kind, height, width, size), height, width)
        mask = mask_of(spoilt, clean)
        if mask.sum() > 900 * size**2:  # else most of it lies under other fibres
            break
    else:
        raise ValueError(f"no visible defect of kind {kind!r} in 50 tries on a {height}x{width} picture: enlarge it")
    seed = int(rng.integers(2**31))
    return expose(spoilt, np.random.default_rng(seed)), expose(clean, np.random.default_rng(seed)), mask


def add_bar(image: Array, pixel_size: float = PIXEL_SIZE) -> Array:
    """The picture with an info bar of BAR rows below it. pixel_size in metres; at least 400 px wide."""
    width = image.shape[1]
    bar = np.full((BAR, width), 8, np.uint8)
    field = width * pixel_size * 1e6
    step = max(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if s < 0.3 * field)  # um
    length = round(step * 1e-6 / pixel_size)

    def text(words: str, x: int, y: int) -> None:
        cv2.putText(bar, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, 235, 1, cv2.LINE_AA)

    columns = (("HV", "15.00 kV"), ("mag", f"{0.298 / (width * pixel_size):.0f} x"), ("HFW", f"{field:.1f} um"))
    for k, (name, value) in enumerate((*columns, ("WD", "6.1 mm"), ("det", "ETD"))):
        text(name, 6 + 68 * k, 15)
        text(value, 6 + 68 * k, 32)
    left = width - length - 10
    bar[24:27, left : left + length] = 235
    bar[20:31, [left, left + length - 1]] = 235
    text(f"{step:g} um", left + length // 2 - 16, 14)
    bar[0] = 150
    return np.concatenate([image, bar.astype(image.dtype)])


def fei_metadata(height: int, width: int, bar: int, pixel_size: float = PIXEL_SIZE) -> str:
    """What an FEI Helios writes into TIFF tag 34682, in short: INI text, lengths in metres."""
    return "\r\n".join(
        [
            "[User]",
            "UserText=synthetic nanofibres",
            "[System]",
            "SystemType=Helios NanoLab",
            "[Beam]",
            "HV=15000",
            "Beam=EBeam",
            "[EScan]",
            f"PixelWidth={pixel_size:.6e}",
            f"PixelHeight={pixel_size:.6e}",
            f"HorFieldsize={width * pixel_size:.6e}",
            f"VerFieldsize={height * pixel_size:.6e}",
            "[Scan]",
            f"PixelWidth={pixel_size:.6e}",
            f"PixelHeight={pixel_size:.6e}",
            f"HorFieldsize={width * pixel_size:.6e}",
            f"VerFieldsize={height * pixel_size:.6e}",
            "Dwelltime=3e-06",
            "[Stage]",
            "WorkingDistance=0.0061",
            "[Image]",
            f"ResolutionX={width}",
            f"ResolutionY={height}",
            "[Detectors]",
            "Name=ETD",
            "[PrivateFei]",
            f"DatabarHeight={bar}",
            "",
        ]
    )


def to_8_bit(image: Array) -> Array:
    return np.round(image).astype(np.uint8)


TEST = (  # kind, size: 1 is obvious, 0.6 subtle
    ("bead", 1.2),
    ("bead", 0.9),
    ("broken", 1.0),
    ("charging", 1.0),
    ("dust", 1.2),
    ("dust", 0.9),
    ("dust", 0.6),
    ("film", 1.0),
    ("film", 0.75),
    ("fused", 1.0),
)


def pictures(seed: int = 0) -> Iterator[tuple[str, Array]]:
    """Path and pixels of every picture of the set: uint8, or uint16 for the TIFF; the extra ones carry an info bar."""
    streams = iter(np.random.default_rng(seed).spawn(40))
    for folder, count in (("train/good", 6), ("test/good", 4)):
        for n in range(count):
            yield f"{folder}/{n:03d}.png", to_8_bit(draw(next(streams)))
    for n, (kind, size) in enumerate(TEST):
        image, _, mask = draw_defect(next(streams), kind, size=size)
        stem = f"{n - [k for k, _ in TEST].index(kind):03d}"
        yield f"test/{kind}/{stem}.png", to_8_bit(image)
        yield f"ground_truth/{kind}/{stem}_mask.png", mask.astype(np.uint8) * 255
    yield "extra/info_bar.png", add_bar(to_8_bit(draw(next(streams))))
    yield "extra/fei_16_bit.tif", np.round(add_bar(draw(next(streams))) * 257).astype(np.uint16)


def write(out: Path, seed: int = 0) -> list[Path]:
    """Writes the set below out and returns the paths."""
    paths = []
    for name, picture in pictures(seed):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            buffer = io.BytesIO()
            text = fei_metadata(picture.shape[0] - BAR, picture.shape[1], BAR)
            per_cm = 0.01 / PIXEL_SIZE
            tags = [(34682, "s", 0, text, True)]
            tifffile.imwrite(
                buffer, picture, extratags=tags, metadata=None, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER"
            )
            path.write_bytes(buffer.getvalue())
        else:
            path.write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
        paths.append(path)
    for name, stack in foam.stacks(seed):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, stack, compression="zlib", compressionargs={"level": 9}, predictor=True, metadata=None)
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="the committed set has seed 0")
    arguments = parser.parse_args()
    paths = write(arguments.out, arguments.seed)
    print(f"{len(paths)} files, {sum(p.stat().st_size for p in paths) / 1e6:.1f} MB, in {arguments.out}")


if __name__ == "__main__":
    main()
