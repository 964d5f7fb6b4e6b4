"""Laws of the drift test: false alarms at most at the stated level however often one looks, and drift is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.drift import LEAST, Drift


def calibrated(scores: np.ndarray, **more: object) -> Calibration:
    return Calibration.fit(scores, scores, **more)  # type: ignore[arg-type]


def stream(seed: int, n: int = 100, new: int = 400, shift: float = 0.0, decimals: int = 9) -> Drift:
    rng = np.random.default_rng(seed)
    normal = calibrated(np.round(rng.gamma(4, 1, n), decimals), rate=0.05)
    return Drift(normal, level=0.1, seed=seed).update(np.round(rng.gamma(4, 1, new) + shift, decimals))


@pytest.mark.parametrize("decimals", [9, 0], ids=["continuous", "tied"])
def test_a_stream_that_does_not_drift_raises_an_alarm_no_more_often_than_stated(decimals: int) -> None:
    runs = 300
    alarms = sum(stream(seed, decimals=decimals).alarm for seed in range(runs))
    # Were the level 10 % as stated, so many alarms would come with a probability below one in a thousand.
    assert alarms <= binom.ppf(0.999, runs, 0.1)


def test_the_test_is_not_vacuous_at_its_level() -> None:
    """A gambler who never risks anything would keep the level as well."""
    assert 0 < sum(stream(seed).peak > 2 for seed in range(40)) < 40


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_a_shift_by_half_a_standard_deviation_is_found_within_400_images(shift: float) -> None:
    found = sum(stream(seed, n=200, shift=shift).alarm for seed in range(20))
    assert found >= 18


def test_defects_alone_are_no_drift() -> None:
    rng = np.random.default_rng(0)
    drift = Drift(calibrated(rng.gamma(4, 1, 300)), level=0.01)
    scores = rng.gamma(4, 1, 1000)
    scores[::20] = 50.0
    drift.update(scores)
    assert not drift.alarm and drift.above >= 50


def test_a_line_where_everything_is_above_the_threshold_has_drifted() -> None:
    drift = Drift(calibrated(np.arange(100.0)))
    assert drift.update(np.full(30, 1000.0)).alarm and (drift.seen, drift.above) == (30, 30)


def test_p_values_of_exchangeable_scores_are_uniform() -> None:
    rng = np.random.default_rng(1)
    drift = Drift(calibrated(np.round(rng.normal(size=500), 1), rate=0.001))
    values = [drift._p_value(score) for score in np.round(rng.normal(size=2000), 1)]
    assert kstest(values, "uniform").pvalue > 1e-4


@given(st.lists(st.floats(-5, 5), max_size=40), st.integers(0, 40))
def test_one_look_or_many_see_the_same(scores: list[float], cut: int) -> None:
    normal = calibrated(np.linspace(-3, 3, 50))
    once, twice = Drift(normal).update(scores), Drift(normal).update(scores[:cut]).update(scores[cut:])
    assert (once.wealth, once.peak, once.seen) == (twice.wealth, twice.peak, twice.seen)
    assert once.peak >= once.wealth > 0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="scores are those of tiles"):
        Drift(calibrated(np.arange(50.0), unit="tiles", tiles_per_image=4))
    with pytest.raises(ValueError, match=f"calibrate with {LEAST} or more images"):
        Drift(calibrated(np.arange(5.0)))
    with pytest.raises(ValueError, match="the level is 1"):
        Drift(calibrated(np.arange(50.0)), level=1)
    with pytest.raises(ValueError, match="the tolerated share of defects is 0"):
        Drift(calibrated(np.arange(50.0)), defects=0)
