"""Restoration with a generator as prior: of all that it can draw, what would look like this if it were degraded so.

    z* = argmin over z of  ||A(G(z)) - y||^2 + mu ||z||^2,   y = A(x) + n,   x^ = G(z*)

Compressed Sensing using Generative Models (Bora et al., 2017). For z ~ N(0, I) and noise of variance mu it is the most
likely image there is; mu is larger where G cannot draw x exactly. In a hole (Semantic Image Inpainting with Deep
Generative Models, Yeh et al., 2017) what is known is pasted over G(z*). What G does not draw at all is in y - A(G(z*)),
so a plain filter of that rest is added as a second answer, and called by that name.

The codes are one field for the whole image, of any size; large images are restored in tiles, each with a field of its
own. Settings, of the plain filters as well, are those with the best PSNR on normal pixels that training saw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomalib_gan.degrading import NOTHING, Degradation, Filter, Mask, degradation, filters, holes
from anomalib_gan.inversion import descend
from anomalib_gan.model import Model
from anomalib_gan.nets import judged
from anomalib_gan.residuals import structural
from anomalib_gan.runtime.tiling import Box, Grid, Tile
from anomalib_gan.training import derive_seed

STEPS = 300  # of Adam
MUS = (0.03, 0.3, 3.0)  # among which mu is found
TILE, HALO = 1024, 64  # px: side of the tiles, and what each is restored beyond its edges
TUNED = 192  # px, side of the squares on which settings are found
SQUARES = 4  # of them, at most

DEGRADED, FILTER, GENERATOR, BOTH = "degraded", "filter", "generator", "generator + filter"
Wrap = Callable[[range], Iterable[int]]


@dataclass(frozen=True)
class Found:
    """The field of codes z (N, code, h, w) of a canvas, where the image lies on it, and the image G(z) (N, C, H, W)."""

    z: Tensor
    place: tuple[slice, slice]
    image: Tensor


def drawn(model: Model, z: Tensor, place: tuple[slice, slice]) -> Tensor:
    """The part `place` of what the model draws from codes."""
    return model.generate(z)[(..., *place)]  # type: ignore[operator]


def begun(model: Model, x: Tensor) -> Found:
    """Codes of images (N, C, H, W) of any size as the model itself has them: by its encoder or, without one, by
    inversion patch by patch. A ValueError says why a model has none.

    The images are mirrored out to a canvas of a size that the model takes, and lie in its middle.
    """
    if not hasattr(model, "generate") or not hasattr(model, "parts"):
        raise ValueError(
            f"{type(model).__name__} draws no image from codes, so there is nothing to search for: give the run of a "
            "model with a generator, such as fcbigan or dcgan"
        )
    index, place = [], []
    for size in x.shape[-2:]:
        length = model.stride * -(-max(size, model.smallest) // model.stride)
        before = (length - size) // 2
        index.append(torch.from_numpy(np.pad(np.arange(size), (before, length - size - before), mode="symmetric")))
        place.append(slice(before, before + size))
    rows, columns = (one.to(x.device) for one in index)
    canvas = x[..., rows, :][..., columns]
    with judged(model), torch.no_grad():
        z = model.parts(canvas.clamp(-1, 1))["code"]  # type: ignore[operator]
        return Found(z, (place[0], place[1]), drawn(model, z, (place[0], place[1])))


def search(
    model: Model, y: Tensor, A: Degradation, start: Found, *, mu: float, steps: int = STEPS, progress: Wrap = iter
) -> Found:
    """z* for the degraded images y (N, C, H, W), one field of codes each, from `start`, `begun` of as large ones."""
    free = start.z.shape[1] - len(model.classes)  # a class lies last in its code, and is no matter of degree
    kind = start.z[:, free:]

    def loss(z: Tensor) -> Tensor:
        missed = A(drawn(model, torch.cat((z, kind), 1), start.place)) - y
        return missed.square().sum() + mu * z.square().sum()

    with judged(model):
        z = torch.cat((descend(loss, start.z[:, :free], steps, progress), kind), 1)
        with torch.no_grad():
            return Found(z, start.place, drawn(model, z, start.place))


def windows(model: Model, height: int, width: int) -> list[Tile]:
    """The tiles of an image, cut off at its edges; small ones are one tile."""

    def cut(box: Box) -> Box:
        return Box(box.top, box.left, min(box.bottom, height), min(box.right, width))

    grid = Grid(max(TILE, model.stride), HALO, model.stride)
    return [Tile(cut(core), cut(window)) for core, window in grid.split(height, width)]


def restore(
    model: Model,
    y: Tensor,
    A: Degradation,
    first: Tensor,
    *,
    mu: float,
    steps: int = STEPS,
    progress: Wrap = iter,
) -> Tensor:
    """G(z*) for a degraded image y (1, C, H, W) of any size, from the codes of `first`, a simpler answer; in `windows`,
    each of which goes through all steps.
    """
    image = torch.empty_like(y)
    for core, window in windows(model, *y.shape[-2:]):
        here = (..., slice(window.top, window.bottom), slice(window.left, window.right))
        start = begun(model, first[here])
        part = search(model, y[here], A.within(window), start, mu=mu, steps=steps, progress=progress).image
        top, left = core.top - window.top, core.left - window.left
        inner = part[..., top : top + core.bottom - core.top, left : left + core.right - core.left]
        image[..., core.top : core.bottom, core.left : core.right] = inner
    return image


def pasted(image: Tensor, y: Tensor, A: Degradation) -> Tensor:
    """The image with what is known of one with a hole."""
    return image if A.hole is None else torch.where(A.hole, image, y)


# --- settings, found on normal pixels that training saw --------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """The plain filter of a degraded image, mu and steps of the search, and the filter of what G(z*) leaves."""

    filter: Filter
    mu: float
    steps: int
    rest: Filter


def tune(
    model: Model,
    normals: Sequence[Tensor],
    kind: str,
    strength: float,
    *,
    seed: int = 0,
    steps: int = STEPS,
    mus: Sequence[float] = MUS,
    progress: Wrap = iter,
) -> Settings:
    """The settings with the best PSNR on the middles of some of the normal images, each (1, C, H, W); each mu goes
    through all steps.
    """
    side = min(TUNED, *(size for x in normals for size in x.shape[-2:]))
    chosen = [normals[k] for k in sorted({round(k) for k in np.linspace(0, len(normals) - 1, SQUARES)})]
    middles = [[(size - side) // 2 for size in one.shape[-2:]] for one in chosen]
    x = torch.cat([
        one[..., top : top + side, left : left + side] for one, (top, left) in zip(chosen, middles, strict=True)
    ])  # fmt: skip
    hole = None
    if kind == "hole":
        each = [holes(side, side, strength, derive_seed(seed, "tuned", i)) for i in range(len(x))]
        hole = torch.cat(each).to(x.device)
    A = degradation(kind, strength, hole)
    y = A.spoilt(x, derive_seed(seed, "tuned"))
    plain = best(filters(kind, A), y, x, A)
    start = begun(model, applied(plain, y, A))
    tried = {mu: search(model, y, A, start, mu=mu, steps=steps, progress=progress).image for mu in mus}
    mu = max(tried, key=lambda one: psnr(tried[one], x, A))
    image = tried[mu]
    return Settings(plain, mu, steps, best([NOTHING, *filters(kind, A)], y - A(image), x - image, A))


def best(candidates: Sequence[Filter], y: Tensor, x: Tensor, A: Degradation) -> Filter:
    """The one that comes nearest to x from y."""
    return max(candidates, key=lambda one: psnr(applied(one, y, A), x, A))


def applied(filter: Filter, y: Tensor, A: Degradation) -> Tensor:
    """The filter on (N, C, H, W)."""

    def mask(n: int) -> Mask | None:
        return None if A.hole is None else A.hole.expand(len(y), -1, -1, -1)[n, 0].cpu().numpy()

    pictures = [filter.apply(one.permute(1, 2, 0).cpu().numpy(), mask(n)) for n, one in enumerate(y)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(y)


# --- figures ---------------------------------------------------------------------------------------------------------


def psnr(image: Tensor, x: Tensor, A: Degradation | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], where the degradation is judged."""
    miss = (image - x).square()
    if A is not None:
        miss = miss[A.judged(x).expand_as(miss)]
    return -10 * math.log10(max(float(miss.double().mean()) / 4, 1e-12))


