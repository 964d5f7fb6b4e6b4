"""How many numbers a cloud of points really needs: intrinsic dimension, linear and not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Points = NDArray[np.floating]
SHARE = 0.95  # of the variance that principal components shall hold
DISCARDED = 0.1  # share of the largest ratios, which depend most on the density being even


def spectrum(x: Points) -> NDArray[np.float64]:
    """The shares of the variance that the principal components of (n, d) points hold, the largest first: (min(n, d),).

    All 0 where the points are one.
    """
    lengths = np.linalg.svd(np.asarray(x, np.float64) - np.mean(x, axis=0), compute_uv=False) ** 2
    total = lengths.sum()
    return lengths / total if total > 0 else lengths


def linear(x: Points, share: float = SHARE) -> int:
    """How many principal components hold so much of the variance of (n, d) points; 0 where there is none."""
    shares = spectrum(x)
    return int(np.searchsorted(shares.cumsum(), share * (1 - 1e-9))) + 1 if shares.any() else 0


def two_nn(x: Points) -> float:
    """Intrinsic dimension of (n, d) points, from the ratio of each one's distances to its two nearest neighbours.

    TwoNN (Facco, d'Errico, Rodriguez and Laio, 2017): in dimension D, log(r2 / r1) is exponential with rate D wherever
    the density is even out to the second neighbour. The estimate is the slope through the origin of the empirical
    quantiles without the largest DISCARDED. Points that come twice count once; ValueError below 20 different ones.
    """
    points = np.unique(np.asarray(x, np.float64), axis=0)
    if len(points) < 20:
        raise ValueError(f"{len(points)} different points are too few for an intrinsic dimension: give at least 20")
    distances, _ = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(points)
    ratio = np.sort(np.log(distances[:, 2] / np.maximum(distances[:, 1], np.finfo(np.float64).tiny)))
    kept = int(len(ratio) * (1 - DISCARDED))
    rare = -np.log1p(-np.arange(1, kept + 1) / len(ratio))  # -log(1 - F)
    return float(ratio[:kept] @ rare / max(float(ratio[:kept] @ ratio[:kept]), np.finfo(np.float64).tiny))
