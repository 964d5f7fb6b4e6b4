"""A game's networks as features of images for other uses than the game."""

from __future__ import annotations

from torch import Tensor, nn


class OfPairs(nn.Module):
    """What a critic of image and code answers by, f_D(s, E(s)), (N, f, h, w), for images s alone.

    `E`: s -> codes; `D` has `seen(s, z)`, its last features.
    """

    def __init__(self, E: nn.Module, D: nn.Module) -> None:
        super().__init__()
        self.E, self.D = E, D

    def forward(self, s: Tensor) -> Tensor:
        found: Tensor = self.D.seen(s, self.E(s))  # type: ignore[operator]
        return found
