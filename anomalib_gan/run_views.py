"""Which of a run's images are looked at once it has trained, and what of them: views, maps and their middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan import data
from anomalib_gan.model import Model

LOOKED_PIXELS = 2**24
LOOKED_SIDE = 2048  # px, the largest side that is taken of each
LOOKED_CUBE = 96  # the same of volumes, in voxels
PICTURED = 256  # px, side of the patches in reconstructions.png


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spread."""
    return [items[k] for k in sorted({round(k) for k in np.linspace(0, len(items) - 1, min(count, len(items)))})]


def views(regions: Sequence[Tensor], model: Model, device: torch.device) -> list[Tensor]:
    """Some of the regions, evenly spread, as (1, C, H, W) in [-1, 1]: the middle up to LOOKED_SIDE, or LOOKED_CUBE.

    As many as the model looks at, or as have LOOKED_PIXELS together, but not under eight for that.
    """
    side = LOOKED_SIDE if model.dim == 2 else LOOKED_CUBE
    largest = max((min(region[0].numel(), side**model.dim) for region in regions), default=1)
    count = min(model.looked_at, max(8, LOOKED_PIXELS // largest))
    found = []
    for region in spread(regions, count):
        wanted = [min(size, side) // model.stride * model.stride for size in region.shape[1:]]
        begins = [(size - want) // 2 for size, want in zip(region.shape[1:], wanted, strict=True)]
        middle = tuple(slice(begin, begin + want) for begin, want in zip(begins, wanted, strict=True))
        x = data.signed(region[(slice(None), *middle)].to(device))
        found.append(x.expand(model.channels, *wanted)[None].contiguous())
    return found


@torch.no_grad()
def maps_of(model: Model, images: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """The maps of normal images, and their fixed scale [low, high]; a FloatingPointError where one is not finite."""
    maps = [model.anomaly_map(x).float().cpu() for x in images]
    values = torch.cat([one.flatten() for one in maps]).numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("the map of a normal image is not finite: train with another seed or learning rate")
    return maps, [float(q) for q in np.percentile(values, (1, 99.9))]


@torch.no_grad()
def middle(x: Tensor, found: Tensor, model: Model) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The middle PICTURED pixels of an image (C, h, w), of its reconstruction, where the model has one, and its map; of
    volumes the middle slice.
    """
    reconstruct = getattr(model, "reconstruct", None)
    again = None if reconstruct is None else reconstruct(x)
    top, left = (max(0, side - PICTURED) // 2 for side in x.shape[-2:])

    def cut(picture: Tensor) -> np.ndarray:
        shown = sliced(picture, model.dim)[..., top : top + PICTURED, left : left + PICTURED]
        return shown.float().cpu().numpy()

    return cut(x[0]), None if again is None else cut(again[0]), cut(found[0, 0])


def sliced(x: Tensor, dim: int) -> Tensor:
    """Of volumes (..., D, H, W), which have dim 3, the middle slice (..., H, W); images as they are."""
    return x[..., x.shape[-3] // 2, :, :] if dim == 3 else x
