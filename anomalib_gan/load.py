"""The dashboard under load: people at browsers who work as operators do, how long their pages take, what it costs.

Each of the `sessions` is a browser of its own: it goes through images, judges them, works off the review queue, looks
at production and reports, and pauses to look. A page update lasts from the key or the click until the page has run and
shows its image, by the clock of the browser. Here browsers and server share a machine, people's are elsewhere: so what
the browsers sent is sent once more without them, to a server begun anew, and its answers are timed alone.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_gan.benchmarking import opener_of
from anomalib_gan.devtools import chromium, ended
from anomalib_gan.load_sessions import FOLDER, OPEN, PATIENCE, Loaded, Plan, Session, Update
from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.benchmark import make
from anomalib_gan.records.scoring import score_folder
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.image import find_images
from anomalib_gan.runtime.inspector import Inspector

MEMORY = {"alone": "before anybody came", "open": "with all of them there", "end": "at the end"}


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
        ended(server)


def run(folder: Path, start: Sequence[str], plan: Plan, say: Callable[[str], None]) -> Loaded:
    """Lets the plan's sessions work on the dashboard of a prepared folder.

    OSError where Chromium is missing. Whatever goes wrong in a session or in the server is among the errors.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise OSError("Chromium is not installed: apt-get install chromium")
    loaded, database = Loaded(), folder / "results.db"
    with Archive(database) as records:
        records.backup(folder / "before.db")
    with serving(start, folder) as (address, server):
        asyncio.run(_work(address, server, program, plan, say, loaded))
    _look(folder / "log", loaded)
    with Archive(database) as records:
        loaded.reviews = sum(one.who == "local" for one in records.reviews())
    for left in folder.glob("results.db-*"):  # of a server that did not end by itself
        left.unlink()
    os.replace(folder / "before.db", database)
    with serving(start, folder) as (address, server):
        say("the same once more, without browsers")
        asyncio.run(_repeat(address, server, plan, loaded))
    _look(folder / "log", loaded)
    return loaded


def _look(log: Path, loaded: Loaded) -> None:
    text = log.read_text(errors="replace")
    if "Traceback" in text:
        loaded.errors.append(f"the server: {text[text.index('Traceback') :][:500]}")


async def _work(
    address: str, server: int, program: str, plan: Plan, say: Callable[[str], None], loaded: Loaded
) -> None:
    async with chromium(program) as browser:
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
        loaded.sent = [await one.sent() for one in sessions]


async def _repeat(address: str, server: int, plan: Plan, loaded: Loaded) -> None:
    """Every session's messages again, each once the one before is answered and looked at."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.asyncio.client import connect

    async def session(number: int) -> None:
        chance = random.Random(number)
        url = address.replace("http", "ws", 1) + "/_stcore/stream"
        async with connect(url, origin=address, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[arg-type, list-item]
            await asyncio.sleep(plan.pause * chance.random())
            for what, data in loaded.sent[number]:
                if BackMsg.FromString(data).WhichOneof("type") != "rerun_script":
                    continue
                begun = time.perf_counter()
                await socket.send(data)
                kind = None
                while kind != "script_finished":
                    heard = await asyncio.wait_for(socket.recv(decode=False), PATIENCE)
                    kind = ForwardMsg.FromString(heard).WhichOneof("type")
                loaded.answers.append(Update(what, number, time.perf_counter() - begun))
                await asyncio.sleep(plan.pause * chance.uniform(0.4, 1.6))

    before, begun = _processor(server)[0], time.perf_counter()
    for fault in await asyncio.gather(*(session(one) for one in range(plan.sessions)), return_exceptions=True):
        if fault is not None:
            loaded.errors.append(f"without browsers: {type(fault).__name__}: {fault}")
    loaded.alone = (_processor(server)[0] - before) / (time.perf_counter() - begun)


async def _watch(server: int, loaded: Loaded, plan: Plan) -> None:
    """Notes the memory after each third of the time."""
    for part in (1, 2):
        await asyncio.sleep(plan.seconds / 3)
        loaded.memory[f"{part * plan.seconds / 3:.0f} s"] = _memory(server)


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
    lines = ["| page update | times | median s | p95 s | longest s | the server alone: median s | p95 s | longest s |"]
    lines.append("|---" * 8 + "|")
    for what in ("all", *sorted({one.what for one in work})):
        figures = []
        for found in (work, loaded.answers):
            spent = [one.seconds for one in found if one.what not in (OPEN, FOLDER) and what in ("all", one.what)]
            figures += [*np.quantile(spent, (0.5, 0.95)), max(spent)] if spent else []
        times = sum(what in ("all", one.what) for one in work)
        if times:
            lines.append(f"| {what} | {times} | {' | '.join(f'{one:.2f}' for one in figures)} |")
    memory = (f"{1e-6 * one:,.0f} MB {MEMORY.get(when, f'after {when}')}" for when, one in loaded.memory.items())
    lines += [
        "",
        f"{plan.sessions} sessions in Chromium for {plan.seconds:g} s, {plan.pause:g} s on average between two things "
        f"that one does, over {plan.history:,} inspections and {plan.pictures} images; {loaded.reviews} reviews "
        f"written, errors: {len(loaded.errors)}. Coming in: median {np.median(opening):.1f} s, longest "
        f"{max(opening):.1f} s. "
        f"Memory of the server: {', '.join(memory)}. Processors kept busy: {loaded.server:.2f} by the server, "
        f"{loaded.browsers:.2f} by the browsers; {loaded.alone:.2f} by the server alone.",
        *(f"- {error}" for error in loaded.errors[:10]),
        "",
        f"    {command}",
        "",
        origin,
    ]
    return "\n".join(lines) + "\n"
