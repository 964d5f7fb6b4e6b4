"""Source mode: the fully convolutional BiGAN detector exactly as its source gives it.

    A(s) = alpha (D(s, E(s)) - 1)^2 + (1 - alpha) ||G(E(s)) - s||_2,   possibly also -log p(E(s))

Game and references stand with its parent, `FCBiGAN`; what that adds to the source is off here.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from anomalib_gan.mixing import Score
from anomalib_gan.model import About
from anomalib_gan.models.fcbigan import FCBiGAN, Norm
from anomalib_gan.nets import DenseCritic
from anomalib_gan.nets_patch import PatchCritic, patch_encoder, patch_generator


class SourceFCBiGAN(FCBiGAN):
    """The detector exactly as its source gives it: one code in R^128 per 32 x 32 patch, least squares, L2 penalty and
    residual, the critic's answer squared, no standardisation, no negatives, full scale. The source gives no alpha;
    0.5 is the middle. `penalised`: who descends the reconstruction penalty.
    """

    about = About("the detector exactly as its source gives it", "Donahue et al., 2017", "implicit")
    natural = False
    score: Score = "source"
    evens = False
    batch = 64
    critic_steps = 1
    lr = 2e-4
    betas = (0.5, 0.99)
    turn = 0.0
    texture = 0.0
    cell = 1
    side_at_scale = 0

    def __init__(
        self,
        channels: int = 1,
        code: int = 128,
        width: int = 32,
        patch: int = 32,
        alpha: float = 0.5,
        likelihood: float = 0.0,
        smoothing: float = 0.0,
        adversarial: float = 1.0,
        reconstruction: float = 1.0,
        norm: Norm = "l2",
        penalised: Literal["both", "encoder"] = "both",
    ) -> None:
        super().__init__(
            channels=channels,
            code=code,
            width=width,
            patch=patch,
            shrink=1,
            alpha=alpha,
            likelihood=likelihood,
            smoothing=smoothing,
            adversarial=adversarial,
            norm=norm,
            negatives=0.0,
            turned=False,
        )
        self.reconstruction = reconstruction
        self.penalised = penalised
        self.smallest = 32

    def nets(self, width: int) -> tuple[nn.Module, nn.Module, DenseCritic | PatchCritic]:
        """E, G and D: unpadded, so that a 32 x 32 patch has exactly one code and one answer."""
        return (
            patch_encoder(self.channels, width, self.code),
            patch_generator(self.code, width, self.channels),
            PatchCritic(self.channels, width, self.code),
        )
