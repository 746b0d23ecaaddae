"""Progress without a terminal: one plain line a minute."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from loadgen.live.sink import EndedCounts, NullSink, StageStart
from loadgen.record import Record

PERIOD_S: Final = 60.0


class ProgressLines(NullSink):
    """What is in progress and how much of it is done, as a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """write: called with a line that the user must see at once."""
        self.warn = write
        self._run = ""
        """Which of several runs is in progress."""
        self._doing = "starting"
        self._warmed_up = 0
        """How many warm-up requests of the stage have ended."""
        self._done: int | None = None
        """How many requests or steps are done; None if nothing is counted."""
        self._failed = 0
        self._total: int | None = None
        self._unit = ""
        self._known = ""
        self._share: float | None = None

    def announce(self, text: str) -> None:
        self._begin(text)

    def begin_run(self, title: str) -> None:
        self._run = title

    def work(self, title: str, share: float | None) -> None:
        self._begin(title)
        self._share = share

    def begin(self, title: str, completed: int, total: int | None) -> None:
        self._begin(title)
        self._done, self._total = completed, total

    def start(self, stage: StageStart) -> None:
        self.begin(f"{', '.join(stage.models)}, {stage.title}", 0, stage.count)
        self._unit = " requests"

    def record(self, record: Record) -> None:
        if record.phase == "warmup":
            self._warmed_up += 1
        else:
            self.take_counts(EndedCounts(1, int(record.outcome != "ok")))

    def take_counts(self, counts: EndedCounts) -> None:
        self._done = (self._done or 0) + counts.ended
        self._failed += counts.failed

    def known(self, text: str) -> None:
        self._known = text

    def line(self, minutes: int) -> str:
        """Such as `3 min: run 2 of 5: tiny, c4: 7 of 12, 1 failed`."""
        of_all = self._unit if self._total is None else f" of {self._total}"
        share = "" if self._share is None else f"{self._share:.0%}"
        counted = "" if self._done is None else f"{self._done}{of_all}"
        warm_up = f"{self._warmed_up} in the warm-up" if self._warmed_up and not self._done else ""
        parts = (share, counted, warm_up, f"{self._failed} failed" if self._failed else "", self._known)
        texts = (f"{minutes} min", self._run, self._doing, ", ".join(filter(None, parts)))
        return ": ".join(filter(None, texts))

    def _begin(self, title: str) -> None:
        self._doing = title
        self._done, self._failed, self._total, self._known, self._share = None, 0, None, "", None
        self._warmed_up, self._unit = 0, ""


@contextlib.contextmanager
def progress_lines(write: Callable[[str], None], period_s: float = PERIOD_S) -> Iterator[ProgressLines]:
    """While the context lasts, write one line each period, from a thread, so that nothing else delays it."""
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
