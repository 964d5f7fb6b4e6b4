"""What people called defects becomes a head that names them: fitted, cross-validated, put into the bundle.

The head is a logistic regression on standardised features. It only draws planes between the types, so a defect of none
of them may look very sure to it. The head therefore also knows how far labelled defects lie from the centre of their
type, in the metric of their scatter: the Mahalanobis distance, with the covariance shrunk as Ledoit and Wolf do, for
labels are few. Both thresholds of "unknown" come from cross-validation, as those of the map come from normal images:
fold by fold, all defects of an image together, labelled defects are left out, and each threshold is the order statistic
of what they then get that a defect of a known type fails with a probability of at most RATE.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from anomalib_gan.records.database import exclusive
from anomalib_gan.records.labelling import Labelled
from anomalib_gan.runtime.bundle import HEAD, TYPES, Manifest, attach, load, read_manifest
from anomalib_gan.runtime.calibration import CONFIDENCE, rank
from anomalib_gan.runtime.files import sha256_file
from anomalib_gan.runtime.graphs import check_graph, head_graph
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.naming import MOST, Codes, Types, called

LEAST = 10
"""Labels that a type needs."""
FOLDS = 5
"""Of the cross-validation; fewer where a type was labelled in fewer images."""
RATE = 0.05
"""Share of the defects of known types that each of the two tests for "unknown" may refuse."""
AGREEMENT = 1e-4
"""By so much a probability of the graph may differ from scikit-learn's."""

Features = NDArray[np.float32]


