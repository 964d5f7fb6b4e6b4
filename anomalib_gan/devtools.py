"""Chromium driven over its DevTools protocol, with no more in the page than a person has: for measuring.

Playwright listens to the network of every page, and for that the browser codes each message from the server in base64
and hands it on: more work than decoding and drawing the image that it brought. Who measures a page can't have that.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

STARTING = 60.0
"""Seconds that the browser has to come up."""
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-extensions", "--disable-component-update",
    "--disable-background-networking", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
"""Every window is somebody's own, at the front of their screen: none is put to sleep because others cover it."""
KEYS = {"Enter": ("Enter", 13, "\r"), "Backspace": ("Backspace", 8, "")}
"""Code, number and text of the keys that are no letters."""


class DevToolsError(OSError):
    """The browser did not come up, did not do what was asked, or a script in a page failed."""


class Chromium:
    """A running browser: `tab` opens windows of it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async for text in self._socket:
                heard = json.loads(text)
                if (waiting := self._waiting.pop(heard.get("id", 0), None)) is not None:
                    if not waiting.done():
                        waiting.set_result(heard)
                elif heard.get("method") == "Runtime.exceptionThrown" and heard.get("sessionId") in self._tabs:
                    self._tabs[heard["sessionId"]].faults.append(_told(heard["params"]["exceptionDetails"]))
        except ConnectionClosed:
            return  # whoever waits, or calls later, is told below
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(DevToolsError("the browser has gone"))

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command of the protocol. DevToolsError tells what the browser says against it."""
        if self._listening.done():
            raise DevToolsError("the browser has gone")
        number = next(self._number)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self._socket.send(json.dumps(message))
        answer = await self._waiting[number]
        if "error" in answer:
            raise DevToolsError(f"{method}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    async def tab(self, width: int, height: int, script: str = "") -> Tab:
        """A new window of its own profile, with so many pixels. The script runs in each page before the page's own."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context, newWindow=True)
        session = (await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        await tab.call("Page.enable")
        await tab.call("Runtime.enable")
        await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        return tab

    async def close(self) -> None:
        await self.call("Browser.close")
        self._listening.cancel()


class Tab:
    """One window, and what a person does there. `faults`: errors that the page's scripts did not catch."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session
        self.faults: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **params)

    async def goto(self, address: str) -> None:
        if fault := (await self.call("Page.navigate", url=address)).get("errorText"):
            raise DevToolsError(f"{address}: {fault}")

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise. DevToolsError tells what it threw."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise DevToolsError(_told(found["exceptionDetails"]))
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        """A key: a letter, or one of KEYS."""
        code, number, text = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0]), key))
        named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def click(self, x: float, y: float, times: int = 1) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            pressed = {} if kind == "mouseMoved" else {"button": "left", "clickCount": times}
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    async def write(self, text: str) -> None:
        """In place of what is selected."""
        if text:
            await self.call("Input.insertText", text=text)
        else:
            await self.press("Backspace")


def _told(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Chromium]:
    """A browser without a window on the screen, and with an empty profile; gone afterwards.

    DevToolsError where it does not come up.
    """
    from websockets.asyncio.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = Path(profile, "DevToolsActivePort")
            for _ in range(int(10 * STARTING)):
                if process.poll() is not None or (port.exists() and len(port.read_text().split()) == 2):
                    break
                await asyncio.sleep(0.1)
            if not port.exists():
                raise DevToolsError(f"{program} does not come up")
            number, path = port.read_text().split()
            async with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as socket:
                browser = Chromium(socket)
                yield browser
                await browser.close()
        finally:
            ended(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, and ends it where it does not."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
