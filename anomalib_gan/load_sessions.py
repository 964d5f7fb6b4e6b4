"""Who works at the dashboard in the benchmark of `load`: a browser each, and somebody who does what operators do."""

from __future__ import annotations

import asyncio
import json
import random
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from anomalib_gan.devtools import Chromium, Tab

HISTORY = 5000
"""Inspections of half a year that the database holds beside those with pictures."""
PICTURES = 200
"""Images that are scored; all of them wait for a review."""
PATIENCE = 30.0
"""Seconds after which a page that did not settle counts as an error."""
POLLING = 100
"""Milliseconds between two looks whether a page has followed, in the page; at every frame, or asked from without, they
would be most of a browser's work.
"""
OPEN, FOLDER = "open the dashboard", "choose the folder"
EMPTY = "Nothing waits for a review here"
"""What the review queue says once all of it is done."""
SPANS = ("1 h", "1 d", "1 w", "1 m", "6 m")
WATCH = """(() => {
  window.load = { runs: 0, begun: 0, settled: 0, doing: OPENING, before: { runs: 0 }, sent: [] };
  for (const kind of ["keydown", "click"]) addEventListener(kind, () => { load.begun = performance.now(); }, true);
  const drawn = () => {
    const app = document.querySelector("[data-testid=stApp]");
    if (app && app.dataset.testScriptState !== "notRunning") return setTimeout(drawn, 20);
    requestAnimationFrame(() => requestAnimationFrame(() => { load.runs += 1; load.settled = performance.now(); }));
  };
  const ended = (bytes) => {  // is it a ForwardMsg (protobuf) that says that the script has finished for good?
    let at = 0;
    const number = () => {
      for (let value = 0, scale = 1; ; scale *= 128) {
        const byte = bytes[at++];
        value += (byte & 127) * scale;
        if (byte < 128 || byte === undefined) return value;
      }
    };
    while (at < bytes.length) {
      const tag = number(), wire = tag & 7, value = wire === 0 || wire === 2 ? number() : 0;
      if (tag === SCRIPT_FINISHED) return value !== FOR_RERUN;
      at += [0, 8, value, 0, 0, 4][wire];
    }
    return false;
  };
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        if (data instanceof ArrayBuffer && ended(new Uint8Array(data))) setTimeout(drawn, 0);
      });
    }
    send(data) {
      load.sent.push([load.doing, btoa(String.fromCharCode(...data))]);
      super.send(data);
    }
  };
  const KINDS = { link: "a[href]", radio: "[role=radio], label:has(input[type=radio])", field: "input[type=text]" };
  const part = "[data-testid^=stBidiComponent]", viewer = () => [...document.querySelectorAll(`${part}, ${part} *`)]
    .map((host) => (host.shadowRoot || host).querySelector(".viewer[data-image]")).find((found) => found);
  load.shown = () => {  // what the viewer shows: which image, what the detector says, what can be said of it
    const found = viewer();
    const buttons = found && [...found.querySelectorAll(".judging button")].map((button) => button.dataset.do);
    return found ? { image: found.dataset.image, told: found.querySelector(".stage canvas").ariaLabel, buttons } : null;
  };
  const over = () => [...document.querySelectorAll("[data-testid=stAlertContentInfo]")]  // the queue is empty now
    .some((one) => one.innerText.startsWith(EMPTY)) ? EMPTY : null;
  const chosen = (one) => one.ariaCurrent === "page" || (one.querySelector("input") || one).matches(":checked")
    || one.ariaChecked === "true";
  load.place = (kind, name, patience) => new Promise((done, fail) => {  // where it can be clicked, and if it is chosen
    const late = performance.now() + patience;
    let before = "";
    const look = () => {
      const named = (one) => (one.ariaLabel || one.innerText).trim() === name;
      const found = [...document.querySelectorAll(KINDS[kind])].find(named);
      if (found) {
        found.scrollIntoView({ block: "nearest" });
        const { x, y, width, height } = found.getBoundingClientRect(), at = [x + width / 2, y + height / 2];
        const covered = !found.contains(document.elementFromPoint(...at));
        if (!covered && width && before === at.join()) return done([...at, chosen(found)]);
        before = at.join();
      }
      if (performance.now() > late) fail(new Error(`there is no ${kind} ${name} to click`));
      else setTimeout(look, POLLING);
    };
    look();
  });
  load.begin = (doing, image) => {
    load.doing = doing;
    load.before = { runs: load.runs, image: image ? load.shown()?.image ?? null : undefined };
    document.activeElement?.blur();  // keys belong to what was clicked last
  };
  load.follow = (patience) => new Promise((done, fail) => {
    const { runs, image } = load.before, late = performance.now() + patience;
    const look = () => {
      const ran = load.runs > runs && load.settled;
      const there = ran && (image === undefined || load.shown()?.image || over());
      if (there && there !== image) {
        const wrong = document.querySelectorAll("[data-testid=stException], [data-testid=stAlertContentError]");
        const ended = image === undefined ? load.settled : Math.max(load.settled, performance.now());
        done([ended - load.begun, [...wrong].map((one) => one.innerText)]);
      } else if (performance.now() > late) {
        fail(new Error(ran ? "another image did not come" : "the page did not settle"));
      } else setTimeout(look, POLLING);
    };
    look();
  });
})()"""
"""Runs in every page before its own scripts: notes when somebody did something and when the app had run and was drawn.

What the page itself tells of its state does not do: a run that is over at once never shows there. All that the
benchmark asks of an update is asked here, in one call before it and one after: each call costs as much as a person's
key, and no person makes it.
"""


