"""Laws of the thresholds: what they promise holds in simulation, and what is stored comes back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from anomalib_gan.runtime.calibration import Calibration, needed, rank

rates = st.floats(0.001, 0.6)
samples = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.1), (99, 0.01), (40, 0.07)])
def test_normal_images_are_flagged_no_more_often_than_wanted(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    trials = 4000
    drawn = np.exp(rng.normal(size=(trials, n + 1)) + rng.normal(size=(trials, 1)))  # exchangeable, not independent
    flagged = shown = 0
    for row in drawn:
        calibration = Calibration.fit(row[:-1], row[:-1], rate=rate, reject_rate=rate, pixel_rate=rate)
        flagged += calibration.verdict(row[-1], has_defect=False) != "accept"
        shown += row[-1] > calibration.pixel
    spread = 3.5 * math.sqrt(rate * (1 - rate) / trials)
    assert flagged / trials <= rate + spread
    assert flagged / trials >= rank_rate(n, rate) - spread  # and not by flagging nothing
    assert shown == flagged


def rank_rate(n: int, rate: float) -> float:
    return 1 - rank(n, rate) / (n + 1)


@pytest.mark.parametrize(("n", "rate"), [(5, 0.01), (30, 0.1), (200, 0.02)])
def test_the_bound_holds_for_95_of_100_calibrations_and_is_no_looser(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    trials = 3000
    # Uniform scores: the true share above a threshold is 1 - threshold.
    fitted = [Calibration.fit(row, row, rate=rate, reject_rate=rate) for row in rng.random((trials, n))]
    covered = np.mean([1 - one.review <= one.bound for one in fitted])
    assert covered == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / trials))


def test_the_bound_is_clopper_pearson_and_the_rule_of_three_in_closed_form() -> None:
    scores = list(range(50))
    assert Calibration.fit(scores, scores).bound == pytest.approx(1 - 0.05 ** (1 / 50))
    calibration = Calibration.fit(scores, scores, rate=0.2)
    above = sum(score > calibration.review for score in scores)
    assert above > 0
    assert binom.cdf(above, 50, calibration.bound) == pytest.approx(0.05)  # the definition of the upper limit


@pytest.mark.parametrize("tiles", [2, 12])
def test_rates_of_tiles_hold_for_images_of_independent_tiles_and_say_what_they_assume(tiles: int) -> None:
    rng = np.random.default_rng(tiles)
    trials, n, rate = 4000, 300, 0.1
    flagged = 0
    for _ in range(trials):
        scores = rng.random(n)
        calibration = Calibration.fit(scores, scores, rate=rate, unit="tiles", tiles_per_image=tiles)
        flagged += rng.random(tiles).max() > calibration.review
    assert flagged / trials <= rate + 3.5 * math.sqrt(rate * (1 - rate) / trials)
    assert "assumes independent tiles" in " ".join(calibration.warnings)
    assert calibration.unit == "tiles"
    per_tile = Calibration.fit(scores, scores, rate=1 - (1 - rate) ** (1 / tiles))
    assert calibration.review == per_tile.review
    assert calibration.bound == pytest.approx(1 - (1 - per_tile.bound) ** tiles)


@given(samples, rates, rates)
def test_thresholds_fall_as_rates_rise_and_reject_never_lies_below_review(
    scores: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    strict = Calibration.fit(scores, scores, rate=low, reject_rate=high, pixel_rate=low)
    loose = Calibration.fit(scores, scores, rate=high, reject_rate=low, pixel_rate=high)
    assert strict.review >= loose.review
    assert strict.pixel >= loose.pixel
    assert strict.bound <= loose.bound
    assert strict.reject >= strict.review
    assert loose.reject >= loose.review


@given(st.integers(1, 3000), st.integers(10, 5000))
def test_the_number_of_images_needed_is_the_smallest_that_supports_the_rate(n: int, myriad: int) -> None:
    rate = myriad / 10_000
    least = needed(rate)
    assert rank(least, rate) <= least
    assert least == 1 or rank(least - 1, rate) > least - 1
    calibration = Calibration.fit(range(n), range(n), rate=rate, reject_rate=0.5, pixel_rate=0.5)
    assert bool(calibration.warnings) == (n < least)
    if n < least:
        assert f"at least {least} are needed" in calibration.warnings[0]
        assert calibration.review == n - 1


@given(samples, rates, st.sampled_from([1, 7.5]))
def test_recalibration_and_storage_change_nothing(scores: list[float], rate: float, tiles: float) -> None:
    unit: Any = "images" if tiles == 1 else "tiles"
    calibration = Calibration.fit(
        scores, scores[::-1], rate=rate, reject_rate=rate / 2, unit=unit, tiles_per_image=tiles, model="ab"
    )
    assert calibration.at() == calibration
    assert calibration.at(rate=0.3).at(rate=rate) == calibration
    assert Calibration.fit(scores[::-1], scores, rate=0.2).scores == calibration.scores  # order does not matter
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False))) == calibration


def test_the_verdict_is_the_worse_of_score_and_defects() -> None:
    calibration = replace(Calibration.fit([0.0], [0.0]), review=1.0, reject=2.0)
    assert [calibration.verdict(score, False) for score in (1.0, 1.5, 2.0, 2.1)] == [
        "accept",
        "review",
        "review",
        "reject",
    ]
    assert [calibration.verdict(score, True) for score in (0.0, 1.5, 2.1)] == ["review", "review", "reject"]
    for score in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no verdict"):
            calibration.verdict(score, False)


@pytest.mark.parametrize(
    ("scores", "peaks", "options", "told"),
    [
        ([], [], {}, "at least one normal image"),
        ([1, math.nan], [1, 2], {}, "not finite"),
        ([1, 2], [1, math.inf], {}, "not finite"),
        ([1, 2], [1], {}, "2 scores but 1 peaks"),
        ([1], [1], {"rate": 0.0}, "the rate is 0.0"),
        ([1], [1], {"pixel_rate": 1.5}, "pixel rate is 1.5"),
        ([1], [1], {"reject_rate": math.nan}, "reject rate is nan"),
        ([1], [1], {"unit": "pieces"}, "'pieces', not one of"),
        ([1], [1], {"tiles_per_image": 4}, "tiles_per_image is 4"),
    ],
)
def test_fit_refuses_what_it_cannot_use(scores: list[float], peaks: list[float], options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Calibration.fit(scores, peaks, **options)


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("review", "3", "'review' holds '3'"),
        ("review", True, "'review' holds True"),
        ("pixel", math.nan, "not a finite number"),
        ("reject", -9.0, "below review"),
        ("rate", 0.0, "not between 0 and 1"),
        ("bound", 1.5, "out of range"),
        ("n", 3.0, "not a whole number"),
        ("n", 4, "4 sorted numbers"),
        ("scores", [3, 2, 1], "sorted numbers"),
        ("scores", [1, 2, None], "holds None"),
        ("peaks", 3, "not a list"),
        ("unit", "pieces", "not one of"),
        ("created", None, "not text"),
        ("warnings", [1], "not text"),
        ("format", 99, "format 99 is not 1"),
        ("colour", "red", "colour"),
    ],
)
def test_a_damaged_file_is_refused_with_the_entry_and_the_file(
    entry: str, value: Any, told: str, tmp_path: Path
) -> None:
    stored = Calibration.fit([1, 2, 3], [1, 2, 3]).to_json() | {entry: value}
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=told) as raised:
        Calibration.load(path)
    assert str(path) in str(raised.value)


def test_a_missing_entry_is_named_and_a_saved_file_loads(tmp_path: Path) -> None:
    calibration = Calibration.fit([1, 2, 3], [1, 2, 3])
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    stored = calibration.to_json()
    del stored["pixel"]
    with pytest.raises(ValueError, match="pixel"):
        Calibration.from_json(stored)
    with pytest.raises(ValueError, match="not list"):
        Calibration.from_json([])


@settings(max_examples=20)
@given(st.integers(1, 98))
def test_too_few_images_for_the_default_rate_reject_only_above_the_maximum(n: int) -> None:
    calibration = Calibration.fit(range(n), range(n))
    assert calibration.review == calibration.reject == n - 1
    assert any("at least 99 are needed" in warning for warning in calibration.warnings)
    assert any("at least 999 are needed" in warning for warning in calibration.warnings)
