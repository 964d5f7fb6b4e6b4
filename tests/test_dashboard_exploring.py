"""Inversion and directions on the page Explore: jobs of `anomalib-gan explore` beside the dashboard."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
import test_dashboard_jobs as work
import test_dashboard_models as pages
import typer
from streamlit.testing.v1 import AppTest
from test_dashboard_jobs import WAIT, ended, no_torch
from test_dashboard_models import ENGINEER, OPERATOR, button, words

from anomalib_gan.properties import PROPERTIES
from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.files import write_json
from dashboard import exploring, jobs
from dashboard.files import RefusedPathError
from dashboard.pages import explore
from dashboard.settings import Settings
from dashboard.sources import Item
from pipelines.cli import build

made, results, runs = pages.made, pages.results, work.runs
Open = Callable[..., AppTest]


@pytest.fixture
def known(results: Any, runs: Path) -> dict[str, Any]:
    """Settings under which the only bundle has its run in the folder of runs."""
    card = {"name": "calm-run"}
    first = bundle.load(results.bundle)
    files = {"model.onnx": first.model, "card/card.json": json.dumps(card).encode()}
    bundle.write(results.root / "one/only.bundle", first.manifest, files)
    write_json(runs / "calm-run/card.json", card)
    return {"models": (str(results.root / "one"),), "images": (str(results.images),), "runs": str(runs)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """The page Explore at one of its ways, over some settings, with images of the folder."""

    def open(known: dict[str, Any], way: str, user: Any = ENGINEER) -> AppTest:
        for name, value in Settings(**known).to_environment().items():
            monkeypatch.setenv(name, value)
        page = AppTest.from_function(pages.shown, default_timeout=60, args=("explore", user.role, user.name)).run()
        page.segmented_control(key="explore").set_value(way).run()
        if way == explore.INVERSION and known.get("images"):
            page.segmented_control(key="way").set_value("Folder").run()
        assert not page.exception, page.exception
        return page

    yield open
    st.cache_resource.clear()


def home(runs: Path) -> Path:
    return runs / "calm-run" / exploring.FOLDER


def fake(monkeypatch: pytest.MonkeyPatch, code: str) -> list[list[str]]:
    """The jobs run lines of Python in place of `anomalib-gan`, with the words of the command as their arguments; these
    words, as they come.
    """
    start, words = jobs.start, []

    def begun(runs: Any, name: str, commands: Any, made: Path, user: Any) -> Path:
        words.append(list(commands[0]))
        return start(runs, name, [[code, *commands[0]]], made, user)

    monkeypatch.setattr(jobs, "start", begun)
    return words


RESULT = """
import sys
from pathlib import Path
import cv2, numpy as np
out, kind = Path(sys.argv[sys.argv.index("--out") + 1]), sys.argv[2]
out.mkdir(parents=True)
cv2.imwrite(str(out / f"{kind}.png"), np.full((20, 30), 90, np.uint8))
(out / f"{kind}.md").write_text("G(z*) *22.5* dB")
(out / f"{kind}.json").write_text('{"image": "some *image*.png"}')
"""


def test_an_inversion_is_started_followed_stopped_and_begun_again(opened, known, runs, tmp_path, monkeypatch) -> None:
    free = tmp_path / "free"
    words_of = fake(monkeypatch, WAIT.format(str(free)))
    page = opened(known, explore.INVERSION)
    page.selectbox(key="move along").set_value("density").run()
    button(page, "Invert").click().run()
    assert not page.exception and not page.error, words(page)
    (words_,) = words_of
    job = jobs.latest(home(runs))
    assert job is not None and job.running and job.name == "invert-1"
    image = Path(words_[3])
    assert words_[:3] == ["explore", "invert", str(runs / "calm-run")] and image.is_file() and image.is_absolute()
    assert words_[4:8] == ["--move", "density", "--by", "2"]
    assert words_[words_.index("--progress") + 1] == str(job.folder / jobs.PROGRESS)
    assert jobs.latest(runs) is None  # it is no training
    write_json(job.folder / jobs.PROGRESS, {"step": 30, "steps": 120, "seconds_left": 61.0, "state": "working"})
    page.run()
    (bar,) = page.get("progress")
    assert bar.proto.value == 25 and "step 30 of 120, 0:01:01 left" in bar.proto.text.replace("\\", "")
    assert button(page, "Invert").disabled
    button(page, "Stop").click().run()
    ended(home(runs))
    assert "was stopped" in words(page.run()) and not page.exception
    free.touch()
    button(page, "Invert").click().run()
    assert ended(home(runs)).name == "invert-2"


def test_what_a_job_found_is_shown_the_latest_first(opened, known, runs, monkeypatch) -> None:
    fake(monkeypatch, RESULT)
    for way, label, kind in (
        (explore.INVERSION, "Invert", "invert"),
        (explore.DIRECTIONS, "Find directions", "directions"),
    ):
        page = opened(known, way)
        for _ in range(2):
            button(page, label).click().run()
            assert ended(home(runs)).state == "done", jobs.latest(home(runs)).last_lines()
            page.run()
        assert not page.exception and not page.error, words(page)
        assert page.selectbox(key=f"result of {kind}").options == [f"{kind}-2", f"{kind}-1"]
        assert "G(z*) *22.5* dB" in words(page) and len(page.get("image")) == 1


def test_directions_are_asked_for_by_property(opened, known, runs, monkeypatch) -> None:
    words_of = fake(monkeypatch, RESULT)
    page = opened(known, explore.DIRECTIONS)
    page.multiselect(key="directions of").set_value([]).run()
    assert button(page, "Find directions").disabled and "Choose a property" in words(page)
    page.multiselect(key="directions of").set_value(["thickness", "brightness"]).run()
    button(page, "Find directions").click().run()
    ended(home(runs))
    assert words_of[0][3:7] == ["--property", "thickness", "--property", "brightness"]


def test_an_operator_starts_and_stops_nothing(opened, known, runs, monkeypatch) -> None:
    fake(monkeypatch, RESULT)
    page = opened(known, explore.INVERSION, OPERATOR)
    button(page, "Invert").click().run()
    assert "only an engineer may explore a model" in words(page) and not home(runs).exists()
    with pytest.raises(PermissionError, match="Olaf"):
        exploring.begin(home(runs), "invert", [], OPERATOR)


def test_what_stands_in_the_way_is_told_beside_the_button(opened, known, runs, monkeypatch) -> None:
    def told(way: str, label: str, **changes: Any) -> str:
        page = opened({**known, **changes}, way)
        assert button(page, label).disabled
        return words(page)

    for way, label in ((explore.INVERSION, "Invert"), (explore.DIRECTIONS, "Find directions")):
        assert "--runs DIR" in told(way, label, runs="")
    assert "Choose an image on the left" in told(explore.INVERSION, "Invert", images=())
    (runs / "calm-run").rename(runs / "moved")
    assert "The run calm-run of this bundle is not in" in told(explore.DIRECTIONS, "Find directions")
    (runs / "moved").rename(runs / "calm-run")
    find = importlib.util.find_spec
    no_torch(monkeypatch)
    assert "pip install 'anomalib_gan[train]'" in told(explore.DIRECTIONS, "Find directions")
    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_only_a_file_of_a_configured_folder_is_inverted(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "a.png")
    root = str(tmp_path / "in")
    with pytest.raises(ValueError, match="lies in memory only"):
        exploring.file_of(Item("upload 1", "a.png", b"x"))
    for relative in ("../a.png", "link.png", "/etc/passwd"):
        with pytest.raises(RefusedPathError):
            exploring.file_of(Item("file", relative, root=root, relative=relative))


def test_a_result_that_is_no_picture_is_told(opened, known, runs, monkeypatch) -> None:
    out = home(runs) / "invert-1" / exploring.OUT
    out.mkdir(parents=True)
    write_json(out / "invert.json", {})
    (out / "invert.png").write_bytes(b"<script>alert(1)</script>")
    page = opened(known, explore.INVERSION)
    assert not page.exception and "invert.png" in words(page)


def test_the_pages_properties_and_options_are_those_of_the_commands() -> None:
    assert tuple(PROPERTIES) == exploring.PROPERTIES
    commands = typer.main.get_command(build(["explore"])).commands["explore"].commands
    for kind, needed in {"invert": {"--move", "--by"}, "directions": {"--property"}}.items():
        options = {one for parameter in commands[kind].params for one in parameter.opts}
        assert needed | {"--out", "--progress"} <= options
