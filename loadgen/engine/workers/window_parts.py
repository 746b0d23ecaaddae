"""The windows that one worker sends of one stage, on their way to the `WindowWriter`. If the worker is lost, what it
had recorded and not sent is read from its log."""

from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.engine.soak.windows import WindowPart
from loadgen.store.log_reader import records_since
from loadgen.store.run_folder import no_longer_written

if TYPE_CHECKING:
    from loadgen.engine.soak.window_writer import WindowWriter


class WindowParts:
    """Takes what a worker sends of its part of a stage."""

    def __init__(self, writer: "WindowWriter", place: int, log: Path) -> None:
        """place: the worker's number among those that play the stage. log: where it writes its records."""
        self._writer = writer
        self._place = place
        self._log = log
        self._sent_to_ns = writer.now_ns
        """All that ended before this moment since the run began is in the windows that were sent, or of an earlier
        stage."""

    def take(self, part: WindowPart) -> int:
        """A window has come; returns how many requests ended in it."""
        self._sent_to_ns = part.end_ns
        self._writer.take(self._place, part)
        return sum(sum(interval.by_outcome.values()) for interval in part.intervals)

    def finish(self) -> None:
        """The worker has sent all of its windows."""
        self._writer.finish(self._place)

    def recover(self) -> int:
        """The worker is lost: fold what it had recorded after the last window that it sent; returns how many requests
        that were. Raises FolderError if its log cannot be read."""
        try:
            # The last attempt of a request counts, as in the records of any run.
            unsent = {
                (record.stage_key, record.index): record
                for record in records_since(self._log, self._sent_to_ns)
                if record.phase == "measured"
            }
        except OSError as error:
            raise no_longer_written(self._log.parent, error) from error
        for record in unsent.values():
            self._writer.take_late(record)
        self._writer.finish(self._place)
        return len(unsent)
