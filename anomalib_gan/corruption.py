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
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def choice(count: int) -> int:
    return int(torch.randint(count, ()))


def smooth_noise(height: int, width: int, grain: float, like: Tensor) -> Tensor:
    """(1, 1, height, width) of unit variance, smooth over about `grain` pixels."""
    rows, columns = max(2, round(height / grain) + 1), max(2, round(width / grain) + 1)
    noise = torch.randn(rows, columns, device=like.device, dtype=like.dtype)
    down, right = (between(*sizes, like.device, like.dtype) for sizes in ((rows, height), (columns, width)))
    with torch.autocast(like.device.type, enabled=False):  # data, and no network's product
        field = down @ noise @ right.T
    return ((field - field.mean()) / field.std().clamp_min(1e-6))[None, None]


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


def distance_grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column index of every pixel, each (H, W)."""
    rows = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
    columns = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0], grid[1]


# Shapes: (1, C, H, W) -> opacity (1, 1, H, W) in [0, 1]


def blob(x: Tensor) -> Tensor:
    """Level set of smooth noise that covers 2 to 25 % of the patch, its edge 3 pixels soft or more."""
    height, width = x.shape[-2:]
    field = smooth_noise(height, width, uniform(12, 48), x)
    few = field[..., ::2, ::2].flatten()
    level = few.kthvalue(math.ceil((1 - uniform(0.02, 0.25)) * len(few))).values
    radius = EDGES[choice(len(EDGES))]
    return blurred(blurred((field > level).to(x.dtype), radius), radius // 2)


def softness(half: float) -> float:
    """Pixels over which the edge of something `half` as wide fades: one, or half the time up to all of its width."""
    return uniform(1, max(1.0, 2 * half)) if choice(2) else 1.0


def speck(x: Tensor) -> Tensor:
    """One to four spots of 1.5 to 6 pixels radius, slightly irregular."""
    rows, columns = distance_grid(x)
    height, width = x.shape[-2:]
    wobble = smooth_noise(height, width, 4, x)[0, 0]
    mask = torch.zeros_like(rows)
    for _ in range(1 + choice(4)):
        radius = uniform(1.5, 6)
        away = ((rows - uniform(0, height)).square() + (columns - uniform(0, width)).square()).sqrt()
        inside = (radius * (1 + 0.15 * wobble) - away) / softness(radius)
        mask = torch.maximum(mask, (inside + 0.5).clamp(0, 1))
    return mask[None, None]


def line(x: Tensor) -> Tensor:
    """A wavy line 1 to 5 pixels wide that runs through a part of the patch."""
    rows, columns = distance_grid(x)
    height, width = x.shape[-2:]
    angle = uniform(0, math.pi)
    rows, columns = rows - uniform(0.2, 0.8) * height, columns - uniform(0.2, 0.8) * width
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    across = across + uniform(0, 4) * smooth_noise(height, width, uniform(8, 24), x)[0, 0]
    half = uniform(0.5, 2.5)
    inside = ((half - across.abs()) / softness(half) + 0.5).clamp(0, 1)
    return (inside * (along.abs() < uniform(0.15, 0.7) * width).to(x.dtype))[None, None]


def crack(x: Tensor) -> Tensor:
    """A line 1.4 to 3.6 pixels wide that turns at random every 6 to 20 pixels."""
    rows, columns = distance_grid(x)
    row, column = uniform(0.1, 0.9) * x.shape[-2], uniform(0.1, 0.9) * x.shape[-1]
    angle, half = uniform(0, 2 * math.pi), uniform(0.7, 1.8)
    mask = torch.zeros_like(rows)
    for _ in range(3 + choice(8)):
        length, angle = uniform(6, 20), angle + uniform(-0.7, 0.7)
        down, right = math.sin(angle), math.cos(angle)
        along = ((rows - row) * down + (columns - column) * right).clamp(0, length)
        away = torch.hypot(rows - row - along * down, columns - column - along * right)
        mask = torch.maximum(mask, (half - away + 0.5).clamp(0, 1))
        row, column = row + length * down, column + length * right
    return mask[None, None]


# Shapes held out from training


def bump(x: Tensor) -> Tensor:
    """One to three elliptic bumps that fade out like a Gaussian of 2 to 10 pixels, as droplets and stains do."""
    rows, columns = distance_grid(x)
    mask = torch.zeros_like(rows)
    for _ in range(1 + choice(3)):
        angle, long = uniform(0, math.pi), uniform(2, 10)
        short = long * uniform(0.4, 1)
        down, right = rows - uniform(0, x.shape[-2]), columns - uniform(0, x.shape[-1])
        along = right * math.cos(angle) + down * math.sin(angle)
        across = down * math.cos(angle) - right * math.sin(angle)
        mask = torch.maximum(mask, (-0.5 * ((along / long).square() + (across / short).square())).exp())
    return mask[None, None]


def scratch(x: Tensor) -> Tensor:
    """A straight line that tapers to both ends and fades out sideways, 30 to 160 pixels long."""
    rows, columns = distance_grid(x)
    angle, long, short = uniform(0, math.pi), uniform(15, 80), uniform(0.6, 1.6)
    down, right = rows - uniform(0.2, 0.8) * x.shape[-2], columns - uniform(0.2, 0.8) * x.shape[-1]
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    return ((-0.5 * (across / short).square()).exp() * (1 - along.abs() / long).clamp_min(0).sqrt())[None, None]


# Fills of training: (patch, another patch) -> what is laid over, each (1, C, H, W). Patches come with mean 0, and
# stretched so that the contrast that fills add, up to 1, is that of this defect.


def constant(x: Tensor, other: Tensor) -> Tensor:
    """One grey level of the patch's range, with noise of some grain."""
    grain = smooth_noise(x.shape[-2], x.shape[-1], uniform(1, 6), x)
    return uniform(-1, 1) + uniform(0, 0.3) * grain.expand_as(x)


