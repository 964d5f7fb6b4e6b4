"""Draws stacks of slices of an open-pored foam as a tomograph would show it, normal or with a void, and its mask.

A smooth random field is cut at a level: what lies below it is pore. Grey levels go from pore to wall over about a
voxel, the walls are lit a little unevenly along the depth, and each slice has its own noise. A void is a lump in which
the field is pushed far below the level, so that the walls there are gone; its mask is that lump. `generate.py` writes
the set; everything is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

POROSITY = 0.35  # share of pore voxels
PORE = 2.4  # voxels: sigma of the field, of which a pore is about three wide
DARK, BRIGHT = 52.0, 172.0  # grey levels of pore and of wall
MIDDLE = (DARK + BRIGHT) / 2  # what is darker is pore
NOISE = 2.0  # grey levels
TRAIN, TEST = (64, 80, 96), (48, 64, 64)  # depth, height, width of the stacks

Array = np.ndarray


def field(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A smooth Gaussian field (D, H, W) of mean 0 and variance 1."""
    rough = rng.standard_normal([size + 16 for size in shape])
    smooth = ndimage.gaussian_filter(rough, PORE)[tuple(slice(8, 8 + size) for size in shape)]
    return smooth / np.sqrt((2 * np.sqrt(np.pi) * PORE) ** -3)  # the variance that the filter leaves of white noise


def lump(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> Array:
    """Signed distance (D, H, W) in voxels, roughly, to the surface of an uneven ball well within; above 0 inside."""
    centre = [rng.uniform(radius + 2, size - radius - 3) for size in shape]
    axes = np.meshgrid(*(np.arange(size) - middle for size, middle in zip(shape, centre, strict=True)), indexing="ij")
    squeeze = rng.uniform(0.85, 1.15, 3)
    distance = np.sqrt(sum((axis * s) ** 2 for axis, s in zip(axes, squeeze, strict=True)))
    return radius + 1.2 * field(rng, shape) - distance


def expose(walls: Array, rng: np.random.Generator) -> Array:
    """The share of wall in each voxel, in [0, 1] -> uint8 (D, H, W)."""
    depth = np.linspace(-1, 1, len(walls))[:, None, None]
    grey = DARK + (BRIGHT - DARK) * walls * (1 + 0.03 * depth)
    return np.clip(np.round(grey + NOISE * rng.standard_normal(walls.shape)), 0, 255).astype(np.uint8)


def walls_of(height: Array) -> Array:
    """The share of wall (D, H, W) by the field: 1/2 where it lies at the level that leaves POROSITY below."""
    level = -0.38532  # the quantile of a standard normal variable for POROSITY
    return 1 / (1 + np.exp(-(height - level) * 6))


def draw(rng: np.random.Generator, shape: tuple[int, ...] = TRAIN) -> Array:
    """A normal stack, uint8 (D, H, W)."""
    return expose(walls_of(field(rng, shape)), rng)


def draw_void(
    rng: np.random.Generator, shape: tuple[int, ...] = TEST, radius: float = 11.0
) -> tuple[Array, Array, Array]:
    """A stack with a void, the same without it under the same noise, uint8 (D, H, W), and the mask, bool."""
    normal, void = field(rng, shape), lump(rng, shape, radius)
    spoilt = normal - 6 / (1 + np.exp(-6 * void))
    seed = int(rng.integers(2**31))
    pair = (expose(walls_of(one), np.random.default_rng(seed)) for one in (spoilt, normal))
    return (*pair, void > 0)


def stacks(seed: int = 0) -> Iterator[tuple[str, Array]]:
    """Path and voxels of every stack of the set; masks are 0 and 255."""
    streams = iter(np.random.default_rng([seed, 3]).spawn(8))
    for n in range(2):
        yield f"volumes/train/good/{n:03d}.tif", draw(next(streams))
    yield "volumes/test/good/000.tif", draw(next(streams), TEST)
    for n, radius in enumerate((12.0, 8.0)):
        spoilt, _, mask = draw_void(next(streams), radius=radius)
        yield f"volumes/test/void/{n:03d}.tif", spoilt
        yield f"volumes/ground_truth/void/{n:03d}_mask.tif", mask.astype(np.uint8) * 255
