"""The windows that one worker sends of one stage, on their way to the `WindowWriter`. If the worker is lost, what it
had recorded and not sent is read from its log."""

from collections import deque

from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.soak.windows import WindowPart
from loadgen.record import Record
from loadgen.store.log_reader import LogReader


class WindowParts:
    """Takes what a worker sends of its part of a stage."""

    def __init__(self, writer: WindowWriter, place: int, log: LogReader) -> None:
        """place: the worker's number among those that play the stage. log: its records, read until its measured ones
        begin."""
        self._writer = writer
        self._place = place
        self._log = log
        self._sizes: deque[tuple[int, int]] = deque()
        """When an update came, since the run began, and how large the log was then."""
        self._settled = log.position
        """All records before this place in the log are in the windows that were sent."""
        self._size = log.position
        """How large the log is, by the last update."""
        self._last: WindowPart | None = None

    def note_size(self, log_bytes: int) -> None:
        """An update has come."""
        self._sizes.append((self._writer.now_ns, log_bytes))
        self._size = log_bytes

    def take(self, part: WindowPart) -> int:
        """A window has come; returns how many requests ended in it."""
        # What was in the log before the end of this window had ended in it, or before it.
        while self._sizes and self._sizes[0][0] <= part.end_ns:
            self._settled = self._sizes.popleft()[1]
        self._last = part
        self._writer.take(self._place, part)
        return sum(sum(interval.by_outcome.values()) for interval in part.intervals)

    def finish(self) -> None:
        """The worker has sent all of its windows."""
        self._log.skip_to(self._size)
        self._writer.finish(self._place)

    def recover(self) -> int:
        """The worker is lost: fold what it had recorded after the last window that it sent; returns how many requests
        that were. Raises FolderError if its log cannot be read."""
        self._log.skip_to(self._settled)
        # The last attempt of a request counts, as in the records of any run.
        unsent = {
            (record.stage_key, record.index): record
            for record in self._log.read_rest()
            if record.phase == "measured" and self._is_unsent(record)
        }
        for record in unsent.values():
            self._writer.take_late(record)
        self._writer.finish(self._place)
        return len(unsent)

    def _is_unsent(self, record: Record) -> bool:
        ended_ns = record.intended_ns if record.end_ns is None else record.end_ns
        return self._last is None or ended_ns >= self._last.end_ns
