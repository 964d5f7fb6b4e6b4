"""Least squares GAN: answers have a target, so fakes that D takes for real but that lie far away are pulled as well.

    min over D of  E (D(x) - 1)^2 + E D(G(z))^2,   min over G of  E (D(G(z)) - 1)^2

Least Squares Generative Adversarial Networks (Mao et al., 2017), with b = c = 1 and a = 0. Where the sigmoid's cross
entropy is flat, a square is not.
"""

from __future__ import annotations

from typing import Any

from anomalib_gan.model import About
from anomalib_gan.models.dcgan import DCGAN


class LSGAN(DCGAN):
    """`common`: the keywords of `GAN`."""

    about = About("answers have a target, missed by squares", "Mao et al., 2017", "implicit")

    def __init__(self, objective: str = "least-squares", **common: Any) -> None:
        super().__init__(objective=objective, **common)
