"""How far a cloud of samples is from a cloud of real images, in features that need no training.

The features are the answers of a fixed bank of filters (log-Gabor, SCALES x ANGLES): per band how strong, and how
unevenly strong, which tells fibres and grains from noise of the same spectrum; and mean, contrast and skewness of grey.
A network trained on photographs knows nothing of a micrograph's texture, and the features of a generator's own critic
would let each model be judged by itself. Distances are in units of the features' spread over real images, so they
compare models on one material, and not materials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

SIDE = 64  # px of a crop
SCALES = (1 / 3, 1 / 6, 1 / 12, 1 / 24)  # cycles per pixel in the middle of a band
ANGLES = 4
EDGE = 8  # px at the crop's edge in which filters see its other side
FAINT = 1e-3  # of half the range: a band's strength below which there is nothing in it
NEIGHBOURS = 3
COVERED = 0.1

Cloud = NDArray[np.float64]  # (n, features)
Image = NDArray[np.floating]  # (H, W) in [-1, 1]


@cache
def bank() -> NDArray[np.float64]:
    """The filters' transfer functions over the plane of frequencies, (SCALES x ANGLES, SIDE, SIDE)."""
    down, across = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    radius, angle = np.maximum(np.hypot(down, across), 1e-9), np.arctan2(down, across)
    filters = []
    for middle in SCALES:
        ring = np.exp(-(np.log(radius / middle) ** 2) / (2 * np.log(0.65) ** 2))
        for turn in np.arange(ANGLES) * np.pi / ANGLES:
            off = np.angle(np.exp(1j * (angle - turn)))  # one side of the plane only, so that answers have no phase
            filters.append(ring * np.exp(-(off**2) / (2 * (np.pi / ANGLES / 1.5) ** 2)))
    return np.array(filters)


def features(crops: Sequence[Image]) -> Cloud:
    """(n, 2 x SCALES x ANGLES + 3) of n crops (SIDE, SIDE) in [-1, 1]."""
    found = []
    for crop in crops:
        grey = np.asarray(crop, np.float64)
        plane = np.fft.fft2(grey - grey.mean())
        inner = np.abs(np.fft.ifft2(plane * bank()))[:, EDGE:-EDGE, EDGE:-EDGE].reshape(len(bank()), -1)
        strength, unevenness = inner.mean(1), inner.std(1)
        spread = grey.std() + FAINT
        found.append(
            [
                *np.log(strength + FAINT),
                *(unevenness / (strength + FAINT)),
                *(grey.mean(), np.log(spread), ((grey - grey.mean()) ** 3).mean() / spread**3),
            ]
        )
    return np.array(found).reshape(-1, 2 * len(bank()) + 3)


