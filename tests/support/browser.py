"""A real Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has no other way, and the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


@dataclass
class Page:
    """One tab.

    Attributes:
        errors: what its console complained of, exceptions and refused or missing resources included.
        requests: URLs that it asked for, but those of data.
    """

    _socket: aiohttp.ClientWebSocketResponse
    _session: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def show(
        self, url: str, *, width: int = 1280, height: int = 900, theme: Literal["light", "dark"] = "light"
    ) -> None:
        """Open a page and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), 60)

    async def ask(self, script: str) -> Any:
        """What an expression comes to; a promise is waited for."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, condition: str, seconds: float = 120) -> None:
        """Wait until an expression holds."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.ask(f"Boolean({condition})"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.ask("document.body.innerText")
            raise TimeoutError(f"after {seconds} s: {condition}\n{shown}") from None

    async def press(self, key: str) -> None:
        """Press and release a key, such as ``Enter`` or ``ArrowRight``; or type one character."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "End": 35}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def click(self, selector: str) -> None:
        """Click in the middle of the first element that fits, wherever it is in view."""
        middle = (
            f"(() => {{ const box = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        x, y = await self.ask(middle)
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def write(self, text: str) -> None:
        """Write into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def screenshot(self, path: Path) -> Path:
        """A picture of what is in view."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": params, **session})
        try:
            reply = await asyncio.wait_for(answer, 60)
        finally:
            del self._answers[number]  # it may come after nobody waits any more
        assert "error" not in reply, (method, reply["error"])
        result: dict[str, Any] = reply["result"]
        return result

    async def _listen(self) -> None:
        async for message in self._socket:
            event = message.json()
            answer = self._answers.get(event.get("id", -1))
            if answer and not answer.done():
                answer.set_result(event)
            elif "method" in event:
                self._note(event["method"], event.get("params", {}))

    def _note(self, event: str, about: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.exceptionThrown":
                self.errors.append(str(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.errors.append(str(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
            case "Network.requestWillBeSent" if not about["request"]["url"].startswith("data:"):
                self.requests.append(about["request"]["url"])


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Page]:
    """A browser of its own with one tab; ``profile`` is a directory for what it keeps."""
    command = ["chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        endpoint = await _endpoint(profile)
        async with aiohttp.ClientSession() as http, http.ws_connect(endpoint, max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page._listen())
            targets = await page.call("Target.getTargets")
            (tab,) = (t["targetId"] for t in targets["targetInfos"] if t["type"] == "page")
            attached = await page.call("Target.attachToTarget", targetId=tab, flatten=True)
            page._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.call(f"{domain}.enable")
            try:
                yield page
            finally:
                listening.cancel()
    finally:
        process.terminate()
        await process.wait()


async def _endpoint(profile: Path) -> str:
    """Where the browser listens, as it writes into its profile."""
    async with asyncio.timeout(60):
        while True:
            lines = (profile / "DevToolsActivePort").read_text().split() if _wrote(profile) else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)


def _wrote(profile: Path) -> bool:
    return (profile / "DevToolsActivePort").exists()
