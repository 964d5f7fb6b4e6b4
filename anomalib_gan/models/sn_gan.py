"""Spectrally normalised GAN: the critic is Lipschitz by construction, each of its weight matrices having norm 1.

    W_SN = W / sigma(W),   sigma(W) = max over ||h|| = 1 of ||W h||, by one power iteration a step

Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), with the hinge objective it is mostly
used with. D's features stand apart from its head, beside which a class may be projected (cGANs with Projection
Discriminator, Miyato and Koyama, 2018).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from anomalib_gan.model import About
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.nets import Critic, strided, transposed


class SNGAN(DCGAN):
    """`common`: the keywords of `GAN`."""

    about = About("a critic whose weight matrices have norm 1", "Miyato et al., 2018", "implicit")

    def __init__(self, objective: str = "hinge", **common: Any) -> None:
        super().__init__(objective=objective, **common)

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        D = strided(self.channels, width, norm=False)
        return transposed(self.code, width, self.channels), normalised(D)


def normalised(net: Critic) -> Critic:
    """The net, with spectral normalisation of all its convolutions."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d):
            spectral_norm(module)
    return net
