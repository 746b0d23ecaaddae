"""Downloads a model: reports progress, retries, and ends if nothing arrives. Knows no runtime and no output."""

import inspect
import re
import threading
from collections.abc import Callable
from typing import Any, Final

from loadgen.targets.foundry.events import DownloadFailed, DownloadProgress, Send

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 8.0
_SOURCE_LINE: Final = re.compile(r"^\S+\.(?:cc|cpp|cxx|h|hpp):\d+ (?=[^(]*\()")

_SIGNATURE_END: Final = re.compile(r">? (?:const )?")


class CannotServe(Exception):  # noqa: N818  it names a finding, not a fault of ours
    """A model cannot be used. kind: one of a closed set. remedy: what the user can do."""

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.kind, self.remedy = kind, remedy


def download(variant: Any, send: Send, *, stall_s: float, tries: int, pause_s: float = _PAUSE_S) -> None:
    """Download a variant into the cache, unless it is there. pause_s: the pause before the second try; each next one is
    twice as long. Raises CannotServe if the last try fails."""
    if variant.is_cached:
        return
    problem: str | None = None
    for number in range(1, tries + 1):
        problem = _DownloadTry(send, stall_s).run(variant)
        if problem is None:
            return
        send(DownloadFailed(number, tries, problem))
        if number < tries:
            threading.Event().wait(min(_LONGEST_PAUSE_S, pause_s * 2 ** (number - 1)))
    remedy = "check the network and the disk, then run again: a download continues where it stopped"
    raise CannotServe("not_downloaded", f"{variant.id} could not be downloaded: {problem}", remedy)


class _DownloadTry:
    """One try, in a thread that may never return, because the runtime checks `cancel` only when something arrives."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self._moved, self._cancel, self._done = threading.Event(), threading.Event(), threading.Event()
        self._percent: float | None = None
        self._calls, self._sent_percent = 0, -1.0
        self._error: BaseException | None = None

    def run(self, variant: Any) -> str | None:
        """Download a variant; returns what went wrong, or None."""
        threading.Thread(target=self._work, args=(variant.download,), daemon=True).start()
        while not self._done.is_set():
            if not self._moved.wait(self._stall_s):
                self._cancel.set()
                return self._describe_stall()
            self._moved.clear()
        return None if self._error is None else describe_error(self._error)

    def _work(self, fetch: Callable[..., Any]) -> None:
        try:
            more = {"cancel_event": self._cancel} if "cancel_event" in inspect.signature(fetch).parameters else {}
            fetch(self._on_progress, **more)
        except BaseException as error:  # noqa: BLE001  `run` returns every error
            self._error = error
        finally:
            self._done.set()
            self._moved.set()

    def _on_progress(self, percent: float) -> None:
        # The runtime repeats the same number while it waits, which is no progress.
        self._calls += 1
        if percent == self._percent or self._cancel.is_set():
            return
        self._percent = percent
        self._moved.set()
        # The runtime's threads may report out of order, and the bar must not go back.
        if (rounded := round(float(percent), 1)) > self._sent_percent:
            self._sent_percent = rounded
            self._send(DownloadProgress(rounded))

    def _describe_stall(self) -> str:
        text = f"nothing arrived for {self._stall_s:g} s"
        # The runtime repeats 0 while another process has locked the model's folder.
        return f"{text}; is another program downloading it?" if self._calls > 2 and not self._percent else text


def describe_error(error: BaseException) -> str:
    """An error in one line, without the source location with which the runtime begins it."""
    text = " ".join(str(error).split())
    place = _SOURCE_LINE.match(text)
    if place is not None:
        text = _after_signature(text[place.end() :])
    return text or type(error).__name__


def _after_signature(text: str) -> str:
    """The text after a C++ signature, which ends where its outermost brackets close before a space."""
    depth = 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ")" and depth == 0 and (end := _SIGNATURE_END.match(text, at + 1)):
            return text[end.end() :]
    return text
