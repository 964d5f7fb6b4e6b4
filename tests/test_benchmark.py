"""The tables of the README: what they hold follows from the runs, and finished runs are not done again."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_gan.accuracy import csv_of, figure, markdown, place_of
from anomalib_gan.benchmarking import between, generation_table, held_pixels, sheet
from anomalib_gan.runtime.files import read_json, sha256_file, write_json
from pipelines.benchmark import records

SAMPLES = Path(__file__).parents[1] / "data_samples"


def figures(auroc):
    return {
        "pixel": dict.fromkeys(("auroc", "ap", "aupro", "f1_max", "tpr_at_5_fpr"), auroc),
        "per_image": {"auroc": auroc},
        "image_auroc": None,
        "large_defects_hit": 0.5,
        "normal_pixels_above": 0.01,
    }


def one(row, seed, auroc, **views):
    return {
        "data": "set",
        "row": row,
        "seed": seed,
        **figures(auroc),
        "views": {name: figures(value) for name, value in views.items()},
        "proxy": 0.7,
        "seconds": 90.0,
        "steps": 7,
        "parameters": 1234,
        "ms_per_megapixel": 12.0,
        "card": {
            "settings": {"threads": 2, "minutes": 15.0, "steps": None},
            "machine": {"processor": "x86_64", "cores": 2, "gpu": None},
            "started": "2026-01-02T03:04:05+00:00",
        },
    }


def test_the_table_gives_means_spreads_and_the_commands_that_made_it():
    found = [
        one("detector", 0, 0.9, critic=0.7),
        one("detector", 2, 0.8, critic=0.6),
        one("source mode", 0, None, **{"alpha 0": 0.25, "alpha 0.5": 0.5}),
    ]
    text = markdown(found)
    assert "| detector | 0, 2 | 0.8500 (spread 0.1000) |" in text
    assert "| - critic | 0, 2 | 0.6500 (spread 0.1000) |" in text
    assert "| source mode | 0 | undefined |" in text
    assert "Pixel AUROC of source mode by alpha: 0: 0.2500, 0.5: 0.5000." in text
    assert "--data set --models 'detector' --seeds 0,2 --minutes 15 --threads 2" in text
    assert "optimisation" not in text
    assert "2026-01-02; x86_64, 2 cores, no GPU" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    lines = csv_of(found).splitlines()
    assert len(lines) == 1 + 3 + 4 and len({line.count(",") for line in lines}) == 1


def test_rows_of_one_budget_share_a_command_and_closed_forms_and_searches_are_told():
    found = [one("pca", 0, 0.9) | {"steps": 0}, one("dcgan", 0, 0.8) | {"proxy_crops": [12, 192]}]
    text = markdown(found)
    assert "--models 'pca,dcgan' --seeds 0" in text and text.count("anomalib-gan benchmark") == 1
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "closed form" in rows["pca"] and "1.5 min" in rows["dcgan"]
    assert "map of dcgan takes an optimisation, so the proxy is of 12 crops of 192 px instead of 60 of 384" in text


def test_every_model_that_maps_images_is_a_row_and_rows_have_places_of_their_own(tmp_path):
    from anomalib_gan.accuracy import FED_BY, ROWS
    from anomalib_gan.models import MODELS

    mapping = [name for name, kind in MODELS.items() if kind.mapped is True and kind.dim == 2]
    assert all(ROWS[name] == (name, {}) for name in mapping)
    assert not any(name in ROWS for name in set(MODELS) - set(mapping))  # tools, and what takes stacks
    assert set(FED_BY) <= set(ROWS) and set(FED_BY.values()) <= set(MODELS)

    places = {place_of(tmp_path, "set", row, seed) for row in ROWS for seed in (0, 1)}
    assert len(places) == 2 * len(ROWS) and {place.parent for place in places} == {tmp_path / "set"}


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
    assert text.count("| undefined | undefined | undefined |") == 6  # no crop of 64 px fits
    text = generation_table([rng.uniform(-1, 1, (4, 128, 128))], list(rng.uniform(-1, 1, (4, 128, 128))))
    assert "undefined" not in text and "18 crops of 64 px" in text
    tiled = sheet(drawn, 2)
    assert tiled.shape == (64, 80) and (tiled[32:, :40] == np.rint((drawn[2] + 1) * 127.5)).all()


@pytest.mark.slow
def test_a_benchmark_trains_once_and_evaluates_every_mixture(tmp_path):
    from anomalib_gan.accuracy import ALPHAS, MIXTURES
    from pipelines.accuracy import accuracy, proxy
    from pipelines.benchmark import generation

    readme = tmp_path / "README.md"
    readme.write_text("<!-- accuracy -->\n<!-- /accuracy -->\n", encoding="utf-8")
    settings = {"out": tmp_path / "out", "models": ["source mode", "twice as wide"], "steps": 3, "threads": 1}
    table = accuracy([SAMPLES], **settings, readme=readme)
    text = table.read_text(encoding="utf-8")
    assert "| source mode | 0 |" in text and text.strip() in readme.read_text(encoding="utf-8")
    assert all(f" {alpha:g}: " in text for alpha in ALPHAS)
    run = tmp_path / "out" / "data_samples" / "twice-as-wide-0"
    found = read_json(run / "benchmark.json")
    assert set(found["views"]) == set(MIXTURES) and found["classes"].keys() == {
        "bead",
        "broken",
        "charging",
        "dust",
        "film",
        "fused",
    }
    alone = [found["views"][name]["pixel"]["auroc"] for name in MIXTURES]
    assert len(set(alone)) == len(MIXTURES)  # each mixture is another map
    before, record = (run / "checkpoint.pt").stat().st_mtime_ns, tmp_path / "record.json"
    write_json(record, [{**read_json(run / "benchmark.json"), "card": read_json(run / "card.json"), "seed": 7}])
    settings["models"] = ["twice as wide"]
    again = accuracy([SAMPLES], **settings, seeds=[0, 7], record=record).read_text(encoding="utf-8")
    assert (run / "checkpoint.pt").stat().st_mtime_ns == before and "| twice as wide | 0, 7 |" in again
    kept = read_json(record)
    wanted = [("twice as wide", 0), ("twice as wide", 7), ("source mode", 0)]
    assert [(one["row"], one["seed"]) for one in kept] == wanted
    assert set(kept[0]["card"]) == {"settings", "machine", "started"}  # no path of where it was trained
    with pytest.raises(ValueError, match="twice as wide, 0 was measured with --steps 3, and all rows have one budget"):
        accuracy([SAMPLES], **settings | {"steps": 4}, record=record)
    told = generation(run, out=tmp_path, size=(96, 128)).read_text(encoding="utf-8")
    assert "| sample | 64x64 |" in told and "| normal image, phases shuffled | 128x96 |" in told
    judged = proxy(run)
    dense = judged["dense"]
    assert {"map", "critic"} <= set(dense) and all(0 <= value <= 1 for value in dense.values())
    assert dense["map"] == found["proxy"]
    assert {"pit", "scratch, 1/2"} <= set(judged["whole"])
    assert all(0 <= value <= 1 for one in judged["whole"].values() for value in one.values())
    for wrong in ({"a": 1}, [{"row": "twice as wide"}], [kept[0] | {"row": "gone"}], ["x"]):
        write_json(record, wrong)
        with pytest.raises(ValueError, match=r"record\.json is no record of this benchmark"):
            accuracy([SAMPLES], **settings, record=record)
        assert read_json(record) == wrong
    with pytest.raises(ValueError, match="no row is called"):
        accuracy([SAMPLES], out=tmp_path, models=["best"])


def test_every_question_to_the_records_is_measured_and_nothing_is_left_behind(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- records -->\nold\n<!-- /records -->\n")
    table = records(number=200, repeats=1, out=tmp_path, readme=readme).read_text()
    assert readme.read_text() == f"<!-- records -->\n{table}<!-- /records -->\n"
    readme.unlink()
    asked = re.findall(r"^\| (.+?) \| [0-9.]+ \| [0-9.]+ \|$", table, re.M)
    assert len(set(asked)) == len(asked) > 30 and "200 inspections" in table
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["records.md"]
