"""What kind of defect it is: a logistic regression on what parts.onnx says of it, learnt from what people called them.

It has no say in verdicts. In the bundle it is two files: types.onnx gives, of a defect's features, the probability of
each type and the distance from it; types.json has the names, when a defect is none of them, and how often the names
were right. Both stand in the manifest with their SHA-256, as every file does, so readers that know nothing of types
check them and leave them alone, and the fingerprint is another one.

A defect is looked at under its box, not its outline: a box is all that there is of a defect that somebody drew. Its
features are few, for labels are: the mean of each channel of the code, which says what the place is like; the mean and
the largest value of each component of the map, which say in what way it is not normal; and the logarithms of the box's
sides, for types differ in size and shape, and a generous box then costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.bundle import HEAD, PARTS, TYPES, Bundle, BundleError
from anomalib_gan.runtime.files import json_text, short
from anomalib_gan.runtime.graphs import OUTPUTS, Graph, check_graph
from anomalib_gan.runtime.manifest import Entries, parse
from anomalib_gan.runtime.tiling import Box, Grid

UNKNOWN = "unknown"
"""The type of a defect that is like none of those that were learnt; no type has this name."""
LONGEST = 64
"""Characters of a type's name."""
MOST = 64
"""Types that one bundle tells apart."""
FEATURES = ("code mean", "component mean", "component max", "log2 height", "log2 width")
"""What a head looks at, in this order; see above."""
FORMAT = 1
TOGETHER = 1000
"""Defects that the head looks at in one run."""


@dataclass(frozen=True)
class Types:
    """What types.json says. Figures are of cross-validation: of defects whose images the head had not seen.

    labels: how many defects each type was learnt from. accuracy: share of them whose most probable type was theirs.
    confusion: a row for each type, its labels by what they were called: the types in their order, then "unknown". A
    defect is unknown where no type has at least `probability`, or none lies within `distance`; each of the two was
    chosen so that a labelled defect fails it with a probability of about `rate`.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    folds: int
    probability: float
    distance: float
    rate: float
    model: str
    created: str
    features: tuple[str, ...] = FEATURES

    @property
    def unknown(self) -> float:
        """The share of labelled defects that were called unknown."""
        return sum(row[-1] for row in self.confusion) / sum(self.labels)

    def encode(self) -> bytes:
        """The contents of types.json, sure to be read again."""
        data = json_text({"format": FORMAT, **asdict(self)})
        self.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Types:
        """What stands in types.json; a BundleError names what is missing, unknown or wrong."""
        value = parse(data, TYPES)
        entry = Entries(value, of=TYPES)
        if (found := entry.whole("format", 1)) > FORMAT:
            raise BundleError(f"{TYPES} has format {found}, this version reads {FORMAT}: upgrade anomalib_gan")
        if wrong := {"format", *cls.__dataclass_fields__} ^ set(value):
            raise BundleError(f"{TYPES}: entries missing or unknown: {short(sorted(wrong))}")

        def several(name: str, count: int, one: Callable[[Any], bool], wanted: str) -> tuple[Any, ...]:
            items = value[name]
            if not isinstance(items, list) or len(items) != count or not all(map(one, items)):
                raise entry.wrong(name, f"{count} {wanted}")
            return tuple(items)

        def count(item: Any) -> bool:
            return type(item) is int and 0 <= item < 2**53

        def share(name: str) -> float:
            if not 0 <= (number := entry.number(name)) <= 1:
                raise entry.wrong(name, "between 0 and 1")
            return number

        names = value["names"]
        kinds = len(names) if isinstance(names, list) else 0
        if not 2 <= kinds <= MOST or len(set(map(str, names))) < kinds or not all(map(is_name, names)):
            raise entry.wrong("names", f"2 to {MOST} different names of types")
        rows = several("confusion", kinds, lambda row: isinstance(row, list), "rows")
        labels = several("labels", kinds, lambda item: count(item) and item > 0, "whole numbers above 0")
        if any(len(r) != kinds + 1 or not all(map(count, r)) or sum(r) != n for r, n in zip(rows, labels, strict=True)):
            raise entry.wrong("confusion", f"rows of {kinds + 1} whole numbers that make up the labels")
        if value["features"] != list(FEATURES):
            raise entry.wrong("features", f"{', '.join(FEATURES)}: another version may read it")
        return cls(
            names=tuple(names),
            labels=labels,
            accuracy=share("accuracy"),
            confusion=tuple(map(tuple, rows)),
            folds=entry.whole("folds", 2, sum(labels)),
            probability=share("probability"),
            distance=entry.positive("distance"),
            rate=share("rate"),
            model=entry.sha256("model"),
            created=entry.moment("created"),
            features=FEATURES,
        )


def is_name(value: Any) -> bool:
    """Can it be a type's name?"""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST
        and value.isprintable()
        and value == value.strip()
        and value.lower() != UNKNOWN
    )


