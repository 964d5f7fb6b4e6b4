"""The benchmark of the dashboard: what it makes, what its sessions do, its arithmetic. No figure of time is judged."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from results import SAMPLES, Results, make

from anomalib_gan.devtools import DevToolsError, chromium
from anomalib_gan.load import FOLDER, OPEN, Loaded, Plan, Update, markdown, prepare, run
from anomalib_gan.records.archive import Archive
from pipelines import load

IMAGES = SAMPLES / "test"
SMALL = Plan(sessions=2, seconds=30, pause=0.3, history=300, pictures=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("results"))


def test_the_database_holds_history_and_pictures_that_all_wait_for_somebody(made, tmp_path) -> None:
    prepare(tmp_path, made.bundle, IMAGES, SMALL)
    with Archive(tmp_path / "results.db") as records:
        assert records.count() == SMALL.history + SMALL.pictures
        batch = next(one for one in records.batches() if Path(one.folder) == tmp_path / "images")
        rows = [row for row in records.rows() if row.batch == batch.id]
        waiting = [row.id for row in records.queue(limit=SMALL.pictures).rows]
    assert len({row.sha256 for row in rows}) == SMALL.pictures and {row.id for row in rows} == set(waiting)


def test_without_images_nothing_is_begun(made, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no image in"):
        prepare(tmp_path / "load", made.bundle, tmp_path / "empty", SMALL)


def test_the_table_has_the_quantiles_of_all_updates_but_the_coming_in() -> None:
    updates = [Update("next image", 0, one / 100) for one in range(1, 101)]
    loaded = Loaded([Update(OPEN, 0, 9.0), Update(FOLDER, 0, 8.0), *updates], [Update("next image", 0, 0.25)])
    loaded.errors = ["a session 3: late"]
    loaded.memory = {"alone": 10**8, "20 s": 2 * 10**8}
    text = markdown(loaded, SMALL, "here", "anomalib-gan benchmark dashboard")
    assert "| all | 100 | 0.51 | 0.95 | 1.00 | 0.25 | 0.25 | 0.25 |" in text and "| next image | 100 |" in text
    assert "errors: 1" in text and "- a session 3: late" in text and "longest 9.0 s" in text
    assert "100 MB before anybody came, 200 MB after 20 s" in text


@pytest.mark.slow
def test_people_work_at_browsers_without_an_error(made, tmp_path) -> None:
    prepare(tmp_path, made.bundle, IMAGES, SMALL)
    loaded = run(tmp_path, [sys.executable, "-m", "pipelines.cli"], SMALL, lambda _line: None)
    assert loaded.errors == []
    done = {one.what for one in loaded.updates}
    assert {OPEN, FOLDER, "next image"} <= done and {one.session for one in loaded.updates} == {0, 1}
    assert {one.what for one in loaded.answers} == done and len(loaded.answers) >= len(loaded.updates)
    assert (
        all(one.seconds > 0 for one in (*loaded.updates, *loaded.answers)) and loaded.server > 0 and loaded.browsers > 0
    )
    assert list(loaded.memory) == ["alone", "open", "10 s", "20 s", "end"] and min(loaded.memory.values()) > 2**25
    assert loaded.reviews == sum(one.what in ("accept or reject", "review an image") for one in loaded.updates)


@pytest.mark.slow
def test_a_page_under_no_observation_is_driven_by_real_keys_and_clicks_and_its_faults_are_told() -> None:
    page = """data:text/html,<input onkeydown="window.last = event.key">
    <button onclick="window.trusted = event.isTrusted"></button>
    <script>window.early = window.first; setTimeout(() => { throw new Error("lost"); }, 0);</script>"""

    async def work() -> None:
        async with chromium(shutil.which("chromium") or "") as browser:
            tab, other = await browser.tab(300, 200, "window.first = 7"), await browser.tab(200, 100)
            await tab.goto(page)
            while await tab.evaluate("document.readyState") != "complete":
                await asyncio.sleep(0.05)
            assert await tab.evaluate("[early, innerWidth]") == [7, 300] and await other.evaluate("innerHeight") == 100
            assert await other.evaluate("typeof first") == "undefined" and await other.evaluate("document.hasFocus()")
            places = "(what => [what.x + what.width / 2, what.y + what.height / 2])"
            await tab.click(*await tab.evaluate(f"{places}(document.querySelector('input').getBoundingClientRect())"))
            await tab.write("abc")
            await tab.press("d")
            assert await tab.evaluate("[document.querySelector('input').value, last]") == ["abcd", "d"]
            await tab.click(
                *await tab.evaluate(f"{places}(document.querySelector('input').getBoundingClientRect())"), 3
            )
            await tab.write("")
            await tab.press("Enter")
            assert await tab.evaluate("[document.querySelector('input').value, last]") == ["", "Enter"]
            await tab.click(*await tab.evaluate(f"{places}(document.querySelector('button').getBoundingClientRect())"))
            assert await tab.evaluate("trusted") is True
            assert len(tab.faults) == 1 and "lost" in tab.faults[0] and not other.faults
            with pytest.raises(DevToolsError, match="nowhere is not defined"):
                await tab.evaluate("nowhere")
            with pytest.raises(DevToolsError, match="wasn't found"):
                await tab.call("No.Such")

    asyncio.run(work())


def test_a_browser_that_does_not_come_up_is_told() -> None:
    async def work() -> None:
        async with chromium("false"):
            raise AssertionError("there is no such browser")

    with pytest.raises(DevToolsError, match="false does not come up"):
        asyncio.run(work())


def test_a_readme_without_the_markers_is_told_before_minutes_are_spent(made, tmp_path) -> None:
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        load.load(made.bundle, IMAGES, out=tmp_path, readme=tmp_path / "README.md")
