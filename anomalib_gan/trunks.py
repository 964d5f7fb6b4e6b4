"""A game's networks as features of images for other uses than the game."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class OfPairs(nn.Module):
    """What a critic of image and code answers by, f_D(s, E(s)), (N, f, h, w), for images s alone.

    `E`: s -> codes; `D` has `seen(s, z)`, its last features, for s as it comes or as `look` makes it.
    """

    def __init__(self, E: nn.Module, D: nn.Module, look: Callable[[Tensor], Tensor] = lambda s: s) -> None:
        super().__init__()
        self.E, self.D, self.look = E, D, look

    def forward(self, s: Tensor) -> Tensor:
        found: Tensor = self.D.seen(self.look(s), self.E(s))  # type: ignore[operator]
        return found
