"""A real image in the generator's terms: z* = argmin ||G(z) - x||^2 + mu ||z||^2, and what becomes of it when z moves.

    edited = G(z* + s d),   transferred = x + G(z* + s d) - G(z*)

Generative Visual Manipulation on the Natural Image Manifold (Zhu et al., 2016), who also carry the edit, not the
picture, over to the image: so it keeps all the detail that G does not draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from anomalib_gan.degrading import Degradation
from anomalib_gan.model import Model
from anomalib_gan.nets import judged
from anomalib_gan.restoring import STEPS, Found, begun, drawn, search

MU = 0.003  # weight of |z|^2: only what the image hardly says is left to the prior
PIXELS = 4 * 2**20  # of an image that is inverted as one field of codes


def inverted(
    model: Model,
    x: Tensor,
    *,
    mu: float = MU,
    steps: int = STEPS,
    progress: Callable[[range], Iterable[int]] = iter,
) -> tuple[Found, Found]:
    """What the search for an image (1, C, H, W) in [-1, 1] begins with, and z*; a ValueError where the image is too
    large, or the model draws nothing from codes.
    """
    if x.shape[-2] * x.shape[-1] > PIXELS:
        raise ValueError(
            f"an image of {x.shape[-2]}x{x.shape[-1]} px is too large to be inverted as a whole: give a part of it, of "
            f"at most {PIXELS / 2**20:g} Mpx"
        )
    start = begun(model, x)
    return start, search(model, x, Degradation(), start, mu=mu, steps=steps, progress=progress)


@torch.no_grad()
def edited(model: Model, x: Tensor, found: Found, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The image at z* + direction, (code,) or a field, and the edit transferred to x; both as x."""
    step = direction.to(found.z)
    with judged(model):
        moved = drawn(model, found.z + (step[:, None, None] if step.dim() == 1 else step), found.place)
    return moved, (x + moved - found.image).clamp(-1, 1)
