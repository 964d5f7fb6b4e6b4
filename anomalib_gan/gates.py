"""Does an exported detector do what the trained one does? Measured through the one scoring path, before anything is
written, on crops of normal images and on spoilt ones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from anomalib_gan.corruption import corrupt, corrupt_held_out
from anomalib_gan.data import Normal, normal_files, read_normals
from anomalib_gan.export import Feed, optional, quantised
from anomalib_gan.model import Model
from anomalib_gan.runtime.bundle import Manifest, Precision
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.image import ImageError, open_image
from anomalib_gan.runtime.inspection import Backend, Inspection
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.session import OnnxGraph
from anomalib_gan.training import derive_seed

IMAGES = 32  # that are read, evenly spread over those that the run was trained on and held back
CROPS = 100  # normal ones, and as many spoilt: 99 % of the verdicts are all but two
RANGED = 32  # normal ones, from which quantising takes the ranges of the activations
HARMED = 8  # normal ones, and as many spoilt, that tell how much a convolution loses in 8 bits
TRIES = 4  # of graphs with ever fewer convolutions in 8 bits
SIDE = 256  # px of a crop: one window of the image score
STEP = 4  # px between the map's pixels that are ranked: it is smooth, and ranking takes longer than computing it


class GateError(ValueError):
    """An exported graph is too far from the trained model."""


@dataclass(frozen=True)
class Crop:
    """Raw grey levels (H, W, C), float32 in [0, white]."""

    grey: NDArray[np.float32]
    white: float


@dataclass(frozen=True)
class Agreement:
    """How near two detectors are. Differences are in units of the normal map's scale, its high minus its low."""

    crops: int
    max_difference: float
    mean_difference: float
    rank_correlation: float  # Spearman's, of the maps' pixels
    same_verdicts: float  # share of the crops
    thresholds: str  # what decides on the verdicts

    def failures(self, precision: Precision) -> list[str]:
        """The figures that are not good enough, and what would be; none where the graph may be written."""
        return [
            f"{name.replace('_', ' ')} is {getattr(self, name):.5g}, not {sign} {limit:g}"
            for name, (sign, limit) in LIMITS[precision].items()
            if not (getattr(self, name) < limit if sign == "below" else getattr(self, name) >= limit)
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


SAME = 1e-4  # for outputs beside the map, by their own range, and for ties of scores with thresholds
LIMITS: dict[Precision, dict[str, tuple[str, float]]] = {
    "fp32": {"max_difference": ("below", 1e-4), "same_verdicts": ("at least", 1.0)},
    "fp16": {
        "mean_difference": ("below", 1e-2),
        "rank_correlation": ("at least", 0.999),
        "same_verdicts": ("at least", 0.99),
    },
    "int8": {
        "mean_difference": ("below", 1e-2),
        "rank_correlation": ("at least", 0.995),
        "same_verdicts": ("at least", 0.99),
    },
}


def normals(card: Mapping[str, Any], good: str | os.PathLike[str] | None = None) -> list[Normal]:
    """Normal images of the run that `card` tells of, or of the folder `good`, read as they were for the training.

    ValueError: one of the run's is missing, damaged or no longer what it was.
    """
    told = card["data"]["images"]
    files = [Path(image["path"]) for image in told] if good is None else normal_files(good)
    chosen = [files[i] for i in sorted({round(k) for k in np.linspace(0, len(files) - 1, IMAGES)})]
    settings = {name: card["settings"].get(name) for name in ("bits", "white")}
    info_bar: Literal["auto"] | int = card["settings"]["info_bar"]
    try:
        images, _ = read_normals(chosen, info_bar=info_bar, **settings)
    except (ImageError, OSError) as error:
        raise ValueError(f"{error}; restore it, or give other normal images (--good)") from error
    known = {image["path"]: image["sha256"] for image in told}
    for image in images if good is None else ():
        if image.sha256 != known[str(image.path)]:
            raise ValueError(
                f"{image.path} is not the file of the training (its SHA-256 is another): "
                "restore it, or give other normal images (--good)"
            )
    return images


def side_of(backend: Backend) -> int:
    """Of a crop in px: a multiple of the detector's stride."""
    return backend.stride * -(-max(SIDE, backend.smallest) // backend.stride)


def crops(images: Sequence[Normal], backend: Backend, count: int, purpose: str) -> list[Crop]:
    """Random crops, from each image in turn; other ones for each purpose. Smaller images are taken whole."""
    generator = torch.Generator().manual_seed(derive_seed(0, purpose))
    side = side_of(backend)
    found = []
    for number in range(count):
        image = images[number % len(images)]
        _, height, width = image.grey.shape
        tall, wide = min(side, height), min(side, width)
        top = int(torch.randint(height - tall + 1, (), generator=generator))
        left = int(torch.randint(width - wide + 1, (), generator=generator))
        grey = image.grey[:, top : top + tall, left : left + wide].float()
        grey = grey * (image.white / (255 if image.grey.dtype == torch.uint8 else 1))
        found.append(Crop(grey.permute(1, 2, 0).contiguous().numpy(), image.white))
    return found


def feeds(images: Sequence[Normal], backend: Backend) -> list[Feed]:
    """RANGED normal crops as the graphs take them."""
    return [feed(crop, backend) for crop in crops(images, backend, RANGED, "feed")]


def feed(crop: Crop, backend: Backend) -> Feed:
    """image (1, C, H, W), its edges repeated up to the stride, and white."""
    height, width, channels = crop.grey.shape
    below, beside = (max(-side % backend.stride, backend.smallest - side) for side in (height, width))
    grey = np.pad(crop.grey, ((0, below), (0, beside), (0, 0)), mode="edge")
    grey = np.repeat(grey, backend.channels // channels, axis=-1)
    image = np.ascontiguousarray(np.moveaxis(grey, -1, 0)[None])
    return {"image": image, "white": np.array(crop.white, np.float32)}


def codes(model: Model, rows: int = 5, columns: int = 7) -> list[Feed]:
    """Standard normal codes as the graphs of the generator and of the prior take them."""
    generator = torch.Generator().manual_seed(derive_seed(0, "codes"))
    return [{"z": torch.randn(2, optional(model, "code"), rows, columns, generator=generator).numpy()}]


def spoilt(clean: Sequence[Crop]) -> list[Crop]:
    """The crops with a synthetic defect each, every other one of a kind that training never shows."""
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "spoil"))
        for number, crop in enumerate(clean):
            x = torch.from_numpy(crop.grey).permute(2, 0, 1)[None] * (2 / crop.white) - 1
            x, _ = (corrupt_held_out if number % 2 else corrupt)(x)
            grey = (x[0].permute(1, 2, 0) + 1) * (crop.white / 2)
            found.append(Crop(grey.contiguous().numpy(), crop.white))
    return found


def measure(
    reference: Backend, candidate: Backend, images: Sequence[Normal], calibration: Calibration | None
) -> Agreement:
    """Both detectors on the same crops of `images`, normal and spoilt.

    A verdict that hangs on less than SAME of the normal map's scale counts as the same.
    Verdicts are those of `calibration` or, without one, of thresholds that are fitted to other normal crops.
    """
    clean = crops(images, reference, CROPS, "compare")
    shown = [*clean, *spoilt(clean)]
    thresholds = "the run's calibration"
    if calibration is None:
        others = list(inspected(reference, crops(images, reference, CROPS, "thresholds"), None))
        calibration = Calibration.fit([one.score for one in others], [one.peak for one in others])
        thresholds = f"fitted to {CROPS} other normal crops, for the run is not calibrated"

    low, high = reference.scale
    largest, means, ranked, same = 0.0, [], [], 0
    for one, other in zip(
        inspected(reference, shown, calibration), inspected(candidate, shown, calibration), strict=True
    ):
        assert one.map is not None and other.map is not None
        apart = np.abs(one.map - other.map) / (high - low)
        largest = max(largest, float(apart.max()))
        means.append(float(apart.mean()))
        ranked.append((one.map[::STEP, ::STEP].ravel(), other.map[::STEP, ::STEP].ravel()))
        same += one.verdict == other.verdict or tied(one, calibration, SAME * (high - low))
    ours, theirs = (np.concatenate(maps) for maps in zip(*ranked, strict=True))
    return Agreement(
        crops=len(shown),
        max_difference=largest,
        mean_difference=float(np.mean(means)),
        rank_correlation=float(spearmanr(ours, theirs).statistic),
        same_verdicts=same / len(shown),
        thresholds=thresholds,
    )


def tied(one: Inspection, calibration: Calibration, tolerance: float) -> bool:
    """Does the verdict hang on less than `tolerance`, that is on rounding?

    A crop that also set the threshold lies on it.
    """
    deciding = ((one.score, calibration.review), (one.score, calibration.reject), (one.peak, calibration.pixel))
    return any(abs(value - threshold) <= tolerance for value, threshold in deciding)


def inspected(backend: Backend, shown: Sequence[Crop], calibration: Calibration | None) -> Iterator[Inspection]:
    """The crops through an Inspector, with the thresholds of `calibration` whatever model they come from."""
    own = None if calibration is None else replace(calibration, model=backend.hash)
    inspector = Inspector(backend, calibration=own)
    for crop in shown:
        inspector.opener = partial(open_image, info_bar=0, white=crop.white)
        yield inspector(crop.grey)


def harms(
    graph: bytes, convolutions: Mapping[str, str], manifest: Manifest, images: Sequence[Normal], backend: Backend
) -> dict[str, float]:
    """What each of these convolutions of a float32 graph does to the map when it alone is in 8 bits: the mean
    difference on normal and spoilt crops, by the map's scale. First comes what does most for the time that it saves.
    """
    ranges = feeds(images, backend)
    clean = crops(images, backend, HARMED, "harm")
    shown = [feed(crop, backend) for crop in (*clean, *spoilt(clean))]
    low, high = manifest.map_scale
    checked = check_graph(graph, manifest)
    tensors, _ = checked.trace(shown[0]["image"].shape)
    weights = {node.outputs[0]: tensors[node.inputs[1]] for node in checked.program.nodes if node.op == "Conv"}
    exact = [OnnxGraph(checked)(**one)["anomaly_map"] for one in shown]
    found, value = {}, {}
    for name, output in convolutions.items():
        alone = OnnxGraph(check_graph(quantised(graph, ranges, [name]), manifest))
        apart = [np.abs(alone(**one)["anomaly_map"] - true).mean() for one, true in zip(shown, exact, strict=True)]
        found[name] = float(np.mean(apart)) / (high - low)
        work = math.prod(tensors[output].shape) * math.prod(weights[output].shape[1:])
        value[name] = found[name] ** 2 / work
    return {name: found[name] for name in sorted(found, key=value.__getitem__, reverse=True)}


def plans(harm: Mapping[str, float]) -> Iterator[list[str]]:
    """Which of the convolutions of `harms` to take in 8 bits: as many as their harms, which add up by squares, let hope
    for; then, where that was too many, ever fewer.
    """
    names, limit = list(harm), LIMITS["int8"]["mean_difference"][1]
    hopeful = (k for k in range(len(names)) if math.hypot(*(harm[name] for name in names[k:])) < limit)
    first = next(hopeful, len(names) - 1)
    for kept in range(first, min(first + TRIES, len(names))):
        yield names[kept:]


@torch.no_grad()
def same_outputs(module: nn.Module, graph: OnnxGraph, given: Sequence[Feed]) -> dict[str, float]:
    """By output of a float32 graph, the largest difference from `module`'s in units of its own range.

    GateError: one is not below SAME.
    """
    apart: dict[str, float] = {}
    for feed in given:
        wanted = module(*(torch.from_numpy(value) for value in feed.values()))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for (name, found), one in zip(graph(**feed).items(), wanted, strict=True):
            reach = max(float(one.max() - one.min()), 1e-6)
            apart[name] = max(apart.get(name, 0.0), float(np.abs(found - one.numpy()).max()) / reach)
    if far := [f"{name} is {value:.5g}" for name, value in apart.items() if not value < SAME]:
        raise GateError(
            f"the graph's outputs differ from the model's, by their range: {', '.join(far)}, not below {SAME:g}"
        )
    return apart
