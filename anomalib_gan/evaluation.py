"""How well a map of surprise finds defects: ranking figures over pixels, and defects hit.

Every figure but the share of defects hit depends on the order of the scores alone, so any rising function of the map
gives the same figures. Pixels that are NaN in the map (the info bar) count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

FIGURES = ("auroc", "ap", "aupro", "f1_max", "tpr_at_5_fpr")
PRO_LIMIT = 0.3  # AUPRO is the area under the PRO curve up to this false-positive rate, divided by it
FPR_LIMIT = 0.05
HIT_SHARE = 0.2  # a defect is hit when at least this share of its pixels lies above the pixel threshold
LARGE = 400  # px; defects with more than this are also counted apart
BINS = 2**20
_PIECE = 2**20  # values binned at a time


def defect_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels the 8-connected regions of a mask (H, W), or the 26-connected ones of (D, H, W): labels 1..n (0 = normal)
    and the n sizes in px.

    >>> defect_regions(np.eye(3, dtype=bool))[1]
    array([3])
    """
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3,) * mask.ndim, int), output=labels)
    return labels, np.bincount(labels.ravel())[1:]


def _usable(scores: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """The map as float32, its valid pixels, and the valid defect pixels; all (H, W), or (D, H, W)."""
    values, defective = np.asarray(scores, np.float32), np.asarray(mask) > 0
    if values.shape != defective.shape or values.ndim not in (2, 3):
        raise ValueError(f"map {values.shape} and mask {defective.shape} must have one shape ([depth, ]height, width)")
    valid = ~np.isnan(values)
    return values, valid, defective & valid


def _join(pieces: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    """Concatenates and empties `pieces`; each is freed once copied, so the peak is the total and one piece."""
    joined: NDArray[Any] = np.empty(sum(map(len, pieces)), dtype)
    top = 0
    while pieces:
        piece = pieces.pop()
        joined[top : top + len(piece)] = piece
        top += len(piece)
    return joined


class PixelPool:
    """Scores of normal and of defect pixels, gathered over images; 4 bytes per normal and 12 per defect pixel.

    After `coarsen` it holds counts in BINS fixed bins instead, so its memory no longer grows with the number of pixels.
    """

    def __init__(self) -> None:
        self.pixels = 0  # valid pixels
        self.excluded = 0  # NaN pixels
        self.regions = 0  # 8-connected regions of the masks
        self._normal: list[NDArray[np.float32]] = []
        self._defect: list[NDArray[np.float32]] = []
        self._weight: list[NDArray[np.float64]] = []  # of each defect pixel: 1 / size of its region
        self._merged = True  # at most one piece each, the normal one sorted
        self._scale: tuple[float, float] | None = None
        self._bins = np.zeros((3, 0))  # normal pixels, defect pixels, weights

    @property
    def exact(self) -> bool:
        return self._scale is None

    def add(self, scores: ArrayLike, mask: ArrayLike) -> None:
        """Adds a map (H, W) or (D, H, W), NaN where nothing was measured, and its mask, likewise, > 0 on defects."""
        values, valid, defective = _usable(scores, mask)
        labels, sizes = defect_regions(defective)
        inside = labels[defective]
        self.pixels += int(valid.sum())
        self.excluded += int(valid.size - valid.sum())
        self.regions += len(sizes)
        self._extend([values[valid & ~defective]], [values[defective]], [1 / sizes[inside - 1]])

    def absorb(self, other: PixelPool) -> None:
        """Adds all that an exact pool holds."""
        if not other.exact:
            raise ValueError("only a pool that still holds its pixels can be absorbed")
        self.pixels += other.pixels
        self.excluded += other.excluded
        self.regions += other.regions
        self._extend(other._normal, other._defect, other._weight)

    def coarsen(self, scale: tuple[float, float]) -> None:
        """From here on counts pixels in BINS bins, even in arctan((score - low) / (high - low)), so all fit."""
        if not scale[1] > scale[0]:
            raise ValueError(f"the map's scale {scale} is empty: its high end must lie above its low end")
        pieces = self._normal, self._defect, self._weight
        self._scale, self._bins = scale, np.zeros((3, BINS))
        self._normal, self._defect, self._weight = [], [], []
        self._extend(*pieces)

    def _extend(
        self, normal: list[NDArray[np.float32]], defect: list[NDArray[np.float32]], weight: list[NDArray[np.float64]]
    ) -> None:
        if self._scale is None:
            self._normal += normal
            self._defect += defect
            self._weight += weight
            self._merged = False
            return
        for row, piece, weights in [
            *((0, piece, None) for piece in normal),
            *((1, piece, None) for piece in defect),
            *((2, piece, weights) for piece, weights in zip(defect, weight, strict=True)),
        ]:
            for start in range(0, len(piece), _PIECE):
                part = slice(start, start + _PIECE)
                bins = _bins_of(piece[part], self._scale)
                self._bins[row] += np.bincount(bins, None if weights is None else weights[part], BINS)

    def merge(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """Normal scores (sorted), defect scores and defect weights of an exact pool, without a second copy."""
        if not self._merged:
            normal = _join(self._normal, np.float32)
            normal.sort()
            self._normal = [normal]
            self._defect = [_join(self._defect, np.float32)]
            self._weight = [_join(self._weight, np.float64)]
            self._merged = True
        empty = np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0)
        return (self._normal[0], self._defect[0], self._weight[0]) if self._normal else empty

    def counts(self) -> NDArray[np.float64]:
        """(3, BINS) of a coarse pool: normal pixels, defect pixels and weights per bin, by rising score."""
        return self._bins


def _bins_of(values: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.int64]:
    unit = (values.astype(np.float64) - scale[0]) / (scale[1] - scale[0])
    return np.minimum((np.arctan(unit) / np.pi + 0.5) * BINS, BINS - 1).astype(np.int64)


@dataclass(frozen=True)
class Ranking:
    """What the figures need: one entry per distinct score t of a defect pixel, from the highest down, all cumulative.

    Thresholds between these only add false alarms, so no figure gains from them and the curves are straight there.
    """

    found: NDArray[np.float64]  # defect pixels with score >= t
    overlap: NDArray[np.float64]  # mean over the regions of the share of their pixels with score >= t
    above: NDArray[np.float64]  # normal pixels with score > t
    level: NDArray[np.float64]  # normal pixels with score >= t
    normal: int  # normal pixels in all
    exact: bool = True

    @classmethod
    def of(cls, pools: Sequence[PixelPool]) -> Ranking:
        """Ranks the pixels of all `pools` together; they are exact or coarse (on one scale) together."""
        regions = max(sum(pool.regions for pool in pools), 1)
        if any(not pool.exact for pool in pools):
            if len({pool._scale for pool in pools}) > 1:
                raise ValueError("pools can be ranked together when all are exact or all coarse on one scale")
            counts: NDArray[np.float64] = sum((pool.counts() for pool in pools), np.zeros((3, BINS)))
            normal, defect, weight = counts[:, ::-1]
            level, found, overlap = np.cumsum(normal), np.cumsum(defect), np.cumsum(weight) / regions
            held = defect > 0
            return cls(found[held], overlap[held], (level - normal)[held], level[held], int(normal.sum()), False)
        merged = [pool.merge() for pool in pools]
        scores = np.concatenate([np.zeros(0, np.float32), *(defect for _, defect, _ in merged)])
        weights = np.concatenate([np.zeros(0), *(weight for _, _, weight in merged)])
        order = np.argsort(scores)[::-1]
        scores, weights = scores[order], weights[order]
        last = np.flatnonzero(np.append(scores[1:] != scores[:-1], len(scores) > 0))  # of each run of equal scores
        return cls(
            found=np.asarray(last + 1, np.float64),
            overlap=np.cumsum(weights)[last] / regions,
            above=_count(merged, scores[last], "right"),
            level=_count(merged, scores[last], "left"),
            normal=sum(len(normal) for normal, _, _ in merged),
        )

    def curve(self, height: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vertices of ROC (`height` = found) or PRO (overlap) from (0, 0) to (1, 1): false-positive rate and share."""
        top = height / height[-1]
        x = np.stack([self.above, self.level], 1).ravel() / self.normal
        y = np.stack([np.append(0, top[:-1]), top], 1).ravel()
        return np.concatenate([[0], x, [1]]), np.concatenate([[0], y, [1]])


def _count(merged: Sequence[tuple[NDArray[Any], ...]], falling: NDArray[np.float32], side: Any) -> NDArray[np.float64]:
    """Normal pixels > t (side "right") or >= t ("left") for each t of `falling`."""
    rising = falling[::-1]  # keeps the search in the processor's cache
    counts = np.zeros(len(falling))
    for normal, *_ in merged:
        counts += len(normal) - np.searchsorted(normal, rising, side)[::-1]
    return counts


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Area under a rising polygon from 0 to `limit`, divided by `limit`."""
    end = int(np.searchsorted(x, limit))  # the first vertex at or beyond the limit
    height = np.interp(limit, x[end - 1 : end + 1], y[end - 1 : end + 1]) if x[end] > limit else y[end]
    return float(np.trapezoid(np.append(y[:end], height), np.append(x[:end], limit)) / limit)


def figures(ranking: Ranking) -> dict[str, float | None]:
    """The figures named in FIGURES, each in [0, 1]; None when there are no defect pixels or no normal ones.

    auroc: area under ROC, ties counting one half. ap: sum of precision times the rise of recall over distinct scores,
    as in scikit-learn. aupro: mean share of each 8-connected defect found, averaged over false-positive rates 0 to 0.3
    (Bergmann et al., 2021, "The MVTec anomaly detection dataset"). f1_max: the best F1 of any threshold. tpr_at_5_fpr:
    the highest share of defect pixels found by a threshold that flags at most 5 % of the normal ones, not interpolated.
    """
    found, level, above = ranking.found, ranking.level, ranking.above
    if not len(found) or not ranking.normal:
        return dict.fromkeys(FIGURES)
    defect, new = found[-1], np.diff(found, prepend=0)
    return {
        "auroc": float((new * (ranking.normal - (level + above) / 2)).sum() / (defect * ranking.normal)),
        "ap": float((new * found / (found + level)).sum() / defect),
        "aupro": _area(*ranking.curve(ranking.overlap), PRO_LIMIT),
        "f1_max": float((2 * found / (defect + found + level)).max()),
        "tpr_at_5_fpr": float(found[level / ranking.normal <= FPR_LIMIT].max(initial=0) / defect),
    }


def uncertainty(ranking: Ranking) -> dict[str, float]:
    """By how much each figure of a coarse ranking can differ from the exact one, at most; 0 for an exact ranking.

    Within a bin the order is unknown: all defect pixels may stand before the normal ones or after them.
    """
    value = figures(ranking)
    if ranking.exact or None in value.values():
        return dict.fromkeys(FIGURES, 0.0)
    best = figures(replace(ranking, level=ranking.above))
    worst = figures(replace(ranking, above=ranking.level)) | {"f1_max": value["f1_max"]}
    worst["tpr_at_5_fpr"] = value["tpr_at_5_fpr"]  # these two are reached at the bins' edges, which are real thresholds
    first = np.append(0, ranking.found[:-1]) + 1  # and the first defect pixel of a bin has the least precision there
    new = np.diff(ranking.found, prepend=0)
    worst["ap"] = float((new * first / (first + ranking.level)).sum() / ranking.found[-1])
    return {name: max((best[name] or 0) - (v or 0), (v or 0) - (worst[name] or 0), 0.0) for name, v in value.items()}


def image_auroc(normal: Sequence[float], anomalous: Sequence[float]) -> float | None:
    """Chance that an anomalous image scores above a normal one, a tie counting one half; None when either is missing.

    >>> image_auroc([0.1, 0.2], [0.2, 0.9])
    0.875
    """
    if not len(normal) or not len(anomalous):
        return None
    rising = np.sort(normal)
    below = np.searchsorted(rising, anomalous, "left") + np.searchsorted(rising, anomalous, "right")
    return float(below.mean() / (2 * len(rising)))


@dataclass(frozen=True)
class Hits:
    """Defects (8-connected regions of the mask), how many are hit, and normal pixels above the pixel threshold."""

    defects: int = 0
    hit: int = 0
    large: int = 0  # defects over LARGE px
    large_hit: int = 0
    normal: int = 0  # px
    above: int = 0  # px

    def __add__(self, other: Hits) -> Hits:
        return Hits(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def count_hits(scores: ArrayLike, mask: ArrayLike, threshold: float) -> Hits:
    """Counts the defects of one image that have at least HIT_SHARE of their pixels above `threshold`."""
    values, valid, defective = _usable(scores, mask)
    labels, sizes = defect_regions(defective)
    over = valid & (values > np.float64(threshold))  # not rounded to float32 first
    hit = np.bincount(labels[over], minlength=len(sizes) + 1)[1:] / sizes >= HIT_SHARE
    large = sizes > LARGE
    normal = valid & ~defective
    return Hits(
        len(sizes),
        int(hit.sum()),
        int(large.sum()),
        int((hit & large).sum()),
        int(normal.sum()),
        int((over & normal).sum()),
    )


def mean_figures(each: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each figure over the images where it is defined."""
    rows = list(each)
    values = {name: [row[name] for row in rows if row[name] is not None] for name in FIGURES}
    return {name: float(np.mean(np.array(found, float))) if found else None for name, found in values.items()}
