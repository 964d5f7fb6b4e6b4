"""Who works at the dashboard in the benchmark of `load`: a browser each, and somebody who does what operators do."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

HISTORY = 5000
"""Inspections of half a year that the database holds beside those with pictures."""
PICTURES = 200
"""Images that are scored; all of them wait for a review."""
PATIENCE = 30.0
"""Seconds after which a page that did not settle counts as an error."""
OPEN, FOLDER = "open the dashboard", "choose the folder"
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
VIEWER = """[...document.querySelectorAll("[data-testid^=stBidiComponent], [data-testid^=stBidiComponent] *")]
  .map((host) => (host.shadowRoot || host).querySelector(".viewer[data-image]")).find((viewer) => viewer)"""
CHANGED = f"""image => {{
  const viewer = {VIEWER};
  return viewer && viewer.dataset.image !== image && performance.now();
}}"""


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
    """What was done in which session, and seconds until it was done."""

    what: str
    session: int
    seconds: float


@dataclass
class Loaded:
    """What a run gave.

    updates: of pages in browsers · answers: of the server alone · sent: by each session, what it was about and the
    message · memory: resident bytes of the server's processes by what they had to do · server, browsers: processors
    that these kept busy on average while the sessions worked, alone: the server without browsers · reviews: rows that
    the sessions wrote.
    """

    updates: list[Update] = field(default_factory=list)
    answers: list[Update] = field(default_factory=list)
    sent: list[list[tuple[str, bytes]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    server: float = 0.0
    browsers: float = 0.0
    alone: float = 0.0
    reviews: int = 0


class Session:
    """One browser, and who sits there: always the same person of the same number, by a seeded chance."""

    def __init__(self, number: int, loaded: Loaded, plan: Plan) -> None:
        self.number, self.loaded, self.plan = number, loaded, plan
        self.chance = random.Random(number)
        self.begun = time.perf_counter()
        self.doing = ""
        self.sent: list[tuple[str, bytes]] = []
        self.page: Page

    async def open(self, browser: Browser, address: str) -> None:
        """Comes in, and chooses the folder of images."""
        context = await browser.new_context(viewport={"width": 1366, "height": 768})
        self.page = await context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.wrong("the page", str(error)))
        self.page.on("websocket", lambda socket: socket.on("framesent", self.note))
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

    def note(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            self.sent.append((self.doing, message))

    def left(self) -> float:
        return self.plan.seconds - (time.perf_counter() - self.begun)

    def wrong(self, where: str, what: str) -> None:
        self.loaded.errors.append(f"{where} {self.number}: {what.strip()[:300]}")

    @asynccontextmanager
    async def updated(self, what: str, image: bool = False) -> AsyncIterator[None]:
        """Around what a person does: times the page until it has run, and with `image` until another one is drawn."""
        page, self.doing = self.page, what
        drawn = await page.evaluate(f"() => ({VIEWER})?.dataset.image ?? null") if image else None
        runs = await page.evaluate("() => load.runs") if page.url.startswith("http") else 0
        yield
        patience = 1000 * PATIENCE
        ended = await (await page.wait_for_function(SETTLED, arg=runs, timeout=patience)).json_value()
        if image:
            changed = await page.wait_for_function(CHANGED, arg=drawn, timeout=patience)
            ended = max(ended, await changed.json_value())
        begun = await page.evaluate("() => load.begun")
        self.loaded.updates.append(Update(what, self.number, (ended - begun) / 1000))
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
