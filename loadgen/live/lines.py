"""Progress where there is no terminal to draw a bar on: a plain line a minute, and each note at once."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from loadgen.live.sink import NullSink, StageStart
from loadgen.record import Record

PERIOD_S: Final = 60.0


class ProgressLines(NullSink):
    """What is done now and how far it is, as a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._doing = ""
        self._done, self._failed = 0, 0
        self._total: int | None = None
        self._known = ""
        self._share: float | None = None

    def note(self, text: str) -> None:
        self._write(text)

    def work(self, title: str, share: float | None) -> None:
        if share is None:
            self.note(title)
        else:
            self._begin(title)
            self._share = share

    def begin(self, title: str, completed: int, total: int | None) -> None:
        self._begin(title)
        self._done, self._total = completed, total

    def start(self, stage: StageStart) -> None:
        self.begin(f"{', '.join(stage.models)}, {stage.level}", 0, stage.count)

    def record(self, record: Record) -> None:
        if record.phase == "measured":
            self._done += 1
            self._failed += record.outcome != "ok"

    def known(self, text: str) -> None:
        self._known = text

    def line(self, minutes: int) -> str:
        """Such as `3 min: tiny, c4: 7 of 12, 1 failed`."""
        of_all = "" if self._total is None else f" of {self._total}"
        how_far = f"{self._share:.0%}" if self._share is not None else f"{self._done}{of_all}"
        parts = (how_far, f"{self._failed} failed" if self._failed else "", self._known)
        return f"{minutes} min: {self._doing or 'starting'}: {', '.join(part for part in parts if part)}"

    def _begin(self, title: str) -> None:
        self._doing = title
        self._done, self._failed, self._total, self._known, self._share = 0, 0, None, "", None


@contextlib.contextmanager
def progress_lines(write: Callable[[str], None], period_s: float = PERIOD_S) -> Iterator[ProgressLines]:
    """While the context lasts, a line a period is written, whatever else this process waits for."""
    lines = ProgressLines(write)
    ended = threading.Event()

    def tick() -> None:
        minutes = 0
        while not ended.wait(period_s):
            minutes += 1
            write(lines.line(minutes))

    thread = threading.Thread(target=tick, name="progress lines", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()
