"""The report of speed: its arithmetic, what it holds and what it leaves out. No figure of time is judged."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomalib_gan import speed, speed_images, speed_report, speed_tasks
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.image import find_images, open_image
from anomalib_gan.speed import EAGER, QUICK, Plan, SpeedError
from pipelines import benchmark

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "frozen" / "v1.bundle"
NORMALS = ROOT / "data_samples" / "train" / "good"
QUIETLY: Any = {"say": lambda _line: None}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of the frozen bundle, with what a killed one left there."""
    out = tmp_path_factory.mktemp("speed")
    (out / ".speed" / "images-1").mkdir(parents=True)
    (out / "README.md").write_text("a\n<!-- speed -->\nold\n<!-- /speed -->\nb\n")
    benchmark.speed([FROZEN], QUICK, images=NORMALS, out=out, readme=out / "README.md")
    return out


def test_the_arithmetic_of_a_graph_is_what_torch_counts() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(6, 1, 4, 4)),
        "w2": rng.normal(size=(6, 3, 3, 3)),
        "w3": rng.normal(size=(6, 1, 4, 4)),
    }
    nodes = [
        bundles.node("Div", "image white", "share"),
        bundles.node("Conv", "share w1", "deep", strides=[4, 4]),
        bundles.node("Conv", "deep w2", "code", group=2, pads=[1, 1, 1, 1]),
        bundles.node("ConvTranspose", "code w3", "anomaly_map", strides=[4, 4]),
    ]
    graph = bundles.model(nodes, {name: value.astype(np.float32) for name, value in weights.items()})
    checked = check_graph(graph.SerializeToString(), bundles.manifest())
    w1, w2, w3 = map(torch.from_numpy, weights.values())
    with FlopCounterMode(display=False) as counter:
        deep = torch.conv2d(torch.zeros(3, 1, 64, 32).double(), w1, stride=4)
        torch.conv_transpose2d(torch.conv2d(deep, w2, padding=1, groups=2), w3, stride=4)
    assert 2 * checked.cost((3, 1, 64, 32)).macs == counter.get_total_flops()


def test_the_table_holds_every_wanted_row_and_the_report_its_parts(measured: Path) -> None:
    report = read_json(measured / "speed.json")
    plan = replace(QUICK, memory=1.0)
    wanted = [one.told() for one in speed.wanted([FROZEN], plan)]
    assert [{key: row[key] for key in wanted[0]} for row in report["rows"]] == wanted
    assert report["left_out"] == []
    for row in report["rows"]:
        assert 0 < row["median_s"] <= row["p95_s"] and row["calls"] >= speed_tasks.LEAST and row["peak_bytes"] > 2**20
        assert (row["gflop"] is None) == (row["batch"] == 0)
    before, after = report["peaks"]
    assert list(before) == list(after) == ["1 thread"] and all(value > 0 for value in before["1 thread"].values())
    (scored,), (alone,), (large,) = report["scored"], report["single"], report["large"]
    assert scored["images"] == QUICK.images and set(speed_report.PARTS) <= set(scored["parts_s"])
    assert alone["cold_s"] > alone["median_s"] > 0 and set(alone["parts_s"]) == {"decode", "inference", "post"}
    assert (large["images"], large["size"]) == (1, list(QUICK.large or ()))
    assert not (measured / ".speed").exists()  # nor what the killed one had left


def test_the_files_tell_what_was_measured(measured: Path) -> None:
    report = read_json(measured / "speed.json")
    assert (measured / "speed.md").read_text("utf-8") == speed_report.text(report)
    table = list(csv.DictReader(io.StringIO((measured / "speed.csv").read_text("utf-8"))))
    assert [float(row["median_s"]) for row in table] == [row["median_s"] for row in report["rows"]]
    readme = (measured / "README.md").read_text("utf-8")
    assert readme.startswith("a\n<!-- speed -->\n| detector |") and readme.endswith("<!-- /speed -->\nb\n")
    assert "anomalib-gan benchmark speed v1.bundle --minutes 0 --images good" in readme


def given() -> dict[str, Any]:
    """A report with figures that are easy to follow."""
    row = {
        "path": "x.bundle", "device": "cpu", "threads": 2, "batch": 4, "size": [100, 200], "label": "fp32",
        "median_s": 0.5, "p95_s": 0.75, "images_per_s": 8.0, "mpx_per_s": 0.16, "gflop": 20.0, "gflop_per_s": 40.0,
        "peak_bytes": 2**29, "device_bytes": None,
    }  # fmt: skip
    here = {"path": "x.bundle", "device": "cpu", "threads": 2, "peak_bytes": 2**30}
    return {
        "detectors": {"x.bundle": "fp32", "runs/x": EAGER},
        "rows": [row, {**row, "path": "runs/x", "label": EAGER, "median_s": 1.0, "gflop_per_s": 20.0}],
        "peaks": [{"2 threads": {"torch": 70.0, "numpy": 80.0}}, {"2 threads": {"torch": 60.0, "numpy": 50.0}}],
        "scored": [
            {**here, "size": [100, 200], "images": 10, "seconds": 2.0, "pure_s": 0.1, "parts_s": {"inference": 1.5}}
        ],
        "single": [],
        "large": [{**here, "size": [300, 400], "seconds": 7.0}],
        "left_out": ["y: no time"],
        "machine": {"date": "2026-01-02", "processor": "P", "cores": 2, "gpu": None, "system": "Linux"},
        "command": "anomalib-gan benchmark speed x.bundle",
    }


