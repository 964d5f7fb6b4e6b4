"""Synthetic defects: normal patches spoilt at random, generic on purpose and not fitted to real defects.

A corruption is a *shape* (where) times a *fill* (what). `corrupt` draws from the families a critic is trained on;
`corrupt_held_out` draws from families that share no fill with them, so that settings can be chosen on defects which
training never showed. Both return the spoilt patches and the opacity of what was laid over, in [0, 1], per pixel.

What makes them honest: they are as strong as anything between the material's own contrast and the camera's whole range;
fills bring as much noise as the images have, so that no map lives on seeing that the grain is missing; and a place that
nobody could tell from what was there is not called spoilt.

All randomness is torch's global generator, so that a seed decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, pad

Kind = TypeVar("Kind", bound=Hashable)


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def choice(count: int) -> int:
    return int(torch.randint(count, ()))


def uniforms(low: float | Tensor, high: float | Tensor, like: Tensor, count: int = 1) -> Tensor:
    """So many numbers for each of `like` (N, ...): (N, count, 1, 1)."""
    return low + (high - low) * torch.rand(len(like), count, 1, 1).to(like)


def coins(like: Tensor, count: int = 1) -> Tensor:
    """False or True, (N, count, 1, 1)."""
    return (torch.rand(len(like), count, 1, 1) < 0.5).to(like.device)


def counted(least: int, most: int, like: Tensor) -> Tensor:
    """Of `most` things, the first so many are True, at least `least`: (N, most, 1, 1)."""
    many = torch.randint(least, most + 1, (len(like), 1, 1, 1))
    return (torch.arange(most).view(1, -1, 1, 1) < many).to(like.device)


def smooth_noise(height: int, width: int, grain: float | tuple[float, float], like: Tensor) -> Tensor:
    """(N, 1, height, width) for `like` (N, ...), each of unit variance and smooth over about `grain` pixels; of two
    bounds every one draws its own.
    """
    count = len(like)
    grains = [uniform(*grain) for _ in range(count)] if isinstance(grain, tuple) else [grain] * count
    places = [[max(2, round(size / one) + 1) for one in grains] for size in (height, width)]
    noise = torch.randn(count, *map(max, places), device=like.device, dtype=like.dtype)
    down, right = (
        torch.stack([pad(between(few, size, like.device, like.dtype), (0, max(counts) - few)) for few in counts])
        for counts, size in zip(places, (height, width), strict=True)
    )
    with torch.autocast(like.device.type, enabled=False):  # data, and no network's product
        field = down @ noise @ right.mT
    field = field - field.mean((1, 2), keepdim=True)
    return (field / field.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-6))[:, None]  # faster than `std`


@lru_cache(maxsize=128)
def between(few: int, many: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(many, few): what makes `many` values of `few` by cubic interpolation; as a product it is far faster."""
    identity = torch.eye(few, device=device, dtype=dtype)[None, None]
    return interpolate(identity, (many, few), mode="bicubic", align_corners=True)[0, 0]


def blurred(x: Tensor, radius: int) -> Tensor:
    """Box blur of (N, C, H, W) over 2 radius + 1 pixels, edges replicated."""
    if radius < 1:
        return x
    side = 2 * radius + 1
    x = avg_pool2d(pad(x, (radius, radius, 0, 0), mode="replicate"), (1, side), stride=1)
    return avg_pool2d(pad(x, (0, 0, radius, radius), mode="replicate"), (side, 1), stride=1)


def smeared(x: Tensor, radius: int) -> Tensor:
    """Box blur of (N, C, H, W) along the rows."""
    return avg_pool2d(pad(x, (radius, radius, 0, 0), mode="replicate"), (1, 2 * radius + 1), stride=1)


def by_radius(blur: Callable[[Tensor, int], Tensor], x: Tensor, radii: Sequence[int]) -> Tensor:
    """A blur of each of (N, C, H, W) by its radius, of those alike at once."""
    found = torch.empty_like(x)
    for radius, here in alike(radii):
        found[here] = blur(x[here], radius)
    return found


