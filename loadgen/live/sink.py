"""Sinks receive the records of a run while it is in progress, the same records however many processes play.

They are called in this order: `RequestLog`, or in a soak `SegmentLog` (engine/soak/segments.py), and `StageLog`
(store/run_folder.py), the progress (live/bar.py, live/lines.py), the sinks that a program passed to `play_plan`,
`WarmUpTimes` (engine/request_limits.py), and `StopRuleSink` (engine/stop_rule_sink.py), or in a search `VisitWatch`
(decisions/capacity/play.py), a `LateSink`. In a worker: the log of the records, then `Updates` and `FactsHolder`
(engine/workers/worker.py). live/recorder.py is one that a program may pass. A soak (engine/soak/) has `InFlightLog`
after the progress, and at the end `StageSpan`, `OutageWatch`, `WindowSink` and `WindowWriter`; its workers have
`InFlightLog`, `LastAnswers` and `WindowSink` before `FactsHolder`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from loadgen.errors import LoadgenError, SinkError
from loadgen.record import BegunRequest, LatencyOrigin, Record, StageFacts
from loadgen.telemetry.observer import Observer


class StageStart(Struct, frozen=True):
    """A stage that begins."""

    models: tuple[str, ...]
    """The names of its models. `targets` has the target of each, in the same order."""
    targets: tuple[str, ...]
    level: str
    latency_origin: LatencyOrigin
    """The moment from which latencies count."""
    count: int | None
    """The highest number of measured requests, of all models together; None if only time ends the stage."""
    duration_s: float | None
    """For how long requests may begin, s; None if only their number ends the stage."""
    users: int | None = None
    """How many users a closed loop has; None in an open loop."""
    visit: str | None = None
    """The level in words, if the stage was chosen during the run: "4 users (visit 2)"."""

    @property
    def title(self) -> str:
        return self.level if self.visit is None else self.visit


class MeasuringStart(Struct, frozen=True):
    """The measured requests of a stage begin."""

    start_ns: int
    """Since the run began."""
    epoch_ns: int
    """When the run began, on the clock."""
    observer: Observer
    """Of this process."""
    workers: int = 0
    """How many processes play the stage; 0 if this one does."""


class Sink(Protocol):
    """Called for each stage: `start`, then `record` or `retry` for each attempt when it has ended, then `stop`.

    The event loop makes the calls, between other requests, so they must not block.
    """

    def start(self, stage: StageStart) -> None:
        """A stage begins, with its warm-up."""

    def record(self, record: Record) -> None:
        """A request has ended, of the warm-up or measured. With workers, the call comes some time after that."""

    def retry(self, record: Record) -> None:
        """An attempt has failed and will be retried. `record` follows when the request has ended."""

    def stop(self, facts: StageFacts) -> None:
        """The stage has ended, whatever ended it."""


@runtime_checkable
class LateSink(Protocol):
    """A sink that also hears of requests while they are open."""

    def late(self, record: Record) -> None:
        """A measured request is still open after one of its stage's `late_after_ns`. record: as if it were cancelled
        now. Its own record follows when it has ended."""


@runtime_checkable
class BeginSink(Protocol):
    """A sink that also hears of each measured request when it begins."""

    def begin_request(self, request: BegunRequest) -> None:
        """A request is about to be sent for the first time. Its record follows when it has ended."""


@runtime_checkable
class MeasuringSink(Protocol):
    """A sink that also hears when the measured requests of a stage begin, which is after the warm-up."""

    def measure(self, beginning: MeasuringStart) -> None:
        """The measured requests begin."""


@runtime_checkable
class AnswerSink(Protocol):
    """A sink that needs to know only whether servers answer. Where workers fold their measured records, it gets a few
    of them, without their tokens."""

    def record(self, record: Record) -> None: ...

    def take_answer(self, record: Record) -> None:
        """A measured request has ended in a worker: of those to one model within a moment, the last that was answered,
        and the last that was not."""


class EndedCounts(Struct, frozen=True):
    """How many measured requests have ended in a worker since its last update."""

    ended: int = 0
    failed: int = 0
    """How many of these are not ok."""


@runtime_checkable
class CountSink(Protocol):
    """A sink that counts measured requests, such as the progress. Where workers fold their measured records, it gets
    the counts in their place."""

    def take_counts(self, counts: EndedCounts) -> None:
        """So many more measured requests have ended in a worker."""


@runtime_checkable
class TimedSink(Protocol):
    """A sink that also goes by the clock while measured requests are played."""

    def tick(self, now_ns: int) -> None:
        """Called once a second in a process that plays, with the time since the run began."""

    def drain(self, at_ns: int) -> None:
        """No more requests begin from a moment on, ns since the run began, because the stage was stopped. May be called
        again, which then changes nothing."""


class NullSink:
    """Does nothing. The base of sinks that need only some of the calls."""

    def start(self, stage: StageStart) -> None: ...

    def record(self, record: Record) -> None: ...

    def retry(self, record: Record) -> None: ...

    def stop(self, facts: StageFacts) -> None: ...


class Sinks:
    """Calls several sinks in their order.

    Raises a LoadgenError of a sink unchanged, and SinkError for any other exception. The sinks after it are then not
    called, except for `stop`, with which all sinks are called before the first error is raised.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)
        self.begin_sinks = tuple(sink for sink in self._sinks if isinstance(sink, BeginSink))
        """Those that hear of requests when they begin."""
        # Once, because to look whether an object has the methods of a protocol takes 50 µs.
        self._measuring = tuple(sink for sink in self._sinks if isinstance(sink, MeasuringSink))
        self.timed = tuple(sink for sink in self._sinks if isinstance(sink, TimedSink))
        """Those that go by the clock."""
        self._answer = tuple(sink for sink in self._sinks if isinstance(sink, AnswerSink))
        self._count = tuple(sink for sink in self._sinks if isinstance(sink, CountSink))
        self._late = tuple(sink for sink in self._sinks if isinstance(sink, LateSink))

    def start(self, stage: StageStart) -> None:
        for sink in self._sinks:
            _call(sink, "start", stage)

    def begin_request(self, request: BegunRequest) -> None:
        for sink in self.begin_sinks:
            _call(sink, "begin_request", request)

    def record(self, record: Record) -> None:
        for sink in self._sinks:
            _call(sink, "record", record)

    def retry(self, record: Record) -> None:
        for sink in self._sinks:
            _call(sink, "retry", record)

    def measure(self, beginning: MeasuringStart) -> None:
        for sink in self._measuring:
            _call(sink, "measure", beginning)

    def take_answer(self, record: Record) -> None:
        for sink in self._answer:
            _call(sink, "take_answer", record)

    def take_counts(self, counts: EndedCounts) -> None:
        for sink in self._count:
            _call(sink, "take_counts", counts)

    def tick(self, now_ns: int) -> None:
        for sink in self.timed:
            _call(sink, "tick", now_ns)

    def drain(self, at_ns: int) -> None:
        for sink in self.timed:
            _call(sink, "drain", at_ns)

    def late(self, record: Record) -> None:
        for sink in self._late:
            _call(sink, "late", record)

    def stop(self, facts: StageFacts) -> None:
        errors = []
        for sink in self._sinks:
            try:
                _call(sink, "stop", facts)
            except (LoadgenError, SinkError) as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _call(sink: object, method: str, argument: object) -> None:
    try:
        getattr(sink, method)(argument)
    except LoadgenError:
        raise
    except Exception as error:
        raise SinkError(sink, method, error) from error