@dataclass(frozen=True)
class Plan:
    """sessions: browsers · seconds: how long they work · pause: seconds on average between two things they do."""

    sessions: int = 20
    seconds: float = 60.0
    pause: float = 5.0
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


def watch() -> str:
    """WATCH with its pace, and the numbers that Streamlit's messages have in this version."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    field = ForwardMsg.DESCRIPTOR.fields_by_name["script_finished"].number
    return (
        WATCH.replace("SCRIPT_FINISHED", str(field << 3))
        .replace("FOR_RERUN", str(ForwardMsg.ScriptFinishedStatus.Value("FINISHED_EARLY_FOR_RERUN")))
        .replace("POLLING", str(POLLING))
        .replace("OPENING", repr(OPEN))
        .replace("EMPTY", repr(EMPTY))
    )


class Session:
    """One browser, and who sits there: always the same person of the same number, by a seeded chance."""

    def __init__(self, number: int, loaded: Loaded, plan: Plan) -> None:
        self.number, self.loaded, self.plan = number, loaded, plan
        self.chance = random.Random(number)
        self.begun = time.perf_counter()
        self.doing = ""
        self.tab: Tab

    async def open(self, browser: Chromium, address: str) -> None:
        """Comes in, and chooses the folder of images."""
        self.tab = await browser.tab(1366, 768, watch())
        async with self.updated(OPEN):
            await self.tab.goto(address)
        async with self.updated(FOLDER, image=True):
            await self.click("radio", "Folder")

    async def work(self) -> None:
        """Goes from page to page until the time is over; a fault ends the session and is noted."""
        try:
            await asyncio.sleep(self.plan.pause * self.chance.random())  # not all press their first key at once
            while self.left() > 0:
                pages = (self.inspect, self.review, self.production, self.reports)
                (act,) = self.chance.choices(pages, (5, 5, 1, 1))
                await act()
        except Exception as error:  # whatever it is, it is what a person would have met
            self.wrong("a session", f"{self.doing}: {type(error).__name__}: {error}")

    async def sent(self) -> list[tuple[str, bytes]]:
        """What the page has sent to the server, each with what it was about."""
        return [(what, b64decode(data)) for what, data in await self.tab.evaluate("load.sent")]

    def left(self) -> float:
        return self.plan.seconds - (time.perf_counter() - self.begun)

    def wrong(self, where: str, what: str) -> None:
        self.loaded.errors.append(f"{where} {self.number}: {what.strip()[:300]}")

    @asynccontextmanager
    async def updated(self, what: str, image: bool = False) -> AsyncIterator[None]:
        """Around what a person does: times the page until it has run, and with `image` until another one is drawn."""
        self.doing = what
        if what != OPEN:
            await self.tab.evaluate(f"load.begin({json.dumps(what)}, {json.dumps(image)})")
        yield
        took, faults = await self.tab.evaluate(f"load.follow({1000 * PATIENCE})")
        self.loaded.updates.append(Update(what, self.number, took / 1000))
        for text in faults:  # what a page calls an error, but for the alarm of drift, which is one of the line
            if "have left the calibration" not in text:
                self.wrong("the page", text)
        while self.tab.faults:
            self.wrong("the page", self.tab.faults.pop())

    async def shown(self) -> dict[str, Any] | None:
        """What the viewer shows; None where there is none."""
        found: dict[str, Any] | None = await self.tab.evaluate("load.shown()")
        return found

    async def place(self, kind: str, name: str) -> tuple[float, float, bool]:
        """Where a link, a radio button or a field of this name can be clicked, and whether it is chosen."""
        x, y, chosen = await self.tab.evaluate(f"load.place({json.dumps(kind)}, {json.dumps(name)}, {1000 * PATIENCE})")
        return x, y, chosen

    async def click(self, kind: str, name: str) -> None:
        x, y, _ = await self.place(kind, name)
        await self.tab.click(x, y)

    async def choose(self, kind: str, name: str, what: str) -> None:
        """Clicks what is not chosen yet, and looks at what comes."""
        x, y, chosen = await self.place(kind, name)
        if not chosen:
            async with self.updated(what):
                await self.tab.click(x, y)

    async def pause(self) -> None:
        await asyncio.sleep(self.plan.pause * self.chance.uniform(0.4, 1.6))

    async def go(self, title: str) -> None:
        await self.choose("link", title, f"go to {title}")
        await self.pause()

    async def press(self, key: str, what: str, image: bool = True) -> None:
        async with self.updated(what, image):
            await self.tab.press(key)
        await self.pause()

    async def inspect(self) -> None:
        await self.go("Inspect")
        for _ in range(self.chance.randint(3, 8)):
            if self.left() <= 0:
                return
            await self.press("n", "next image")
            if self.left() > 0 and self.chance.random() < 0.5:
                shown = await self.shown()
                accepted = shown is not None and ": accept, " in shown["told"]  # else a box must be drawn first
                await self.press("a" if accepted else self.chance.choice("ar"), "accept or reject", image=False)

    async def review(self) -> None:
        await self.go("Review queue")
        for _ in range(self.chance.randint(3, 8)):
            if self.left() <= 0 or (shown := await self.shown()) is None:
                return
            doubted = "false alarm" in shown["buttons"]
            await self.press(self.chance.choice("cf" if doubted else "c"), "review an image")
        for text in (str(self.chance.randint(0, 9)), ""):
            x, y, _ = await self.place("field", "Path contains")
            async with self.updated("filter the queue"):
                await self.tab.click(x, y, times=3)  # selects what stands there
                await self.tab.write(text)
                await self.tab.press("Enter")
            await self.pause()

    async def production(self) -> None:
        await self.go("Production")
        for name in self.chance.sample(SPANS, 3):
            if self.left() <= 0:
                return
            await self.choose("radio", name, "another time on Production")
            await self.pause()

    async def reports(self) -> None:
        await self.go("Reports")
        for name in ("A batch", "Newest first", "Worst first"):
            if self.left() <= 0:
                return
            await self.choose("radio", name, "another list on Reports")
            await self.pause()