def read_types(found: Bundle) -> Types | None:
    """What the bundle says of types; None where it has no head."""
    if HEAD not in found.manifest.files and TYPES not in found.manifest.files:
        return None
    for name in (HEAD, TYPES):
        if name not in found.manifest.files:
            raise BundleError(f"{found.path}: {name} is missing beside what belongs to it: name its types again")
    types = Types.decode(found.read(TYPES))
    if types.model != found.manifest.hash:
        raise BundleError(
            f"{found.path}: {TYPES} belongs to model {types.model[:12]}, not to {found.manifest.hash[:12]}: name its "
            "types again"
        )
    return types


class Codes:
    """What a bundle's parts.onnx says of boxes of an image; the graph is prepared when it is needed.

    Options as for `session.OnnxGraph`. BundleError where the bundle has no parts, or no code for each stride.
    """

    def __init__(self, found: Bundle, *, device: str = "cpu", threads: int | None = None) -> None:
        if PARTS not in found.manifest.files:
            raise BundleError(f"{found.path} has no {PARTS}, whose code names defects: export it with --parts")
        self._graph = check_graph(found.read(PARTS), found.manifest, "parts")
        self._run = _Once(self._graph, device, threads)
        self.stride = found.manifest.stride
        self.components = [name for name in self._graph.outputs if name not in OUTPUTS["parts"]]
        least = found.manifest.smallest
        tensors, _ = self._graph.trace((1, found.manifest.channels, least, least + self.stride))
        _, self.channels, *field = tensors["code"].shape
        if field != [least // self.stride, least // self.stride + 1]:
            raise BundleError(
                f"{found.path}: its code has no place for every {self.stride} px, so it cannot tell what a defect is "
                "like: train the detector `fcbigan`, or `ae`"
            )

    @property
    def features(self) -> int:
        """How many numbers `under` gives for a box."""
        return self.channels + 2 * len(self.components) + 2

    def under(
        self,
        boxes: Sequence[Box],
        size: tuple[int, int],
        grid: Grid,
        window: Callable[[Box], NDArray[np.float32]],
        white: float,
    ) -> NDArray[np.float32]:
        """(n, features) of n boxes in an image of `size` (height, width): FEATURES, over all codes that each touches.

        `window` gives (C, h, w) raw grey levels of a part of the image, which may reach beyond it to multiples of the
        stride. Only windows around boxes are computed, no larger than those of the map's tiles; the codes are those of
        the whole image, for each sees no farther than the grid's halo.
        """
        step, halo = self.stride, -(-grid.halo // self.stride)
        height, width = (side // step for side in grid.padded(*size))
        corners = np.array(boxes, np.int64).reshape(-1, 4)
        ends = np.minimum(-(-corners[:, 2:] // step), (height, width))
        cells = np.concatenate([corners[:, :2] // step, ends], 1)  # half-open, of codes
        total = np.zeros((len(cells), self.channels + len(self.components)))
        most = np.full((len(cells), len(self.components)), -np.inf)
        for core, _ in grid.split(*size):
            inner = np.array(core) // step
            shares = np.concatenate([np.maximum(cells[:, :2], inner[:2]), np.minimum(cells[:, 2:], inner[2:])], 1)
            touched = np.flatnonzero((shares[:, :2] < shares[:, 2:]).all(1))
            if not len(touched):
                continue
            (top, left), (bottom, right) = shares[touched, :2].min(0), shares[touched, 2:].max(0)
            top, left = max(top - halo, 0), max(left - halo, 0)
            bottom, right = min(bottom + halo, height), min(right + halo, width)
            image = window(Box(*(int(side) * step for side in (top, left, bottom, right))))
            found = self._run(image=image[None], white=np.array(white, np.float32))
            rows, columns = bottom - top, right - left
            fields = np.concatenate([
                found["code"][0],
                *(found[name][0].reshape(1, rows, step, columns, step).mean((2, 4)) for name in self.components),
            ])  # fmt: skip
            for k in touched:
                first, before, end, behind = shares[k] - (top, left, top, left)
                part = fields[:, first:end, before:behind].reshape(len(fields), -1)
                total[k] += part.sum(1, dtype=np.float64)
                most[k] = np.maximum(most[k], part[self.channels :].max(1))
        number = np.prod(cells[:, 2:] - cells[:, :2], axis=1)[:, None]
        sides = np.log2(corners[:, 2:] - corners[:, :2])
        return np.concatenate([total / number, most, sides], 1).astype(np.float32)


class Naming:
    """A bundle's head, ready to name defects. BundleError for one that does not fit its bundle."""

    def __init__(self, found: Bundle, types: Types, *, device: str = "cpu", threads: int | None = None) -> None:
        self.types = types
        self.codes = Codes(found, device=device, threads=threads)
        self.sha256 = found.manifest.files[HEAD].sha256
        graph = check_graph(found.read(HEAD), found.manifest, "types")
        tensors, _ = graph.trace((1, graph.shape[1] or 0))
        ends = [tensors[name].shape[1] for name in graph.outputs]
        if graph.shape[1] != self.codes.features or ends != [len(types.names)] * 2:
            raise BundleError(
                f"{found.path}: {HEAD} makes {' and '.join(map(str, ends))} of {graph.shape[1]} features, where the "
                f"bundle has {self.codes.features} of them and {len(types.names)} types: name its types again"
            )
        self._run = _Once(graph, "cpu", threads)  # a thousand small products: nothing for a GPU

    @classmethod
    def of(cls, found: Bundle, *, device: str = "cpu", threads: int | None = None) -> Naming | None:
        """The head of a bundle; None where it has none."""
        types = read_types(found)
        return None if types is None else cls(found, types, device=device, threads=threads)

    def __call__(self, features: NDArray[np.float32]) -> list[str]:
        """The type of each of n defects, by their features (n, F); UNKNOWN where the head is not sure."""
        names = (*self.types.names, UNKNOWN)
        named: list[str] = []
        for begin in range(0, len(features), TOGETHER):
            found = self._run(features=features[begin : begin + TOGETHER])
            places = called(**found, probability=self.types.probability, distance=self.types.distance)
            named += [names[place] for place in places]
        return named


def called(
    probabilities: NDArray[Any], distances: NDArray[Any], probability: float, distance: float
) -> NDArray[np.integer]:
    """The types of n defects, in 0..K-1, or K for unknown, by (n, K) probabilities and distances; see `Types`."""
    sure = (probabilities.max(1) >= probability) & (distances.min(1) <= distance)
    return np.where(sure, probabilities.argmax(1), probabilities.shape[1])


class _Once:
    """A graph that was looked into, prepared when it is run for the first time. Safe in several threads."""

    def __init__(self, graph: Graph, device: str, threads: int | None) -> None:
        self._prepare: Mapping[str, Any] = {"graph": graph, "device": device, "threads": threads, "spin": False}
        self._ready: Any = None
        self._lock = Lock()

    def __call__(self, **inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            if self._ready is None:
                from anomalib_gan.runtime.session import OnnxGraph  # ONNX Runtime only where it is used

                self._ready = OnnxGraph(**self._prepare)
        found: dict[str, NDArray[np.float32]] = self._ready(**inputs)
        return found
