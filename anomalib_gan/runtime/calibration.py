"""Thresholds from normal images only, with what their number can support said beside them.

Split conformal prediction (Vovk et al., 2005): if a new normal image is exchangeable with the n calibration images, its
score exceeds the k-th smallest of theirs, k = ceil((n + 1)(1 - rate)), with a probability of at most `rate`. That holds
on average over calibration sets. For the set at hand, the rate at which new scores exceed the k-th of n is Beta(n - k +
1, k) distributed where scores are continuous (and not above it where they tie); `bound` is that distribution's 95 %
quantile, which is also the one-sided Clopper-Pearson upper limit for the n - k scores that lie above the threshold.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal, get_args

from scipy.special import betaincinv

from anomalib_gan.runtime.files import read_json, short, write_json

Verdict = Literal["accept", "review", "reject"]
Unit = Literal["images", "tiles"]
CONFIDENCE = 0.95
FORMAT = 1


@dataclass(frozen=True)
class FalseAlarms:
    """Normal images above a threshold: `above` of the `n` that are known (images or tiles), as a share of images, and
    the one-sided 95 % Clopper-Pearson upper limit of that share."""

    above: int
    n: int
    share: float
    bound: float


@dataclass(frozen=True)
class Calibration:
    """Thresholds, what was wanted of them, and the normal scores that they come from. Made by `fit`.

    A score is above a threshold only where it is strictly larger. `review` and `reject` are thresholds of the image
    score, `pixel` is that of the map: at most `pixel_rate` of normal images show any defect.
    """

    review: float
    reject: float
    pixel: float
    rate: float  # wanted share of normal images that go to review by their score
    reject_rate: float
    pixel_rate: float
    n: int  # how many scores: normal images, or tiles of them
    # 95 % upper limit of the share of normal images above `review`. From tiles it is 1 - (1 - limit per
    # tile)^tiles_per_image, which assumes independent tiles.
    bound: float
    unit: Unit
    tiles_per_image: float
    warnings: tuple[str, ...]
    scores: tuple[float, ...]  # sorted
    peaks: tuple[float, ...]  # sorted maxima of the normal maps
    created: str  # ISO 8601, UTC
    model: str  # hash of the weights that scored

    @classmethod
    def fit(
        cls,
        scores: Iterable[float],
        peaks: Iterable[float],
        *,
        rate: float = 0.01,
        reject_rate: float = 0.001,
        pixel_rate: float = 0.05,
        unit: Unit = "images",
        tiles_per_image: float = 1,
        model: str = "",
        created: str | None = None,
    ) -> Calibration:
        """Thresholds from the scores and the maps' maxima of normal images (or tiles), in the same order or not.

        With unit="tiles" the images are `tiles_per_image` times as large as what was scored: rates per tile are
        1 - (1 - rate)^(1 / tiles_per_image), which assumes independent tiles, and a warning says so. Raises ValueError
        for no, unequally many or non-finite scores and for rates outside (0, 1).
        """
        ordered, tops = _sorted("scores", scores), _sorted("peaks", peaks)
        n = len(ordered)
        if len(tops) != n:
            raise ValueError(f"{n} scores but {len(tops)} peaks: every normal image gives one of each")
        if unit not in get_args(Unit):
            raise ValueError(f"unit is {unit!r}, not one of {', '.join(get_args(Unit))}")
        if not (math.isfinite(tiles_per_image) and tiles_per_image >= 1) or (unit == "images" and tiles_per_image != 1):
            raise ValueError(f"tiles_per_image is {tiles_per_image}: it is at least 1, and 1 for unit='images'")

        warnings = []
        if unit == "tiles":
            warnings.append(
                f"from {n} tiles of few large images, {tiles_per_image:.3g} to an image: every rate assumes "
                "independent tiles, which neighbours are not; calibrate with whole good images from the line"
            )
        ranks = {}
        for name, wanted in (("rate", rate), ("reject rate", reject_rate), ("pixel rate", pixel_rate)):
            if not 0 < wanted < 1:
                raise ValueError(f"the {name} is {wanted}: it is a share between 0 and 1, both excluded")
            each = _per_tile(wanted, tiles_per_image)
            ranks[name] = rank(n, each)
            if ranks[name] > n:
                ranks[name] = n
                warnings.append(
                    f"{n} normal {unit} cannot support a {name} of {wanted:g}: at least {needed(each)} are needed; "
                    "the largest normal value is the threshold"
                )
        review = ordered[ranks["rate"] - 1]
        k = ranks["rate"]
        limit = float(betaincinv(n - k + 1, k, CONFIDENCE))
        return cls(
            review=review,
            reject=max(review, ordered[ranks["reject rate"] - 1]),
            pixel=tops[ranks["pixel rate"] - 1],
            rate=float(rate),
            reject_rate=float(reject_rate),
            pixel_rate=float(pixel_rate),
            n=n,
            bound=-math.expm1(tiles_per_image * math.log1p(-limit)) if limit < 1 else 1.0,
            unit=unit,
            tiles_per_image=float(tiles_per_image),
            warnings=tuple(warnings),
            scores=tuple(ordered),
            peaks=tuple(tops),
            created=created or datetime.now(UTC).isoformat(timespec="seconds"),
            model=model,
        )

    def at(
        self, *, rate: float | None = None, reject_rate: float | None = None, pixel_rate: float | None = None
    ) -> Calibration:
        """The same normal scores at other rates; rates not given stay. Without any it is this calibration again."""
        return Calibration.fit(
            self.scores,
            self.peaks,
            rate=self.rate if rate is None else rate,
            reject_rate=self.reject_rate if reject_rate is None else reject_rate,
            pixel_rate=self.pixel_rate if pixel_rate is None else pixel_rate,
            unit=self.unit,
            tiles_per_image=self.tiles_per_image,
            model=self.model,
            created=self.created,
        )

    def moved(
        self, *, review: float | None = None, reject: float | None = None, pixel: float | None = None
    ) -> Calibration:
        """The same normal scores with thresholds set by hand; those not given stay, with what was said of them.

        A moved threshold's rate is what the normal scores support: with m of n above it, a new one is above it with a
        probability of at most (m + 1) / (n + 1). ValueError for a threshold that is not finite, below all normal
        scores (no rate holds there), or a reject threshold below that of review.
        """
        new: dict[str, Any] = {}
        for name, value, rate, normal in (
            ("review", review, "rate", self.scores),
            ("reject", reject, "reject_rate", self.scores),
            ("pixel", pixel, "pixel_rate", self.peaks),
        ):
            if value is None or value == getattr(self, name):
                continue
            if not math.isfinite(value) or value < normal[0]:
                raise ValueError(
                    f"the {name} threshold {value:g} is no number from the lowest normal value, {normal[0]:g}, upwards"
                )
            above = len(normal) - bisect_right(normal, value)
            share = (above + 1) / (self.n + 1)
            if rank(self.n, share) > self.n - above:  # the quotient was rounded down
                share = math.nextafter(share, 1)
            new |= {name: float(value), rate: _per_image(share, self.tiles_per_image)}
        moved = replace(self, **new)
        if moved.reject < moved.review:
            raise ValueError(f"the reject threshold {moved.reject:g} is below the review threshold {moved.review:g}")
        return moved if moved == self else replace(moved, bound=moved.false_alarms("review").bound)

    def false_alarms(self, threshold: Literal["review", "reject", "pixel"]) -> FalseAlarms:
        """How often normal images are above one of the thresholds, by the normal scores (or peaks) that are known."""
        normal, value = (self.peaks if threshold == "pixel" else self.scores), getattr(self, threshold)
        above = len(normal) - bisect_right(normal, value)
        limit = float(betaincinv(above + 1, self.n - above, CONFIDENCE)) if above < self.n else 1.0
        share, bound = (_per_image(one, self.tiles_per_image) for one in (above / self.n, limit))
        return FalseAlarms(above, self.n, share, bound)

    def verdict(self, score: float, has_defect: bool) -> Verdict:
        """The worse of the score's verdict and "review" if there is a defect. A non-finite score is a ValueError."""
        if not math.isfinite(score):
            raise ValueError(f"the score is {score}, so there is no verdict: the map is not finite")
        if score > self.reject:
            return "reject"
        return "review" if score > self.review or has_defect else "accept"

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_json` gives the equal calibration back."""
        value = asdict(self)
        return {"format": FORMAT} | {name: list(v) if isinstance(v, tuple) else v for name, v in value.items()}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """The calibration in a dict from `to_json`; a ValueError names the entry that is missing, unknown or wrong."""
        if not isinstance(value, Mapping):
            raise ValueError(f"a calibration is a JSON object, not {type(value).__name__}")
        if value.get("format") != FORMAT:
            raise ValueError(f"calibration format {short(value.get('format'))} is not {FORMAT}: calibrate again")
        names = {field.name for field in fields(cls)} | {"format"}
        if wrong := names ^ set(value):
            raise ValueError(
                f"calibration entries missing or unknown: {short(sorted(map(str, wrong)))}; calibrate again"
            )
        numbers = ("review", "reject", "pixel", "rate", "reject_rate", "pixel_rate", "bound", "tiles_per_image")
        read: dict[str, Any] = {name: _number(name, value[name]) for name in numbers}
        for name in ("scores", "peaks"):
            read[name] = tuple(_number(name, item) for item in _list(name, value[name]))
            if len(read[name]) != value["n"] or not read[name] or list(read[name]) != sorted(read[name]):
                raise ValueError(f"calibration {name!r} are not {short(value['n'])} sorted numbers: calibrate again")
        for name in ("created", "model"):
            read[name] = _text(name, value[name])
        if isinstance(value["n"], bool) or not isinstance(value["n"], int):
            raise ValueError(f"calibration 'n' is {short(value['n'])}, not a whole number")
        if value["unit"] not in get_args(Unit):
            raise ValueError(f"calibration 'unit' is {short(value['unit'])}, not one of {', '.join(get_args(Unit))}")
        for name in ("rate", "reject_rate", "pixel_rate"):
            if not 0 < read[name] < 1:
                raise ValueError(f"calibration {name!r} is {read[name]}, not between 0 and 1")
        if not 0 <= read["bound"] <= 1 or read["tiles_per_image"] < 1:
            raise ValueError(
                f"calibration bound {read['bound']} or tiles_per_image {read['tiles_per_image']} is out of range"
            )
        if read["reject"] < read["review"]:
            raise ValueError(f"calibration reject threshold {read['reject']} is below review {read['review']}")
        warnings = tuple(_text("warnings", item) for item in _list("warnings", value["warnings"]))
        return cls(**read, n=value["n"], unit=value["unit"], warnings=warnings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the calibration to `path`, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """The calibration in `path`; a ValueError names the file."""
        value = read_json(path)
        try:
            return cls.from_json(value)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def rank(n: int, rate: float) -> int:
    """ceil((n + 1)(1 - rate)), exact for the decimal that `rate` is written as; above n where n is too small.

    >>> rank(99, 0.01), rank(98, 0.01)
    (99, 99)
    """
    return math.ceil((n + 1) * (1 - Fraction(repr(float(rate)))))


def needed(rate: float) -> int:
    """The smallest n that supports `rate`: rank(n, rate) <= n.

    >>> needed(0.01), needed(0.001)
    (99, 999)
    """
    exact = Fraction(repr(float(rate)))
    return math.ceil((1 - exact) / exact)


def _per_tile(rate: float, tiles: float) -> float:
    return rate if tiles == 1 else -math.expm1(math.log1p(-rate) / tiles)


def _per_image(rate: float, tiles: float) -> float:
    """The share of images with at least one tile above, of independent tiles; the inverse of `_per_tile`."""
    if tiles == 1 or rate in (0, 1):
        return rate
    return min(-math.expm1(tiles * math.log1p(-rate)), math.nextafter(1, 0))


def _sorted(name: str, values: Iterable[float]) -> list[float]:
    numbers = sorted(float(value) for value in values)
    if not numbers:
        raise ValueError(f"no {name} to calibrate from: give at least one normal image")
    if bad := [value for value in numbers if not math.isfinite(value)]:
        raise ValueError(
            f"{len(bad)} of {len(numbers)} {name} are not finite ({bad[0]}): the model's map is broken; train it again"
        )
    return numbers


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"calibration {name!r} holds {short(value)}, not a finite number: calibrate again")
    return float(value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"calibration {name!r} is {type(value).__name__}, not a list: calibrate again")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"calibration {name!r} holds {short(value)}, not text: calibrate again")
    return value
