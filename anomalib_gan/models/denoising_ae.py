"""Denoising autoencoder: whoever can clean an image knows what is usual.

    min over E and G of  ||G(E(s + n)) - s||^2,   n ~ N(0, sigma^2 I),   map = ||G(E(s)) - s|| per pixel

Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al., 2008). The best G(E(.)) follows
the slope of the smoothed log density, s + sigma^2 grad log p(s): What Regularized Auto-Encoders Learn from the
Data-Generating Distribution (Alain and Bengio, 2014).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from anomalib_gan.model import About
from anomalib_gan.models.ae import AE


class DenoisingAE(AE):
    """The autoencoder that is shown its images with noise; `noise` is sigma, of images in [-1, 1], in working pixels.

    The code may be wider than the patch, since copying does not clean. The map sees the image as it is. Other keywords
    as those of `AE`.
    """

    about = About("an autoencoder that learns to clean images of noise", "Vincent et al., 2008", "none")
    overcomplete = True

    def __init__(
        self,
        channels: int = 1,
        kind: Literal["conv", "mlp"] = "conv",
        code: int = 32,
        width: int = 64,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        residual: Literal["ssim", "l1", "l2"] = "l2",
        noise: float = 0.3,
        smoothing: float = 4.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(
            channels=channels,
            kind=kind,
            code=code,
            width=width,
            patch=patch,
            batch=batch,
            shrink=shrink,
            residual=residual,
            smoothing=smoothing,
            lr=lr,
        )
        self.noise = noise

    def shown(self, s: Tensor) -> Tensor:
        return s + self.noise * torch.randn_like(s)
