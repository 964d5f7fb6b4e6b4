"""From normal images to a report, with the real network on the sample images, as a user of Python would do it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from test_score import ENVIRONMENT, rows

from anomalib_gan import checkpoint
from anomalib_gan.export import TorchBackend
from anomalib_gan.opening import open_inspector
from anomalib_gan.records.pictures import SPAN, read_map
from anomalib_gan.runtime.files import read_json, write_json
from anomalib_gan.runtime.image import open_image
from pipelines.calibrate import calibrate
from pipelines.evaluate import evaluate
from pipelines.score import score
from pipelines.train import train

SAMPLES = Path(__file__).parents[1] / "data_samples"
IMAGES = 14
SMALL = {"width": 16, "code": 8, "patch": 96}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small network, calibrated with good images so sharply that there are verdicts of every kind."""
    out = tmp_path_factory.mktemp("end to end") / "run"
    train(SAMPLES / "train/good", out=out, steps=40, params=SMALL, device="cpu")
    calibrate(out, good=SAMPLES / "test/good", rate=0.6, reject_rate=0.3, pixel_rate=0.9)
    return out


def changed(run: Path, to: Path, **thresholds: float) -> Path:
    """A copy of the run with other thresholds."""
    shutil.copytree(run, to)
    write_json(to / "calibration.json", {**read_json(run / "calibration.json"), **thresholds})
    return to


