"""Laws of the image score and of the defects: no cut of the map into strips changes either."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anomalib_gan.runtime import defects as defects_module
from anomalib_gan.runtime.defects import DefectFinder, find_defects
from anomalib_gan.runtime.scores import HOTTEST, STEP, WINDOW, ScoreAccumulator, hottest_mean, image_score

seeds = st.integers(0, 2**32 - 1)


def reference(map: np.ndarray) -> float:
    """The definition, word by word, without pruning or streaming."""
    while np.isnan(map[-1]).all():
        map = map[:-1]
    height, width = map.shape
    good, thin = [], []
    for top in {*range(0, max(height - WINDOW, 0) + 1, STEP), max(height - WINDOW, 0)}:
        for left in {*range(0, max(width - WINDOW, 0) + 1, STEP), max(width - WINDOW, 0)}:
            window = map[top : top + WINDOW, left : left + WINDOW]
            values = np.sort(window[~np.isnan(window)])[::-1]
            if len(values):
                mean = values[: max(1, math.ceil(HOTTEST * len(values)))].mean(dtype=np.float64)
                (good if len(values) >= 0.25 * window.size else thin).append(mean)
    return max(good or thin)


def draw_map(rng: np.random.Generator, height: int, width: int, holes: bool) -> np.ndarray:
    map = ndimage.gaussian_filter(rng.normal(size=(height, width)), 1.5).astype(np.float32)
    for _ in range(4):  # plateaus of nearly equal height, single hot pixels
        top, left, side = rng.integers(0, height), rng.integers(0, width), rng.choice([1, 15, 40])
        map[top : top + side, left : left + side] = rng.uniform(1, 2)
    if holes:
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, height), rng.integers(0, width)
            map[top : top + rng.integers(1, 500), left : left + rng.integers(1, 500)] = np.nan
        map[rng.integers(0, height), rng.integers(0, width)] = 0.1  # at least one pixel is valid
    return map


def strips(rng: np.random.Generator, height: int, count: int) -> list[tuple[int, int]]:
    cuts = sorted({0, height, *rng.integers(0, height + 1, count).tolist()})
    return list(pairwise(cuts))


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 700), st.integers(1, 700), st.booleans(), st.integers(0, 20), st.integers(0, 300))
def test_the_streamed_score_is_the_score_of_the_whole_map_and_that_of_the_definition(
    seed: int, height: int, width: int, holes: bool, cuts: int, bar: int
) -> None:
    rng = np.random.default_rng(seed)
    map = draw_map(rng, height, width, holes)
    map = np.concatenate([map, np.full((bar, width), np.nan, np.float32)])
    accumulator = ScoreAccumulator(*map.shape)
    for top, bottom in strips(rng, len(map), cuts):
        accumulator.add(top, map[top:bottom])
    assert accumulator.score == image_score(map)
    assert accumulator.score == pytest.approx(reference(map), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 2), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 300))
def test_a_larger_image_around_the_same_map_on_the_step_lattice_never_lowers_the_score(
    seed: int, tall: int, wide: int, down: int, along: int, more: int
) -> None:
    rng = np.random.default_rng(seed)
    small = draw_map(rng, WINDOW + tall * STEP, WINDOW + wide * STEP, holes=False)
    top, left = down * STEP, along * STEP
    large = rng.normal(-5, 3, (top + small.shape[0] + more, left + small.shape[1] + more)).astype(np.float32)
    large[top : top + small.shape[0], left : left + small.shape[1]] = small
    assert image_score(large) >= image_score(small)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(WINDOW, 1500), st.integers(WINDOW, 1500), st.integers(1, 26), st.data())
def test_a_small_defect_counts_the_same_in_an_image_of_any_size_and_at_any_place(
    seed: int, height: int, width: int, side: int, data: st.DataObject
) -> None:
    # Up to STEP + 1 pixels across it lies whole in a window, where ceil(1 %) = 656 pixels are averaged.
    map = np.zeros((height, width), np.float32)
    top, left = data.draw(st.integers(0, height - side)), data.draw(st.integers(0, width - side))
    map[top : top + side, left : left + side] = 10
    hottest = math.ceil(HOTTEST * WINDOW**2)
    assert image_score(map) == pytest.approx(10 * min(side**2, hottest) / hottest)


def test_windows_with_few_valid_pixels_count_only_where_there_is_no_other() -> None:
    map = np.full((256, 640), np.nan, np.float32)
    map[:, :256] = 1
    map[:10, 600:] = 9
    assert image_score(map) == 1
    map[:, :256] = np.nan
    assert image_score(map) == 9


def test_a_map_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no valid pixel"):
        image_score(np.full((300, 300), np.nan, np.float32))
    accumulator = ScoreAccumulator(10, 20)
    accumulator.add(0, np.zeros((4, 20), np.float32))
    with pytest.raises(ValueError, match="all 10 rows"):
        _ = accumulator.score
    with pytest.raises(ValueError, match="at row 4"):
        accumulator.add(5, np.zeros((5, 20), np.float32))


def test_the_accumulator_holds_no_more_than_a_window_and_a_step() -> None:
    accumulator = ScoreAccumulator(5000, 16)
    accumulator.add(0, np.zeros((5000, 16), np.float32))
    assert len(accumulator._kept) <= WINDOW + STEP


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 0.9), st.integers(0, 60), st.booleans())
def test_defects_are_the_components_of_the_whole_map_however_it_is_cut(
    seed: int, height: int, width: int, share: float, cuts: int, smooth: bool
) -> None:
    rng = np.random.default_rng(seed)
    map = rng.random((height, width)).astype(np.float32)
    map = ndimage.uniform_filter(map, 3) if smooth else map
    map[rng.random(map.shape) < 0.1] = np.nan
    threshold = float(np.nanquantile(map, share)) if not np.isnan(map).all() else 0.5

    finder = DefectFinder(threshold, width, pixel_size=0.5)
    for top, bottom in strips(rng, height, cuts):
        finder.add(top, map[top:bottom])
    found = finder.defects()
    assert found == find_defects(map, threshold, 0.5)

    labels, number = ndimage.label(map > threshold, np.ones((3, 3)))
    expected = set()
    for index, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
        ys, xs = np.nonzero(labels == index)
        box = (rows.start, cols.start, rows.stop, cols.stop)
        expected.add((box, len(ys), float(map[ys, xs].max()), round(ys.mean(), 9), round(xs.mean(), 9)))
    actual = {((d.top, d.left, d.bottom, d.right), d.area, d.peak, round(d.row, 9), round(d.col, 9)) for d in found}
    assert actual == expected
    assert finder.count == number == len(found)
    assert [d.peak for d in found] == sorted((d.peak for d in found), reverse=True)
    assert all(d.area_um2 == d.area * 0.25 for d in found)


def test_a_spiral_whose_arms_meet_only_at_the_end_is_one_defect() -> None:
    map = np.zeros((9, 9), np.float32)
    map[:, 0] = map[8, :] = map[:, 8] = map[0, 2:] = map[0:7, 2] = map[6, 2:7] = map[2:7, 6] = map[2, 4:6] = 1
    finder = DefectFinder(0.5, 9)
    for row in range(9):
        finder.add(row, map[row : row + 1])
    assert len(finder.defects()) == 1
    assert finder.defects()[0].area == int(map.sum())


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(0, 10))
def test_too_many_defects_keep_the_largest_peaks_and_the_true_count(seed: int, limit: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    map = np.zeros((21, 21), np.float32)
    map[:, ::2] = rng.integers(0, 2, (21, 11)) * rng.integers(1, 3, 11)  # bars of all lengths, with ties
    everything = find_defects(map, 0.5)
    finder = DefectFinder(0.5, 21, limit=limit)
    for top, bottom in strips(rng, 21, cuts):
        finder.add(top, map[top:bottom])
    assert finder.count == len(everything)
    assert finder.defects() == everything[:limit]


def test_a_large_strip_is_worked_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    map = ndimage.gaussian_filter(np.random.default_rng(0).random((50, 40)), 1).astype(np.float32)
    whole = find_defects(map, 0.5)
    monkeypatch.setattr(defects_module, "PIECE_PIXELS", 100)
    assert find_defects(map, 0.5) == whole


@given(st.floats(-1e30, 1e30))
def test_the_threshold_decides_as_a_double_would(threshold: float) -> None:
    near = np.float32(threshold)
    values = np.array([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))])
    above = values.astype(np.float64) > threshold
    assert DefectFinder(threshold, 3).threshold.dtype == np.float32
    assert (values > DefectFinder(threshold, 3).threshold).tolist() == above.tolist()


def test_nothing_above_the_threshold_is_no_defect_and_equality_is_not_above() -> None:
    assert find_defects(np.full((5, 7), 2, np.float32), 2.0) == []
    assert find_defects(np.full((5, 7), np.nan, np.float32), 0.0) == []
    with pytest.raises(ValueError, match="not a finite number"):
        DefectFinder(math.nan, 5)
    with pytest.raises(ValueError, match="do not continue"):
        DefectFinder(0.0, 5).add(1, np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("size", [1, 2, 99, 100, 101, 300, 1699, 1700, 5000, 65536])
def test_the_hottest_are_found_however_the_values_lie(size):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    rare = np.zeros(size, np.float32)
    rare[::17] = 5.0  # what a sample meets may be all there is, or nothing of it
    for one in (values, np.sort(values), -np.sort(-values), np.full(size, 0.5, np.float32), rare, np.roll(rare, 3)):
        wanted = np.sort(one)[-max(1, math.ceil(HOTTEST * size)) :].mean(dtype=np.float64)
        assert hottest_mean(one) == wanted
