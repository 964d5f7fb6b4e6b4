"""Figures agree with scikit-learn and with slow references; the evaluate job tells what it cannot know."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from sklearn import metrics

from anomalib_gan import evaluation as ev
from anomalib_gan.evaluation_report import overall_rows
from anomalib_gan.labelled import find_samples
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector
from pipelines.evaluate import evaluate_dataset

Case = tuple[NDArray[np.float32], NDArray[np.bool_]]
SCALE = (0.0, 1.0)


def rank(*cases: Case, coarse: bool = False) -> ev.Ranking:
    pool = ev.PixelPool()
    for scores, mask in cases:
        pool.add(scores, mask)
    if coarse:
        pool.coarsen(SCALE)
    return ev.Ranking.of([pool])


def figures(*cases: Case) -> dict[str, float]:
    found = ev.figures(rank(*cases))
    assert None not in found.values()
    return {name: float(value or 0) for name, value in found.items()}


@st.composite
def a_case(draw: st.DrawFn) -> Case:
    """A map with few levels (ties everywhere) or many, with its mask; both kinds of pixels are there."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(2, 14)), draw(st.integers(2, 14))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.1, 0.3, 0.6]))
    mask[0, 0], mask[-1, -1] = True, False
    steps = draw(st.sampled_from([2, 3, 10, 10**6]))
    scores = np.round((rng.random((height, width)) + draw(st.sampled_from([0, 0.4])) * mask) * steps) / steps - 0.5
    return scores.astype(np.float32), mask


def slow_pro(cases: list[Case], limit: float) -> float:
    """AUPRO by its definition: each threshold, each region, then trapezia; shares no code with the package."""
    regions = []
    for scores, mask in cases:
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [scores[labels == label] for label in range(1, count + 1)]
    normal = np.concatenate([scores[~mask] for scores, mask in cases])
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in cases]))[::-1]
    fpr = [0.0] + [float(np.mean(normal >= t)) for t in thresholds]
    pro = [0.0] + [float(np.mean([np.mean(region >= t) for region in regions])) for t in thresholds]
    area = 0.0
    for (x0, y0), (x1, y1) in zip(zip(fpr, pro, strict=True), list(zip(fpr, pro, strict=True))[1:], strict=False):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


@given(st.lists(a_case(), min_size=1, max_size=3))
def test_pooled_figures_equal_scikit_learn_and_the_slow_aupro(cases: list[Case]) -> None:
    y = np.concatenate([mask.ravel() for _, mask in cases])
    s = np.concatenate([scores.ravel() for scores, _ in cases])
    precision, recall, _ = metrics.precision_recall_curve(y, s)
    fpr, tpr, _ = metrics.roc_curve(y, s, drop_intermediate=False)
    assert figures(*cases) == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(y, s),
            "ap": metrics.average_precision_score(y, s),
            "aupro": slow_pro(cases, 0.3),
            "f1_max": (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max(),
            "tpr_at_5_fpr": tpr[fpr <= 0.05].max(),
        },
        abs=1e-9,
    )


@given(st.lists(a_case(), min_size=2, max_size=3))
def test_several_pools_rank_as_one(cases: list[Case]) -> None:
    pools = [ev.PixelPool() for _ in cases]
    for pool, case in zip(pools, cases, strict=True):
        pool.add(*case)
        ev.Ranking.of([pool])  # ranking a pool before must change nothing
    assert ev.figures(ev.Ranking.of(pools)) == pytest.approx(figures(*cases), abs=1e-12)
    merged = ev.PixelPool()
    for pool in pools:
        merged.absorb(pool)
    assert ev.figures(ev.Ranking.of([merged])) == pytest.approx(figures(*cases), abs=1e-12)


@given(a_case(), st.sampled_from([lambda s: 7 * s - 3, lambda s: s**3, np.exp, np.arctan]))
def test_a_rising_function_of_the_map_changes_no_ranking_figure(case: Case, rising: Callable[..., Any]) -> None:
    scores, mask = case
    levels, index = np.unique(scores, return_inverse=True)
    moved = rising(levels.astype(np.float64)).astype(np.float32)
    if len(np.unique(moved)) == len(levels):  # rounding to float32 can join neighbours, which does change the order
        assert figures((moved[index].reshape(scores.shape), mask)) == figures(case)


