"""Writes the windows that an earlier process of a soak had not written when it ended."""

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.stage import stage_start
from loadgen.live.sink import MeasuringStart
from loadgen.plan.plan import Plan, Stage
from loadgen.record import Record, StageFacts
from loadgen.telemetry.observer import Observer


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
