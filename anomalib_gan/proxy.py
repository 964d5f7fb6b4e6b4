"""How good a map is without a real defect: normal images that training never saw, spoilt in ways it never saw.

`proxy` ranks pixels where defects are dense; `whole` asks what an operator asks: is the image with one defect hotter
than the images without?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import max_pool2d

from anomalib_gan import corruption as corruptions
from anomalib_gan.corruption import (
    HELD_OUT,
    HELD_OUT_THIN,
    SPOILT,
    blob,
    bump,
    corrupt_held_out,
    crack,
    scratch,
    speck,
)
from anomalib_gan.evaluation import HIT_SHARE
from anomalib_gan.model import Model
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.runtime.scores import WINDOW, image_score
from anomalib_gan.training import derive_seed

GENEROUS = 4  # px
SCALES = (1, 2)  # at which the corruptions are laid over, so that they come small and large
TRIALS, SIDE = 60, 384  # crops that `proxy` spoils, and their side in px
FEW, NARROW = 12, 192  # the same for a model whose map is an optimisation, which takes seconds
Corruption = Callable[[Tensor], tuple[Tensor, Tensor]]
# Shapes and the fills that they get. No fill is trained on, nor are cracks, bumps and scratches.
FAMILIES = {
    "pit": (speck, HELD_OUT_THIN),
    "crack": (crack, HELD_OUT_THIN),
    "blob": (blob, HELD_OUT),
    "bump": (bump, HELD_OUT_THIN),
    "scratch": (scratch, HELD_OUT_THIN),
}
AROUND = 192  # px, side of the square that the one defect of an image lies in
SEEN = 6  # px, least area of a defect


def effort(model: Model) -> tuple[int, int]:
    """`trials` and `side` of `proxy` for this model: less where each map is an optimisation, by `inversion`."""
    return (FEW, max(NARROW, model.smallest)) if hasattr(model, "inversion") else (TRIALS, SIDE)


@torch.no_grad()
def proxy(
    model: Model,
    normals: Sequence[Tensor],
    *,
    trials: int = TRIALS,
    side: int = SIDE,
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
    device = device_of(model)
    for spoilt, opacity in examples:
        chosen = torch.rand(opacity.shape) < 0.1
        truth.append((opacity > SPOILT)[chosen].numpy())
        x = spoilt.to(device)
        parts: dict[str, Tensor] = getattr(model, "parts", lambda x: {})(x)
        maps = {name: parts[name] for name in parts if name not in ("reconstruction", "code")}
        if "map" not in maps:
            maps = {"map": model.anomaly_map(x), **maps}
        for name, field in maps.items():
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
    """A random crop of (1, C, H, W), or of a volume, at most `side` pixels along each axis, multiples of `stride`."""
    wanted = [min(side, size) // stride * stride for size in x.shape[2:]]
    begins = [int(torch.randint(have - want + 1, ())) for have, want in zip(x.shape[2:], wanted, strict=True)]
    here = (slice(begin, begin + want) for begin, want in zip(begins, wanted, strict=True))
    return x[(slice(None), slice(None), *here)]


def spoil(x: Tensor, scale: int, corruption: Corruption) -> tuple[Tensor, Tensor]:
    """`corruption` as it is at 1/scale of the image, where the rest of the image keeps its detail: (image, opacity)."""
    small = shrink(x, scale)
    spoilt, opacity = corruption(torch.cat((small, small.flip(-1))))  # the second lends texture to the first
    return (x + enlarge((spoilt - torch.cat((small, small.flip(-1))))[:1], scale)).clamp(-1, 1), enlarge(
        opacity[:1], scale
    )


@torch.no_grad()
def whole(model: Model, normals: Sequence[Tensor], *, spoilt: int = 60, seed: int = 0) -> dict[str, dict[str, float]]:
    """Normal images against the same with one defect each, of kinds that training leaves out, small and large.

    By family: "pixel", the pooled pixel AUROC within the images with a defect against generous masks; "image", the
    AUROC of the images' scores; "hit", the share of defects of whose pixels HIT_SHARE are hotter than the hottest
    pixel of all clean images. `normals`: (1, C, H, W) in [-1, 1]; large ones are taken in pieces of about WINDOW
    pixels. At least `spoilt` images are spoilt for each family; those in which no defect can be seen do not count, and
    a family without any is left out. ValueError where no image is large enough.
    """
    least = max(model.stride, model.smallest, 2 * max(SCALES))
    pieces = [piece for x in normals for piece in pieces_of(x, model.stride) if min(piece.shape[-2:]) >= least]
    if not pieces:
        raise ValueError(f"no image is at least {least} pixels high and wide")
    device = device_of(model)

    def seen(x: Tensor) -> np.ndarray:
        return model.anomaly_map(x.to(device))[0, 0].float().cpu().numpy()

    clean = [seen(x) for x in pieces]
    hottest, scores = max(field.max() for field in clean), [image_score(field) for field in clean]
    found = {}
    for name, (shape, fills) in FAMILIES.items():
        for scale in SCALES:
            one = partial(corruptions.spoil, shapes=(shape,), fills=fills, thin=fills)
            values, truth, hits, warm = [], [], [], []
            for trial in range(max(spoilt, len(pieces))):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derive_seed(seed, name, scale, trial))
                    x, opacity = with_one(pieces[trial % len(pieces)], scale, one)
                mask = (opacity[0, 0] > SPOILT).numpy()
                if not mask.any():
                    continue
                field = seen(x)
                values.append(field.ravel()[::7])
                truth.append(generous(opacity)[0, 0].numpy().ravel()[::7])
                warm.append(image_score(field))
                hits.append(bool((field[mask] > hottest).mean() >= HIT_SHARE))
            if not hits:
                continue
            found[f"{name}, 1/{scale}" if scale > 1 else name] = {
                "pixel": float(roc_auc_score(np.concatenate(truth), np.concatenate(values))),
                "image": float(roc_auc_score([0] * len(scores) + [1] * len(warm), scores + warm)),
                "hit": float(np.mean(hits)),
            }
    return found


def device_of(model: Model) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def pieces_of(x: Tensor, stride: int) -> Iterator[Tensor]:
    """(1, C, H, W) in pieces of nearly equal size, about WINDOW pixels or all there is, in multiples of `stride`."""
    rows, columns = (max(1, round(size / WINDOW)) for size in x.shape[-2:])
    height, width = (size // many // stride * stride for size, many in zip(x.shape[-2:], (rows, columns), strict=True))
    for row in range(rows):
        for column in range(columns):
            yield x[..., row * height : (row + 1) * height, column * width : (column + 1) * width]


def with_one(x: Tensor, scale: int, corruption: Corruption, tries: int = 20) -> tuple[Tensor, Tensor]:
    """The image with one defect within a square of AROUND pixels, and its opacity: one that can be seen, if in `tries`
    draws there is one.
    """
    step = 4 * scale  # corruption judges visibility in blocks of 4 pixels
    height, width = (min(AROUND, size) // step * step for size in x.shape[-2:])
    image, opacity = x.clone(), torch.zeros_like(x[:, :1])
    for _ in range(tries):
        top, left = (
            int(torch.randint(have - want + 1, ())) for have, want in zip(x.shape[-2:], (height, width), strict=True)
        )
        here = (..., slice(top, top + height), slice(left, left + width))
        spoilt, laid = spoil(x[here], scale, corruption)
        if (laid > SPOILT).sum() >= SEEN:
            image[here], opacity[here] = spoilt, laid
            break
    return image, opacity
