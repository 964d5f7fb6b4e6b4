"""Laws of scoring a folder, with a detector made of a filter: every file gets one true row, whatever happens."""

from __future__ import annotations

import csv
import errno
import os
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from anomalib_gan.records import outputs as outputs_module
from anomalib_gan.records.database import InspectionRecord, Records
from anomalib_gan.records.pictures import SPAN, read_map
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector
from pipelines import score as score_module
from pipelines.score import score_folder


class Filter:
    """A detector: how far a pixel's neighbourhood of 3x3 lies from that of 17x17."""

    channels, stride, halo, smallest, scale, hash, device, pixel_size = 1, 8, 16, 8, (0.0, 0.1), "ab" * 32, "cpu", None

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        self.calls += 1
        grey = image[:, 0] / np.float32(white)
        near = np.stack([cv2.blur(one, (3, 3)) - cv2.blur(one, (17, 17)) for one in grey])
        return np.abs(near)[:, None]


THRESHOLDS = replace(
    Calibration.fit([0.01] * 20, [0.1] * 20, model=Filter.hash, created="2026-01-01T00:00:00+00:00"),
    review=0.1,
    reject=0.2,
    pixel=0.15,
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
"""Other processes find what this one finds."""

VOLATILE = {"scored_at", "decode_s", "inference_s", "post_s"}


def inspector(backend: Filter | None = None, thresholds: Calibration = THRESHOLDS) -> Inspector:
    return Inspector(backend or Filter(), tile=64, calibration=thresholds)


def picture(spot: float = 0.0, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Grey noise with a bright spot."""
    image = np.random.default_rng(seed).normal(100, 2, (height, width))
    image[40:50, 60:70] += spot
    return image.clip(0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, image)
    else:
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def folder_of(root: Path, spots: tuple[float, ...] = (0, 0, 60, 150)) -> Path:
    for place, spot in enumerate(spots):
        save(root / f"{place}.png", picture(spot, seed=place))
    return root


def rows(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "results.csv", encoding="utf-8-sig", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def lasting(out: Path) -> dict[str, dict[str, str]]:
    """The rows without the columns that say when and how long."""
    return {path: {k: v for k, v in row.items() if k not in VOLATILE} for path, row in rows(out).items()}


def results(out: Path) -> tuple[Any, ...]:
    """Everything that must not depend on interruptions."""
    files = [path for name in ("maps", "masks", "overlays") for path in (out / name).rglob("*") if path.is_file()]
    pictures = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    for name in list(pictures):
        if name.startswith("maps/"):
            pictures[name] = tifffile.imread(out / name).tobytes()
    return lasting(out), (out / "defects.csv").read_bytes(), pictures


def temporary(out: Path) -> list[Path]:
    return [path for path in out.rglob("*.part")]


def test_every_image_gets_its_row_and_its_files(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    assert score_folder(inspector(), folder, out) == 1
    found = rows(out)
    assert [found[f"{k}.png"]["verdict"] for k in range(4)] == ["accept", "accept", "review", "reject"]
    for path, row in found.items():
        seen = inspector()(folder / path)
        assert seen.map is not None
        step = SPAN * 0.1 / 65534
        np.testing.assert_allclose(read_map(out / "maps" / f"{path}.tif"), seen.map, atol=0.51 * step)
        mask = cv2.imread(str(out / "masks" / f"{path}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask == 255, seen.map > THRESHOLDS.pixel)
        assert cv2.imread(str(out / "overlays" / f"{path}.jpg")).shape == (96, 128, 3)
        assert float(row["score"]) == seen.score
        assert int(row["defects"]) == len(seen.defects)
        assert int(row["defect_area_px"]) == np.count_nonzero(mask)
        assert row["sha256"] == seen.sha256
        assert row["device"] == seen.device == "cpu"
    assert not temporary(out)


def test_names_do_not_clash_and_may_hold_any_character(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [
        "a.png",
        "a.tif",
        "sub/a.png",
        "sub/deep/a.png",
        "Größe µm 試料.png",
        "<b>&amp;.png",
        "=1+1.png",
        'q"u,o.png',
    ]
    for place, name in enumerate(names):
        save(folder / name, picture(10 * place, seed=place))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"left alone")
    assert score_folder(inspector(), folder, out) in (0, 1)
    assert set(rows(out)) == set(names)
    for name in names:
        np.testing.assert_allclose(
            read_map(out / "maps" / f"{name}.tif"), inspector()(folder / name).map, atol=SPAN * 0.1 / 65534
        )
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Größe µm 試料.png" in page and "&lt;b&gt;&amp;amp;.png" in page and "<b>&amp;.png" not in page
    assert "1 file of the folder has no image suffix" in page


def test_files_may_be_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", (0, 150))
    assert score_folder(inspector(), folder, tmp_path / "out", maps=False, masks=False, overlays=False) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lock", "results.db", "results.csv", "results.parquet", "defects.csv", "report.html",
    }  # fmt: skip
    assert "no overlay was written" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_links(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0,)), tmp_path / "out"
    outside = save(tmp_path / "elsewhere.png", picture(150))
    try:
        (folder / "again.png").symlink_to(folder / "0.png")
        (folder / "link.png").symlink_to(outside)
        (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
        (folder / "loop").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    assert score_folder(inspector(), folder, out) == 1
    found = rows(out)
    assert {path: row["verdict"] for path, row in found.items()} == {
        "0.png": "accept", "link.png": "reject", "broken.png": "invalid",
    }  # fmt: skip
    assert "cannot be read" in found["broken.png"]["reason"]


def test_bad_files_become_invalid_rows_with_a_reason(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0,)), tmp_path / "out"
    whole = cv2.imencode(".png", picture())[1].tobytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.tif").write_bytes(save(tmp_path / "t.tif", picture()).read_bytes()[:500])
    (folder / "lies.jpg").write_bytes(bytes(1000))
    save(folder / "small.png", picture()[:5])
    tags = [(256, 4, 1, 10**6), (257, 4, 1, 10**6), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 10**6), (279, 4, 1, 100)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    (folder / "absurd.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
    assert score_folder(inspector(), folder, out) == 1
    found = rows(out)
    bad = set(found) - {"0.png"}
    assert found["0.png"]["verdict"] == "accept" and len(bad) >= 7
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in bad:
        assert found[name]["verdict"] == "invalid" and found[name]["score"] == ""
        assert len(found[name]["reason"]) > 10 and str(folder) not in found[name]["reason"]
        assert name in page
    assert "empty" in found["empty.png"]["reason"] and "smaller" in found["small.png"]["reason"]
    assert {path.name for path in (out / "maps").rglob("*.tif")} == {"0.png.tif"}


def test_a_name_that_is_no_unicode_is_told(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0,)), tmp_path / "out"
    try:
        (folder / "bad\udcff.png").write_bytes((folder / "0.png").read_bytes())
    except (OSError, UnicodeEncodeError):
        pytest.skip("this system has no such names")
    assert score_folder(inspector(), folder, out) == 1
    assert "rename" in rows(out)[r"bad\udcff.png"]["reason"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"no image")

    def calls(thresholds: Calibration = THRESHOLDS, **options: Any) -> int:
        backend = Filter()
        score_folder(inspector(backend, thresholds), folder, out, **options)
        return backend.calls

    def ages(seconds: float) -> None:
        for path in folder.iterdir():
            os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))

    each = calls() / 4
    first = results(out)
    assert calls() == 0  # the hash tells, for the files are too young for their times to tell
    ages(100)
    assert calls() == 0  # other times, same bytes
    assert calls() == 0  # now the times tell
    assert results(out) == first
    save(folder / "1.png", picture(150, seed=9))
    assert calls() == each
    assert rows(out)["1.png"]["verdict"] == "reject"
    same_size = (folder / "bad.png").stat()
    (folder / "bad.png").write_bytes(b"no imagE")
    os.utime(folder / "bad.png", ns=(same_size.st_atime_ns, same_size.st_mtime_ns))
    (out / "maps" / "2.png.tif").unlink()
    assert calls() == each
    assert (out / "maps" / "2.png.tif").exists()
    assert calls(replace(THRESHOLDS, pixel=0.05)) == 4 * each
    assert rows(out)["2.png"]["pixel_threshold"] == "0.05"
    assert calls(replace(THRESHOLDS, pixel=0.05), settings={"info_bar": 8}) == 4 * each
    assert len(rows(out)) == 5


def test_rows_of_files_that_are_gone_are_kept_but_do_not_count(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0, 150)), tmp_path / "out"
    assert score_folder(inspector(), folder, out) == 1
    (folder / "1.png").unlink()
    assert score_folder(inspector(), folder, out) == 0
    assert set(rows(out)) == {"0.png", "1.png"}
    assert "no longer in the folder" in (out / "report.html").read_text(encoding="utf-8")


def test_results_inside_the_folder_are_not_scored(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", (0, 0))
    for _ in range(2):
        assert score_folder(inspector(), folder, folder / "results") == 0
        assert set(rows(folder / "results")) == {"0.png", "1.png"}
    with pytest.raises(ValueError, match="another --out"):
        score_folder(inspector(), folder, folder)


def test_csv_parquet_and_database_agree(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"no image, and a reason with, commas")
    score_folder(inspector(), folder, out)
    table = pq.read_table(out / "results.parquet").to_pylist()
    with Records(out / "results.db", folder, Filter.hash, {}, THRESHOLDS.to_json()) as records:
        stored = list(records.inspections())
        defects = list(records.defects())
    assert [row["path"] for row in table] == [row.path for row in stored] == list(rows(out))
    for in_csv, in_parquet, in_database in zip(rows(out).values(), table, stored, strict=True):
        for name, value in in_parquet.items():
            expected = "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value)
            assert in_csv[name] == expected, name
        for name in ("verdict", "score", "peak", "sha256", "reason", "scored_at", "height", "inference_s"):
            assert in_parquet[name] == getattr(in_database, name)
        assert in_parquet["defect_area_px"] == in_database.defect_area
        assert in_parquet["defects"] == sum(path == in_database.path for path, _ in defects)
    with open(out / "defects.csv", encoding="utf-8-sig", newline="") as file:
        listed = [(row["path"], int(row["number"]), float(row["peak"])) for row in csv.DictReader(file)]
    assert listed == [(path, defect.number, defect.peak) for path, defect in defects]
    assert listed


def test_a_large_image_is_written_strip_by_strip_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    save(folder / "big.tif", picture(150, 700, 530))
    save(folder / "small.png", picture(150))
    score_folder(inspector(), folder, tmp_path / "whole")
    monkeypatch.setattr(outputs_module, "LARGE", 50_000)
    backend = Filter()
    score_folder(inspector(backend), folder, tmp_path / "strips")
    assert lasting(tmp_path / "strips") == lasting(tmp_path / "whole")
    for name in ("maps/big.tif.tif", "overlays/big.tif.jpg", "overlays/small.png.jpg"):
        assert (tmp_path / "strips" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    mask = tifffile.imread(tmp_path / "strips" / "masks" / "big.tif.tif")
    whole = cv2.imread(str(tmp_path / "whole" / "masks" / "big.tif.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, whole)
    assert not temporary(tmp_path / "strips")
    done = backend.calls
    score_folder(inspector(backend), folder, tmp_path / "strips")
    assert backend.calls == done


@pytest.mark.parametrize("when", ["inspected", "drawn"])
def test_a_file_that_changes_while_it_is_read_is_told_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr("anomalib_gan.records.scoring.KEPT", 0)  # as of large images: read again to be drawn
    folder, out = folder_of(tmp_path / "in", (0, 0)), tmp_path / "out"
    opened: list[Path] = []

    def opener(path: Path) -> Any:
        if when == "drawn" and path.name == "1.png" and path in opened:
            save(path, picture(150, seed=5))
        opening = open_image(path)
        if when == "inspected" and path.name == "1.png" and path not in opened:
            save(path, picture(150, seed=5, height=104))
        opened.append(path)
        return opening

    watching = inspector()
    watching.opener = opener
    assert score_folder(watching, folder, out) == 1
    assert "changed while it was read" in rows(out)["1.png"]["reason"]
    assert not (out / "maps" / "1.png.tif").exists()
    assert score_folder(inspector(), folder, out) == 1
    assert rows(out)["1.png"]["verdict"] == "reject"


@pytest.mark.parametrize("place", [1, 2, 5, 9, 12])
def test_a_full_disk_stops_the_job_which_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    written = 0
    real = os.fsync

    def full(handle: int) -> None:
        nonlocal written
        written += 1
        if written >= place:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"disk of .* is full.*same command"):
            score_folder(inspector(), folder, out)
    assert not temporary(out)
    with Records(out / "results.db", folder, Filter.hash, {}, THRESHOLDS.to_json()) as records:
        kept = [row.path for row in records.inspections()]
    assert len(kept) <= place // 3
    for path in kept:
        assert (out / "maps" / f"{path}.tif").exists() and (out / "overlays" / f"{path}.jpg").exists()
    assert score_folder(inspector(), folder, out) == 1
    score_folder(inspector(), folder, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


class Stopping(Filter):
    """Raises `error` at the call number `at`."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        if self.calls == self.at:
            raise self.error
        return super().__call__(image, white)


@pytest.mark.parametrize("at", [0, 4, 9, 13])
def test_after_ctrl_c_the_job_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    assert score_folder(inspector(Stopping(at, KeyboardInterrupt())), folder, out) == 130
    assert "Run the same command again" in capsys.readouterr().out
    with Records(out / "results.db", folder, Filter.hash, {}, THRESHOLDS.to_json()) as records:
        done = sum(records.counts().values())
    assert done == at // 4  # an image has four tiles: what was inspected is written
    assert score_folder(inspector(), folder, out) == 1
    score_folder(inspector(), folder, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_a_fault_of_the_detector_is_not_hidden_and_keeps_what_is_done(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(RuntimeError, match="device lost"):
        score_folder(inspector(Stopping(8, RuntimeError("device lost"))), folder, out)
    with Records(out / "results.db", folder, Filter.hash, {}, THRESHOLDS.to_json()) as records:
        assert sum(records.counts().values()) == 2


def test_what_cannot_be_run_is_refused_with_the_mend(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", (0,))
    with pytest.raises(ValueError, match="calibration"):
        score_folder(Inspector(Filter()), folder, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image.*\.tiff"):
        score_folder(inspector(), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match="not a folder"):
        score_folder(inspector(), tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert score_folder(inspector(), folder, tmp_path / "out") == 0
    with pytest.raises(ValueError, match=r"holds the results of .* another --out"):
        score_folder(inspector(), folder_of(tmp_path / "in2", (0,)), tmp_path / "out")


HOLD = """
import sys, time
from pathlib import Path
from anomalib_gan.records.database import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0,)), tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is writing"):
            score_folder(inspector(), folder, out)
        process.kill()
    assert score_folder(inspector(), folder, out) == 0


def test_leftovers_of_a_killed_job_are_removed(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", (0,)), tmp_path / "out"
    left = [out / ".tmp-1.part", out / "maps" / "sub" / ".tmp-2.part", out / "overlays" / ".tmp-3.part"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    (out / "mine.part").write_bytes(b"not ours")
    score_folder(inspector(), folder, out)
    assert temporary(out) == [out / "mine.part"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "in", (0, 150))
    app = typer.Typer()
    app.command()(score_module.command)
    monkeypatch.setattr(score_module, "open_inspector", lambda run, **options: inspector())
    arguments = [str(tmp_path), str(folder), "--out", str(tmp_path / "out"), "--no-maps", "--info-bar", "16"]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert not (tmp_path / "out" / "maps").exists()
    (folder / "1.png").unlink()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with Records(tmp_path / "out" / "results.db", folder, Filter.hash, {}, THRESHOLDS.to_json()) as records:
        row = records.find("0.png")
        assert isinstance(row, InspectionRecord) and row.settings["info_bar"] == 16
    assert CliRunner().invoke(app, [*arguments[:-1], "many"]).exit_code == 2
    monkeypatch.setattr(score_module, "open_inspector", lambda run, **options: Inspector(Filter()))
    with pytest.raises(ValueError, match="anomalib-gan calibrate"):
        score_module.score(tmp_path, folder, out=tmp_path / "out")


def test_two_folders_score_into_one_database_and_each_goes_on_where_it_ended(tmp_path: Path, database: str) -> None:
    for name, levels in (("a", (0, 40)), ("b", (0,))):
        folder = folder_of(tmp_path / name, levels)
        for _ in range(2):
            score_folder(inspector(), folder, tmp_path / "out" / name, database=database)
        assert not (tmp_path / "out" / name / "results.db").exists()
        with Records(database, folder, Filter.hash, {}, THRESHOLDS.to_json(), out=tmp_path / "out" / name) as records:
            assert len(list(records.inspections())) == len(levels)
        assert len((tmp_path / "out" / name / "results.csv").read_text().splitlines()) == len(levels) + 1
