"""Did a training go well? Told from normal images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anomalib_gan.model import Model
from anomalib_gan.proxy import crop, effort, proxy

POOR = 0.7  # pixel AUROC on synthetic defects below which a map is of little use
APART = 1.0  # spreads of the normal map by which held-back normal images may lie above those of the training
ALIKE = 0.1  # of the images' own variety that generated images must reach
TRIALS = 24


@torch.no_grad()
def troubles(model: Model, training: Sequence[Tensor], unseen: Sequence[Tensor]) -> list[str]:
    """What is wrong with a settled model, a sentence each; empty where nothing is.

    `training` and `unseen`: normal images (1, C, H, W), or volumes, in [-1, 1] that training saw and did not see;
    without unseen ones only what needs none is judged.
    """
    found = []
    least = max(model.stride, model.smallest)
    judged = [x for x in (unseen or training) if min(x.shape[2:]) >= max(least, 4)]
    if judged and model.dim == 2:  # there are synthetic defects of images only
        trials, side = effort(model)
        worth = proxy(model, judged, trials=min(TRIALS, trials), side=side)["map"]
        if worth < POOR:
            found.append(
                f"the map finds synthetic defects poorly (pixel AUROC {worth:.2f}, at least {POOR} expected): "
                "train longer, with another seed, or look whether the normal images show one material"
            )
    seen = torch.cat([model.anomaly_map(x).flatten() for x in training])
    if unseen:
        new = torch.cat([model.anomaly_map(x).flatten() for x in unseen])
        apart = float((new.mean() - seen.mean()) / seen.std().clamp_min(1e-6))
        if apart > APART:
            found.append(
                f"normal images that training did not see look less normal ({apart:.1f} spreads of the map): "
                "there are too few normal images, or those held back differ from the rest"
            )
    sample = getattr(model, "sample", None)
    if sample is not None and not varied(sample, training, 4 * model.stride if model.dim == 2 else model.patch):
        found.append("the generator draws nearly the same whatever its code: its samples are of no use")
    return found


def varied(sample: Callable[..., Tensor], training: Sequence[Tensor], side: int) -> bool:
    """Do samples differ from each other as images do? Compared is the variance over images, at the same place."""
    wide = [x for x in training if min(x.shape[2:]) >= side]
    if not wide:
        return True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = sample(8, *[side] * (wide[0].dim() - 2))
        images = torch.cat([crop(wide[k % len(wide)], side, 1) for k in range(8)])
    return bool(drawn.var(0).mean() >= ALIKE * images.var(0).mean())
