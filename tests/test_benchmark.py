"""The tables of the README: what they hold follows from the runs, and finished runs are not done again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_gan.benchmarking import FIGURES, between, csv_of, figure, generation_table, held_pixels, markdown, sheet
from anomalib_gan.runtime.files import sha256_file, write_json

SAMPLES = Path(__file__).parents[1] / "data_samples"


def one(row, seed, auroc):
    return {
        "data": "set",
        "row": row,
        "seed": seed,
        "pixel": dict.fromkeys(FIGURES, auroc),
        "per_image": {"auroc": auroc},
        "image_auroc": None,
        "seconds": 90.0,
        "steps": 7,
        "ms_per_megapixel": 12.0,
        "alphas": {},
        "card": {
            "settings": {"threads": 2, "minutes": 15.0, "steps": None},
            "machine": {"processor": "x86_64", "cores": 2, "gpu": None},
            "started": "2026-01-02T03:04:05+00:00",
        },
    }


def test_the_table_gives_means_spreads_and_the_commands_that_made_it():
    text = markdown([one("detector", 0, 0.9), one("detector", 2, 0.8), one("source mode", 0, None)])
    assert "| detector | 0, 2 | 0.8500 (spread 0.1000) |" in text
    assert "| source mode | 0 | undefined |" in text
    assert "--data set --rows 'detector' --seeds 0,2 --minutes 15 --threads 2" in text
    assert "2026-01-02; x86_64, 2 cores, no GPU" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert len(csv_of([one("detector", 0, 0.9)]).splitlines()) == 2


def test_figures():
    assert figure([0.5]) == "0.5000" and figure([None]) == "undefined"


def test_a_table_replaces_what_stood_between_its_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert between(text, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    assert between(between(text, "x", "new"), "x", "new") == between(text, "x", "new")
    with pytest.raises(ValueError, match="markers"):
        between(text, "y", "new")


def test_held_back_pixels_are_read_in_the_range_of_the_training(tmp_path):
    grey = np.random.default_rng(0).integers(0, 4096, (48, 64), np.uint16)
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    held = {"path": str(tmp_path / "0.png"), "sha256": sha256_file(tmp_path / "0.png"), "box": [0, 16, 48, 64]}
    write_json(tmp_path / "split.json", {"seed": 0, "held": [held]})
    write_json(tmp_path / "card.json", {"settings": {"bits": 12, "white": None, "info_bar": 0}})
    told = []
    (found,) = held_pixels(tmp_path, told.append)
    assert np.allclose(found[..., 0], grey[:, 16:] * (2 / 4095) - 1) and "--bits 12" in told[0]
    write_json(tmp_path / "split.json", {"seed": 0, "held": []})
    with pytest.raises(ValueError, match="held no normal image back"):
        held_pixels(tmp_path, told.append)


def test_the_table_of_samples_has_a_row_for_each_size_and_the_sheet_all_samples():
    rng = np.random.default_rng(0)
    drawn = rng.uniform(-1, 1, (4, 32, 40))
    text = generation_table([drawn, drawn[:, :, :32]], list(rng.uniform(-1, 1, (3, 32, 40))))
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:8]] == ["40x32"] * 3 + ["32x32"] * 3
    tiled = sheet(drawn, 2)
    assert tiled.shape == (64, 80) and (tiled[32:, :40] == np.rint((drawn[2] + 1) * 127.5)).all()


@pytest.mark.slow
def test_a_benchmark_trains_once_and_sweeps_alpha(tmp_path):
    from pipelines.benchmark import ALPHAS, accuracy, generation, proxy

    readme = tmp_path / "README.md"
    readme.write_text("<!-- accuracy -->\n<!-- /accuracy -->\n", encoding="utf-8")
    settings = {"out": tmp_path / "out", "rows": ["source mode"], "steps": 3, "threads": 1, "readme": readme}
    table = accuracy([SAMPLES], **settings)
    assert "| source mode | 0 |" in table.read_text(encoding="utf-8")
    assert all(f" {alpha}: " in readme.read_text(encoding="utf-8") for alpha in ALPHAS)
    run = tmp_path / "out" / "data_samples" / "source-mode-0"
    before = (run / "checkpoint.pt").stat().st_mtime_ns
    accuracy([SAMPLES], **settings)
    assert (run / "checkpoint.pt").stat().st_mtime_ns == before
    told = generation(run, out=tmp_path, size=(96, 128)).read_text(encoding="utf-8")
    assert "| sample | 64x64 |" in told and "| normal image, phases shuffled | 128x96 |" in told
    assert {"map"} <= set(found := proxy(run)) and all(0 <= value <= 1 for value in found.values())
    with pytest.raises(ValueError, match="no row is called"):
        accuracy([SAMPLES], out=tmp_path, rows=["best"])
