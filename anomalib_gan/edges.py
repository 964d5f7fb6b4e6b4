"""Values by distance from the edge of an image, where networks see less than elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

RINGS = 4  # of places along the image's edge, each with values of its own


def depths(field: Tensor) -> Tensor:
    """Distance of every place of (N, C, h, w) from the edge, (1, 1, h, w), in places and at most RINGS."""
    ones = torch.ones_like(field[:1, :1])
    found = torch.zeros_like(ones)
    for ring in range(1, RINGS + 1):
        side = 2 * ring + 1  # a window that hangs over the edge by one row lacks 1 / side of its places, or more
        found = found + (side * (avg_pool2d(ones, side, stride=1, padding=ring) - 1) + 1).clamp(0, 1)
    return found


def along(values: Tensor, field: Tensor) -> Tensor:
    """(3, RINGS + 1) by distance from the edge -> (1, 3, h, w) for the places of a field, in between linear."""
    depth, found = depths(field), values[:, :1, None]
    for ring in range(RINGS):
        step = (values[:, ring + 1] - values[:, ring])[:, None, None]
        found = found + step * (depth - ring).clamp(0, 1)
    return found
