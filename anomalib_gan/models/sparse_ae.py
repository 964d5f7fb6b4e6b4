"""Sparse autoencoder: a wide code of which each image may light little.

    min over E and G of  ||G(z) - s||^2 + lambda ||z||_1,   z = E(s),   map = ||G(z) - s||^2 + lambda ||z||_1 per pixel

Emergence of Simple-Cell Receptive Field Properties by Learning a Sparse Code for Natural Images (Olshausen and Field,
1996); with an encoder: Efficient Learning of Sparse Representations with an Energy-Based Model (Ranzato et al., 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_gan.model import About, crops
from anomalib_gan.models.ae import AE
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.penalties import loudness, sparsity
from anomalib_gan.residuals import RESIDUALS, smooth


class SparseAE(AE):
    """The autoencoder with a code that may be wider than the patch, and a price on it: `penalty` is lambda.

    Each unit of z is taken in units of its root mean square on normal images: a small z with a loud G would evade the
    price otherwise. `common`: the keywords of `AE`.
    """

    about = About("an autoencoder with a wide code, of which little may be lit", "Olshausen and Field, 1996", "none")
    overcomplete = True

    def __init__(
        self, code: int = 96, residual: Literal["ssim", "l1", "l2"] = "l2", penalty: float = 0.02, **common: Any
    ) -> None:
        super().__init__(code=code, residual=residual, **common)
        self.penalty = penalty
        self.halo += self.stride  # a code's price is spread to its neighbours
        self.register_buffer("unit", torch.ones(1, code, 1, 1))  # root mean square of z on normal images
        self.unit: Tensor

    def terms(self, s: Tensor, z: Tensor, again: Tensor) -> dict[str, Tensor]:
        return {**super().terms(s, z, again), "sparse": self.penalty * sparsity(z)}

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """As `AE.parts`, with the code's price as a component beside the residual."""
        s = shrink(x, self.shrink)
        z = self.E(s)  # (N, code, h, w)
        again = self.G(z)  # (N, C, 8 h, 8 w)
        residual = RESIDUALS[self.residual](again, s)
        residual = smooth(residual.square() if self.residual == "l2" else residual, self.smoothing)
        price = self.penalty * (z / self.unit).abs().mean(1, keepdim=True)  # (N, 1, h, w)
        return {
            "reconstruction": enlarge(again, self.shrink),
            "code": z,
            "residual": enlarge(residual, self.shrink),
            "price": enlarge(price, self.stride),
        }

    def anomaly_map(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        return parts["residual"] + parts["price"]

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        super().settle(normals)
        self.eval()
        batches = crops(normals, self.patch, self.batch)
        self.unit.copy_(loudness(torch.cat([self.E(shrink(next(batches), self.shrink)) for _ in range(16)])))