@given(a_case())
def test_perfect_constant_and_inverted_maps(case: Case) -> None:
    _, mask = case
    perfect = figures((mask.astype(np.float32), mask))
    assert perfect == pytest.approx(dict.fromkeys(ev.FIGURES, 1.0))
    constant = figures((np.full(mask.shape, 3, np.float32), mask))
    assert constant == pytest.approx(
        {
            "auroc": 0.5,
            "ap": mask.mean(),
            "aupro": 0.15,  # the chance diagonal up to 0.3, over 0.3
            "f1_max": 2 * mask.mean() / (1 + mask.mean()),
            "tpr_at_5_fpr": 0.0,
        }
    )
    inverted = figures((-mask.astype(np.float32), mask))
    assert inverted["auroc"] == inverted["aupro"] == inverted["tpr_at_5_fpr"] == 0.0


@given(a_case(), st.integers(1, 3))
def test_nan_rows_count_nowhere(case: Case, rows: int) -> None:
    scores, mask = case
    barred = np.vstack([scores, np.full((rows, scores.shape[1]), np.nan, np.float32)])
    for filling in (False, True):
        masked = np.vstack([mask, np.full((rows, mask.shape[1]), filling)])
        assert figures((barred, masked)) == figures(case)
        assert ev.count_hits(barred, masked, 0.1) == ev.count_hits(scores, mask, 0.1)
    pool = ev.PixelPool()
    pool.add(barred, masked)
    assert (pool.pixels, pool.excluded) == (mask.size, rows * mask.shape[1])


@given(st.lists(a_case(), min_size=1, max_size=3), st.sampled_from([1.0, 1e-4, 3e-6]))
@settings(deadline=None, max_examples=30)
def test_binned_figures_differ_by_no_more_than_they_say(cases: list[Case], spread: float) -> None:
    narrow = [(scores * np.float32(spread), mask) for scores, mask in cases]  # many pixels to a bin at the end
    exact, ranking = figures(*narrow), rank(*narrow, coarse=True)
    binned, slack = ev.figures(ranking), ev.uncertainty(ranking)
    for name, value in exact.items():
        assert abs((binned[name] or 0) - value) <= slack[name] + 1e-9, name
    assert ev.uncertainty(rank(*narrow)) == dict.fromkeys(ev.FIGURES, 0.0)


def test_bins_are_fine_and_leave_nothing_out_of_range() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((300, 400)) < 0.05
    scores = (rng.normal(size=mask.shape) + 2 * mask).astype(np.float32) * 3  # far beyond the scale on both sides
    scores[0, :2] = -np.inf, np.inf
    ranking = rank((scores, mask), coarse=True)
    assert not ranking.exact
    assert max(ev.uncertainty(ranking).values()) < 1e-3
    assert ev.figures(ranking) == pytest.approx(figures((scores, mask)), abs=1e-4)
    with pytest.raises(ValueError, match="scale"):
        ev.PixelPool().coarsen((1.0, 1.0))


def test_the_worst_order_within_a_bin_is_allowed_for() -> None:
    place = np.arange(10, dtype=np.float32).reshape(2, 5)
    case = -1e-9 * place, place > 0  # the only normal pixel is on top, in the bin of the nine defect pixels
    ranking = rank(case, coarse=True)
    gap = (ev.figures(ranking)["ap"] or 0) - figures(case)["ap"]
    assert 0.1 < gap <= ev.uncertainty(ranking)["ap"] + 1e-12


def test_a_pool_that_becomes_coarse_half_way_equals_one_that_ended_so() -> None:
    rng = np.random.default_rng(1)
    cases = [(rng.random((20, 30)).astype(np.float32), rng.random((20, 30)) < 0.2) for _ in range(4)]
    pool = ev.PixelPool()
    for number, case in enumerate(cases):
        pool.add(*case)
        if number == 1:
            pool.coarsen(SCALE)
    assert ev.figures(ev.Ranking.of([pool])) == ev.figures(rank(*cases, coarse=True))
    exact = ev.PixelPool()
    exact.add(*cases[0])
    with pytest.raises(ValueError, match="together"):
        ev.Ranking.of([pool, exact])
    with pytest.raises(ValueError, match="absorbed"):
        exact.absorb(pool)


