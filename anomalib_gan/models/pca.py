"""Principal components of patches: the best linear autoencoder, in closed form. Nobody plays, `settle` solves.

    z = W^T (x - mu),   x^ = W z + mu,   map = ||x^ - x||,   W: first eigenvectors of the covariance of normal patches

On Lines and Planes of Closest Fit to Systems of Points in Space (Pearson, 1901); no linear autoencoder has a smaller
squared error: Neural Networks and Principal Component Analysis (Baldi and Hornik, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from anomalib_gan.compared import Coded
from anomalib_gan.model import About, Player
from anomalib_gan.nets import shrink
from anomalib_gan.patches import covering, laid, moments


class PCA(Coded):
    """`code` components of patches of `side` x `side` working pixels, every `step` of them (a divisor of `side`) from
    the image's origin; where patches overlap, the reconstruction is their mean.

    `residual`: what the map measures, "ssim", "l1" or "l2"; `smoothing` of it: sigma in working pixels. `shrink`: the
    working scale is 1/shrink of the image.
    """

    about = About("what the first principal components of patches leave out", "Pearson, 1901", "none")

    def __init__(
        self,
        channels: int = 1,
        side: int = 16,
        step: int = 8,
        code: int = 32,
        shrink: int = 2,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        smoothing: float = 4.0,
    ) -> None:
        super().__init__()
        n = channels * side**2
        covering(side, step)  # refuses a step that does not divide the side
        if code >= n:
            raise ValueError(f"{code} components keep all of a patch of {n} numbers: give fewer than {n}")
        self.channels, self.side, self.step, self.code, self.shrink = channels, side, step, code, shrink
        self.patch = self.smallest = side * shrink
        self.batch = 1
        self.stride = step * shrink
        self.compare(residual, smoothing, side - 1)
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("W", torch.zeros(n, code))
        self.mean: Tensor
        self.W: Tensor

    def players(self) -> dict[str, Player]:
        return {}

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        mean, covariance, _ = moments((shrink(x, self.shrink) for x in normals), self.side, self.step)
        self.mean.copy_(mean)
        self.W.copy_(torch.linalg.eigh(covariance).eigenvectors[:, -self.code :])  # in rising order of variance

    def encode(self, s: Tensor) -> Tensor:
        """(N, C, h, w) -> the components of each patch, (N, code, rows, columns)."""
        kernel = self.W.T.reshape(self.code, self.channels, self.side, self.side)
        return conv2d(s, kernel, -self.W.T @ self.mean, stride=self.step)

    def decode(self, z: Tensor) -> Tensor:
        """(N, code, rows, columns) -> (N, C, h, w), the mean of W z + mu over the patches that cover a pixel."""
        kernel = torch.cat((self.W, self.mean[:, None]), 1).T  # mu as one more component, which is always 1
        kernel = kernel.reshape(self.code + 1, self.channels, self.side, self.side)
        return laid(torch.cat((z, torch.ones_like(z[:, :1])), 1), kernel, self.step)

    def coded(self, s: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(s)
        return z, self.decode(z)