def haze(x: Tensor, other: Tensor) -> Tensor:
    """A blurred copy of the patch itself, brightness shifted."""
    return blurred(x, 1 + choice(6)) + uniform(-0.5, 0.5)


def magnified(x: Tensor, other: Tensor) -> Tensor:
    """Another patch, 1.8 to 4 times larger."""
    height, width = x.shape[-2:]
    factor = uniform(1.8, 4)
    rows, columns = max(2, round(height / factor)), max(2, round(width / factor))
    top, left = choice(height - rows + 1), choice(width - columns + 1)
    return interpolate(other[..., top : top + rows, left : left + columns], (height, width), mode="bilinear")


def grained(x: Tensor, other: Tensor) -> Tensor:
    """Smooth noise of two grains."""
    height, width = x.shape[-2:]
    fine, coarse = smooth_noise(height, width, uniform(1, 4), x), smooth_noise(height, width, uniform(6, 16), x)
    return (uniform(-0.6, 0.8) + uniform(0.1, 0.5) * fine + uniform(0.1, 0.5) * coarse).expand_as(x)


def shrunk(x: Tensor, other: Tensor) -> Tensor:
    """Another patch at 0.3 to 0.6 of its size, tiled."""
    height, width = x.shape[-2:]
    factor = uniform(0.3, 0.6)
    small = interpolate(
        other, (max(2, int(height * factor)), max(2, int(width * factor))), mode="bilinear", antialias=True
    )
    copies = math.ceil(1 / factor) + 1
    return small.repeat(1, 1, copies, copies)[..., :height, :width]


def shifted(x: Tensor, other: Tensor) -> Tensor:
    """The patch itself, darker or brighter: what a scratch, a stain or a thin crack does."""
    shift = uniform(0.25, 1.0)
    return x + (shift if choice(2) else -shift)


def veiled(x: Tensor, other: Tensor) -> Tensor:
    """Contrast lost towards one level, as under a thin film."""
    return uniform(-0.4, 0.6) + uniform(0.2, 0.5) * (x - x.mean())


# Fills held out from training


def swirled(x: Tensor, other: Tensor) -> Tensor:
    """The patch itself, warped by a smooth field of 4 to 10 pixels."""
    height, width = x.shape[-2:]
    rows, columns = distance_grid(x)
    size = uniform(4, 10)
    rows = rows + size * smooth_noise(height, width, 10, x)[0, 0]
    columns = columns + size * smooth_noise(height, width, 10, x)[0, 0]
    grid = torch.stack((2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1), -1)
    return grid_sample(x, grid[None].to(x.dtype), padding_mode="reflection", align_corners=True)


def shaded(x: Tensor, other: Tensor) -> Tensor:
    """A lit surface with bumps: the gradient of smooth relief, as droplets and clumps show it."""
    height, width = x.shape[-2:]
    relief = smooth_noise(height, width, uniform(4, 12), x)
    slope = relief - relief.roll((1, 1), (-2, -1))
    return (uniform(0.0, 0.6) + 0.35 * slope / slope.std().clamp_min(1e-6)).expand_as(x)


def streaked(x: Tensor, other: Tensor) -> Tensor:
    """The patch smeared along its rows, as charging and drift do."""
    radius = 6 + choice(10)
    return avg_pool2d(pad(x, (radius, radius, 0, 0), mode="replicate"), (1, 2 * radius + 1), stride=1) + uniform(0, 0.3)


def scattered(x: Tensor, other: Tensor) -> Tensor:
    """The patch's own spectrum with random phases: its texture without its structure."""
    spectrum = torch.fft.rfft2(other.float())
    phase = torch.fft.rfft2(torch.randn_like(other.float()))
    return (
        torch.fft.irfft2(spectrum.abs() * phase / phase.abs().clamp_min(1e-6), s=x.shape[-2:]).to(x.dtype)
        + other.mean()
    )


def filmed(x: Tensor, other: Tensor) -> Tensor:
    """The patch seen through something thin and slightly blurring."""
    return uniform(-0.3, 0.7) + uniform(0.3, 0.6) * blurred(x - x.mean(), 1)


def carved(x: Tensor, other: Tensor) -> Tensor:
    """The patch a little blurred and much darker: the bottom of a pit or a crack."""
    return blurred(x, 1) - uniform(0.5, 1.3)


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

    Blobs get one of `fills`, other shapes one of `thin`. The opacity is 0 wherever the change is not visible.
    """
    spoilt, opacity = x.clone(), torch.zeros_like(x[:, :1])
    means, sigma = x.mean((1, 2, 3), keepdim=True), noise(x)
    contrast = (x - means).flatten(1).std(1).clamp(1e-3, CONTRAST).tolist()
    for i, other in enumerate(torch.randint(len(x), (len(x),)).tolist()):
        unit = math.exp(uniform(math.log(contrast[i]), math.log(CONTRAST))) / CONTRAST
        patch = (x[i : i + 1] - means[i]) / unit
        another = ((x[other : other + 1] - means[other]) / unit).flip((-2, -1))
        for among in (shapes, more) if more else (shapes,):
            shape = among[choice(len(among))]
            allowed = fills if shape is blob else thin
            mask = shape(patch) * uniform(0.5, 1.0)
            fill = allowed[choice(len(allowed))]
            over = fill(patch, another)
            if fill not in NOISY:
                over = over + sigma[i : i + 1] / unit * torch.randn_like(over)
            patch = patch + mask * (over - patch)
            opacity[i : i + 1] = torch.maximum(opacity[i : i + 1], mask)
        spoilt[i : i + 1] = (patch * unit + means[i]).clamp(-1, 1)
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
