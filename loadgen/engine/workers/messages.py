"""What the process that conducts a run and its workers say to one another: JSON lines. Knows no process.

Nothing is pickled. The lines go through a worker's standard input and output, so what is secret in them (a key in a
server's headers) is in no file and on no command line.
"""

import base64
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.child import Child
from loadgen.engine.request_limits import RequestLimits
from loadgen.plan.plan import Plan, Stage
from loadgen.record import StageFacts
from loadgen.targets.probe.answers import StreamAnswers
from loadgen.targets.served import Served


class StartWorker(Struct, frozen=True, tag=True):
    """The first line to a worker."""

    plan: Plan
    """Its scenario and prompts; stages come later, one by one."""
    epoch_ns: int
    """The run's beginning on the monotonic clock, which is one for all processes of a machine (CLOCK_MONOTONIC on
    Linux, mach time on macOS, the performance counter on Windows)."""
    log: str
    """The file that its records go to."""


class Prepare(Struct, frozen=True, tag=True):
    """Connect, and play the warm-up of a stage's part; answered by `Ready`."""

    stage: Stage
    served: dict[int, Served]
    """Its models, by their index in the plan."""


class Go(Struct, frozen=True, tag=True):
    """Play the measured requests from a moment of the monotonic clock on; answered by `Done`."""

    at_ns: int
    """A little ahead, so that all workers have read it by then."""
    limits_ns: RequestLimits
    """How long a request may take, by its model: equal for all workers, whoever played the warm-up."""


class Drain(Struct, frozen=True, tag=True):
    """Begin no more requests; those under way may end."""


class StopRuleMet(Struct, frozen=True, tag=True):
    """The stage's stop rule is met: begin no more of its requests. None of them is missed."""


class CancelInFlight(Struct, frozen=True, tag=True):
    """Give up what is under way."""


class Ready(Struct, frozen=True, tag=True):
    """The part is prepared."""


class Update(Struct, frozen=True, tag=True):
    """How far the part is, which the worker says once an interval, and that it is alive.

    The records themselves are in the worker's log, written before this is said: the conductor reads them there, so that
    nothing is encoded twice, and no worker ever waits for who reads.
    """

    log_bytes: int
    """Size of the worker's log so far, all of whole lines."""
    retries: tuple[int, ...] = ()
    """Which lines since the last update are of attempts that were not the last of their request; from 0."""


class Unwritable(Struct, frozen=True, tag=True):
    """The worker's last message: its log can no longer be written."""

    reason: str
    """In one line, for the person."""


class Done(Struct, frozen=True, tag=True):
    """The part has been played, and all of its records have been told of."""

    facts: StageFacts
    answers: StreamAnswers = {}
    """What the part's first answers showed of their servers."""


Command = StartWorker | Prepare | Go | Drain | StopRuleMet | CancelInFlight
WorkerEvent = Ready | Update | Unwritable | Done


def _plain(value: Any) -> Any:
    if isinstance(value, Child):
        return None  # only the process that started it can ask whether it lives
    if isinstance(value, np.ndarray):
        return value.astype("<i8").tobytes()  # sent as base64: a million due times are not parsed one by one
    raise NotImplementedError(f"{type(value)} is no part of a plan")


def _array(kind: type, value: Any) -> Any:
    return np.frombuffer(base64.b64decode(value), dtype="<i8").astype(np.int64)


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command, dec_hook=_array)
_events: msgspec.json.Decoder[WorkerEvent] = msgspec.json.Decoder(WorkerEvent)


def line_of(message: Command | WorkerEvent) -> bytes:
    """One line, with its end."""
    return _encoder.encode(message) + b"\n"


def decode_command(line: bytes) -> Command:
    """What a conductor's line says. Raises msgspec.MsgspecError."""
    return _commands.decode(line)


def decode_event(line: bytes) -> WorkerEvent:
    """What a worker's line says. Raises msgspec.MsgspecError."""
    return _events.decode(line)