def crops_of(images: Sequence[Image], step: int = SIDE // 2, most: int = 2000) -> list[Image]:
    """Crops of SIDE, every `step` pixels, at most so many, evenly spread; none of an image that is smaller."""
    found = [
        image[top : top + SIDE, left : left + SIDE]
        for image in images
        for top in range(0, image.shape[0] - SIDE + 1, step)
        for left in range(0, image.shape[1] - SIDE + 1, step)
    ]
    return [found[i] for i in spread(len(found), most)]


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, evenly spread."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))}) if count else []


def frechet(one: Cloud, other: Cloud) -> float:
    """Squared Frechet distance of the Gaussians that two clouds (n, d) and (m, d) have the moments of.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2); GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017). Too
    large for small clouds: compare it with that of two clouds of real images of the same sizes.
    """
    means = one.mean(0) - other.mean(0)
    c1, c2 = (np.atleast_2d(np.cov(cloud, rowvar=False)) for cloud in (one, other))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # of c1: root c2 root is symmetric, c1 c2 is not
    mixed = np.sqrt(np.linalg.eigvalsh(root @ c2 @ root).clip(0)).sum()
    return float(max(0.0, means @ means + np.trace(c1) + np.trace(c2) - 2 * mixed))


def precision_recall(real: Cloud, fake: Cloud, k: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of samples that lie among real images, and of real images that lie among samples.

    Among: within the distance to its k-th neighbour of any point of the other cloud. Improved Precision and Recall
    Metric for Assessing Generative Models (Kynkaanniemi et al., 2019); both depend on the clouds' sizes, which should
    be equal. ValueError where a cloud has not more than k points.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{min(len(real), len(fake))} points have no {k} neighbours each: give more samples")
    return within(fake, real, k), within(real, fake, k)


def within(points: Cloud, cloud: Cloud, k: int) -> float:
    """The share of points that are as near to any point of the cloud as that one's k-th neighbour."""
    search = NearestNeighbors(n_neighbors=k + 1).fit(cloud)
    radii = search.kneighbors(cloud)[0][:, -1]  # the first is the point itself
    return float((cdist(points, cloud) <= radii * (1 + 1e-9)).any(1).mean())


def fidelity(fake: Cloud, real: Cloud, count: int | None = None) -> dict[str, float]:
    """ "frechet", "precision" and "recall" of samples' features against real images', in units of the latter's spread.

    As many of both, evenly spread, are compared, at most `count`; how many stands under "crops". Empty where they are
    too few for neighbours.
    """
    count = min(len(fake), len(real), len(fake) if count is None else count)
    if count <= NEIGHBOURS:
        return {}
    middle, unit = real.mean(0), real.std(0) + 1e-6
    ours, theirs = ((cloud[spread(len(cloud), count)] - middle) / unit for cloud in (fake, real))
    precision, recall = precision_recall(theirs, ours)
    return {"frechet": frechet(ours, theirs), "precision": precision, "recall": recall, "crops": float(count)}


@dataclass(frozen=True)
class Modes:
    """Clusters of real crops, the most frequent first, and how often samples fall into them.

    `middles`: the index of the real crop next to each one's centre. `apart`: whether the frequencies differ by more
    than chance, at a level of 5 %.
    """

    real: NDArray[np.float64]
    fake: NDArray[np.float64]
    middles: list[int]
    apart: NDArray[np.bool_]

    @property
    def covered(self) -> int:
        """How many clusters hold at least the share COVERED of the samples that they should."""
        return int((self.fake >= COVERED * self.real).sum())

    @property
    def shifted(self) -> float:
        """The share of samples that would have to move for the frequencies to agree (total variation)."""
        return float(np.abs(self.real - self.fake).sum() / 2)


def modes(real: Cloud, fake: Cloud, count: int = 20) -> Modes:
    """K-means clusters of real features, and where samples fall: On GANs and GMMs (Richardson and Weiss, 2018).

    Features are taken in units of their spread over real crops. Of few crops there are fewer clusters, of ten crops
    each on average.
    """
    middle, unit = real.mean(0), real.std(0) + 1e-6
    real, fake = (real - middle) / unit, (fake - middle) / unit
    found = KMeans(max(1, min(count, len(real) // 10)), n_init=4, random_state=0).fit(real)
    groups = found.n_clusters
    parts = [np.bincount(labels, minlength=groups) / len(labels) for labels in (found.labels_, found.predict(fake))]
    pooled = (parts[0] * len(real) + parts[1] * len(fake)) / (len(real) + len(fake))
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / len(real) + 1 / len(fake)))
    apart = np.abs(parts[0] - parts[1]) / error > norm.ppf(0.975)
    order = np.argsort(-parts[0])
    middles = [int(np.square(real - centre).sum(1).argmin()) for centre in found.cluster_centers_[order]]
    return Modes(parts[0][order], parts[1][order], middles, apart[order])


def most_alike(patch: Image, images: Sequence[Image]) -> tuple[float, Image]:
    """The place in all images that a patch correlates best with, at any position and flipped any way: (correlation,
    that place, as it is flipped). ValueError where no image is as large.
    """
    height, width = patch.shape
    best: tuple[float, Image] | None = None
    for image in images:
        if image.shape[0] < height or image.shape[1] < width:
            continue
        for flipped in (image, image[::-1], image[:, ::-1], image[::-1, ::-1]):
            searched = np.ascontiguousarray(flipped, dtype=np.float32)
            answer = cv2.matchTemplate(searched, np.ascontiguousarray(patch, dtype=np.float32), cv2.TM_CCOEFF_NORMED)
            _, value, _, (left, top) = cv2.minMaxLoc(answer)
            if best is None or value > best[0]:
                best = (float(value), searched[top : top + height, left : left + width])
    if best is None:
        raise ValueError(f"no image is at least {height}x{width} px: nothing can be alike")
    return best
