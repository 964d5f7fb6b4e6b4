"""The README tells the truth: its commands, options, columns, places and lines of Python are those of the project."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import cv2
import pytest
import typer

from anomalib_gan.records.tables import COLUMNS, DEFECT_COLUMNS
from anomalib_gan.runtime.bundle import fingerprint, read_manifest
from pipelines.cli import COMMANDS, build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOREIGN = {"--nproc-per-node"}  # torchrun's


def options(name: str) -> set[str]:
    """All options of a command of anomalib-gan and of its sub-commands, also in their negative form."""
    command = typer.main.get_command(build([name])).commands[name]
    return {
        option
        for one in (command, *getattr(command, "commands", {}).values())
        for parameter in one.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if "-" in option
    } | {"--help"}


KNOWN = {name: options(name) for name in COMMANDS}


def test_every_command_line_uses_options_that_its_command_has():
    lines = [shlex.split(line, comments=True) for line in re.findall(r"^    anomalib-gan (.+)$", README, re.M)]
    assert {words[0] for words in lines} >= {"train", "calibrate", "score", "evaluate"}
    for name, *words in lines:
        assert {word for word in words if word.startswith("--")} <= KNOWN[name], name


def test_every_option_that_is_named_exists_and_where_it_says():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - FOREIGN
    assert named <= set().union(*KNOWN.values())
    groups = re.findall(r"^- ((?:`--[a-z-]+`(?:, )?)+) \(([a-z, ]+)\):", README, re.M)
    assert groups
    for group, commands in groups:
        for name in commands.split(", "):
            assert set(re.findall("--[a-z-]+", group)) <= KNOWN[name], f"{group} in {name}"


def test_the_columns_are_those_of_the_tables():
    (images,) = re.findall(r"a row per image: (.+?) \|", README)
    for name in COLUMNS:
        assert name in images or (name.endswith("_threshold") and "three thresholds" in images), name
    (defects,) = re.findall(r"a row per defect: (.+?) \|", README)
    assert [name for name in re.findall(r"[a-z_0-9]+", re.sub(r"\(.*?\)", "", defects))] == [
        *("path", "number"),
        *DEFECT_COLUMNS,
    ]


def test_the_places_in_the_map_of_the_house_exist():
    (table,) = re.findall(r"## The map of the house\n(.+?)\n\n\[", README, re.S)
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert cells
    for cell in cells:
        for place in re.findall(r"`(.+?)`", cell):
            assert (ROOT / place).exists() or (ROOT / "anomalib_gan" / place).exists(), place


@pytest.mark.slow
def test_the_lines_of_python_run(tmp_path, monkeypatch):
    samples = ROOT / "data_samples"
    shutil.copytree(samples / "train" / "good", tmp_path / "normal")
    shutil.copytree(samples / "test" / "good", tmp_path / "good_from_the_line")
    (tmp_path / "new").mkdir()
    shutil.copy(samples / "test" / "film" / "000.png", tmp_path / "new" / "part.png")
    program, embedding = re.findall(r"```python\n(.+?)```", README, re.S)
    short = program.replace("minutes=15", 'steps=2, params={"width": 8}')
    assert short != program
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), found)
    assert found["heat"].shape == (384, 512)
    assert found["found"].verdict in ("accept", "review", "reject")
    assert (tmp_path / "runs" / "x" / "calibration.json").is_file()

    bundle = shutil.copytree(ROOT / "tests" / "frozen" / "v1.bundle", tmp_path / "detector.bundle")
    pinned = embedding.replace("9f2c...", fingerprint(read_manifest(bundle)))
    assert pinned != embedding
    paths = sorted((tmp_path / "new").iterdir())
    found = {"frame": cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE), "paths": paths}
    exec(compile(pinned, "README.md", "exec"), found)
    assert found["found"].verdict in ("accept", "review", "reject")
