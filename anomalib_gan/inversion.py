"""Inversion: the code from which a generator would have drawn an image, for generators that have no encoder.

    z* = argmin over z of  r(G(z), x) + lambda |f(G(z)) - f(x)| - mu log p(z),   z ~ N(0, I)

with r the residual and f the critic's features. Generative Visual Manipulation on the Natural Image Manifold (Zhu et
al., 2016); for anomalies: Unsupervised Anomaly Detection with Generative Adversarial Networks to Guide Marker Discovery
(AnoGAN, Schlegl et al., 2017). What is left at z* is the surprise.

Every patch is inverted by itself, in a fixed number of steps from a start that depends on the patch alone. So a patch's
code is a function of its pixels, and a tiled image equals the whole one as long as patches lie on one grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_gan.residuals import RESIDUALS

CHUNK = 16  # patches at once, always so many: libraries round otherwise for another batch, and steps enlarge that
RATE = 0.1  # of Adam, at first; it falls to 0, so that the search comes to rest


@dataclass(frozen=True)
class Inversion:
    """z* (M, code, h, w), G(z*) (M, C, P, P) and the terms at every pixel, (M, 1, P, P): "residual", "feature" and
    "likelihood", which is -log p(z*) per number of the code, but for a constant.
    """

    z: Tensor
    image: Tensor
    terms: dict[str, Tensor]

    def left(self, weights: Mapping[str, float]) -> Tensor:
        """The sum of the terms by their weights, at every pixel, (M, 1, P, P)."""
        return torch.stack([weight * self.terms[name] for name, weight in weights.items()]).sum(0)


def least(tried: Sequence[Inversion], weights: Mapping[str, float]) -> Inversion:
    """Of several inversions of the same patches, for each patch the one that leaves the least."""
    best = torch.stack([one.left(weights).mean((1, 2, 3)) for one in tried]).argmin(0)  # (M,)

    def chosen(fields: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(fields))[best, torch.arange(len(best), device=best.device)]

    z, image = chosen([one.z for one in tried]), chosen([one.image for one in tried])
    return Inversion(z, image, {name: chosen([one.terms[name] for one in tried]) for name in tried[0].terms})


def invert(
    G: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    bank: Tensor,
    *,
    residual: str = "l1",
    feature: float = 0.1,
    likelihood: float = 0.01,
    steps: int = 40,
) -> Inversion:
    """Inverts each of the patches x (M, C, P, P) in [-1, 1], or blocks (M, C, P, P, P), by Adam, from the code of
    `bank` (B, code, h, w) whose image is nearest to it.

    `feature` and `likelihood`: lambda and mu. `residual`: one of RESIDUALS. G and f map patch by patch, so no batch
    statistic may be taken in them. Works without gradients around it, too, and leaves those of parameters alone.
    """
    weights = {"residual": 1.0, "feature": feature, "likelihood": likelihood}
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()  # what comes from inference mode could not be a part of a gradient
        with torch.no_grad():
            drawn = G(bank)
        found = []
        for begin in range(0, len(x), CHUNK):
            some = x[begin : begin + CHUNK]
            full = torch.cat((some, some[-1:].expand(CHUNK - len(some), *some.shape[1:])))
            found.append(_search(G, f, full, bank[_nearest(full, drawn)], weights, residual, steps))
    z, image = (torch.cat([getattr(one, name) for one in found])[: len(x)] for name in ("z", "image"))
    return Inversion(z, image, {name: torch.cat([one.terms[name] for one in found])[: len(x)] for name in weights})


def _nearest(x: Tensor, images: Tensor) -> Tensor:
    """For each of (M, C, P, P) the number of the nearest of (B, C, P, P)."""
    exact = "donot_use_mm_for_euclid_dist"  # the other way takes differences of large squares
    return torch.cdist(x.flatten(1), images.flatten(1), compute_mode=exact).argmin(1)


def _search(
    G: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    weights: dict[str, float],
    residual: str,
    steps: int,
) -> Inversion:
    with torch.no_grad():
        target = f(x)

    def at(z: Tensor) -> Inversion:
        image = G(z)
        terms = {
            "residual": RESIDUALS[residual](image, x),
            "feature": (f(image) - target).abs().mean(1, keepdim=True),  # (M, 1, h, w)
            "likelihood": z.square().mean(1, keepdim=True) / 2,
        }
        return Inversion(z, image, {name: interpolate(term, x.shape[2:]) for name, term in terms.items()})

    z = descend(lambda z: at(z).left(weights).sum(), start, steps)
    with torch.no_grad():
        return at(z)


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Tensor:
    """The codes of least `loss`, a number, that Adam finds in so many steps from `start`.

    `progress` wraps the steps to show how far it is. Nothing else is moved, and no gradient is left behind.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([z], RATE)
        for step in progress(range(steps)):
            optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
            (z.grad,) = torch.autograd.grad(loss(z), z)
            optimiser.step()
    return z.detach()
