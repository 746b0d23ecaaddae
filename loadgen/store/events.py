"""The events of a soak, as lines of `events.jsonl`: what happened to its server, its machine and its log. Knows no
engine."""

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from loadgen.clock import Clock, utc_now
from loadgen.errors import InputError
from loadgen.redact import redact_key_bytes

EVENTS: Final = "events.jsonl"
MOST_UNWRITTEN: Final = 1000
"""How many events wait at most until they can be written."""

EventKind = Literal[
    "server_gone",
    "server_back",
    "server_restarted",
    "suspended",
    "stopped",
    "clock_stepped",
    "throttled",
    "power_changed",
    "records_dropped",
    "records_reopened",
    "disk_low",
    "resumed",
    "model_reloaded",
]
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)


class Event(Struct, frozen=True):
    """Something that happened during a soak: a line of `events.jsonl`."""

    kind: EventKind
    at_ns: int
    """When it began, on the run's clock, which counts from the run's beginning."""
    at_utc: str
    """The same by the wall clock, as that stood when the event was written."""
    for_s: float | None = None
    """How long it lasted; of `server_back`, how long the server was gone. None: not known, or no matter of time."""
    detail: str = ""
    """What happened, in words."""
    model: str | None = None
    """Whose server it was; None: it concerns all of them."""

    @property
    def line(self) -> str:
        """The event for somebody who watches: `m: server gone: Connection refused`."""
        parts = (self.model or "", self.kind.replace("_", " "), self.detail)
        return ": ".join(part for part in parts if part)


class EventLog:
    """The events of a run, each written and flushed at once.

    A disk that is full raises nothing here: events are few, and wait in memory until they can be written. Who watches
    the disk reports it.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        epoch_ns: int,
        *,
        on_event: Callable[[Event], None] | None = None,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        """epoch_ns: the run's beginning, on the clock. on_event: called with each event. wall: the wall clock."""
        self._path = folder / EVENTS
        self._clock = clock
        self._epoch_ns = epoch_ns
        self._on_event = on_event
        self._wall = wall
        self._unwritten: deque[bytes] = deque(maxlen=MOST_UNWRITTEN)

    def record(
        self,
        kind: EventKind,
        detail: str,
        *,
        at_ns: int | None = None,
        for_s: float | None = None,
        model: str | None = None,
    ) -> None:
        """Add an event. at_ns: when it began, on the clock; None: now."""
        now_ns = self._clock.now_ns()
        began_ns = now_ns if at_ns is None else at_ns
        at = self._wall() - timedelta(microseconds=(now_ns - began_ns) / 1e3)
        moment = at.isoformat(timespec="milliseconds")
        self.add(Event(kind, began_ns - self._epoch_ns, moment, for_s, detail, model))

    def add(self, event: Event) -> None:
        self._unwritten.append(redact_key_bytes(msgspec.json.encode(event)) + b"\n")
        self.write_rest()
        if self._on_event is not None:
            self._on_event(event)

    def write_rest(self) -> int:
        """Try to write the events that are not on disk yet; returns how many of them still are not."""
        while self._unwritten:
            try:
                _append(self._path, self._unwritten[0])
            except OSError:
                break
            self._unwritten.popleft()
        return len(self._unwritten)


def _append(path: Path, line: bytes) -> None:
    """Append a line to a file, which is opened anew each time, because somebody may have renamed it. Raises OSError."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # a process that was killed, or a full disk, has left a part of a line
                line = b"\n" + line
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]


def read_events(folder: Path) -> tuple[Event, ...]:
    """The events of a run in the order in which they were written; none if it has no such log.

    A line that was torn, or that a later version wrote, is left out. Raises InputError if the log cannot be read.
    """
    path = folder / EVENTS
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); fix that, or name another run"
        ) from error
    events = []
    decoder = msgspec.json.Decoder(Event)
    for line in lines:
        try:
            events.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return tuple(events)
