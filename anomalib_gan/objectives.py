"""What critic and generator want of each other's answers, on raw critic outputs and independent of any network.

minimax, non-saturating: Goodfellow et al., 2014. least-squares: Mao et al., 2017. wasserstein: Arjovsky et al., 2017.
hinge: Lim and Ye, 2017. energy: Zhao et al., 2017, where the answer is minus the energy, in units of the margin, so
that here too the larger answer is the more real one. Each objective is a pair of functions; both are descended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, sigmoid
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Objective:
    """`critic(real, fake)` and `generator(fake)`: raw answers of any shape -> scalar loss, averaged over all answers.

    `generator(fake)` is what the player behind the fakes descends; `flipped(real)` is the opposite target on real
    pairs, for an encoder whose code stands beside the real image in a joint critic. `probability(answers)`: the D of
    the theory, whose 1/2 says nothing; None where answers have no such scale.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    flipped: Callable[[Tensor], Tensor]
    probability: Callable[[Tensor], Tensor] | None = None


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(
        critic=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        generator=lambda fake: -softplus(fake).mean(),
        flipped=lambda real: -softplus(-real).mean(),
        probability=sigmoid,
    ),
    "non-saturating": Objective(
        critic=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        generator=lambda fake: softplus(-fake).mean(),
        flipped=lambda real: softplus(real).mean(),
        probability=sigmoid,
    ),
    "least-squares": Objective(
        critic=lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
        generator=lambda fake: (fake - 1).square().mean(),
        flipped=lambda real: real.square().mean(),
        probability=lambda answers: answers,
    ),
    "wasserstein": Objective(
        critic=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda fake: -fake.mean(),
        flipped=lambda real: real.mean(),
    ),
    "hinge": Objective(
        critic=lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        generator=lambda fake: -fake.mean(),
        flipped=lambda real: real.mean(),
    ),
    "energy": Objective(
        critic=lambda real, fake: relu(1 + fake).mean() - real.mean(),
        generator=lambda fake: -fake.mean(),
        flipped=lambda real: real.mean(),
    ),
}


def objective_of(name: str) -> Objective:
    """That of OBJECTIVES; a ValueError lists the names that exist."""
    if name not in OBJECTIVES:
        raise ValueError(f"no objective is called {name!r}: choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
