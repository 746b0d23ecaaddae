"""The messages between the parent process and its workers, as JSON lines. Knows no process.

Nothing is pickled. The lines go through a worker's standard input and output, so that a secret in them, such as a key
in a server's headers, is in no file and on no command line.
"""

import base64
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.child import Child
from loadgen.engine.heartbeat import Gap
from loadgen.engine.request_limits import RequestLimits
from loadgen.engine.servers import WhenGone
from loadgen.engine.soak.segments import SegmentEvent, SegmentSettings
from loadgen.engine.soak.windows import WindowPart, WindowSettings
from loadgen.live.sink import EndedCounts
from loadgen.plan.plan import Plan, Stage
from loadgen.record import Record, StageFacts
from loadgen.targets.probe.answers import StreamAnswers
from loadgen.targets.served import Served


class StartWorker(Struct, frozen=True, tag=True):
    """The first line to a worker."""

    plan: Plan
    """With its scenario and prompts, without its stages, which come later one by one."""
    epoch_ns: int
    """The run's beginning on the monotonic clock, which is one for all processes of a machine (CLOCK_MONOTONIC on
    Linux, mach time on macOS, the performance counter on Windows)."""
    log: str
    """The path of the file to which the worker writes its records."""
    when_gone: WhenGone = "cancel"
    """What users do whose server accepts no connection. If they wait, the worker also notices when it is not run."""
    window_settings: WindowSettings | None = None
    """How it folds its measured records into windows, which it then sends; None: the parent process reads its log."""
    segments: SegmentSettings | None = None
    """How it splits its log; None: it does not. The parent process does not read a log that is split."""


class Prepare(Struct, frozen=True, tag=True):
    """Connect, and play the warm-up of a stage's part; answered by `Ready`."""

    stage: Stage
    served: dict[int, Served]
    """Its models, by their index in the plan."""


class Go(Struct, frozen=True, tag=True):
    """Play the measured requests from a moment of the monotonic clock on; answered by `Done`."""

    at_ns: int
    """A moment a little ahead, so that all workers have read the command by then."""
    limits_ns: RequestLimits
    """How long a request may take, by its model. The same for all workers, each of which saw only a part of the
    warm-up."""


class Drain(Struct, frozen=True, tag=True):
    """Begin no more requests; those in flight may end."""


class StopRuleMet(Struct, frozen=True, tag=True):
    """The stage's stop rule is met: begin no more of its requests. Those that were not sent get no record."""


class ServerBack(Struct, frozen=True, tag=True):
    """A server that was gone is back: the users that wait for it may go on."""

    model: int
    """The index of its model in the plan."""


class SplitLog(Struct, frozen=True, tag=True):
    """Close the segment of the log that is written, and begin the next one."""


class CancelInFlight(Struct, frozen=True, tag=True):
    """Give up the requests in flight."""


class Ready(Struct, frozen=True, tag=True):
    """The part is prepared."""


class Update(Struct, frozen=True, tag=True):
    """How far the part is. A worker sends it once an interval, which also shows that it is alive.

    The records themselves are in the worker's log, written before the update is sent. The parent process reads them
    there, so that nothing is encoded twice, and no worker waits for a reader.
    """

    log_bytes: int
    """Size of the worker's log so far, which has only complete lines."""
    retries: tuple[int, ...] = ()
    """Which lines since the last update, from 0, are attempts that were retried."""
    late: tuple[Record, ...] = ()
    """The requests that became late since the last update, as `LateSink` hears of them. They are not in the log."""
    gaps: tuple[Gap, ...] = ()
    """The times since the last update in which the worker was not run."""
    answers: tuple[Record, ...] = ()
    """Whether servers answered since the last update, as `AnswerSink` hears of it. Empty if the parent process reads
    the records."""
    warm_up: tuple[Record, ...] = ()
    """If the parent process does not read the log: the records of the warm-up since the last update, which are the
    first of these lines."""
    counts: EndedCounts = EndedCounts()
    """If the parent process does not read the log: how many measured requests have ended since the last update."""


class LogEvent(Struct, frozen=True, tag=True):
    """Something has happened to the worker's log, or to its disk."""

    kind: SegmentEvent
    detail: str


class Unwritable(Struct, frozen=True, tag=True):
    """The worker's last message: its log can no longer be written."""

    reason: str
    """One line for the user."""


class Done(Struct, frozen=True, tag=True):
    """The part has been played, and updates have covered all of its records."""

    facts: StageFacts
    answers: StreamAnswers = {}
    """What the part's first answers showed of their servers."""


Command = StartWorker | Prepare | Go | Drain | StopRuleMet | SplitLog | CancelInFlight | ServerBack
WorkerEvent = Ready | Update | WindowPart | LogEvent | Unwritable | Done


def _plain(value: Any) -> Any:
    if isinstance(value, Child):
        return None  # only the process that started the child can check on it
    if isinstance(value, np.ndarray):
        return value.astype("<i8").tobytes()  # sent as base64: a million due times are not parsed one by one
    raise NotImplementedError(f"{type(value)} is no part of a plan")


def _array(kind: type, value: Any) -> Any:
    return np.frombuffer(base64.b64decode(value), dtype="<i8").astype(np.int64)


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command, dec_hook=_array)
_events: msgspec.json.Decoder[WorkerEvent] = msgspec.json.Decoder(WorkerEvent)


def line_of(message: Command | WorkerEvent) -> bytes:
    """A message as one line, with its line end."""
    return _encoder.encode(message) + b"\n"


def decode_command(line: bytes) -> Command:
    """The command in a line to a worker. Raises msgspec.MsgspecError."""
    return _commands.decode(line)


def decode_event(line: bytes) -> WorkerEvent:
    """The event in a line from a worker. Raises msgspec.MsgspecError."""
    return _events.decode(line)
