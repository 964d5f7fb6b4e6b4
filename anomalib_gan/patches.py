"""Overlapping square patches of images, on a grid from their origin: their moments, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d

ROWS = 4096  # patches that are looked at together, which bounds the memory


def moments(images: Iterable[Tensor], side: int, step: int) -> tuple[Tensor, Tensor, float]:
    """Mean (n,) and covariance (n, n) in float64 of all patches, n = C side^2, of images (1, C, H, W), read once each.

    And how many independent patches that is: as many as would lie side by side, since what overlaps tells little new.
    """
    count, area, total, squares, level = 0, 0, None, None, 0.0
    for x in images:
        s = x.double()
        if total is None or squares is None:
            n = s.shape[1] * side**2
            total, squares = s.new_zeros(n), s.new_zeros(n, n)
            level = float(s.mean())  # sums of small numbers round less
        area += s.shape[-2] * s.shape[-1]
        view = (s - level).unfold(2, side, step).unfold(3, side, step)  # (1, C, rows, columns, side, side)
        for some in view.split(max(1, ROWS // view.shape[3]), 2):
            z = some.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (patches, n)
            count += len(z)
            total += z.sum(0)
            squares += z.T @ z
    if total is None or squares is None or count < 2:
        raise ValueError(f"{count} patches of {side} x {side} pixels have no covariance: give larger normal images")
    mean = total / count
    return mean + level, squares / count - mean.outer(mean), area / side**2


def shrunk(covariance: Tensor, count: float) -> Tensor:
    """The covariance of `count` samples, moved towards a multiple of the identity: the fewer samples, the farther.

    Oracle approximating shrinkage (Chen et al., 2010) without the terms of order 1/n, as scikit-learn has it.
    """
    n = len(covariance)
    level = covariance.trace() / n
    power = covariance.square().mean()
    apart = (count + 1) * (power - level**2 / n)
    share = float(((power + level**2) / apart).clamp(0, 1)) if apart > 0 else 1.0
    return (1 - share) * covariance + share * level * torch.eye(n).to(covariance)


def laid(y: Tensor, kernel: Tensor, step: int) -> Tensor:
    """What is said of each patch, (N, k, rows, columns), brought to the pixels it covers, each taking the mean.

    `kernel` (k, C, side, side) says how k numbers become a patch: (N, C, (rows - 1) step + side, ...).
    """
    each, ones = torch.ones_like(y[:, :1]), torch.ones_like(kernel[:1, :1])
    return conv_transpose2d(y, kernel, stride=step) / conv_transpose2d(each, ones, stride=step)
