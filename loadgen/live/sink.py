"""Who hears of a run while it is on. One sink a file; a sink sees the same records however many processes play."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from loadgen.errors import LoadgenError, SinkError
from loadgen.record import LatencyOrigin, Record, StageFacts


class StageStart(Struct, frozen=True):
    """A stage that begins."""

    models: tuple[str, ...]
    """Names of its models; beside each, in `targets`, where it is served."""
    targets: tuple[str, ...]
    level: str
    latency_origin: LatencyOrigin
    """From when latencies count."""
    count: int | None
    """Measured requests of all models, at most; None where only time ends it."""
    duration_s: float | None
    """How long requests may begin, s; None where only their number ends it."""


class Sink(Protocol):
    """Hears of each stage: `start`, then its records as they end, then `stop`. Called from the event loop, between one
    request and the next: it must not block."""

    def start(self, stage: StageStart) -> None:
        """A stage begins, with its warm-up."""

    def record(self, record: Record) -> None:
        """A request has ended, of the warm-up or measured. Where other processes play, some time after it did."""

    def retry(self, record: Record) -> None:
        """An attempt has failed, and the request is tried again: it is heard of in `record` when it has ended."""

    def stop(self, facts: StageFacts) -> None:
        """The stage has ended, whatever ended it."""


class NullSink:
    """Hears nothing; for a sink to begin from that needs not all."""

    def start(self, stage: StageStart) -> None: ...

    def record(self, record: Record) -> None: ...

    def retry(self, record: Record) -> None: ...

    def stop(self, facts: StageFacts) -> None: ...


class Sinks:
    """Several sinks as one, in their order.

    Raises a LoadgenError as a sink raised it, and SinkError for anything else: those after it are not called, but for
    `stop`, which all of them hear before the first error is raised.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def start(self, stage: StageStart) -> None:
        for sink in self._sinks:
            _call(sink, "start", stage)

    def record(self, record: Record) -> None:
        for sink in self._sinks:
            _call(sink, "record", record)

    def retry(self, record: Record) -> None:
        for sink in self._sinks:
            _call(sink, "retry", record)

    def stop(self, facts: StageFacts) -> None:
        errors = []
        for sink in self._sinks:
            try:
                _call(sink, "stop", facts)
            except (LoadgenError, SinkError) as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _call(sink: Sink, method: str, argument: object) -> None:
    try:
        getattr(sink, method)(argument)
    except LoadgenError:
        raise
    except Exception as error:
        raise SinkError(sink, method, error) from error