def features(
    bundle: str | os.PathLike[str],
    defects: Sequence[Labelled],
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> tuple[Features, list[Labelled], Counter[str]]:
    """(what the bundle's code says of defects (n, F), these n defects, how many are left out by the reason why).

    Left out is what lies in a file that is gone, has changed since it was reviewed or cannot be inspected with this
    bundle, and what lies in an info bar.
    """
    inspector = Inspector.load(bundle, device, threads=threads, spin=False)
    codes = Codes(load(bundle), device=device, threads=threads)
    images: dict[str, list[Labelled]] = defaultdict(list)
    for one in defects:
        images[one.sha256].append(one)
    rows, kept = [np.empty((0, codes.features), np.float32)], list[Labelled]()
    left: Counter[str] = Counter()
    for sha256 in progress(images):
        there, path, read = images[sha256], images[sha256][0].path, images[sha256][0].settings
        inspector.rescale = bool(read.get("rescale"))
        opener = partial(
            open_image, info_bar=read.get("info_bar", "auto"), bits=read.get("bits"), white=read.get("white")
        )
        try:
            if sha256_file(path) != sha256:
                left["the file has changed since it was reviewed"] += len(there)
                continue
            with opener(path) as picture:
                inside = [one for one in there if one.box.bottom <= picture.content]
                if inside:
                    rows.append(inspector.features(codes, picture, [one.box for one in inside]))
        except (OSError, ValueError):
            left["the file is gone, or is none that this bundle inspects"] += len(there)
            continue
        kept += inside
        if len(inside) < len(there):
            left["it reaches into the info bar"] += len(there) - len(inside)
    return np.concatenate(rows), kept, left


# --- the head ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A head: its graph, what types.json says of it, and how often it is right to call everything the commonest type.

    tells: are the types told apart better than that, with 95 % confidence?
    """

    graph: bytes = field(repr=False)
    types: Types
    commonest: float

    @property
    def tells(self) -> bool:
        n = sum(self.types.labels)
        right = round(self.types.accuracy * n)
        return right > 0 and float(betaincinv(right, n - right + 1, 1 - CONFIDENCE)) > self.commonest


def fit(x: Features, types: Sequence[str], images: Sequence[str], manifest: Manifest) -> Fitted:
    """The head for defects with features x (n, F) and these types, each in one of these images, of a bundle's code.

    Types with fewer than LEAST labels are left out. ValueError where fewer than two are left, or one of them was
    labelled in one image only; ModuleNotFoundError without scikit-learn.
    """
    if find_spec("sklearn") is None:
        raise ModuleNotFoundError("types are learnt by scikit-learn: pip install 'anomalib_gan[train]'", name="sklearn")
    number = Counter(types)
    names = tuple(sorted(kind for kind, count in number.items() if count >= LEAST))
    if not 2 <= len(names) <= MOST:
        raise ValueError(
            f"2 to {MOST} types with at least {LEAST} labels each can be told apart, and there "
            f"{'is 1' if len(names) == 1 else f'are {len(names)}'}: "
            f"{'; '.join(lacking(number)) or 'give some defects a type first'}"
        )
    chosen = [k for k, kind in enumerate(types) if kind in names]
    z, y = x[chosen].astype(np.float64), np.array([names.index(types[k]) for k in chosen])
    groups = np.array([images[k] for k in chosen])
    several = {name: len(set(groups[y == k])) for k, name in enumerate(names)}
    if several[rarest := min(several, key=lambda name: several[name])] < 2:
        raise ValueError(f"{rarest!r} was labelled in one image only: label it in others, too")
    folds = min(FOLDS, several[rarest])
    probabilities, distances = left_out(z, y, groups, len(names), folds)
    ranked = rank(len(y), RATE)
    probability = float(np.sort(probabilities.max(1))[max(len(y) - ranked, 0)])
    distance = float(np.sort(distances.min(1))[min(ranked, len(y)) - 1])
    said = called(probabilities, distances, probability, distance)
    confusion = np.zeros((len(names), len(names) + 1), int)
    np.add.at(confusion, (y, said), 1)
    labels = np.bincount(y)
    return Fitted(
        _graph(_Head(z, y, len(names)), z, manifest),
        Types(
            names=names,
            labels=tuple(labels.tolist()),
            accuracy=float((probabilities.argmax(1) == y).mean()),
            confusion=tuple(map(tuple, confusion.tolist())),
            folds=folds,
            probability=probability,
            distance=distance,
            rate=RATE,
            model=manifest.hash,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        float(labels.max() / len(y)),
    )


def lacking(number: Mapping[str, int]) -> list[str]:
    """Of the types that have too few labels, how many are missing, in words; by name."""
    return [f"{kind!r} has {count} of {LEAST} labels" for kind, count in sorted(number.items()) if count < LEAST]


def left_out(
    x: NDArray[np.float64], y: NDArray[np.integer], groups: NDArray[Any], kinds: int, folds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(probabilities, distances), (n, kinds) each, of features x (n, F) by heads that saw nothing of their group."""
    from sklearn.model_selection import StratifiedGroupKFold

    probabilities, distances = np.zeros((len(y), kinds)), np.zeros((len(y), kinds))
    for seen, new in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(x, y, groups):
        if len(np.unique(y[seen])) < 2:
            raise ValueError("with some images left out only one type is left: label defects in more images")
        head = _Head(x[seen], y[seen], kinds)
        probabilities[new], distances[new] = head(x[new])
    return probabilities, distances


class _Head:
    """The head as scikit-learn fits it to x (n, F) and y (n,) in 0..kinds-1.

    A type that y lacks, as it may in a fold, has the probability 0 and is infinitely far away.
    """

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.integer], kinds: int) -> None:
        from sklearn.covariance import LedoitWolf
        from sklearn.linear_model import LogisticRegression

        self.kinds, self.present = kinds, np.unique(y)
        self.mean, self.spread = x.mean(0), x.std(0)
        self.spread[self.spread < 1e-9 * (1 + np.abs(self.mean))] = 1.0  # a channel that says the same of all defects
        z = (x - self.mean) / self.spread
        self.model = LogisticRegression(max_iter=10_000).fit(z, y)
        centres = np.stack([z[y == kind].mean(0) for kind in self.present])
        scatter = z - centres[np.searchsorted(self.present, y)]
        values, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(scatter).covariance_)
        self.whitening = axes / np.sqrt(np.maximum(values, 1e-6) * x.shape[1])
        self.centres = centres @ self.whitening

    def __call__(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(probabilities, distances), (n, kinds) each."""
        z = (x - self.mean) / self.spread
        probabilities, distances = np.zeros((len(x), self.kinds)), np.full((len(x), self.kinds), np.inf)
        probabilities[:, self.present] = self.model.predict_proba(z)
        apart = (z @ self.whitening)[:, None] - self.centres
        distances[:, self.present] = np.sqrt((apart**2).sum(2))
        return probabilities, distances


def _graph(head: _Head, x: NDArray[np.float64], manifest: Manifest) -> bytes:
    """The head as types.onnx, once it was seen to say of x what the head says."""
    from anomalib_gan.runtime.session import OnnxGraph

    weights, bias = head.model.coef_.T, head.model.intercept_
    if weights.shape[1] == 1:  # of two types scikit-learn keeps the odds of the second
        weights, bias = np.concatenate([0 * weights, weights], 1), np.concatenate([0 * bias, bias])
    data = head_graph(head.mean, head.spread, weights, bias, head.whitening, head.centres)
    found = OnnxGraph(check_graph(data, manifest, "types"))(features=x.astype(np.float32))
    wanted = dict(zip(("probabilities", "distances"), head(x), strict=True))
    for name, values in wanted.items():
        if (off := float(np.abs(found[name] - values).max())) > AGREEMENT * max(1.0, float(np.abs(values).max())):
            raise ValueError(f"the graph's {name} differ from scikit-learn's by {off:.2g}: nothing is written")
    return data


# --- the bundle ----------------------------------------------------------------------------------------------------


def store(bundle: str | os.PathLike[str], fitted: Fitted | None) -> Manifest:
    """Puts the head into the bundle, in the place of an older one, or takes it away (None); see `bundle.attach`.

    The fingerprint follows: with another head the bundle is another one, without any it is the one that it was.
    RecordsError while another process changes the bundle.
    """
    folder = Path(bundle)
    read_manifest(folder)  # before anything is put into a folder that is no bundle
    graph, types = (None, None) if fitted is None else (fitted.graph, fitted.types.encode())
    with exclusive(folder, "try again when it is done"):
        return attach(folder, {HEAD: graph, TYPES: types})
