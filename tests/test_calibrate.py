"""Laws of calibrating a run: only pixels that training never saw count, each once, and only if still the same."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_score import Filter, inspector, picture, save
from test_starting import review
from typer.testing import CliRunner

from anomalib_gan.runtime.calibrating import TILE, Cutter, Normal, edges, fit
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import sha256_file, write_json
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.scores import image_score
from pipelines import calibrate as calibrate_module
from pipelines.calibrate import calibrate

BOX = [0, 300, 300, 400]


def images(root: Path, number: int, height: int = 96, width: int = 128) -> list[Path]:
    return [save(root / f"{k}.png", picture(5 * k, height, width, seed=k)) for k in range(number)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that held back a strip of each of three images."""
    folder = tmp_path / "run"
    folder.mkdir()
    paths = images(tmp_path / "normal", 3, 300, 400)
    held = [{"path": str(path), "sha256": sha256_file(path), "box": BOX} for path in paths]
    write_json(folder / "split.json", {"seed": 0, "held": held})
    write_json(folder / "card.json", {"data": {"images": [{"sha256": one["sha256"]} for one in held]}})

    def opening(run: Path, **options: Any) -> Inspector:
        assert options["calibrated"] is False  # thresholds of an earlier model must not stand in the way of new ones
        return Inspector(Filter(), tile=64)

    monkeypatch.setattr(calibrate_module, "open_inspector", opening)
    return folder


def told() -> tuple[Console, Callable[[], str]]:
    text = StringIO()
    return Console(file=text, width=1000), text.getvalue


def test_whole_images_are_calibrated_by_what_the_inspector_says(tmp_path: Path) -> None:
    paths = images(tmp_path, 9)
    seen = [inspector()(path) for path in paths]
    found = fit(inspector(), [Normal(path) for path in paths], rate=0.1)
    assert found.unit == "images" and found.tiles_per_image == 1 and found.n == 9 and found.model == Filter.hash
    assert found.scores == tuple(sorted(one.score for one in seen))
    assert found.peaks == tuple(sorted(one.peak for one in seen))
    assert sum(one.score > found.review for one in seen) == 0  # ceil(10 * 0.9) = 9: the largest


