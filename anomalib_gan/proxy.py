"""How good a map is without a real defect: normal images that training never saw, spoilt in ways it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import max_pool2d

from anomalib_gan.corruption import SPOILT, corrupt_held_out
from anomalib_gan.model import Model
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.training import derive_seed

GENEROUS = 4  # px
SCALES = (1, 2)  # at which the corruptions are laid over, so that they come small and large
Corruption = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def proxy(
    model: Model,
    normals: Sequence[Tensor],
    *,
    trials: int = 60,
    side: int = 384,
    seed: int = 0,
    corruption: Corruption = corrupt_held_out,
) -> dict[str, float]:
    """Pooled pixel AUROC of the map, and of each of its parts where the model tells them, on spoilt normal images.

    `normals`: (1, C, H, W) in [-1, 1], of which crops of at most `side` pixels are spoilt by `corruption`, which must
    not be what the model was trained on: by default the families that training leaves out. A tenth of the pixels is
    looked at. ValueError where no image is as large as the model's smallest.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _judged(model, examples_of(normals, model.stride, model.smallest, trials, side, seed, corruption))


def _judged(model: Model, examples: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    truth: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {}
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for spoilt, opacity in examples:
        chosen = torch.rand(opacity.shape) < 0.1
        truth.append((opacity > SPOILT)[chosen].numpy())
        x = spoilt.to(device)
        parts: dict[str, Tensor] = getattr(model, "parts", lambda x: {})(x)
        maps = {name: parts[name] for name in parts if name not in ("reconstruction", "code")}
        for name, field in {"map": model.anomaly_map(x), **maps}.items():
            found.setdefault(name, []).append(field.float().cpu()[chosen].numpy())
    labels = np.concatenate(truth)
    return {name: float(roc_auc_score(labels, np.concatenate(values))) for name, values in found.items()}


def examples_of(
    normals: Sequence[Tensor],
    stride: int,
    least: int = 1,
    trials: int = 48,
    side: int = 384,
    seed: int = 0,
    corruption: Corruption = corrupt_held_out,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Spoilt crops of the normal images, as `proxy` judges maps by, and their opacities; the same for the same seed.

    Randomness outside is left alone. ValueError where no image has `least` pixels, or a stride, along both axes.
    """
    least = max(stride, least, 2 * max(SCALES))
    usable = [x for x in normals if min(x.shape[-2:]) >= least]
    if not usable:
        raise ValueError(f"no image is at least {least} pixels high and wide")
    for trial in range(trials):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, trial))
            yielded = spoil(crop(usable[trial % len(usable)], side, stride), SCALES[trial % 2], corruption)
        yield yielded


def generous(opacity: Tensor) -> Tensor:
    """The mask, 0 or 1, that a person would draw around what is spoilt: GENEROUS pixels beyond it."""
    return max_pool2d((opacity > SPOILT).float(), 2 * GENEROUS + 1, stride=1, padding=GENEROUS)


def crop(x: Tensor, side: int, stride: int) -> Tensor:
    """A random crop of (1, C, H, W), at most `side` pixels and multiples of `stride` high and wide."""
    height, width = (min(side, size) // stride * stride for size in x.shape[-2:])
    top, left = (
        int(torch.randint(have - want + 1, ())) for have, want in zip(x.shape[-2:], (height, width), strict=True)
    )
    return x[..., top : top + height, left : left + width]


def spoil(x: Tensor, scale: int, corruption: Corruption) -> tuple[Tensor, Tensor]:
    """`corruption` as it is at 1/scale of the image, where the rest of the image keeps its detail: (image, opacity)."""
    small = shrink(x, scale)
    spoilt, opacity = corruption(torch.cat((small, small.flip(-1))))  # the second lends texture to the first
    return (x + enlarge((spoilt - torch.cat((small, small.flip(-1))))[:1], scale)).clamp(-1, 1), enlarge(
        opacity[:1], scale
    )