def alike(kinds: Iterable[Kind]) -> Iterator[tuple[Kind, list[int]]]:
    """Every kind that there is, with the places where it is."""
    places: dict[Kind, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    yield from places.items()


def drawn(among: Sequence[Kind], count: int) -> list[Kind]:
    return [among[one] for one in torch.randint(len(among), (count,)).tolist()]


def distance_grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column index of every pixel, each (H, W)."""
    rows = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
    columns = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0], grid[1]


# Shapes: (N, C, H, W) -> opacity (N, 1, H, W) in [0, 1], of each patch another


def blob(x: Tensor) -> Tensor:
    """Level set of smooth noise that covers 2 to 25 % of the patch, its edge 3 pixels soft or more."""
    field = smooth_noise(x.shape[-2], x.shape[-1], (12, 48), x)
    few = field[..., ::4, ::4].flatten(1).sort(1).values
    rank = ((1 - uniforms(0.02, 0.25, x)).flatten(1) * (few.shape[1] - 1)).long()
    mask = (field > few.gather(1, rank)[..., None, None]).to(x.dtype)
    radii = drawn(EDGES, len(x))
    return by_radius(blurred, by_radius(blurred, mask, radii), [radius // 2 for radius in radii])


def softness(half: Tensor) -> Tensor:
    """Pixels over which the edge of something `half` as wide fades: one, or half the time up to all of its width."""
    soft = uniforms(1, (2 * half).clamp_min(1), half, half.shape[1])
    return torch.where(coins(half, half.shape[1]), soft, 1.0)


def speck(x: Tensor) -> Tensor:
    """One to four spots of 1.5 to 6 pixels radius, slightly irregular."""
    rows, columns = distance_grid(x)
    height, width = x.shape[-2:]
    wobble = smooth_noise(height, width, 4, x)
    radius = uniforms(1.5, 6, x, 4)
    away = torch.hypot(rows - uniforms(0, height, x, 4), columns - uniforms(0, width, x, 4))
    inside = (radius * (1 + 0.15 * wobble) - away) / softness(radius)
    return ((inside + 0.5).clamp(0, 1) * counted(1, 4, x)).amax(1, keepdim=True)


def line(x: Tensor) -> Tensor:
    """A wavy line 1 to 5 pixels wide that runs through a part of the patch."""
    height, width = x.shape[-2:]
    along, across = turned(x, uniforms(0.2, 0.8, x) * height, uniforms(0.2, 0.8, x) * width)
    across = across + uniforms(0, 4, x) * smooth_noise(height, width, (8, 24), x)
    half = uniforms(0.5, 2.5, x)
    inside = ((half - across.abs()) / softness(half) + 0.5).clamp(0, 1)
    return inside * (along.abs() < uniforms(0.15, 0.7, x) * width).to(x.dtype)


def turned(x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """How far every pixel lies from (row, column) along a direction drawn at random, and across it."""
    rows, columns = distance_grid(x)
    angle = uniforms(0, math.pi, row, row.shape[1])
    down, right = rows - row, columns - column
    return right * angle.cos() + down * angle.sin(), down * angle.cos() - right * angle.sin()


def crack(x: Tensor) -> Tensor:
    """A line 1.4 to 3.6 pixels wide that turns at random every 6 to 20 pixels."""
    rows, columns = distance_grid(x)
    row, column = uniforms(0.1, 0.9, x) * x.shape[-2], uniforms(0.1, 0.9, x) * x.shape[-1]
    angle, half = uniforms(0, 2 * math.pi, x), uniforms(0.7, 1.8, x)
    mask = torch.zeros_like(x[:, :1])
    for there in counted(3, 10, x).split(1, 1):
        length, angle = uniforms(6, 20, x), angle + uniforms(-0.7, 0.7, x)
        down, right = angle.sin(), angle.cos()
        along = ((rows - row) * down + (columns - column) * right).clamp_min(0).minimum(length)
        away = torch.hypot(rows - row - along * down, columns - column - along * right)
        mask = torch.maximum(mask, (half - away + 0.5).clamp(0, 1) * there)
        row, column = row + length * down, column + length * right
    return mask


# Shapes held out from training


def bump(x: Tensor) -> Tensor:
    """One to three elliptic bumps that fade out like a Gaussian of 2 to 10 pixels, as droplets and stains do."""
    along, across = turned(x, uniforms(0, x.shape[-2], x, 3), uniforms(0, x.shape[-1], x, 3))
    long = uniforms(2, 10, x, 3)
    short = long * uniforms(0.4, 1, x, 3)
    each = (-0.5 * ((along / long).square() + (across / short).square())).exp()
    return (each * counted(1, 3, x)).amax(1, keepdim=True)


def scratch(x: Tensor) -> Tensor:
    """A straight line that tapers to both ends and fades out sideways, 30 to 160 pixels long."""
    along, across = turned(x, uniforms(0.2, 0.8, x) * x.shape[-2], uniforms(0.2, 0.8, x) * x.shape[-1])
    long, short = uniforms(15, 80, x), uniforms(0.6, 1.6, x)
    return (-0.5 * (across / short).square()).exp() * (1 - along.abs() / long).clamp_min(0).sqrt()


# Fills of training: (patches, other patches) -> what is laid over, each (N, C, H, W). Patches come with mean 0, and
# stretched so that the contrast that fills add, up to 1, is that of this defect.


def constant(x: Tensor, other: Tensor) -> Tensor:
    """One grey level of the patch's range, with noise of some grain."""
    grain = smooth_noise(x.shape[-2], x.shape[-1], (1, 6), x)
    return uniforms(-1, 1, x) + uniforms(0, 0.3, x) * grain.expand_as(x)


def haze(x: Tensor, other: Tensor) -> Tensor:
    """A blurred copy of the patch itself, brightness shifted."""
    return by_radius(blurred, x, drawn(range(1, 7), len(x))) + uniforms(-0.5, 0.5, x)


def magnified(x: Tensor, other: Tensor) -> Tensor:
    """Another patch, 1.8 to 4 times larger."""
    shown = 1 / uniforms(1.8, 4, x)[..., 0]  # (N, 1, 1), of what there is
    none, middle = torch.zeros_like(shown), (1 - shown) * uniforms(-1, 1, x, 2)[..., 0]  # (N, 2, 1)
    sides = torch.cat((torch.cat((shown, none), 2), torch.cat((none, shown), 2)), 1)
    grid = affine_grid(torch.cat((sides, middle), 2), list(x.shape), align_corners=False)
    return grid_sample(other, grid, padding_mode="border", align_corners=False)


def grained(x: Tensor, other: Tensor) -> Tensor:
    """Smooth noise of two grains."""
    fine, coarse = (smooth_noise(x.shape[-2], x.shape[-1], bounds, x) for bounds in ((1.0, 4.0), (6.0, 16.0)))
    level = uniforms(-0.6, 0.8, x)
    return (level + uniforms(0.1, 0.5, x) * fine + uniforms(0.1, 0.5, x) * coarse).expand_as(x)


def shrunk(x: Tensor, other: Tensor) -> Tensor:
    """Another patch at 0.3 to 0.6 of its size, tiled."""
    height, width = x.shape[-2:]
    tiled = []
    for one in other.split(1):
        factor = uniform(0.3, 0.6)
        sides = max(2, int(height * factor)), max(2, int(width * factor))
        copies = math.ceil(1 / factor) + 1
        small = interpolate(one, sides, mode="bilinear", antialias=True)
        tiled.append(small.repeat(1, 1, copies, copies)[..., :height, :width])
    return torch.cat(tiled)


def shifted(x: Tensor, other: Tensor) -> Tensor:
    """The patch itself, darker or brighter: what a scratch, a stain or a thin crack does."""
    shift = uniforms(0.25, 1.0, x)
    return x + torch.where(coins(x), shift, -shift)


def veiled(x: Tensor, other: Tensor) -> Tensor:
    """Contrast lost towards one level, as under a thin film."""
    return uniforms(-0.4, 0.6, x) + uniforms(0.2, 0.5, x) * (x - mean_of(x))


def mean_of(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3), keepdim=True)