def test_the_text_follows_from_the_measurements() -> None:
    text = speed_report.text(given())
    assert "| fp32 | 200x100 | 4 | 2 threads | 500, 750 ms | 8 | 0.16 | 0.50 GiB | 20 | 50% |" in text
    assert f"| {EAGER} | 200x100 | 4 | 2 threads | 1000, 750 ms | 8 | 0.16 | 0.50 GiB | 20 | 25% |" in text
    assert "- 2 threads: torch 70 and 60, numpy 80 and 50" in text
    assert "| fp32 | 2 threads | 5.0 | 10.0 | 50% | 0.0 | 150.0 |" in text
    assert "400x300 px" in text and "7 s, peak memory 1.00 GiB" in text and "Left out: y: no time." in text
    assert "2026-01-02; P, 2 cores, no GPU" in text


@pytest.mark.parametrize("empty", [{"peaks": [{}, {}]}, {"rows": []}, {"scored": [], "large": []}])
def test_what_is_missing_leaves_the_rest_as_it_is(empty: dict[str, Any]) -> None:
    for short in (False, True):
        assert "anomalib-gan benchmark speed x.bundle" in speed_report.text({**given(), **empty}, short=short)
    assert len(speed_report.csv_of({**given(), **empty}["rows"]).splitlines()) in (1, 3)


def test_half_precision_is_held_against_half_precision_on_a_gpu() -> None:
    peaks = {"cuda": {"torch float32": 50.0, "torch float16": 700.0, "copy": 4000.0}}
    report = {"peaks": [peaks, peaks]}
    assert speed_report.best_peak(report, "cuda", "fp16") == ("torch float16", 700.0)
    assert speed_report.best_peak(report, "cuda", "fp32") == ("torch float32", 50.0)


def test_what_cannot_be_afforded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = 1e-7

    def slow(_task: str, **asked: Any) -> dict[str, Any]:
        pixels = asked["batch"] * asked["size"][0] * asked["size"][1]
        return {
            "median_s": rate * pixels, "p95_s": 1.0, "calls": 3, "pixels": pixels, "padded": asked["size"],
            "peak_bytes": 1000 * pixels, "hash": "",
        }  # fmt: skip

    monkeypatch.setattr(speed, "fresh", slow)
    plan = Plan(1.0, ((256, 256), (512, 512)), (1, 16), threads=(1,), devices=("cpu",), memory=3e8)
    paths = [FROZEN.parent]  # taken for a run, which has no row in tiles
    found, left_out = speed.rows(paths, plan, **QUIETLY)
    assert len(found) + len(left_out) == 4 and "16" in left_out[-1]
    assert all("GiB" in line for line in left_out)
    rate = 1e-6
    found, left_out = speed.rows(paths, replace(plan, memory=1e12), **QUIETLY)
    assert [("512x512, batch 16" in line, "more than 15 s" in line) for line in left_out] == [(True, True)]


def test_a_row_that_fails_is_left_out_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_task: str, **asked: Any) -> dict[str, Any]:
        raise SpeedError(f"no {asked['device']}")

    monkeypatch.setattr(speed, "fresh", failing)
    found, left_out = speed.rows([FROZEN], replace(QUICK, memory=1e9), **QUIETLY)
    assert found == [] and len(left_out) == 5 and all("no cpu" in line for line in left_out)


def test_only_calibrated_detectors_are_scored_with(tmp_path: Path) -> None:
    bare = bundles.write(tmp_path / "bare.bundle", calibration=None)
    picture = [np.zeros((8, 8, 1), np.uint8)]
    ready, reasons = speed.scorable([FROZEN, bare], picture)
    assert ready == [FROZEN] and len(reasons) == 1 and "anomalib-gan calibrate" in reasons[0]
    ready, reasons = speed.scorable([FROZEN], [])
    assert ready == [] and "--images" in reasons[0]


def test_a_mistake_names_what_is_wrong_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is neither a run's folder nor a bundle"):
        benchmark.speed([tmp_path / "nowhere"], QUICK, out=tmp_path / "out")
    with pytest.raises(ValueError, match="no-images is not a folder"):
        benchmark.speed([FROZEN], QUICK, images=tmp_path / "no-images", out=tmp_path / "out")
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="<!-- speed -->"):
        benchmark.speed([FROZEN], QUICK, images=NORMALS, out=tmp_path / "out", readme=tmp_path / "README.md")
    assert not (tmp_path / "out").exists()


def test_a_process_that_is_killed_is_an_error_with_its_reason() -> None:
    with pytest.raises(SpeedError, match="nowhere"):
        speed.fresh("row", threads=1, path="nowhere", device="cpu", batch=1, size=[64, 64], seconds=0)


def test_an_interrupted_benchmark_leaves_no_report_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        (tmp_path / ".speed" / "half.png").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        benchmark.speed([FROZEN], QUICK, images=NORMALS, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_pieces_differ_and_continue_the_image() -> None:
    (image, *_) = speed_images.read_pictures(find_images(NORMALS)[:1], open_image)
    whole = speed_images.mirrored(image, 0, 0, 2 * image.shape[0], image.shape[1])
    assert (whole[: image.shape[0]] == image).all() and (whole == whole[::-1]).all()
    assert not (speed_images.mirrored(image, 0, 0, 64, 64) == speed_images.mirrored(image, 37, 53, 64, 64)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_tiff_is_the_image_continued(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, channels), np.uint8)
    speed_images.write_large(image, tmp_path / "large.tif", (300, 530))
    with open_image(tmp_path / "large.tif", info_bar=0) as picture:
        assert (picture.rows(0, 300) == speed_images.mirrored(image, 0, 0, 300, 530)).all()


def test_it_needs_no_torch_to_measure_a_bundle() -> None:
    program = "import sys, pipelines.benchmark; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT).stdout == "False\n"
