"""What a generator draws: which kinds of its material, how often, and whether it copies what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor

from anomalib_gan.fidelity import COVERED, SIDE, crops_of, features, fidelity, modes, most_alike, spread
from anomalib_gan.findings import Bars, Finding, Panel, Pictures
from anomalib_gan.model import Model
from anomalib_gan.nets import shrink

DRAWN = 256  # crops that are generated
COPIED = 32  # of them, and as many unseen ones, that are searched for in the training images
PATCH = 32  # working px, side of what is searched for
STRANGE = 0.5  # precision below which samples do not look like the material
ACROSS = 10  # pictures in a row
FEWEST = 20  # crops of training images from which clusters are made

Picture = NDArray[np.floating]  # (H, W) in [-1, 1]


def scale_of(model: Model) -> int:
    """The model's working scale is 1/scale of the image."""
    return int(getattr(model, "shrink", 1))


def grey(x: Tensor) -> Picture:
    """(1, C, H, W) -> (H, W)."""
    return x[0].float().mean(0).cpu().numpy()


def drawn_by(model: Model) -> list[Picture]:
    """DRAWN generated squares, of the smallest side from SIDE on that the model makes."""
    side = -(-max(SIDE, model.smallest, PATCH * scale_of(model)) // model.stride) * model.stride
    batches = [model.sample(16, side, side) for _ in range(DRAWN // 16)]  # type: ignore[operator]
    return [grey(x) for batch in batches for x in batch.split(1)]


def coverage(drawn: Sequence[Picture], training: Sequence[Tensor], unseen: Sequence[Tensor]) -> Finding | None:
    """Which kinds of crops there are among the training's, and how often the generator draws each.

    A generator copies the frequencies of its training set at best: what is rare there is rarer still in samples.
    """
    crops, others = (crops_of([grey(x) for x in images]) for images in (training, unseen))
    if len(crops) < FEWEST:
        return None
    real, fake = features(crops), features([one[:SIDE, :SIDE] for one in drawn])
    found = modes(real, fake)
    count = len(found.real)
    figures = {
        "clusters of training crops": float(count),
        "clusters that samples cover": float(found.covered),
        "clusters whose frequency differs": float(found.apart.sum()),
        "share of samples in the wrong cluster": found.shifted,
    }
    rows = {"samples": fidelity(fake, real, len(others) or None)}
    if others:
        rows["unseen images"] = fidelity(features(others), real, len(fake))
    figures |= {f"{name}: {term}": value for name, one in rows.items() for term, value in one.items()}
    says = []
    if rows["samples"].get("precision", 1.0) < STRANGE:
        says.append(
            f"{1 - rows['samples']['precision']:.0%} of the samples lie where no crop of the training does: look at "
            "them before the frequencies, which say little of what does not look like the material"
        )
    if missed := [i for i in range(count) if found.fake[i] < COVERED * found.real[i]]:
        says.append(
            f"{len(missed)} of {count} kinds of crops, {found.real[missed].sum():.0%} of the training's, are hardly "
            "ever drawn: modes are missing"
        )
    shares = [f"{a:.0%} / {b:.0%}" for a, b in zip(found.real, found.fake, strict=True)]
    shown = [(crops[middle], share) for middle, share in zip(found.middles, shares, strict=True)]
    panels: list[Panel] = [
        Bars(
            "Frequency of the clusters",
            [str(i + 1) for i in range(count)],
            {"training": found.real.tolist(), "samples": found.fake.tolist()},
            "cluster",
        ),
        Pictures("Middle of each cluster: share of the training / of the samples", rows_of(shown)),
        Pictures("Samples", rows_of([(one, "") for one in drawn[: 2 * ACROSS]])),
    ]
    return Finding("Mode coverage", figures, says, panels)


def rows_of(shown: Sequence[tuple[Picture, str]]) -> list[Sequence[tuple[Picture, str]]]:
    return [shown[i : i + ACROSS] for i in range(0, len(shown), ACROSS)]


def copies(
    drawn: Sequence[Picture], training: Sequence[Tensor], unseen: Sequence[Tensor], scale: int
) -> Finding | None:
    """Does the generator remember? The place in the training images that each sample correlates best with, against the
    same for images that training did not see: a non-parametric test of copying (Meehan, Chaudhuri and Dasgupta, 2020).
    """
    small = [grey(shrink(x, scale)) for x in training]
    makes = [patch for image in drawn for patch in centre(shrunk(image, scale))]
    knows = [patch for x in unseen for patch in patches_of(grey(shrink(x, scale)))]
    wide = [image for image in small if min(image.shape) >= PATCH]
    if not wide or not makes or not knows:
        return None
    chosen = [[patches[i] for i in spread(len(patches), COPIED)] for patches in (makes, knows)]
    ours, theirs = ([most_alike(patch, wide) for patch in patches] for patches in chosen)
    near, far = (np.array([value for value, _ in one]) for one in (ours, theirs))
    limit = float(np.quantile(far, 0.95))
    beyond = float((near > limit).mean())
    chance = float(mannwhitneyu(near, far, alternative="greater").pvalue)
    figures = {
        "samples: median correlation with the training": float(np.median(near)),
        "unseen images: median correlation": float(np.median(far)),
        "samples more alike than 95 % of unseen patches": beyond,
        "chance that samples are no more alike": chance,
    }
    says = []
    if chance < 0.01 and beyond > 0.25:
        says.append(
            f"{beyond:.0%} of the samples are more like a place in the training images than 95 % of unseen patches "
            "are: the generator remembers them, or draws what is smoother than the material; look at the pairs"
        )
    order = np.argsort(-near)[:ACROSS]
    pairs = [(chosen[0][i], ours[i][1], near[i]) for i in order]
    panel = Pictures(
        "Samples (above) and the places in the training that they are most like, best first",
        [[(mine, f"{value:.2f}") for mine, _, value in pairs], [(other, "") for _, other, _ in pairs]],
    )
    return Finding("Nearest training neighbours", figures, says, [panel])


def shrunk(image: Picture, scale: int) -> Picture:
    return shrink(torch.from_numpy(image)[None, None], scale)[0, 0].numpy()


def centre(image: Picture) -> list[Picture]:
    """The middle patch, where it is not flat."""
    top, left = ((side - PATCH) // 2 for side in image.shape)
    patch = image[top : top + PATCH, left : left + PATCH]
    return [patch] if patch.std() > 1e-3 else []


def patches_of(image: Picture) -> list[Picture]:
    """Patches side by side, those that are not flat."""
    rows, columns = (range(0, side - PATCH + 1, PATCH) for side in image.shape)
    found = [image[top : top + PATCH, left : left + PATCH] for top in rows for left in columns]
    return [patch for patch in found if patch.std() > 1e-3]