class Links(HTMLParser):
    """Whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        loading = {"src", "href", "srcset", "data", "poster", "action", "background"}
        self.found += [str(value) for name, value in attributes if name.rpartition(":")[2] in loading]
        assert tag not in {"script", "link", "iframe", "object", "base"}


def test_train_calibrate_score_evaluate_inspect(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "results"
    code = score(run, SAMPLES / "test", out=out)
    table, thresholds = rows(out), read_json(run / "calibration.json")
    assert len(table) == IMAGES
    for row in table.values():
        value, defects = float(row["score"]), int(row["defects"])
        review = value > thresholds["review"] or defects > 0
        assert row["verdict"] == ("reject" if value > thresholds["reject"] else "review" if review else "accept")
        assert (float(row["peak"]) > thresholds["pixel"]) == (defects > 0)
    assert code == 1 and len({row["verdict"] for row in table.values()}) > 1

    page = (out / "report.html").read_text("utf-8")
    links = Links()
    links.feed(page)
    assert len(links.found) == IMAGES and all(link.startswith("data:image/jpeg;base64,") for link in links.found)
    assert not re.search(r"https?://|file://|url\(|@import", re.sub(r"base64,[\w+/=]+", "", page))

    inspection = open_inspector(run)(SAMPLES / "test/film/000.png")
    row = table["film/000.png"]
    assert inspection.verdict == row["verdict"] and inspection.score == pytest.approx(float(row["score"]), abs=1e-6)
    assert inspection.map is not None and inspection.map.shape == (384, 512)
    low, high = checkpoint.load(run)["map_scale"]
    stored = read_map(out / "maps/film/000.png.tif")
    reach = low + SPAN * (high - low)
    assert np.abs(stored - inspection.map.clip(low, reach)).max() < (reach - low) / 65534

    report = evaluate(run, SAMPLES, out=tmp_path / "evaluation")
    assert sum(report["images"].values()) == IMAGES and not report["undefined"] and report["exact"]
    assert 0 < report["overall"]["pixel"]["auroc"] < 1
    assert {one["image"]: one["score"] for one in report["per_image"]} == pytest.approx(
        {f"test/{path}": float(row["score"]) for path, row in table.items()}, abs=1e-6
    )

    def never(*_: object) -> None:
        raise AssertionError("an image was inspected twice")

    written = {path: path.stat().st_mtime_ns for path in (out / "maps").rglob("*.tif")}
    monkeypatch.setattr(TorchBackend, "__call__", never)
    assert score(run, SAMPLES / "test", out=out) == 1
    assert rows(out) == table
    assert {path: path.stat().st_mtime_ns for path in (out / "maps").rglob("*.tif")} == written


def test_the_exit_code_is_0_when_all_is_accepted_and_1_when_any_is_not(run: Path, tmp_path: Path) -> None:
    never = changed(run, tmp_path / "never", review=1e9, reject=1e9, pixel=1e9)
    assert score(never, SAMPLES / "test/good", out=tmp_path / "a") == 0
    assert {row["verdict"] for row in rows(tmp_path / "a").values()} == {"accept"}
    always = changed(run, tmp_path / "always", review=-1e9, reject=-1e9, pixel=1e9)
    assert score(always, SAMPLES / "test/good", out=tmp_path / "b") == 1
    assert {row["verdict"] for row in rows(tmp_path / "b").values()} == {"reject"}


@pytest.mark.parametrize("name", ["info_bar.png", "fei_16_bit.tif"])
def test_the_info_bar_has_no_say(run: Path, name: str) -> None:
    inspector = open_inspector(run)
    with open_image(SAMPLES / "extra" / name) as picture:
        content, height = picture.content, picture.height
        image = np.array(picture.rows(0, content))
    assert content == 384 and height == 424
    whole, cropped = inspector(SAMPLES / "extra" / name), inspector(open_image(image, info_bar=0))
    assert whole.map is not None and cropped.map is not None
    assert whole.score == pytest.approx(cropped.score, abs=1e-6)
    assert (whole.peak, whole.verdict) == (cropped.peak, cropped.verdict)
    assert [(one.top, one.left, one.area) for one in whole.defects] == [
        (one.top, one.left, one.area) for one in cropped.defects
    ]
    assert np.isnan(whole.map[content:]).all() and np.isfinite(whole.map[:content]).all()
    np.testing.assert_array_equal(whole.map[:content], cropped.map)


def test_another_pixel_size_is_told_and_rescaled_where_wished(run: Path, tmp_path: Path) -> None:
    """The FEI image says 25 nm per pixel; the run is told that it was trained on 50 nm."""
    coarse = tmp_path / "coarse"
    shutil.copytree(run, coarse)
    checkpoint.save(coarse / checkpoint.NAME, {**checkpoint.load(run), "pixel_size": 0.05})
    told = "pixel size 0.025 um differs by -50% from the training images' 0.05 um"
    found: dict[bool, dict[str, dict[str, str]]] = {}
    for rescale in (False, True):
        out = tmp_path / f"out {rescale}"
        assert score(coarse, SAMPLES / "extra", out=out, rescale=rescale) in (0, 1)
        found[rescale] = rows(out)
        row = found[rescale]["fei_16_bit.tif"]
        assert row["warning"] == ("" if rescale else told) and float(row["pixel_size_um"]) == pytest.approx(0.025)
        assert (f"{told}: resampled by 0.5" in row["notes"]) == rescale
        assert not found[rescale]["info_bar.png"]["warning"]  # it does not tell its pixel size
        assert tifffile.imread(out / "maps/fei_16_bit.tif.tif").shape == (424, 512)
        page = (out / "report.html").read_text("utf-8")
        assert "differs by -50%" in page
    scores = [found[rescale]["fei_16_bit.tif"]["score"] for rescale in (False, True)]
    assert scores[0] != scores[1]
    assert found[False]["info_bar.png"]["score"] == found[True]["info_bar.png"]["score"]


MEASURE = """
import sys, threading
import psutil
peak, me, ended = 0, psutil.Process(), threading.Event()
def watch():
    global peak
    while not ended.wait(0.02):
        peak = max(peak, me.memory_info().rss)
thread = threading.Thread(target=watch)
thread.start()
from pipelines.score import score
score(sys.argv[1], sys.argv[2], out=sys.argv[3], device="cpu", threads=1)
ended.set()
thread.join()
print(peak)
"""


def peak_of(bundle: Path, folder: Path, out: Path) -> int:
    """Bytes of memory that a process needs at most to score the folder."""
    command = [sys.executable, "-c", MEASURE, str(bundle), str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    bundle = SAMPLES.parent / "tests" / "frozen" / "v1.bundle"
    image = cv2.imread(str(SAMPLES / "test/good/000.png"), cv2.IMREAD_GRAYSCALE)
    peaks: dict[int, int] = {}
    for number in (10, 1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        for k in range(number):
            part = image[k % 128 : k % 128 + 256, k % 256 : k % 256 + 256]
            (folder / f"{k}.png").write_bytes(cv2.imencode(".png", part)[1].tobytes())
        peaks[number] = peak_of(bundle, folder, tmp_path / f"out {number}")
        assert len(rows(tmp_path / f"out {number}")) == number
    assert peaks[1000] - peaks[10] < 200 * 2**20, json.dumps(peaks)
