"""The dashboard as a person uses it: a real Chromium, the running command, a real bundle."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from results import Results, make

from anomalib_gan.records.access import add_user
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.benchmark import make as fill
from dashboard.pages import PAGES
from dashboard.settings import Settings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "data_samples/test"
DUST, GOOD = SAMPLES / "dust/000.png", SAMPLES / "good/000.png"
PATIENCE = 60_000  # milliseconds: machines that test are busy
expect.set_options(timeout=PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(log: Path, command: list[str], **more: str) -> Iterator[None]:
    """A server that is up; at the end it is told to stop, and has to do so without complaint."""
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=out, cwd=ROOT, env={**os.environ, **more}
        )
        try:
            port = command[command.index("--port") + 1] if "--port" in command else command[-1].partition("=")[2]
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield
            server.terminate()
            assert server.wait(30) == 0, log.read_text()
        finally:
            server.kill()
            server.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, scored: Results) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dashboard")
    film = cv2.VideoWriter(str(folder / "line.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (512, 384))
    for path in (DUST, GOOD):
        film.write(cv2.imread(str(path)))
    film.release()
    (folder / "large").mkdir()
    cv2.imwrite(str(folder / "large/large.png"), np.tile(cv2.imread(str(DUST), cv2.IMREAD_GRAYSCALE), (6, 5)))
    port = str(free_port())
    command = ["-m", "pipelines.cli", "dashboard", "--db", scored.database, "--models", scored.models, "--models",
               ROOT / "tests/frozen", "--images", SAMPLES, "--images", folder / "large", "--images", scored.images,
               "--camera", folder / "line.avi", "--port", port]  # fmt: skip
    with serving(folder / "log", [str(one) for one in command]):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = shutil.which("chromium")
        assert found, "Chromium is not installed: apt-get install chromium"
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Browser, url: str) -> Iterator[Page]:
    """A page in a browser of its own that must have no error, and ask no other machine for anything."""
    context = chromium.new_context(viewport={"width": 1366, "height": 650}, offline=False)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((*ours, url)) else None)
    ours = ("blob:", "data:", "ws://127.0.0.1", "/".join(url.split("/")[:3]))
    page.goto(url)
    yield page
    context.close()
    assert not wrong


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    with opened(chromium, address) as page:
        yield page


def drop(page: Page, *paths: Path) -> Locator:
    """Drops files and waits until the viewer shows the first; the viewer."""
    expect(page.get_by_text("Drop images on the left")).to_be_visible()
    page.locator("input[type=file]").set_input_files([str(path) for path in paths])
    viewer = page.locator(".viewer[data-scale]")
    expect(viewer).to_be_visible()
    return viewer


def state(viewer: Locator) -> tuple[float, float, float]:
    """(screen pixels to one of the image, left and top of the image on the stage)."""
    found = viewer.evaluate("viewer => ({...viewer.dataset})")
    return float(found["scale"]), float(found["left"]), float(found["top"])


def wait_for(viewer: Locator, condition: str) -> None:
    viewer.page.wait_for_function(f"viewer => {condition}", arg=viewer.element_handle())


def chosen(page: Page) -> Locator:
    """The list of images."""
    return page.get_by_role("combobox", name=re.compile("^Image"))


VERDICT = re.compile("^(ACCEPT|REVIEW|REJECT)$")


LAST = {
    "Inspect": "Drop images on the left", "Explore": "Drawn from codes", "Review queue": "Comment, before you decide",
    "Production": "wealth", "Thresholds": "Nothing was changed yet", "Reports": "choose one for its evidence",
    "Models": "Train the next model",
}  # fmt: skip
"""What stands far down on each page."""


@pytest.mark.parametrize("title", [page.title for page in PAGES])
def test_every_page_opens_without_an_error(page, title) -> None:
    page.get_by_role("link", name=title).click()
    expect(page.get_by_text(re.compile(LAST[title])).first).to_be_visible()
    expect(page.get_by_role("img", name="Running...")).to_have_count(0)
    for kind in ("stException", "stAlertContentError"):
        assert page.get_by_test_id(kind).count() == 0


def test_a_dropped_image_gives_a_verdict_its_defects_and_its_reconstruction(page) -> None:
    viewer = drop(page, DUST)
    expect(page.get_by_text(VERDICT)).to_have_text("REJECT")
    expect(page.get_by_text(re.compile(r"^\d+ defects?"))).to_be_visible()
    expect(viewer.locator("canvas[role=img]")).to_have_attribute("aria-label", re.compile("000.png.*reject"))
    button, picture = (
        viewer.get_by_role("button", name="Reconstruction"),
        "viewer.querySelector('.stage canvas').toDataURL()",
    )
    viewer.evaluate(f"viewer => {{ window.before = {picture}; }}")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(viewer.get_by_role("status")).to_have_text("Reconstruction")
    wait_for(viewer, f"{picture} !== window.before")
    button.click()
    wait_for(viewer, f"{picture} === window.before")


def test_a_defect_chosen_in_the_list_fills_the_viewer_and_the_keys_still_work(page) -> None:
    viewer = drop(page, DUST)
    whole = state(viewer)
    page.get_by_role("cell", name="1", exact=True).first.click()
    wait_for(viewer, f"Number(viewer.dataset.scale) > {1.5 * whole[0]}")
    by_mouse = state(viewer)
    page.keyboard.press("0")
    wait_for(viewer, f"Number(viewer.dataset.scale) === {whole[0]}")
    page.get_by_role("button", name="1", exact=True).focus()
    page.keyboard.press("Enter")
    wait_for(viewer, f"Number(viewer.dataset.scale) === {by_mouse[0]}")
    assert state(viewer) == pytest.approx(by_mouse)


def test_the_wheel_zooms_around_the_cursor_down_to_single_pixels_and_0_fits(page) -> None:
    viewer = drop(page, DUST)
    whole = state(viewer)
    stage = viewer.locator(".stage canvas")
    box = stage.bounding_box()
    x, y = 0.7 * box["width"], 0.4 * box["height"]
    page.mouse.move(box["x"] + x, box["y"] + y)
    before = [(place - edge) / whole[0] for place, edge in zip((x, y), whole[1:], strict=True)]
    for _ in range(12):
        page.mouse.wheel(0, -500)
    wait_for(viewer, "Number(viewer.dataset.scale) === 64")
    scale, left, top = state(viewer)
    assert [(x - left) / scale, (y - top) / scale] == pytest.approx(
        before, abs=0.5 / whole[0]
    )  # events come in whole screen pixels
    # A single pixel of the image fills 64 x 64 of the screen with one colour.
    page.keyboard.press("m")
    tones = stage.evaluate(
        """(canvas, [x, y]) => [[2, 2], [60, 3], [31, 60]].map(([dx, dy]) =>
        canvas.getContext('2d').getImageData(x + dx, y + dy, 1, 1).data[0])""",
        [np.ceil((x - left) / scale) * scale + left, np.ceil((y - top) / scale) * scale + top],
    )
    assert len(set(tones)) == 1
    page.mouse.down()
    page.mouse.move(box["x"] + x + 50, box["y"] + y + 20, steps=4)
    page.mouse.up()
    assert state(viewer)[1:] == pytest.approx((left + 50, top + 20), abs=1)
    page.keyboard.press("0")
    assert state(viewer) == pytest.approx(whole)


def test_keys_go_through_the_images_and_judge_the_one_that_is_shown(page) -> None:
    viewer = drop(page, DUST, GOOD, SAMPLES / "bead/000.png")
    first = viewer.get_attribute("data-image")
    page.keyboard.press("n")
    wait_for(viewer, f"viewer.dataset.image !== '{first}'")
    expect(chosen(page)).to_have_value("2: 000.png")
    page.keyboard.press("a")
    expect(page.get_by_text("You accepted it")).to_be_visible()
    page.keyboard.press("p")
    wait_for(viewer, f"viewer.dataset.image === '{first}'")
    expect(chosen(page)).to_have_value("1: 000.png")
    expect(page.get_by_text("You accepted it")).not_to_be_visible()
    page.keyboard.press("r")
    expect(page.get_by_text("You rejected it")).to_be_visible()
    for _ in range(4):  # faster than the page follows: none of them is lost
        page.keyboard.press("n")
    expect(chosen(page)).to_have_value("2: 000.png")
    expect(page.get_by_text("You accepted it")).to_be_visible()
    button = viewer.get_by_role("button", name="Map", exact=True)
    expect(button).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("m")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_keys_that_are_typed_into_a_field_are_no_commands(page) -> None:
    drop(page, DUST, GOOD)
    chosen(page).click()
    page.keyboard.type("n")
    page.keyboard.press("Escape")
    expect(chosen(page)).to_have_value("1: 000.png")


def test_a_drawn_box_arrives_in_pixels_of_the_image(page) -> None:
    viewer = drop(page, DUST)
    viewer.get_by_role("button", name="Draw").click()
    scale, left, top = state(viewer)
    box = viewer.locator(".stage canvas").bounding_box()
    page.mouse.move(box["x"] + left + 100.2 * scale, box["y"] + top + 50.2 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + left + 179.8 * scale, box["y"] + top + 89.8 * scale, steps=5)
    page.mouse.up()
    expect(page.get_by_text("1 drawn: 80 x 40 px (3200 px)")).to_be_visible()
    page.get_by_role("button", name="Remove the drawn boxes").click()
    expect(page.get_by_text("1 drawn")).not_to_be_visible()


def test_a_corrupt_upload_is_told_and_the_app_lives_on(page, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(DUST.read_bytes()[:9000])
    (tmp_path / "no image.tif").write_bytes(b"<script>alert(1)</script>")
    drop(page, tmp_path / "broken.png", tmp_path / "no image.tif", DUST)
    alert = page.get_by_test_id("stAlertContentError")
    expect(alert).to_contain_text("broken.png: the PNG is truncated")
    page.keyboard.press("n")
    expect(alert).to_contain_text("no image.tif")
    page.keyboard.press("n")
    expect(page.get_by_text(VERDICT)).to_have_text("REJECT")


def test_two_people_at_once_see_each_their_own(chromium, address) -> None:
    with opened(chromium, address) as one, opened(chromium, address) as other:
        drop(one, DUST)
        drop(other, GOOD)
        one.keyboard.press("r")
        expect(one.get_by_text("You rejected it")).to_be_visible()
        expect(one.get_by_text(VERDICT)).to_have_text("REJECT")
        other.keyboard.press("a")
        expect(other.get_by_text("You accepted it")).to_be_visible()
        expect(other.get_by_text(VERDICT)).not_to_have_text("REJECT")


def test_a_large_image_is_reduced_and_a_close_look_brings_its_pixels(page) -> None:
    page.get_by_role("radio", name="Folder").click()
    page.get_by_role("combobox", name="Folder").click()
    page.get_by_role("option", name=re.compile("large")).click()
    viewer = page.locator(".viewer[data-scale]")
    expect(viewer).to_be_visible()
    expect(page.get_by_text("large.png, 2560 x 2304 px")).to_be_visible()
    assert viewer.get_attribute("data-crop") == ""
    box = viewer.locator(".stage canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(5):
        page.mouse.wheel(0, -500)
    wait_for(viewer, "viewer.dataset.crop !== ''")
    top, left, bottom, right = map(int, viewer.get_attribute("data-crop").split(","))
    scale, x, y = state(viewer)
    assert (left, top) == pytest.approx((-x / scale, -y / scale), abs=2)
    assert (right - left, bottom - top) == pytest.approx((box["width"] / scale, box["height"] / scale), abs=3)


def test_a_camera_gives_pictures_that_are_judged(page) -> None:
    page.get_by_role("radio", name="Camera").click()
    page.get_by_role("button", name="Take a picture").click()
    expect(page.get_by_text(VERDICT)).to_have_text("REJECT")
    page.get_by_role("button", name="Take a picture").click()
    expect(page.get_by_text("Image, of 2")).to_be_visible()
    expect(page.get_by_text(VERDICT)).not_to_have_text("REJECT")


def test_explore_draws_samples_takes_a_map_apart_and_says_what_an_inversion_needs(page) -> None:
    page.get_by_role("link", name="Explore").click()
    expect(page.locator(".viewer[data-scale]")).to_be_visible()
    page.get_by_role("radio", name="What the map is made of").click()
    page.get_by_role("radio", name="Folder").click()
    expect(page.get_by_text("own alpha is 0.75")).to_be_visible()
    expect(page.get_by_text("critic", exact=True)).to_be_visible()
    page.get_by_role("radio", name="Inversion").click()
    expect(page.get_by_text("Start the dashboard with `--runs DIR`")).to_be_visible()
    expect(page.get_by_role("button", name="Invert", exact=True)).to_be_disabled()


def test_two_models_show_their_maps_of_one_image_side_by_side(page) -> None:
    page.get_by_role("link", name="Models").click()
    page.get_by_role("radio", name="Side by side").click()
    page.get_by_role("radio", name="Folder").click()
    viewers = page.locator(".viewer[data-scale]")
    expect(viewers).to_have_count(2)
    expect(page.get_by_text(VERDICT)).to_have_count(2)
    expect(page.get_by_text("of two models do not compare")).to_be_visible()
    left, right = viewers.nth(0), viewers.nth(1)
    before, box = state(right), left.locator(".stage canvas").bounding_box()
    whole = state(left)[0]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -500)
    wait_for(left, f"Number(viewer.dataset.scale) > {whole}")
    assert state(right) == before
    for name in ("Card", "Calibrations", "Evaluation", "Curves and samples"):
        page.get_by_role("radio", name=name).click()
        expect(viewers).to_have_count(0)
        expect(page.get_by_role("img", name="Running...")).to_have_count(0)
        assert page.get_by_test_id("stException").count() == 0


def test_several_missed_defects_are_drawn_and_written_at_once(page, scored) -> None:
    page.get_by_role("link", name="Review queue").click()
    viewer = page.locator(".viewer[data-scale]")
    viewer.get_by_role("button", name="Draw").click()
    scale, left, top = state(viewer)
    box = viewer.locator(".stage canvas").bounding_box()
    for x in (40, 140):
        page.mouse.move(box["x"] + left + x * scale, box["y"] + top + 50 * scale)
        page.mouse.down()
        page.mouse.move(box["x"] + left + (x + 60) * scale, box["y"] + top + 90 * scale, steps=5)
        page.mouse.up()
    expect(page.get_by_text(re.compile("^Drawn: .*;"))).to_be_visible()
    page.keyboard.press("x")
    expect(page.get_by_text(re.compile("png: missed defect$"))).to_be_visible()
    with Archive(scored.database) as archive:
        first, second = sorted(one.box for one in archive.reviews(label="missed defect"))
        assert first[1] < second[1] and (first[0], first[2]) == (second[0], second[2])
        page.keyboard.press("u")
        expect(page.get_by_text(re.compile("was taken back$"))).to_be_visible()
        assert not archive.reviews(label="missed defect")


def test_the_folder_that_was_chosen_is_there_again_after_another_page(page) -> None:
    page.get_by_role("radio", name="Folder").click()
    viewer = page.locator(".viewer[data-scale]")
    expect(viewer).to_be_visible()
    page.get_by_role("link", name="Production").click()
    expect(page.get_by_text("wealth")).to_be_visible()
    page.get_by_role("link", name="Inspect").click()
    expect(viewer).to_be_visible()
    expect(page.get_by_role("radio", name="Folder")).to_be_checked()


def test_a_key_in_the_queue_writes_a_review_and_another_takes_it_back(page, scored) -> None:
    page.get_by_role("link", name="Review queue").click()
    viewer = page.locator(".viewer[data-scale]")
    expect(viewer.get_by_role("button", name="False alarm")).to_be_visible()
    page.keyboard.press("f")
    expect(page.get_by_text(re.compile("png: false alarm$"))).to_be_visible()
    with Archive(scored.database) as archive:
        written = archive.reviews(label="false alarm")
        assert [one.who for one in written] == ["local"] and written[0].verdict == "review"
        page.keyboard.press("u")
        expect(page.get_by_text(re.compile("was taken back$"))).to_be_visible()
        assert not archive.reviews(label="false alarm")


def test_a_batch_of_2000_images_scrolls_to_its_last_and_on_to_the_next_page(chromium, tmp_path) -> None:
    fill(tmp_path / "results.db", 2001, batches=1)
    with Archive(tmp_path / "results.db") as archive:
        rows = archive.page(Filter(batch=1), order="worst", limit=2001).rows
    port = str(free_port())
    command = ["-m", "pipelines.cli", "dashboard", "--db", str(tmp_path / "results.db"), "--port", port]
    with serving(tmp_path / "log", command), opened(chromium, f"http://127.0.0.1:{port}") as page:
        page.get_by_role("link", name="Reports").click()
        page.get_by_role("radio", name="A batch").click()
        expect(page.get_by_text("2,001 images")).to_be_visible()
        expect(page.get_by_text("1 to 2,000")).to_be_visible()
        grid = page.get_by_test_id("stDataFrame")

        def cell(place: int) -> Locator:
            """For who cannot see it, the table says beside its drawing what is in sight."""
            return grid.locator("[role=gridcell]", has_text=rows[place].path)

        expect(cell(0)).to_be_attached()
        assert 0 < grid.locator("[role=row]").count() < 100  # what is out of sight is not drawn
        grid.hover()
        for _ in range(60):
            page.mouse.wheel(0, 4000)
        expect(cell(1999)).to_be_attached()
        expect(cell(0)).to_have_count(0)
        page.get_by_role("button", name="After").click()
        expect(page.get_by_text("2,001 to 2,001")).to_be_visible()
        expect(cell(2000)).to_be_attached()


def test_the_first_who_asks_for_a_page_by_its_address_gets_the_app(chromium, tmp_path) -> None:
    port = str(free_port())
    command = ["-m", "pipelines.cli", "dashboard", "--models", str(ROOT / "tests/frozen"), "--port", port]
    with serving(tmp_path / "log", command):
        page = chromium.new_page()  # Streamlit looks for itself below the address, which the browser notes as errors
        page.goto(f"http://127.0.0.1:{port}/production")
        expect(page.get_by_text("This page needs a results database")).to_be_visible(timeout=PATIENCE)
        page.close()


def test_streamlit_alone_on_an_open_address_shows_nothing(chromium, tmp_path) -> None:
    port = free_port()
    known = Settings(models=(str(ROOT / "tests/frozen"),)).to_environment()
    command = ["-m", "streamlit", "run", "dashboard/app.py", "--server.headless=true", "--server.address=0.0.0.0",
               "--browser.gatherUsageStats=false", f"--server.port={port}"]  # fmt: skip
    with (
        serving(tmp_path / "log", command, PYTHONPATH=str(ROOT), **known),
        opened(chromium, f"http://127.0.0.1:{port}") as page,
    ):
        expect(page.get_by_text("stays closed")).to_be_visible()
        assert page.get_by_text("Detector").count() == 0


def test_with_a_users_file_people_sign_in_first(chromium, tmp_path) -> None:
    add_user(tmp_path / "users.json", "Ada", "correct horse", "operator")
    port = str(free_port())
    command = ["-m", "pipelines.cli", "dashboard", "--models", str(ROOT / "tests/frozen"), "--address", "0.0.0.0",
               "--users", str(tmp_path / "users.json"), "--port", port]  # fmt: skip
    with serving(tmp_path / "log", command), opened(chromium, f"http://127.0.0.1:{port}") as page:
        expect(page.get_by_label("Name")).to_be_visible()
        assert page.get_by_text("Detector").count() == 0
        page.get_by_label("Name").fill("Ada")
        page.get_by_label("Password", exact=True).fill("correct horse")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("Ada, operator")).to_be_visible()
        expect(page.get_by_text("Drop images on the left")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Name")).to_be_visible()
