"""The dashboard under load: people at browsers who work as operators do, how long their pages take, what it costs.

Each of the `sessions` is a browser of its own: it goes through images, judges them, works off the review queue, looks
at production and reports, and pauses to look. A page update lasts from the key or the click until the page has run and
shows its image, by the clock of the browser. Browsers and server share the machine; the figures say what each takes.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomalib_gan.benchmarking import opener_of
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.benchmark import make
from anomalib_gan.records.scoring import score_folder
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.image import find_images
from anomalib_gan.runtime.inspector import Inspector

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

HISTORY = 5000
"""Inspections of half a year that the database holds beside those with pictures."""
PICTURES = 200
"""Images that are scored; all of them wait for a review."""
PATIENCE = 30.0
"""Seconds after which a page that did not settle counts as an error."""
OPEN, FOLDER = "open the dashboard", "choose the folder"
MEMORY = {"alone": "before anybody came", "open": "with all of them there", "end": "at the end"}
SPANS = ("1 h", "1 d", "1 w", "1 m", "6 m")
WATCH = """(() => {
  window.load = { runs: 0, begun: 0, settled: 0 };
  for (const kind of ["keydown", "click"]) addEventListener(kind, () => { load.begun = performance.now(); }, true);
  let before = "";
  const look = () => {
    const app = document.querySelector("[data-testid=stApp]");
    const state = app ? app.dataset.testScriptState : "";
    if (state === "notRunning" && before !== state) { load.runs += 1; load.settled = performance.now(); }
    before = state;
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true,
    attributeFilter: ["data-test-script-state"] });
})()"""
"""Runs in every page before its own scripts: notes when somebody did something and when the app had run."""
SETTLED = """before => load.runs > before && load.settled"""
CHANGED = """([viewer, image]) => viewer.dataset.image !== image && performance.now()"""


@dataclass(frozen=True)
class Plan:
    """sessions: browsers · seconds: how long they work · pause: seconds on average between two things they do."""

    sessions: int = 20
    seconds: float = 60.0
    pause: float = 2.5
    history: int = HISTORY
    pictures: int = PICTURES


@dataclass(frozen=True)
class Update:
    """What was done in which session, seconds until the page had followed, and when it had, in seconds of the run."""

    what: str
    session: int
    seconds: float
    at: float


@dataclass
class Loaded:
    """What a run gave.

    memory: resident bytes of the server's processes by what they had to do · server, browsers: processors that these
    kept busy on average while the sessions worked · reviews: rows that the sessions wrote.
    """

    updates: list[Update] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    server: float = 0.0
    browsers: float = 0.0
    reviews: int = 0


def prepare(folder: Path, bundle: Path, images: Path, plan: Plan) -> None:
    """Into an empty folder: a copy of the bundle, images, and a database of history and of these images, scored.

    Images are those of `images`, shifted by some rows where there are fewer than the plan's. ValueError where the
    bundle has no calibration and where there is no image.
    """
    shutil.copytree(bundle, folder / "models/load.bundle")
    card = read_card(folder / "models/load.bundle/card")
    opener, files = opener_of(card, lambda _note: None), find_images(images)
    if not files:
        raise ValueError(f"there is no image in {images}: give some of the bundle's material")
    (folder / "images").mkdir()
    for number in range(plan.pictures):
        with opener(files[number % len(files)]) as picture:
            pixels = np.roll(picture.rows(0, picture.content), 5 * (number // len(files)), axis=0)
        suffix = "tif" if pixels.dtype == np.float32 else "png"  # the only ones that hold it
        cv2.imwrite(str(folder / f"images/{number:04}.{suffix}"), pixels[..., ::-1] if pixels.shape[2] == 3 else pixels)
    make(folder / "results.db", plan.history)
    inspector = Inspector.load(folder / "models/load.bundle", "cpu", spin=False, opener=opener)
    asked = card.get("settings", {})
    settings = {"info_bar": 0, "bits": asked.get("bits"), "white": asked.get("white")}
    score_folder(
        inspector, folder / "images", folder / "out", card=card, settings=settings, database=folder / "results.db"
    )
    with Archive(folder / "results.db") as records:
        for row in records.page(Filter(model=inspector.backend.hash), limit=plan.pictures).rows:
            if row.verdict != "invalid":
                records.ask(row, User("load", "operator"))


@contextmanager
def serving(start: Sequence[str], folder: Path) -> Iterator[tuple[str, int]]:
    """(address, process id) of the dashboard over what `prepare` made; its output goes to folder/log.

    `start`: the command up to the name of the sub-command. OSError where it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [*start, "dashboard", "--db", folder / "results.db", "--models", folder / "models", "--images",
               folder / "images", "--port", port]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([str(one) for one in command], stdout=log, stderr=log)
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise OSError(f"the dashboard ended: {(folder / 'log').read_text(errors='replace')[-2000:]}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def run(folder: Path, start: Sequence[str], plan: Plan, say: Callable[[str], None]) -> Loaded:
    """Lets the plan's sessions work on the dashboard of a prepared folder.

    OSError where Chromium is missing. Whatever goes wrong in a session or in the server is among the errors.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise OSError("Chromium is not installed: apt-get install chromium")
    with serving(start, folder) as (address, server):
        loaded = asyncio.run(_work(address, server, chromium, plan, say))
    log = (folder / "log").read_text(errors="replace")
    if "Traceback" in log:
        loaded.errors.append(f"the server: {log[log.index('Traceback') :][:500]}")
    with Archive(folder / "results.db") as records:
        loaded.reviews = sum(one.who == "local" for one in records.reviews())
    return loaded


async def _work(address: str, server: int, chromium: str, plan: Plan, say: Callable[[str], None]) -> Loaded:
    from playwright.async_api import async_playwright

    loaded = Loaded()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        loaded.memory["alone"] = _memory(server)
        sessions = []
        for number in range(plan.sessions):
            sessions.append(one := Session(number, loaded, plan))
            await one.open(browser, address)
            say(f"{number + 1} of {plan.sessions} sessions are open")
        loaded.memory["open"] = _memory(server)
        before, begun = _processor(server), time.perf_counter()
        watch = asyncio.create_task(_watch(server, loaded, plan))
        for one in sessions:
            one.begun = begun
        await asyncio.gather(*(one.work() for one in sessions))
        spent, after = time.perf_counter() - begun, _processor(server)
        loaded.server, loaded.browsers = ((late - early) / spent for early, late in zip(before, after, strict=True))
        loaded.memory["end"] = _memory(server)
        watch.cancel()
        await browser.close()
    return loaded


async def _watch(server: int, loaded: Loaded, plan: Plan) -> None:
    """Notes the memory after each third of the time."""
    for part in (1, 2):
        await asyncio.sleep(plan.seconds / 3)
        loaded.memory[f"{part * plan.seconds / 3:.0f} s"] = _memory(server)


class Session:
    """One browser, and who sits there: always the same person of the same number, by a seeded chance."""

    def __init__(self, number: int, loaded: Loaded, plan: Plan) -> None:
        self.number, self.loaded, self.plan = number, loaded, plan
        self.chance = random.Random(number)
        self.begun = time.perf_counter()
        self.page: Page

    async def open(self, browser: Browser, address: str) -> None:
        """Comes in, and chooses the folder of images."""
        context = await browser.new_context(viewport={"width": 1366, "height": 768})
        self.page = await context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.wrong("the page", str(error)))
        await self.page.add_init_script(WATCH)
        async with self.updated(OPEN):
            await self.page.goto(address)
        async with self.updated(FOLDER, image=True):
            await self.page.get_by_role("radio", name="Folder").click()

    async def work(self) -> None:
        """Goes from page to page until the time is over; a fault ends the session and is noted."""
        try:
            while self.left() > 0:
                pages = (self.inspect, self.review, self.production, self.reports)
                (act,) = self.chance.choices(pages, (5, 5, 1, 1))
                await act()
        except Exception as error:  # whatever it is, it is what a person would have met
            self.wrong("a session", f"{type(error).__name__}: {error}")

    def left(self) -> float:
        return self.plan.seconds - (time.perf_counter() - self.begun)

    def wrong(self, where: str, what: str) -> None:
        self.loaded.errors.append(f"{where} {self.number}: {what.strip()[:300]}")

    @asynccontextmanager
    async def updated(self, what: str, image: bool = False) -> AsyncIterator[None]:
        """Around what a person does: times the page until it has run, and with `image` until another one is drawn."""
        page = self.page
        viewer = await page.locator(".viewer").element_handle() if image and await self.shows() else None
        drawn = await viewer.get_attribute("data-image") if viewer else None
        runs = await page.evaluate("() => load.runs") if page.url.startswith("http") else 0
        yield
        patience = 1000 * PATIENCE
        ended = await (await page.wait_for_function(SETTLED, arg=runs, timeout=patience)).json_value()
        if image:
            now = viewer or await page.locator(".viewer[data-image]").element_handle()
            ended = max(
                ended, await (await page.wait_for_function(CHANGED, arg=[now, drawn], timeout=patience)).json_value()
            )
        begun = await page.evaluate("() => load.begun")
        at = time.perf_counter() - self.begun
        self.loaded.updates.append(Update(what, self.number, (ended - begun) / 1000, at))
        await self.faults()

    async def shows(self) -> bool:
        return await self.page.locator(".viewer").count() > 0

    async def faults(self) -> None:
        """What a page calls an error, but for the alarm of drift, which is one of the line."""
        for kind in ("stException", "stAlertContentError"):
            for text in await self.page.get_by_test_id(kind).all_inner_texts():
                if "have left the calibration" not in text:
                    self.wrong("the page", text)

    async def pause(self) -> None:
        await asyncio.sleep(self.plan.pause * self.chance.uniform(0.4, 1.6))

    async def go(self, title: str) -> None:
        link = self.page.get_by_role("link", name=title)
        if await link.get_attribute("aria-current") != "page":
            async with self.updated(f"go to {title}"):
                await link.click()
        await self.pause()

    async def press(self, key: str, what: str, image: bool = True) -> None:
        await self.page.evaluate("() => document.activeElement.blur()")  # keys belong to what was clicked last
        async with self.updated(what, image):
            await self.page.keyboard.press(key)
        await self.pause()

    async def inspect(self) -> None:
        await self.go("Inspect")
        for _ in range(self.chance.randint(3, 8)):
            if self.left() <= 0:
                return
            await self.press("n", "next image")
            if self.left() > 0 and self.chance.random() < 0.5:
                accepted = await self.page.get_by_text("ACCEPT", exact=True).count()  # else a box must be drawn first
                await self.press("a" if accepted else self.chance.choice("ar"), "accept or reject", image=False)

    async def review(self) -> None:
        await self.go("Review queue")
        for _ in range(self.chance.randint(3, 8)):
            if self.left() <= 0 or not await self.shows():
                return
            doubted = await self.page.get_by_role("button", name="False alarm").count()
            await self.press(self.chance.choice("cf" if doubted else "c"), "review an image")
        field = self.page.get_by_role("textbox", name="Path contains")
        for text in (str(self.chance.randint(0, 9)), ""):
            async with self.updated("filter the queue"):
                await field.fill(text)
                await field.press("Enter")
            await self.pause()

    async def production(self) -> None:
        await self.go("Production")
        for name in self.chance.sample(SPANS, 3):
            button = self.page.get_by_role("radio", name=name, exact=True)
            if self.left() <= 0:
                return
            if not await button.is_checked():
                async with self.updated("another time on Production"):
                    await button.click()
                await self.pause()

    async def reports(self) -> None:
        await self.go("Reports")
        for name in ("A batch", "Newest first", "Worst first"):
            button = self.page.get_by_role("radio", name=name, exact=True)
            if self.left() <= 0:
                return
            if not await button.is_checked():
                async with self.updated("another list on Reports"):
                    await button.click()
                await self.pause()


# --- what it costs -------------------------------------------------------------------------------------------------


def _tree(root: int) -> list[Any]:
    import psutil

    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _memory(server: int) -> int:
    """Resident bytes of the server's processes."""
    import psutil

    total = 0
    for process in _tree(server):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _processor(server: int) -> tuple[float, float]:
    """Seconds of processor time that the server, and the browsers with what drives them, have taken so far."""
    import psutil

    def spent(processes: Sequence[Any]) -> float:
        total = 0.0
        for process in processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    ours = {process.pid for process in _tree(server)}
    return spent(_tree(server)), spent([one for one in _tree(os.getpid()) if one.pid not in ours])


# --- the table -----------------------------------------------------------------------------------------------------


def markdown(loaded: Loaded, plan: Plan, origin: str, command: str) -> str:
    """What `run` measured, for people. Coming in is no page update: it is told below the table."""
    opening = [one.seconds for one in loaded.updates if one.what == OPEN]
    work = [one for one in loaded.updates if one.what not in (OPEN, FOLDER)]
    lines = ["| page update | times | median s | p95 s | longest s |", "|---|---|---|---|---|"]
    for what in ("all", *sorted({one.what for one in work})):
        spent = [one.seconds for one in work if what in ("all", one.what)]
        if spent:
            middle, late = np.quantile(spent, (0.5, 0.95))
            lines.append(f"| {what} | {len(spent)} | {middle:.2f} | {late:.2f} | {max(spent):.2f} |")
    memory = (f"{1e-6 * one:,.0f} MB {MEMORY.get(when, f'after {when}')}" for when, one in loaded.memory.items())
    lines += [
        "",
        f"{plan.sessions} sessions in Chromium for {plan.seconds:g} s, {plan.pause:g} s on average between two things "
        f"that one does, over {plan.history:,} inspections and {plan.pictures} images; {loaded.reviews} reviews "
        f"written, errors: {len(loaded.errors)}. Coming in: median {np.median(opening):.1f} s, longest "
        f"{max(opening):.1f} s. "
        f"Memory of the server: {', '.join(memory)}. Processors kept busy: {loaded.server:.2f} by the server, "
        f"{loaded.browsers:.2f} by the browsers.",
        *(f"- {error}" for error in loaded.errors[:10]),
        "",
        f"    {command}",
        "",
        origin,
    ]
    return "\n".join(lines) + "\n"