def ssim(image: Tensor, x: Tensor, A: Degradation) -> float:
    """Mean structural similarity there."""
    return 1 - float(structural(image, x)[A.judged(x)].double().mean())


@dataclass(frozen=True)
class Outcome:
    """An image by the names of what was done to it, each (1, C, H, W); figures by these names, where the original is
    known; and the seconds that the search took.
    """

    pictures: dict[str, Tensor]
    figures: dict[str, dict[str, float]]
    seconds: float


def outcome(
    model: Model, y: Tensor, A: Degradation, chosen: Settings, *, x: Tensor | None = None, progress: Wrap = iter
) -> Outcome:
    """What filter and generator make of a degraded image y (1, C, H, W), and how near it is to the original x."""
    plain = applied(chosen.filter, y, A)
    begin = time.perf_counter()
    image = restore(model, y, A, plain, mu=chosen.mu, steps=chosen.steps, progress=progress)
    seconds = time.perf_counter() - begin
    both = image + applied(chosen.rest, y - A(image), A)
    made = {DEGRADED: y, FILTER: plain, GENERATOR: pasted(image, y, A), BOTH: pasted(both, y, A)}
    pictures = {name: one if name == DEGRADED else one.clamp(-1, 1) for name, one in made.items()}
    if x is None:
        return Outcome(pictures, {}, seconds)
    figures = {name: {"psnr": psnr(one, x, A), "ssim": ssim(one, x, A)} for name, one in pictures.items()}
    return Outcome({"original": x, **pictures}, figures, seconds)


