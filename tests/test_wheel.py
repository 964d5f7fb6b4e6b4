"""The wheel on a machine without the checkout, in a new environment that holds what the base installation pulls in and
nothing else, so no torch: it holds what it needs, and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BUNDLE = Path(__file__).with_name("frozen") / "v1.bundle"
INSPECT = """
import importlib.util, sys
import anomalib_gan
from anomalib_gan.runtime import Inspector

assert importlib.util.find_spec("torch") is None
inspector = Inspector.load(sys.argv[1], "cpu")
print(anomalib_gan.__file__)
print(inspector(sys.argv[2]).verdict)
print(inspector.backend.device)
"""
SCORE = """
import importlib.util, sys
import numpy as np
import anomalib_gan
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.inspector import Inspector
from pipelines.score import score_folder

class Brightness:
    channels, stride, halo, smallest, pixel_size = 1, 8, 8, 8, None
    scale, hash, device = (0.0, 0.5), "ab" * 32, "cpu"
    def __call__(self, image, white):
        return (image / np.float32(white)).astype(np.float32)

assert importlib.util.find_spec("torch") is None
print(anomalib_gan.__file__)
thresholds = Calibration.fit([0.5] * 10, [0.6] * 10, model=Brightness.hash)
sys.exit(score_folder(Inspector(Brightness(), calibration=thresholds), sys.argv[1], sys.argv[2]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what packaging reads, so that the checkout gets no build folder and gives no old one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("anomalib_gan", "pipelines", "dashboard"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A new virtual environment with the wheel and the packages that it asks for, which are linked, not downloaded."""
    target = wheel.parent / "site"
    venv.create(target, symlinks=True)
    (packages,) = target.glob("lib/python*/site-packages")
    for entry in base_entries():
        (packages / entry.name).symlink_to(entry)
    pip("--python", target, "install", "--no-deps", "--no-index", wheel)
    return target


def base_entries() -> set[Path]:
    """The files and folders in site-packages of all that anomalib_gan needs without extras, at whatever remove."""
    found, left, seen = set(), ["anomalib_gan"], set()
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        package = distribution(name)
        wanted = [Requirement(line) for line in package.requires or ()]
        left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
        if name != "anomalib-gan":
            tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
            found |= {Path(str(package.locate_file(top))) for top in tops}
    return found


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(cwd: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUTF8": "1", "PYTHONPATH": ""}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment)


def anomalib_gan(site: Path, cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(cwd, site / "bin/anomalib-gan", *arguments)


def test_the_wheel_holds_all_modules_the_template_and_the_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(metadata).decode())
    info = metadata.removesuffix("METADATA")
    packaged = {name for name in names if not name.startswith(info)}
    kinds = {".py", ".j2", ".typed", ".html", ".css", ".js"}
    source = {
        path.relative_to(ROOT).as_posix()
        for top in ("anomalib_gan", "pipelines", "dashboard")
        for path in (ROOT / top).rglob("*")
        if path.suffix in kinds
    }
    assert packaged == source
    assert "anomalib_gan/records/templates/report.html.j2" in packaged
    assert f"{info}licenses/LICENSE" in names
    base = [line for line in told.get_all("Requires-Dist") if "extra ==" not in line]
    assert base and not [line for line in base if line.startswith(("torch", "matplotlib", "scikit-learn", "streamlit"))]


def test_the_command_teaches_and_asks_for_the_extra(site, wheel, tmp_path):
    told = anomalib_gan(site, tmp_path, "--help")
    assert told.returncode == 0, told.stderr
    assert all(name in told.stdout for name in ("train", "calibrate", "score", "evaluate"))
    version = anomalib_gan(site, tmp_path, "--version")
    assert version.stdout.strip() == wheel.name.split("-")[1], version.stderr
    refused = anomalib_gan(site, tmp_path, "train", "x", "--out", "y")
    assert refused.returncode == 2
    assert "pip install 'anomalib_gan[train]'" in refused.stderr
    closed = anomalib_gan(site, tmp_path, "dashboard")
    assert closed.returncode == 2 and "pip install 'anomalib_gan[dashboard]'" in closed.stderr
    assert refused.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_torch_and_checkout_a_folder_becomes_a_report(site, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, grey in (("dark.png", 80), ("bright.png", 250)):
        (images / name).write_bytes(cv2.imencode(".png", np.full((64, 96), grey, np.uint8))[1].tobytes())
    done = run(tmp_path, site / "bin/python", "-c", SCORE, images, out)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(site), "the checkout was imported, not the wheel"
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "bright.png" in report and "</html>" in report
    rows = (out / "results.csv").read_text(encoding="utf-8-sig").splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["bright.png", "reject"], ["dark.png", "accept"]]


def test_a_bundle_inspects_scores_and_calibrates_with_the_base_installation_alone(site, tmp_path):
    bundle = tmp_path / "detector.bundle"
    shutil.copytree(BUNDLE, bundle)
    dust = ROOT / "data_samples/test/dust"
    done = run(tmp_path, site / "bin/python", "-c", INSPECT, bundle, dust / "000.png")
    assert done.returncode == 0, done.stderr
    place, verdict, device = done.stdout.splitlines()
    assert Path(place).is_relative_to(site) and verdict == "reject" and device.startswith("cpu (ONNX Runtime")

    out = tmp_path / "out"
    done = anomalib_gan(site, tmp_path, "score", bundle, dust, "--out", out, "--device", "cpu")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    rows = (out / "results.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(rows) == 4 and rows[1].startswith("000.png,reject")
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")

    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    good = ROOT / "data_samples/test/good"
    done = anomalib_gan(site, tmp_path, "calibrate", bundle, "--good", good, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    after = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    assert set(before) == set(after)
    assert [path.name for path in before if before[path] != after[path]] == ["manifest.json"]
    again = anomalib_gan(site, tmp_path, "score", bundle, good, "--out", tmp_path / "again", "--device", "cpu")
    assert again.returncode == 0, again.stdout + again.stderr  # the largest of these scores is the threshold
