"""Muon: weight matrices turned by orthogonal steps, everything else moved by AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 5  # of the iteration below
POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # its coefficients: steep at 0, so that five steps are enough (Jordan, 2024)


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024), for small dense critics.

    A matrix's averaged gradient is replaced by the nearest orthogonal matrix, so that directions that are rare among
    the examples are learnt as fast as the common ones. A step changes a matrix by `turn` of its own length at most, and
    the length stays: it means nothing, since `turned` names only weights that a norm layer follows. All other
    parameters move as in AdamW.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        turned: Iterable[Tensor],
        *,
        turn: float,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
    ) -> None:
        chosen = {id(parameter) for parameter in turned} if turn else set()
        groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in chosen]}]
        if matrices := [p for p in parameters if id(p) in chosen]:
            groups.append({"params": matrices, "lr": turn, "turned": True})
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group.get("turned"):
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._turn(weight, weight.grad, group["lr"], group["betas"][0])
                        weight.grad = None  # so that AdamW leaves it alone
        super().step(closure)

    def _turn(self, weight: Tensor, gradient: Tensor, by: float, momentum: float) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(weight))  # as AdamW names them
        state["step"] += 1
        average = state["exp_avg"].lerp_(gradient, 1 - momentum)
        step = orthogonal(gradient.lerp(average, momentum).flatten(1))  # Nesterov's look ahead
        length = weight.norm()
        weight.sub_(step.view(weight.shape) * (by * length / step.norm().clamp_min(1e-12)))
        weight.mul_(length / weight.norm().clamp_min(1e-12))


def orthogonal(matrix: Tensor) -> Tensor:
    """(m, n) -> nearly its orthogonal factor, U V^T of U S V^T: all singular values between 0.7 and 1.2.

    By a Newton-Schulz iteration, which needs products of matrices only.
    """
    a, b, c = POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-12)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def matrices(nets: Iterable[nn.Module]) -> list[Tensor]:
    """The weights of convolutions and linear layers without bias: here a norm layer always follows those."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [
        module.weight
        for net in nets
        for module in net.modules()
        if isinstance(module, kinds) and module.bias is None and module.weight.requires_grad
    ]