# Fills held out from training


def swirled(x: Tensor, other: Tensor) -> Tensor:
    """The patch itself, warped by a smooth field of 4 to 10 pixels."""
    height, width = x.shape[-2:]
    size = uniforms(4, 10, x)
    rows, columns = (axis + size * smooth_noise(height, width, 10, x) for axis in distance_grid(x))
    grid = torch.stack((2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1), -1)[:, 0]
    return grid_sample(x, grid.to(x.dtype), padding_mode="reflection", align_corners=True)


def shaded(x: Tensor, other: Tensor) -> Tensor:
    """A lit surface with bumps: the gradient of smooth relief, as droplets and clumps show it."""
    relief = smooth_noise(x.shape[-2], x.shape[-1], (4, 12), x)
    slope = relief - relief.roll((1, 1), (-2, -1))
    spread = slope.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (uniforms(0.0, 0.6, x) + 0.35 * slope / spread).expand_as(x)


def streaked(x: Tensor, other: Tensor) -> Tensor:
    """The patch smeared along its rows, as charging and drift do."""
    return by_radius(smeared, x, drawn(range(6, 16), len(x))) + uniforms(0, 0.3, x)


def scattered(x: Tensor, other: Tensor) -> Tensor:
    """The patch's own spectrum with random phases: its texture without its structure."""
    spectrum = torch.fft.rfft2(other.float())
    phase = torch.fft.rfft2(torch.randn_like(other.float()))
    found = torch.fft.irfft2(spectrum.abs() * phase / phase.abs().clamp_min(1e-6), s=x.shape[-2:])
    return found.to(x.dtype) + mean_of(other)


def filmed(x: Tensor, other: Tensor) -> Tensor:
    """The patch seen through something thin and slightly blurring."""
    return uniforms(-0.3, 0.7, x) + uniforms(0.3, 0.6, x) * blurred(x - mean_of(x), 1)


def carved(x: Tensor, other: Tensor) -> Tensor:
    """The patch a little blurred and much darker: the bottom of a pit or a crack."""
    return blurred(x, 1) - uniforms(0.5, 1.3, x)


