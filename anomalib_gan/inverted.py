"""The map of a generator that has no encoder: what inversion leaves of an image, by generator and critic together.

    map = r(G(z*), x) + lambda |f(G(z*)) - f(x)| - mu log p(z*),   z* = argmin of the same,   f: the critic's features

AnoGAN (Schlegl et al., 2017); the search is that of `inversion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_gan.inversion import Inversion, invert
from anomalib_gan.model import Model, refresh, whole_strides
from anomalib_gan.nets import Critic, enlarge, judged, shrink
from anomalib_gan.patches import cut, joined
from anomalib_gan.residuals import smooth

BANK = 128  # codes whose images inversion starts from


class Inverted(Model):
    """G: field of codes -> image, D: image -> answers by features. Patches of `patch` px on a grid from the image's
    origin are inverted each by itself, so tiles equal the whole image.
    """

    exportable = "the map needs an optimisation"
    looked_at = 4
    shrink: int
    smoothing: float
    G: nn.Module
    D: Critic
    bank: Tensor
    unit: Tensor

    def search(
        self,
        residual: Literal["ssim", "l1", "l2"],
        feature: float,
        likelihood: float,
        steps: int,
        score: Literal["loss", "likelihood"],
        smoothing: float,
    ) -> None:
        """How the map is found, once there are networks: r, lambda, mu and steps of the inversion. `score`: the map is
        the "loss" above, or by itself the "likelihood", -log p(z*); `smoothing` of it: sigma in working px.
        """
        self.inversion: dict[str, Any] = {
            "residual": residual, "feature": feature, "likelihood": likelihood, "steps": steps
        }  # fmt: skip
        self.score, self.smoothing = score, smoothing
        self.weights = {"residual": 1.0, "feature": feature, "likelihood": likelihood}
        self.halo = whole_strides(self.patch + (3 * smoothing + 2) * self.shrink, self.patch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.register_buffer("bank", self.prior(torch.empty(BANK, 1, *[self.patch // self.shrink] * self.dim)))
        self.register_buffer("unit", torch.ones(()))  # mean absolute feature of normal images

    def prior(self, like: Tensor) -> Tensor:
        """z ~ p(z): a field of codes (N, code, h, w) for each of the images (N, C, h cell, w cell)."""
        raise NotImplementedError

    def seen(self, x: Tensor) -> Tensor:
        """What the critic is shown of real images."""
        return shrink(x, self.shrink)

    def anomaly_map(self, x: Tensor) -> Tensor:
        return self.parts(x)["map"]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """G(z*) at the size of x (N, C, H, W), the field of codes z*, and the map."""
        s = shrink(x, self.shrink)
        side = self.patch // self.shrink
        rows = [size // side for size in s.shape[2:-1]]
        with judged(self.G, self.D):
            found = self.inverted(cut(s, side))
        z, again = (joined(one, len(s), *rows) for one in (found.z, found.image))
        chosen = {"likelihood": 1.0} if self.score == "likelihood" else self.weights
        surprise = smooth(joined(found.left(chosen), len(s), *rows), self.smoothing)
        return {
            "reconstruction": enlarge(again, self.shrink), "code": z, "map": enlarge(surprise, self.shrink)
        }  # fmt: skip

    def inverted(self, s: Tensor) -> Inversion:
        """The patches (M, C, side, side) at working scale, inverted."""
        return invert(self.G, lambda y: self.D.features(y) / self.unit, s, self.bank, **self.inversion)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.parts(x)["reconstruction"]

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        refresh(self, normals)
        with judged(self.D):
            sizes = [self.D.features(self.seen(x)).abs().mean() for x in normals]
        self.unit.copy_(torch.stack(sizes).mean().clamp_min(1e-6))
