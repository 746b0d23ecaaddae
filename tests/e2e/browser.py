"""A browser that is told what to do over a pipe, by its debugging protocol: one for all tests of a worker, and for each
page a context of its own, with no history and no cache."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,2400",
    "--remote-debugging-pipe",
)
WITH_PIPE = "import os, sys; [os.dup2(int(sys.argv[n - 2]), n) for n in (3, 4)]; os.execv(sys.argv[3], sys.argv[3:])"
"""Becomes a program whose files 3 and 4 are those that are named first."""
SETTLED_MS = 10_000
"""How much of a page's own time passes before it is looked at. It runs as fast as the machine can."""


class Page:
    """A page in a browser, and what the browser has said of it."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command."""
        return self._browser.ask(method, self._session, **params)

    def wait_for(self, method: str) -> None:
        """Wait for an event of this page, unless it has come already."""
        self._browser.wait_for(lambda event: event["method"] == method and event.get("sessionId") == self._session)

    def value_of(self, script: str) -> Any:
        """What a script gives, played as if the user had caused it."""
        return self.ask("Runtime.evaluate", expression=script, userGesture=True)["result"].get("value")

    def console(self) -> list[str]:
        """The lines on the page's console: what its scripts wrote, what they did not catch, and the browser's own."""
        events = [event for event in self._browser.events if event.get("sessionId") == self._session]
        own = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in events if event["method"] in own]


class Browser:
    """A browser that is told what to do over a pipe, by its debugging protocol."""

    def __init__(self, folder: Path) -> None:
        program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if program is None:
            pytest.skip(f"no browser is on the PATH: install {', '.join(BROWSERS[:-1])} or {BROWSERS[-1]}")
        in_end, self._write = os.pipe()
        self._read, out_end = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (in_end, out_end)]  # so that 3 and 4 are free
        self._process = subprocess.Popen(
            [sys.executable, "-c", WITH_PIPE, *map(str, high), program, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=high,
            stderr=subprocess.DEVNULL,
        )
        for end in (in_end, out_end, *high):
            os.close(end)
        self._left = b""
        self.events: list[dict[str, Any]] = []
        self._sent = 0

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (answer := self._message()).get("id") != self._sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, is_it: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for an event, unless it has come already."""
        while not any(map(is_it, self.events)):
            self.events.append(self._message())

    @contextmanager
    def page(self, downloads: Path) -> Iterator[Page]:
        """An empty page in a context of its own, which is gone afterwards. downloads: where it saves files."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        self.ask(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(downloads),
            eventsEnabled=True,
            browserContextId=context,
        )
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        try:
            yield page
        finally:
            self.ask("Target.disposeBrowserContext", browserContextId=context)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._read], [], [], 60)[0], "the browser says nothing"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._left += data
        message, self._left = self._left.split(b"\0", 1)
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