Shape = Callable[[Tensor], Tensor]
Fill = Callable[[Tensor, Tensor], Tensor]
SHAPES: tuple[Shape, ...] = (blob, blob, blob, speck, line)
FINE: tuple[Shape, ...] = (speck, line)  # of which every trained patch gets one more: they cover few pixels
FILLS: tuple[Fill, ...] = (constant, haze, magnified, grained, shrunk, veiled)
THIN: tuple[Fill, ...] = (constant, shifted, grained)  # of all shapes but blobs
HELD_OUT: tuple[Fill, ...] = (swirled, shaded, streaked, scattered, filmed)
HELD_OUT_THIN: tuple[Fill, ...] = (shaded, carved)
NOISY: tuple[Fill, ...] = (shifted, scattered, carved)  # which bring the images' own noise along

EDGES = (1, 1, 2, 4)  # px, radius over which a blob's edge is blurred
CONTRAST = 0.7  # standard deviation of a patch on which a fill's contrast of 1 is strong
SPOILT = 0.2  # opacity from which on a pixel counts as spoilt
VISIBLE = 6.0  # mean square of a visible change, in variances of the noise


def corrupt(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) in [-1, 1] -> spoilt patches, same shape and range, and opacity (N, 1, H, W) in [0, 1]."""
    return spoil(x, SHAPES, FILLS, THIN, FINE)


def corrupt_held_out(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `corrupt`, with the fills that training never shows, in blobs, specks and cracks."""
    return spoil(x, (blob, blob, speck, crack), HELD_OUT, HELD_OUT_THIN)


def spoil(
    x: Tensor,
    shapes: Sequence[Shape],
    fills: Sequence[Fill],
    thin: Sequence[Fill],
    more: Sequence[Shape] = (),
) -> tuple[Tensor, Tensor]:
    """Lays one of `shapes`, and one of `more` if there are any, over each patch: (spoilt, opacity).

    Blobs get one of `fills`, other shapes one of `thin`. The opacity is 0 wherever the change is not visible. What is
    alike is made for all patches of the batch at once, so large batches cost far less than many small ones.
    """
    opacity = torch.zeros_like(x[:, :1])
    if not len(x):
        return x, opacity
    means, sigma = mean_of(x), noise(x)
    contrast = (x - means).std((1, 2, 3), keepdim=True).clamp(1e-3, CONTRAST)
    unit = uniforms(contrast.log(), math.log(CONTRAST), x).exp() / CONTRAST
    others = torch.randint(len(x), (len(x),), device=x.device)
    patches, another = (x - means) / unit, ((x[others] - means[others]) / unit).flip((-2, -1))
    for among in (shapes, more) if more else (shapes,):
        chosen = drawn(among, len(x))
        mask, over = torch.empty_like(opacity), torch.empty_like(patches)
        for shape, here in alike(chosen):
            mask[here] = shape(patches[here])
        for fill, here in alike(drawn(fills if shape is blob else thin, 1)[0] for shape in chosen):
            over[here] = fill(patches[here], another[here])
            if fill not in NOISY:
                over[here] += sigma[here] / unit[here] * torch.randn_like(over[here])
        mask = mask * uniforms(0.5, 1.0, x)
        patches = patches + mask * (over - patches)
        opacity = torch.maximum(opacity, mask)
    spoilt = (patches * unit + means).clamp(-1, 1)
    return spoilt, opacity * visible(spoilt - x, opacity, sigma)


def visible(change: Tensor, opacity: Tensor, sigma: Tensor) -> Tensor:
    """Where a change (N, C, H, W) under an opacity (N, 1, H, W) stands out from noise of `sigma` (N, C, 1, 1): 0 or 1.

    Compared is the mean square over what was laid over, in blocks of 4 x 4 pixels and their neighbours.
    """
    where = (opacity > SPOILT).to(change.dtype)
    sums = avg_pool2d(torch.cat((change.square() * where, where), 1), 4, ceil_mode=True, divisor_override=1)
    sums = avg_pool2d(sums, 3, stride=1, padding=1, divisor_override=1)
    seen = (sums[:, :-1] > VISIBLE * sigma.square() * sums[:, -1:]).any(1, keepdim=True)
    return (
        seen.to(change.dtype)
        .repeat_interleave(4, -2)
        .repeat_interleave(4, -1)[..., : change.shape[-2], : change.shape[-1]]
    )


def noise(x: Tensor) -> Tensor:
    """Standard deviation of the noise of each image and channel, (N, C, 1, 1), from (N, C, H, W).

    The median absolute value of the finest diagonal wavelet coefficients, where structure is rare (Donoho and
    Johnstone, 1994).
    """
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    diagonal = (x[..., ::2, ::2] - x[..., 1::2, ::2] - x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 2
    return (diagonal.abs().flatten(2).median(2).values / 0.6745)[:, :, None, None]