def table(kind: str, outcomes: Sequence[Outcome], chosen: Settings) -> str:
    """Mean figures of images whose originals are known, in Markdown, and which way is the best."""
    left = "nothing of the rest" if chosen.rest is NOTHING else f"{chosen.rest.name} of the rest, {chosen.rest.setting}"
    settings = {
        DEGRADED: "", FILTER: f"{chosen.filter.name}, {chosen.filter.setting}",
        GENERATOR: f"mu {chosen.mu:g}, {chosen.steps} steps", BOTH: f"and {left}",
    }  # fmt: skip
    lines = ["| image | how | PSNR | SSIM | nearer than the filter |", "|---|---|---|---|---|"]
    means = {}
    for name, how in settings.items():
        of = [one.figures[name] for one in outcomes]
        means[name], alike = (float(np.mean([one[term] for one in of])) for term in ("psnr", "ssim"))
        wins = sum(one.figures[name]["psnr"] > one.figures[FILTER]["psnr"] for one in outcomes)
        cells = [name, how, f"{means[name]:.2f} dB", f"{alike:.3f}", "" if name == FILTER else f"{wins} of {len(of)}"]
        lines.append("| " + " | ".join(cells) + " |")
    where = "in the holes" if kind == "hole" else "over the images"
    ahead = max(means[GENERATOR], means[BOTH]) - means[FILTER]
    winner = max((GENERATOR, BOTH), key=lambda name: means[name])
    verdict = (
        f"The plain filter wins, by {-ahead:.2f} dB: restore with that"
        if ahead <= 0
        else f"The {winner} wins over the plain filter, by {ahead:.2f} dB"
    )
    return "\n".join([*lines, "", f"Figures {where}, means of {len(outcomes)}. {verdict}.", ""])
