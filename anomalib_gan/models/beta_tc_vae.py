"""Variational autoencoder whose code falls into independent parts: dependence between its units costs extra.

    E and G descend -ELBO + (beta - 1) KL[q(z) || prod_j q(z_j)],   q(z) = E_x q(z|x)

Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018), with alpha = gamma = 1: of the
three parts of the KL only the total correlation is weighed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from anomalib_gan.model import About
from anomalib_gan.models.vae import VAE
from anomalib_gan.penalties import total_correlation

CODES = 256  # of a batch, drawn at random, between which the total correlation is estimated: it takes their square


class BetaTCVAE(VAE):
    """`correlation`: the paper's beta. `common`: the keywords of `VAE`, whose own beta weighs all of the KL."""

    about = About("a VAE whose units shall be independent", "Chen et al., 2018", "bound")

    def __init__(self, correlation: float = 6.0, **common: Any) -> None:
        super().__init__(**common)
        self.correlation = correlation

    def penalties(self, q: Normal, z: Tensor, rise: float) -> dict[str, Tensor]:
        chosen = torch.randperm(z[:, 0].numel())[:CODES].to(z.device)
        z, mean, log_variance = (
            one.movedim(1, -1).flatten(0, 2)[chosen] for one in (z, q.mean, 2 * q.stddev.log())
        )  # (M, code) each
        return {"tc": (self.correlation - 1) * rise * total_correlation(z, mean, log_variance) / self.pixels}
