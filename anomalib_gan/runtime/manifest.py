"""What the manifest of a bundle says, read with distrust: every entry must be there and be what it must be."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import short

Precision = Literal["fp32", "fp16", "int8"]

SCHEMA = 1
MANIFEST, MODEL, PARTS, GENERATOR = "manifest.json", "model.onnx", "parts.onnx", "generator.onnx"
PRIOR = "prior.onnx"
HEAD, TYPES = "types.onnx", "types.json"
SEAL = "sha256"  # the entry of manifest.json that is the digest of the others
MANIFEST_BYTES = 8 * 2**20
GRAPH_BYTES = 512 * 2**20
FILE_BYTES = 64 * 2**20
TOTAL_BYTES = 2 * 2**30
FILES = 256


class BundleError(ValueError):
    """A folder that is no bundle, is damaged, holds what is not allowed, or was written by a newer version."""


@dataclass(frozen=True)
class File:
    """What a file of the bundle must be: its SHA-256 in hex and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says. Lengths are in pixels of the image; as in `runtime.inspector.Backend`."""

    name: str
    created: str  # ISO 8601, UTC
    version: str  # of anomalib_gan
    spec: Mapping[str, Any]  # {"name", "params"}: what rebuilds the model
    hash: str  # identifies the detector: the run's model hash; with another precision than fp32 its own
    precision: Precision
    channels: int
    stride: int
    smallest: int
    halo: int
    map_scale: tuple[float, float]  # (low, high) of the map on normal images
    pixel_size: float | None  # micrometres per px of the training images, where known
    white: float | None  # of the training images, where all had the same
    bits: int | None  # the same as significant bits, where known
    gates: Mapping[str, Any]  # how far the graph is from the trained model, as measured before it was written
    calibration: Calibration | None
    files: Mapping[str, File] = field(default_factory=dict)  # by path within the bundle; filled in by `write`
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` gives the equal manifest back."""
        entries = {"schema": self.schema} | {f.name: getattr(self, f.name) for f in fields(self)}
        return entries | {
            "spec": dict(self.spec),
            "map_scale": list(self.map_scale),
            "gates": dict(self.gates),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "files": {name: {"sha256": f.sha256, "bytes": f.bytes} for name, f in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """The manifest in a dict from `to_json`; a BundleError names the entry that is missing, unknown or wrong."""
        entry = Entries(value)
        schema = entry.whole("schema", 1)
        if schema > SCHEMA:
            raise BundleError(
                f"the bundle was written by a newer version of anomalib_gan (schema {schema}, this one reads "
                f"{SCHEMA}): upgrade anomalib_gan"
            )
        if wrong := {f.name for f in fields(cls)} ^ set(entry.value):
            raise BundleError(f"manifest entries missing or unknown: {short(sorted(wrong))}")
        stride = entry.whole("stride", 1, 1024)
        read = cls(
            name=entry.text("name"),
            created=entry.moment("created"),
            version=entry.text("version"),
            spec=entry.spec("spec"),
            hash=entry.sha256("hash"),
            precision=entry.choice("precision", get_args(Precision)),
            channels=entry.choice("channels", (1, 3)),
            stride=stride,
            smallest=entry.whole("smallest", stride, 2**14),
            halo=entry.whole("halo", 0, 2**12),
            map_scale=entry.span("map_scale"),
            pixel_size=entry.optional("pixel_size", entry.positive),
            white=entry.optional("white", entry.positive),
            bits=entry.optional("bits", lambda name: entry.whole(name, 1, 32)),
            gates=entry.mapping("gates"),
            calibration=entry.optional("calibration", entry.calibration),
            files=entry.files("files"),
        )
        if read.smallest % stride:
            raise BundleError(f"manifest 'smallest' is {read.smallest}, no multiple of the stride {stride}")
        if read.calibration is not None and read.calibration.model != read.hash:
            raise BundleError(
                f"manifest 'calibration' belongs to model {read.calibration.model[:12]!r}, not to {read.hash[:12]}: "
                "calibrate the bundle again"
            )
        return read


class Entries:
    """The entries of a manifest, or of an object within it, each taken out with what it must be.

    `of` is what errors call it: another file of the bundle is read with the same distrust.
    """

    def __init__(self, value: Any, within: str = "", of: str = "manifest") -> None:
        if not isinstance(value, Mapping):
            raise BundleError(f"a {of} is a JSON object, not {type(value).__name__}")
        self.value, self.within, self.of = value, within, of

    def whole(self, name: str, low: int, high: int = 2**53) -> int:
        value = self.value.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str) -> float:
        value = self.value[name]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def positive(self, name: str) -> float:
        if (value := self.number(name)) <= 0:
            raise self.wrong(name, "above 0")
        return value

    def text(self, name: str, most: int = 1000) -> str:
        value = self.value[name]
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise self.wrong(name, f"a text of 1 to {most} characters")
        return value

    def choice(self, name: str, allowed: tuple[Any, ...]) -> Any:
        value = self.value[name]
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise self.wrong(name, f"one of {', '.join(map(str, allowed))}")
        return value

    def optional(self, name: str, read: Callable[[str], Any]) -> Any:
        return None if self.value[name] is None else read(name)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.value[name]
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return dict(value)

    def moment(self, name: str) -> str:
        text = self.text(name)
        try:
            utc = datetime.fromisoformat(text).utcoffset() == timedelta(0)
        except ValueError:
            utc = False
        if not utc:
            raise self.wrong(name, "a time in ISO 8601 and UTC")
        return text

    def sha256(self, name: str) -> str:
        value = self.value[name]
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise self.wrong(name, "a SHA-256 of 64 lower-case hex digits")
        return value

    def spec(self, name: str) -> dict[str, Any]:
        value = self.mapping(name)
        if set(value) != {"name", "params"}:
            raise self.wrong(name, "an object of name and params")
        inner = Entries(value, f"{name}.")
        return {"name": inner.text("name"), "params": inner.mapping("params")}

    def span(self, name: str) -> tuple[float, float]:
        value = self.value[name]
        if not isinstance(value, list) or len(value) != 2:
            raise self.wrong(name, "two numbers")
        ends = Entries({"0": value[0], "1": value[1]}, f"{name}.")
        low, high = ends.number("0"), ends.number("1")
        if low >= high:
            raise self.wrong(name, "two rising numbers")
        return low, high

    def calibration(self, name: str) -> Calibration:
        try:
            return Calibration.from_json(self.value[name])
        except ValueError as error:
            raise BundleError(f"manifest {name!r}: {error}") from error

    def files(self, name: str) -> dict[str, File]:
        listed: dict[str, File] = {}
        for path, value in self.mapping(name).items():
            check_path(path)
            if not isinstance(value, Mapping) or set(value) != {"sha256", "bytes"}:
                raise BundleError(f"manifest '{name}.{path}' is {short(value)}, not an object of sha256 and bytes")
            one = Entries(value, f"{name}.{path}.")
            listed[path] = File(one.sha256("sha256"), one.whole("bytes", 0, cap(path)))
        if MODEL not in listed:
            raise BundleError(f"manifest {name!r} does not list {MODEL}")
        _check_listing(listed)
        return listed

    def wrong(self, name: str, wanted: str) -> BundleError:
        return BundleError(f"{self.of} '{self.within}{name}' is {short(self.value.get(name))}, not {wanted}")


def check_path(path: str) -> None:
    """A BundleError for what is no plain path of a file below the folder, on any system: absolute, with `..`, a drive,
    a reserved name or characters that some file system refuses.
    """
    parts = path.split("/")
    plain = (
        len(path) <= 200
        and len(parts) <= 8
        and path.isprintable()
        and not set(path) & set('\\:*?"<>|')
        and all(part and part[-1] not in ". " and part[0] != " " for part in parts)
        and not any(
            re.fullmatch("con|prn|aux|nul|(com|lpt)[0-9]", part.lower().split(".")[0].strip()) for part in parts
        )
    )
    if not plain or path.lower() == MANIFEST:
        raise BundleError(f"manifest 'files' lists {short(path)}, which is no plain path within the bundle")


def _check_listing(files: Mapping[str, File]) -> None:
    """Bounds for all files together, and no two that one file system takes for the same."""
    if len(files) > FILES or sum(file.bytes for file in files.values()) > TOTAL_BYTES:
        raise BundleError(f"manifest 'files' lists more than {FILES} files or {TOTAL_BYTES} bytes")
    taken = {path.lower() for path in files}
    folders = {path.rsplit("/", depth)[0] for path in taken for depth in range(1, path.count("/") + 1)}
    if len(taken) < len(files) or taken & folders:
        raise BundleError("manifest 'files' lists a path twice, or one below another")


def cap(path: str) -> int:
    """The most bytes that a file may have."""
    return GRAPH_BYTES if path in (MODEL, PARTS, GENERATOR, PRIOR) else FILE_BYTES


def fingerprint(manifest: Manifest) -> str:
    """SHA-256 that pins the detector: of the manifest without its calibration, and so of every file by its hash.

    Calibrating again leaves it as it is. See `digest`.
    """
    entries = manifest.to_json()
    del entries["calibration"]
    return digest(entries)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, written with sorted keys, no spaces and ASCII only."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise BundleError(f"the manifest holds what JSON cannot: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """The contents of manifest.json, sure to be read again: the entries and, against accidents, their digest."""
    entries = manifest.to_json()
    sealed = entries | {SEAL: digest(entries)}
    data = (json.dumps(sealed, indent=2, ensure_ascii=False) + "\n").encode(errors="surrogatepass")
    if len(data) > MANIFEST_BYTES:
        raise BundleError(
            f"the manifest would have {len(data)} bytes, more than {MANIFEST_BYTES}: calibrate with fewer images"
        )
    decode(data)
    return data


def decode(data: bytes) -> Manifest:
    """The manifest in the contents of manifest.json; a BundleError says what is wrong."""
    value = parse(data, MANIFEST)
    stated = value.pop(SEAL, None) if isinstance(value, dict) else None
    manifest = Manifest.from_json(value)
    if stated != digest(value):
        raise BundleError(
            f"{MANIFEST} is damaged, or was edited by hand (its {SEAL} is not that of its other entries): "
            "copy the bundle again; thresholds are changed by calibrating it"
        )
    return manifest


def parse(data: bytes, name: str) -> Any:
    """The JSON in the file `name`, without what other languages read otherwise: repeated names, NaN, numbers beyond
    float and int64.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(items)) < len(items):
            raise ValueError(f"an object has a name twice, among {short([name for name, _ in items])}")
        return found

    def whole(digits: str) -> int:
        if len(digits) > 20 or abs(value := int(digits)) >= 2**63:
            raise ValueError(f"{digits[:20]}... is too large a number")
        return value

    def real(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise ValueError(f"{digits[:20]} is no finite number")
        return value

    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=pairs, parse_int=whole, parse_float=real, parse_constant=real)
        json.dumps(value, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
        return value
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not valid JSON: {error}") from error