def test_only_the_held_back_part_counts(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "normal" / "0.png"
    normal = Normal(path, sha256_file(path), (0, 300, 300, 400))
    before = fit(inspector(), [normal])
    assert before.unit == "tiles" and before.n == 2  # 300 rows in two tiles
    assert before.tiles_per_image == pytest.approx(300 * 400 / (150 * 100))
    map = inspector()(path).map
    assert map is not None
    assert before.scores == tuple(sorted(image_score(map[top : top + 150, 300:]) for top in (0, 150)))
    changed = picture(0, 300, 400, seed=0)
    changed[100:200, 20:250] = 255  # a defect where training was, out of the filter's reach
    save(path, changed)
    assert fit(inspector(), [Normal(path, None, normal.box)]).scores == before.scores


@given(st.integers(0, 90), st.integers(1, 700), st.integers(0, 50), st.integers(1, 300), st.integers(1, 400))
def test_tiles_do_not_depend_on_how_the_map_arrives(top: int, height: int, left: int, width: int, strip: int) -> None:
    map = np.random.default_rng(height).random((top + height + 5, left + width + 3), np.float32)
    whole, strips = (Cutter((top, left, top + height, left + width)) for _ in range(2))
    whole(0, map)
    for row in range(0, len(map), strip):
        strips(row, map[row : row + strip])
    assert whole.scores == strips.scores and whole.peaks == strips.peaks
    assert whole.pixels == strips.pixels == height * width
    assert max(whole.peaks) == map[top : top + height, left : left + width].max()


@given(st.integers(0, 1000), st.integers(1, 5000))
def test_edges_cut_into_the_fewest_nearly_equal_parts(begin: int, length: int) -> None:
    found = np.array(edges(begin, begin + length))
    parts = np.diff(found)
    assert found[0] == begin and found[-1] == begin + length
    assert len(parts) == -(-length // TILE) and parts.max() <= TILE and parts.max() - parts.min() <= 1


def test_calibrate_stores_and_explains(run: Path) -> None:
    console, text = told()
    found = calibrate(run, rate=0.2, console=console)
    assert Calibration.load(run / "calibration.json") == found
    assert found.n == 6 and found.unit == "tiles" and found.rate == 0.2
    assert "assumes independent tiles" in text() and "--good" in text()
    for warning in found.warnings:
        assert warning in text()
    assert f"{found.bound:.2%}" in text()


@pytest.mark.parametrize(("number", "unit"), [(7, "tiles"), (8, "images")])
def test_few_good_images_are_cut_into_tiles(run: Path, tmp_path: Path, number: int, unit: str) -> None:
    good = tmp_path / "good"
    images(good, number)
    console, text = told()
    found = calibrate(run, good=good, console=console)
    assert found.unit == unit
    assert found.n == number  # an image of 96x128 is one tile
    assert ("assumes independent tiles" in text()) == (unit == "tiles")


def test_copies_and_training_images_among_the_good_ones_are_told(run: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    first = images(good, 8)[0]
    (good / "copy.png").write_bytes(first.read_bytes())
    (good / "trained.png").write_bytes((tmp_path / "normal" / "1.png").read_bytes())
    found = calibrate(run, good=good, console=told()[0])
    assert found.n == 9
    assert any("1 of the 9 good images were trained on" in warning for warning in found.warnings)
    assert any("copies" in warning for warning in found.warnings)


def test_a_held_back_image_that_is_missing_or_changed_is_an_error_and_changes_nothing(
    run: Path, tmp_path: Path
) -> None:
    before = calibrate(run, console=told()[0])
    path = tmp_path / "normal" / "1.png"
    save(path, picture(50, 300, 400))
    with pytest.raises(ValueError, match=r"1\.png is not the file that training held back.*--good"):
        calibrate(run)
    path.unlink()
    with pytest.raises(ValueError, match=r"1\.png.*restore it"):
        calibrate(run)
    (run / "split.json").write_text('{"held": [{"path": "x"}]}')
    with pytest.raises(ValueError, match=r"split\.json.*train again"):
        calibrate(run)
    (run / "split.json").write_text('{"held": []}')
    with pytest.raises(ValueError, match="give --good"):
        calibrate(run)
    assert Calibration.load(run / "calibration.json") == before


def test_the_command(run: Path) -> None:
    app = typer.Typer()
    app.command()(calibrate_module.command)
    told = CliRunner().invoke(app, [str(run), "--pixel-rate", "0.2", "--info-bar", "8"])
    assert told.exit_code == 0, told.output
    assert Calibration.load(run / "calibration.json").pixel_rate == 0.2
    assert CliRunner().invoke(app, [str(run), "--info-bar", "some"]).exit_code == 2


def test_images_that_people_call_normal_are_good_images_too(run: Path, tmp_path: Path) -> None:
    good, line = tmp_path / "good", tmp_path / "line"
    paths = images(good, 8) + [save(line / f"defect_{k}.png", picture(90 + k, seed=50 + k)) for k in range(2)]
    (line / "trained.png").write_bytes((tmp_path / "normal" / "1.png").read_bytes())
    (line / "copy.png").write_bytes(paths[0].read_bytes())
    (line / "gone.png").write_bytes(b"gone")
    names = ("defect_0.png", "defect_1.png", "trained.png", "copy.png", "gone.png")
    database = review(tmp_path / "results.db", line, dict.fromkeys(names, "normal"))
    (line / "gone.png").unlink()
    console, text = told()
    found = calibrate(run, good=good, add_reviewed=database, console=console)
    assert found.unit == "images" and found.scores == fit(inspector(), [Normal(path) for path in paths]).scores
    assert "3 good images are normal by their reviews" in text() and "gone.png cannot be read" in text()
    assert "1 others are left out, for the model was trained on them" in text()
    assert any("3 of the good images come from reviews" in warning for warning in found.warnings)
    assert (
        any("copies" in warning for warning in found.warnings) and Calibration.load(run / "calibration.json") == found
    )
    alone = calibrate(run, add_reviewed=database, console=told()[0])
    assert alone.n == 3 and alone.unit == "tiles"


def test_reviews_that_give_no_good_image_are_an_error_and_change_nothing(run: Path, tmp_path: Path) -> None:
    before = calibrate(run, console=told()[0])
    save(tmp_path / "line/good.png", picture(90, seed=50))
    database = review(tmp_path / "results.db", tmp_path / "line", {"good.png": "defective"})
    with pytest.raises(ValueError, match=r"results\.db has no good image: of 0 that are normal by their reviews"):
        calibrate(run, add_reviewed=database, console=told()[0])
    assert Calibration.load(run / "calibration.json") == before