def test_every_region_weighs_the_same_in_aupro_and_each_pixel_in_auroc() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:22, 2:22] = mask[30, 30] = mask[31, 31] = True  # 400 px, and 2 px that touch at a corner: one region
    scores = np.zeros(mask.shape, np.float32)
    scores[2:22, 2:22] = 1
    found = figures((scores, mask))
    assert ev.defect_regions(mask)[1].tolist() == [400, 2]
    # the missed half of the regions lies on the diagonal that ends at (1, 1): 0.5 to 0.65 over the first 0.3
    assert found["aupro"] == pytest.approx(0.575)
    assert found["auroc"] == pytest.approx((400 + 1) / 402)


def test_figures_without_one_kind_of_pixel_are_undefined() -> None:
    scores = np.arange(12, dtype=np.float32).reshape(3, 4)
    for mask in (np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        for coarse in (False, True):
            assert ev.figures(rank((scores, mask), coarse=coarse)) == dict.fromkeys(ev.FIGURES)
    assert ev.figures(ev.Ranking.of([])) == dict.fromkeys(ev.FIGURES)
    with pytest.raises(ValueError, match="shape"):
        ev.PixelPool().add(scores, np.zeros((4, 3)))


def test_a_defect_is_hit_from_a_fifth_of_its_pixels_on() -> None:
    mask = np.zeros((60, 60), bool)
    mask[0:10, 0:10] = True  # 100 px, 20 above: hit
    mask[0:10, 20:30] = True  # 100 px, 19 above: missed
    mask[20:41, 0:20] = True  # 420 px: large, hit
    mask[20:40, 30:50] = True  # 400 px: not larger than 400
    scores = np.zeros(mask.shape, np.float32)
    scores[0:2, 0:10] = scores[0:2, 20:30] = scores[20:41, 0:20] = scores[50, :6] = 2
    scores[0, 20] = 1  # equal to the threshold is not above it
    found = ev.count_hits(scores, mask, 1.0)
    assert found == ev.Hits(defects=4, hit=2, large=1, large_hit=1, normal=3600 - 1020, above=6)
    assert found + ev.Hits() == found
    assert (found + found).hit == 4


@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.integers(0, 5)),
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.integers(0, 5)),
)
def test_image_auroc_equals_scikit_learn(normal: NDArray[Any], anomalous: NDArray[Any]) -> None:
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    expected = metrics.roc_auc_score(labels, np.concatenate([normal, anomalous]))
    assert ev.image_auroc(list(normal), list(anomalous)) == pytest.approx(expected)
    assert ev.image_auroc([], list(anomalous)) is None
    assert ev.image_auroc(list(normal), []) is None


def test_the_mean_over_images_leaves_out_undefined_ones() -> None:
    rows = [dict.fromkeys(ev.FIGURES, 0.2), dict.fromkeys(ev.FIGURES), dict.fromkeys(ev.FIGURES, 0.6)]
    assert ev.mean_figures(rows) == pytest.approx(dict.fromkeys(ev.FIGURES, 0.4))
    assert ev.mean_figures([]) == dict.fromkeys(ev.FIGURES)


# -------------------------------------------------------------------------------------------------- the whole job


class Brightness:
    """A backend whose map is the grey level itself."""

    channels, stride, halo, smallest = 1, 8, 8, 8
    scale = SCALE
    hash, device, pixel_size = "b" * 64, "numpy", None

    def __call__(self, image: NDArray[np.float32], white: float) -> NDArray[np.float32]:
        return image[:, :1] / np.float32(white)


def inspector(calibrated: bool = True, normal: int = 20) -> Inspector:
    values = list(np.linspace(0.2, 0.5, normal))
    return Inspector(Brightness(), calibration=Calibration.fit(values, values) if calibrated else None)


def write(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())


