"""Denoising autoencoder: whoever can clean an image knows what is usual.

    min over E and G of  ||G(E(s + n)) - s||^2,   n ~ N(0, sigma^2 I),   map = ||G(E(s)) - s|| per pixel

Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al., 2008). The best G(E(.)) follows
the slope of the smoothed log density, s + sigma^2 grad log p(s): What Regularized Auto-Encoders Learn from the
Data-Generating Distribution (Alain and Bengio, 2014).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_gan.model import About
from anomalib_gan.models.ae import AE


class DenoisingAE(AE):
    """The autoencoder that is shown its images with noise; `noise` is sigma, of images in [-1, 1], in working pixels.

    The code may be wider than the patch, since copying does not clean. The map sees the image as it is. `common`: the
    keywords of `AE`; the stacked kind cleans at every layer (Vincent et al., 2010).
    """

    about = About("an autoencoder that learns to clean images of noise", "Vincent et al., 2008", "none")
    overcomplete = True

    def __init__(
        self, code: int = 32, residual: Literal["ssim", "l1", "l2"] = "l2", noise: float = 0.3, **common: Any
    ) -> None:
        super().__init__(code=code, residual=residual, **common)
        self.noise = noise

    def shown(self, s: Tensor) -> Tensor:
        return s + self.noise * torch.randn_like(s)
