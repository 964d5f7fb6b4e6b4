"""Spectrally normalised GAN: the critic is Lipschitz by construction, each of its weight matrices having norm 1.

    W_SN = W / sigma(W),   sigma(W) = max over ||h|| = 1 of ||W h||, by one power iteration a step

Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), with the hinge objective it is mostly
used with. With classes D projects them onto its features, D(x, y) = psi(f(x)) + <V y, f(x)> (cGANs with Projection
Discriminator, Miyato and Koyama, 2018), and G is told the class as in `cgan`, where the paper has conditional norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from anomalib_gan.model import About
from anomalib_gan.models.cgan import CGAN
from anomalib_gan.nets import Critic, ProjectionCritic, normalised, strided, transposed


class SNGAN(CGAN):
    """`classes`: as of `CGAN`, but by default there are none. `common`: the other keywords of `CGAN`."""

    about = About("a critic whose weight matrices have norm 1", "Miyato et al., 2018", "implicit")

    def __init__(self, objective: str = "hinge", classes: Sequence[str] = (), **common: Any) -> None:
        super().__init__(objective=objective, classes=classes, **common)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        D = strided(self.channels, width, norm=False)
        if self.classes:
            D = ProjectionCritic(D.features, D.head, self.channels, 4 * width, len(self.classes))
        return transposed(self.code, width, self.channels), normalised(D)
