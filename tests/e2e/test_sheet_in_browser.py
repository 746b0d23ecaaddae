"""A sheet is filled in and saved in a browser, and its notes come back."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.grade.sheet import Sheet, sheet_of
from loadgen.decisions.grade.sheet_files import read_sheet, sheet_page
from tests.selected_runs import SelectedModel, write_run

pytestmark = pytest.mark.e2e

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AT = "2026-01-02T03:04:05.000+00:00"
FILL_IN = """
document.getElementById('by').value = 'ana';
[...document.querySelectorAll('fieldset')].forEach((field, at) => {
  if (at % 5) field.querySelectorAll('input')[at % 5].click();
});
document.querySelector('input[data-comment]').value = 'a “fine” one, =1+1';
document.getElementById('state').textContent
"""
SAVE = "document.getElementById('save').click()"


WITH_PIPE = "import os, sys; [os.dup2(int(sys.argv[n - 2]), n) for n in (3, 4)]; os.execv(sys.argv[3], sys.argv[3:])"
"""Becomes a program whose files 3 and 4 are those that are named first."""


class Browser:
    """A browser that is told what to do over a pipe, by its debugging protocol."""

    def __init__(self, folder: Path) -> None:
        program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if program is None:
            pytest.skip("no browser")
        in_end, self._write = os.pipe()
        self._read, out_end = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (in_end, out_end)]  # so that 3 and 4 are free
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}")
        self._process = subprocess.Popen(
            [sys.executable, "-c", WITH_PIPE, *map(str, high), program, *flags, "--remote-debugging-pipe"],
            pass_fds=high,
            stderr=subprocess.DEVNULL,
        )
        for end in (in_end, out_end, *high):
            os.close(end)
        self._left = b""
        self._events: list[dict[str, Any]] = []
        self._sent = 0

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (answer := self._message()).get("id") != self._sent:
            self._events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, is_it: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for an event, unless it has come already."""
        while not any(map(is_it, self._events)):
            self._events.append(self._message())

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._read], [], [], 60)[0], "the browser says nothing"
            data = os.read(self._read, 65536)
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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    started = Browser(tmp_path / "profile")
    yield started
    started.close()


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    models = (SelectedModel(name="a", points=(4, 3)), SelectedModel(name="b", points=(1, 2)))
    return sheet_of(read_runs([write_run(tmp_path / "run", models)]), 2)


def test_a_sheet_that_is_filled_in_in_a_browser_comes_back(browser: Browser, sheet: Sheet, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    page.write_text(sheet_page(sheet, ""), "utf-8")
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.ask("Page.enable", session)
    browser.ask("Page.navigate", session, url=page.as_uri())
    browser.wait_for(lambda event: event["method"] == "Page.loadEventFired")
    state = browser.ask("Runtime.evaluate", session, expression=FILL_IN, userGesture=True)["result"]["value"]
    assert state.endswith(f" of {len(sheet.answers)} graded")
    browser.ask("Runtime.evaluate", session, expression=SAVE, userGesture=True)
    browser.wait_for(lambda event: event["params"].get("state") == "completed")

    notes = read_sheet(tmp_path / "notes-ana.json", sheet, None, AT)
    places = [(answer.answer, aspect) for answer in sheet.order_for("") for aspect in sheet.aspects]
    assert {(each.answer, each.aspect): each.note for each in notes} == {
        place: at % 5 + 1 for at, place in enumerate(places) if at % 5
    }
    assert {each.by for each in notes} == {"ana"}
    assert {each.reason for each in notes if each.answer == places[0][0]} == {"a “fine” one, =1+1"}
