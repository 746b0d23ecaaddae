"""What the windows of a soak need of its session: which process serves each model, and the windows that an earlier
process had not written."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.engine.servers import ServerLives
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.stage import stage_start
from loadgen.live.sink import MeasuringStart
from loadgen.plan.plan import Plan, Stage
from loadgen.record import Record, StageFacts, StageKey
from loadgen.store.windows import WindowLine
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served
from loadgen.telemetry.observer import Observer

ServerKey = tuple[str, str]
"""A target and a model there."""


class ServerNumbers:
    """The number of the life in which each server is, over all processes that played the soak."""

    def __init__(self, plan: Plan, earlier: Mapping[ServerKey, int]) -> None:
        """earlier: the life of each server when an earlier process last looked."""
        self._models = {(target_name(model), model.name): index for index, model in enumerate(plan.models)}
        self._earlier = dict(earlier)
        self._lives: ServerLives | None = None
        self._own = set[int]()
        """The models whose servers we have started."""

    def serve(self, lives: ServerLives, ready: Mapping[int, Served]) -> None:
        """These models are served now."""
        self._lives = lives
        self._own |= {index for index, served in ready.items() if served.child is not None}

    def of(self, key: StageKey) -> tuple[int, int | None]:
        """As `ServerOf`."""
        server = key.target, key.model
        before, index = self._earlier.get(server), self._models[server]
        if self._lives is None:
            return before or 0, None
        life = self._lives.of(index)
        # A server that an earlier process had started ended with it.
        first = 0 if before is None else before + (index in self._own)
        return first + life.number, life.pid


def lives_of(windows: Sequence[WindowLine]) -> dict[ServerKey, int]:
    """The last known life of each server."""
    return {(window.target, window.model): window.server_life for window in windows}


class Unwritten(Struct, frozen=True):
    """The time that an earlier process had played and of which it had written no window."""

    stage: Stage
    records: tuple[Record, ...]
    """The requests that ended in it."""
    start_ns: int
    end_ns: int
    """The last moment of which anything is known."""


def write_unwritten(writer: WindowWriter, plan: Plan, unwritten: Unwritten, clock: Clock, epoch_ns: int) -> None:
    """Write the windows of that time. Nothing is known of this process in them, and nothing of the servers' memory."""
    # The deadline is past or to come; in neither case does it lie between these windows.
    start = msgspec.structs.replace(stage_start(plan, unwritten.stage), duration_s=None)
    writer.start(start)
    writer.measure(MeasuringStart(unwritten.start_ns, epoch_ns, Observer(clock, lambda: 0), workers=1))
    for record in unwritten.records:
        writer.take_late(record)
    # The grid has whole µs, and no window after this end: the request that ended last belongs before it.
    writer.drain(unwritten.end_ns + 1_000)
    facts = StageFacts(
        models=start.models,
        targets=start.targets,
        level=start.level,
        start_ns=unwritten.start_ns,
        end_ns=unwritten.end_ns,
        complete=False,
        cpu_share=0.0,
    )
    writer.stop(facts)