def make_dataset(root: Path, good: int = 3, blobs: int = 4, suffix: str = "_mask.png") -> Path:
    """Dim noise with bright squares; the squares of image 0 are darkest."""
    rng = np.random.default_rng(0)
    for number in range(good):
        write(root / f"test/good/gut_ä{number}.png", rng.integers(0, 100, (96, 128), np.uint8))
    for number in range(blobs):
        image, mask = rng.integers(0, 100, (96, 128), np.uint8), np.zeros((96, 128), np.uint8)
        for top in (10, 60):
            image[top : top + 24, 30:60] = 80 + 40 * number
            mask[top : top + 24, 30:60] = 1  # any value above 0 is defect
        write(root / f"test/blob/{number:03}.png", image)
        write(root / f"ground_truth/blob/{number:03}{suffix}", mask)
    return root


def test_the_job_end_to_end(tmp_path: Path) -> None:
    data, out = make_dataset(tmp_path / "data set"), tmp_path / "out"
    write(data / "test/scratch/no masks.png", np.full((96, 128), 200, np.uint8))
    (data / "test/blob/broken.png").write_bytes(b"not a png")
    write(data / "ground_truth/blob/broken_mask.png", np.zeros((96, 128), np.uint8))
    report = evaluate_dataset(inspector(), data, out)

    assert json.loads((out / "evaluation.json").read_text("utf-8")) == report
    assert {path.name for path in out.iterdir()} == {
        *("evaluation.json", "evaluation.md", "roc.png", "pr.png", "best.png", "worst.png")
    }
    overall, classes = report["overall"], report["classes"]
    assert report["images"] == {"blob": 5, "good": 3, "scratch": 1}
    assert [row["image"] for row in report["invalid"]] == ["test/blob/broken.png"]
    assert report["pixels"] == 7 * 96 * 128  # the class without masks and the broken image bring none
    # grey levels 80 and 120 lie below the pixel threshold of 127.5, so half of the squares are missed
    assert (overall["defects"], overall["hits"]["hit"], overall["hits"]["large"]) == (8, 4, 8)
    labels, ranked = (
        [row["class"] != "good" for row in report["per_image"]],
        [row["score"] for row in report["per_image"]],
    )
    assert overall["image_auroc"] == pytest.approx(metrics.roc_auc_score(labels, ranked))
    assert classes["scratch"]["image_auroc"] == 1.0
    assert report["undefined"] == {}
    assert classes["scratch"]["pixel"]["auroc"] is None
    assert classes["good"]["normal_pixels_above"] == 0.0
    assert any("scratch" in note for note in report["notes"])

    cases, each = [], []
    for sample in find_samples(data)[0]:
        if sample.image.name == "broken.png" or sample.kind == "scratch":
            continue
        with open_image(sample.image) as picture:
            scores = picture.rows(0, picture.height)[..., 0].astype(np.float32) / np.float32(255)
        mask = np.zeros(scores.shape, bool)
        if sample.mask is not None:
            with open_image(sample.mask) as picture:
                mask = picture.rows(0, picture.height)[..., 0] > 0
            each.append(metrics.roc_auc_score(mask.ravel(), scores.ravel()))
        cases.append((scores, mask))
    assert overall["pixel"] == pytest.approx(figures(*cases))
    assert overall["per_image"]["auroc"] == pytest.approx(np.mean(each))
    assert report["per_image"][0]["image"] == "test/blob/000.png"  # worst first
    text = (out / "evaluation.md").read_text("utf-8")
    for words in ("test/blob/003.png", "scratch", "broken.png", f"{overall['pixel']['aupro']:.4f}"):
        assert words in text


def test_no_normal_images_and_no_calibration_are_told(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", good=0, suffix=".png")  # masks named like the images
    report = evaluate_dataset(inspector(calibrated=False), data, tmp_path / "out")
    overall = report["overall"]
    assert overall["image_auroc"] is None and "test/good" in report["undefined"]["image_auroc"]
    assert overall["hits"] is None and "calibrate" in report["undefined"]["hits"]
    assert overall["defects"] == 8
    assert overall["pixel"]["auroc"] > 0.5
    assert any("image AUROC" in name and value == "–" for name, value, _ in overall_rows(report))

    report = evaluate_dataset(inspector(), data, tmp_path / "out")
    assert report["overall"]["image_auroc"] is None
    assert 0 <= report["overall"]["image_auroc_against_calibration"] <= 1
    assert any("not part of this dataset" in note for note in report["notes"])


def test_only_normal_images(tmp_path: Path) -> None:
    report = evaluate_dataset(inspector(), make_dataset(tmp_path / "data", blobs=0), tmp_path / "out")
    assert report["overall"]["pixel"] == report["overall"]["per_image"] == dict.fromkeys(ev.FIGURES)
    assert set(report["undefined"]) == {"pixel", "per_image", "image_auroc", "hits"}
    assert report["overall"]["normal_pixels_above"] == 0.0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "evaluation.md"}


