"""Square patches of images on a grid from their origin: of overlapping ones their moments, and what is said of them; of
those side by side, how they are cut and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d

ROWS = 4096  # patches that are looked at together, which bounds the memory


def covering(side: int, step: int) -> int:
    """How many patches, along an axis, cover each pixel but those at the edges. ValueError: some more than others."""
    if side % step:
        raise ValueError(f"patches of {side} px every {step} px do not cover all pixels alike: let step divide side")
    return side // step


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


def averaged(each: Tensor, cells: int) -> Tensor:
    """A number for each patch, (N, 1, rows, columns), to one for each step of the grid, (N, 1, rows + cells - 1, ...):
    the mean over the patches that cover it, `cells` along each axis.
    """
    return laid(each, torch.ones(1, 1, cells, cells).to(each), 1)


def quilted(
    mean: Tensor,
    conditional: Callable[[Tensor], tuple[Tensor, Tensor]],
    sides: tuple[int, int, int],
    n: int,
    height: int,
    width: int,
) -> Tensor:
    """(n, C, height, width) drawn by a Gaussian of patches of `sides` (C, side, side), one after the other, each given
    what its neighbours have drawn of it, which is half.

    `mean` (C side^2,) of the patches; `conditional(hidden)`: for the numbers that are not drawn yet, (C side^2,) bool,
    the gain of the others on them and their covariance.
    """
    side = sides[-1]
    hop = -(-side // 2)
    rows, columns = (-(-max(size - side, 0) // hop) + 1 for size in (height, width))
    s = mean.new_zeros(n, sides[0], *(side + (many - 1) * hop for many in (rows, columns)))
    known: dict[tuple[bool, bool], tuple[Tensor, Tensor, Tensor]] = {}
    for above, left in product((False, True), repeat=2):
        hidden = torch.ones(sides, dtype=torch.bool, device=s.device)
        hidden[:, : side - hop] &= not above
        hidden[:, :, : side - hop] &= not left
        gain, covariance = conditional(hidden.flatten())
        known[above, left] = hidden.flatten(), gain, torch.linalg.cholesky(covariance)
    for row, column in product(range(rows), range(columns)):
        here = (..., slice(row * hop, row * hop + side), slice(column * hop, column * hop + side))
        x = s[here].flatten(1) - mean
        h, gain, root = known[row > 0, column > 0]
        x[:, h] = x[:, ~h] @ gain.T + torch.randn(n, len(root)).to(root) @ root.T
        s[here] = (x + mean).view_as(s[here])
    return s[..., :height, :width]


def cut(x: Tensor, side: int) -> Tensor:
    """(N, C, h side, w side) -> (N h w, C, side, side): the patches of the grid that begins at the image's origin; of
    volumes (N, C, d side, h side, w side) its blocks (N d h w, C, side, side, side).
    """
    n, c, *sizes = x.shape
    grid = x.reshape(n, c, *(part for size in sizes for part in (size // side, side)))
    counts, sides = range(2, grid.dim(), 2), range(3, grid.dim(), 2)
    return grid.permute(0, *counts, 1, *sides).reshape(-1, c, *[side] * len(sizes))


def joined(patches: Tensor, n: int, *rows: int) -> Tensor:
    """The reverse of `cut`, for patches of any size: (N h w, C, a, b) -> (N, C, h a, w b), h being `rows`; for blocks
    `rows` are d and h.
    """
    _, c, *sides = patches.shape
    grid = patches.reshape(n, *rows, -1, c, *sides)  # (N, h, w, C, a, b)
    axes = [axis for k in range(len(sides)) for axis in (1 + k, 2 + len(sides) + k)]
    counts = grid.shape[1 : 1 + len(sides)]
    sizes = [count * side for count, side in zip(counts, sides, strict=True)]
    return grid.permute(0, 1 + len(sides), *axes).reshape(n, c, *sizes)