def test_beyond_the_limit_pixels_are_counted_in_bins_and_it_is_said(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    exact = evaluate_dataset(inspector(), data, tmp_path / "exact")
    binned = evaluate_dataset(inspector(), data, tmp_path / "binned", exact_pixels=20_000)
    assert exact["exact"] and not binned["exact"]
    assert exact["overall"]["per_image"] == binned["overall"]["per_image"]
    assert any("bins" in note for note in binned["notes"])
    for name, value in exact["overall"]["pixel"].items():
        assert abs(binned["overall"]["pixel"][name] - value) <= binned["uncertainty"][name] + 1e-12


def test_wrong_datasets_are_refused_with_both_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder 'test'.*ground_truth"):
        find_samples(tmp_path)
    data = make_dataset(tmp_path / "data")
    mask = data / "ground_truth/blob/002_mask.png"
    write(mask, np.zeros((95, 128), np.uint8))
    with pytest.raises(ValueError, match=r"002_mask\.png is 95x128 .*002\.png is 96x128"):
        evaluate_dataset(inspector(), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mask.unlink()
    with pytest.raises(ValueError, match=r"002\.png has no mask: expected .*002_mask\.png"):
        find_samples(data)
    write(mask, np.zeros((96, 128), np.uint8))
    write(mask.with_name("002.png"), np.zeros((96, 128), np.uint8))
    with pytest.raises(ValueError, match="two masks"):
        find_samples(data)
    write(data / "test/loose.png", np.zeros((96, 128), np.uint8))
    with pytest.raises(ValueError, match=r"loose\.png lies in 'test' itself"):
        find_samples(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_mask_is_whatever_is_above_zero(tmp_path: Path, dtype: type, channels: int) -> None:
    data = make_dataset(tmp_path / "data", good=1, blobs=1)
    mask = np.zeros((96, 128, channels), dtype)
    mask[10:20, 10:20, 0] = 1
    if channels == 4:
        mask[..., 3] = np.iinfo(dtype).max  # opaque everywhere, which is no defect
    write(data / "ground_truth/blob/000_mask.png", mask)
    report = evaluate_dataset(inspector(), data, tmp_path / "out")
    assert report["overall"]["defects"] == 1
    assert report["overall"]["hits"]["normal"] == 2 * 96 * 128 - 100


def test_a_class_that_is_all_defect_breaks_nothing(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", blobs=2)
    write(data / "test/full/a.png", np.full((96, 128), 250, np.uint8))
    write(data / "ground_truth/full/a.png", np.full((96, 128), 255, np.uint8))
    report = evaluate_dataset(inspector(), data, tmp_path / "out")
    assert report["classes"]["full"]["pixel"] == dict.fromkeys(ev.FIGURES)
    assert report["classes"]["full"]["defects_hit"] == 1.0
    assert report["overall"]["masked_images"] == 2
    assert (tmp_path / "out/roc.png").exists()


def test_the_info_bar_is_left_out_whatever_the_mask_says(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", good=1, blobs=1)
    mask = np.zeros((96, 128), np.uint8)
    mask[10:34, 30:60] = mask[80:, :] = 255
    write(data / "ground_truth/blob/000_mask.png", mask)
    barred = Inspector(Brightness(), opener=partial(open_image, info_bar=16))
    report = evaluate_dataset(barred, data, tmp_path / "out")
    assert report["overall"]["defects"] == 1
    assert (report["pixels"], report["excluded_pixels"]) == (2 * 80 * 128, 2 * 16 * 128)
