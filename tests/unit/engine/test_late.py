"""Requests that are still open after the times for which their stage asks: which sinks hear of them, and what."""

from pathlib import Path
from typing import Any

import msgspec

from loadgen.engine.stage import LATE_NS
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.messages import Update, decode_event, line_of
from loadgen.engine.workers.worker import LastAnswers, Updates
from loadgen.live.sink import EndedCounts, NullSink, Sink
from loadgen.plan.plan import Stage
from loadgen.record import Record
from loadgen.scenario import Closed, Load, Poisson, Retries
from loadgen.store.run_folder import Run
from tests.records import record
from tests.unit.engine.test_stage_source import Choices, plan_of, play
from tests.virtual_client import MS, Answer, ScriptedClient, no_connection, stream


class Late(NullSink):
    """Keeps the records of requests that are late, and of those that have ended."""

    def __init__(self) -> None:
        self.open: list[Record] = []
        self.ended: list[Record] = []

    def late(self, record: Record) -> None:
        self.open.append(record)

    def record(self, record: Record) -> None:
        self.ended.append(record)


class LateChoices(Choices):
    """Asks to be passed the requests that are open after some times."""

    def __init__(self, late: Late, after_ns: tuple[int, ...], *options: Any, **more: Any) -> None:
        super().__init__(*options, **more)
        self._late = late
        self._after_ns = after_ns

    def next_stage(self) -> Stage | None:
        stage = super().next_stage()
        return None if stage is None else msgspec.structs.replace(stage, late_after_ns=self._after_ns)

    def sinks(self, stage: Stage, stop: StopSignal) -> tuple[Sink, ...]:
        return (*super().sinks(stage, stop), self._late)


def played(
    folder: Path, client: ScriptedClient, *after_ns: int, count: int = 4, load: Load | None = None, **keys: Any
) -> tuple[Run, Late]:
    """A visit of one user, or of 1 request a second, that ends after so many requests."""
    late = Late()
    plan = plan_of(folder, load or Closed(concurrency=(1,), ramp_in_s=0.0), **keys)
    run, _ = play(plan, folder, lambda context: LateChoices(late, after_ns, context, [1], count), client)
    return run, late


def waits(text: str, first_ns: int) -> Answer:
    """An answer of three tokens, as far apart as the first is from the request."""
    return stream(text, text, text, gap_ns=first_ns)


def test_a_request_is_passed_once_after_each_time_for_which_it_is_open(tmp_path: Path) -> None:
    # The test chat and the warm-up come first, and are slow as well.
    client = ScriptedClient(lambda _, number: waits("a", 400 * MS if number in (0, 1, 3) else 10 * MS))
    run, late = played(tmp_path, client, 300 * MS, 1000 * MS, 2000 * MS)
    slow = late.ended[2]
    assert slow.end_ns is not None
    assert [each.index for each in late.open] == [slow.index] * 2
    begun = slow.dispatched_ns or 0
    assert [(each.end_ns or 0) - begun for each in late.open] == [300 * MS + LATE_NS, 1000 * MS + LATE_NS]
    assert {each.outcome for each in late.open} == {"cancelled"}
    assert [each.stamps_ns for each in late.open] == [(), slow.stamps_ns[:2]]
    assert [each.first_visible_ns for each in late.open] == [None, slow.first_visible_ns]
    assert {each.sent_ns for each in late.open} == {slow.sent_ns}
    assert len(run.records) == 5, "what is open is in no log"
    assert {each.outcome for each in run.records} == {"ok"}


def test_without_such_times_nothing_is_passed(tmp_path: Path) -> None:
    _, late = played(tmp_path, ScriptedClient(lambda _, __: waits("a", 400 * MS)))
    assert len(late.ended) == 5
    assert late.open == []


def test_in_an_open_loop_the_time_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    client = ScriptedClient(lambda _, __: waits("a", 400 * MS))
    _, late = played(tmp_path, client, 700 * MS, load=Poisson((1.0,), requests=9))
    measured = [each for each in late.ended if each.phase == "measured"]
    assert [each.index for each in late.open] == [each.index for each in measured]
    assert {(each.end_ns or 0) - each.intended_ns for each in late.open} == {700 * MS + LATE_NS}


def test_a_request_that_waits_for_its_next_attempt_is_passed_by_that_attempt(tmp_path: Path) -> None:
    fails = (2, 3)
    client = ScriptedClient(lambda _, number: no_connection() if number in fails else waits("a", 400 * MS))
    retries = Retries(attempts=3, backoff_s=0.5, jitter=0.0, on=("connect_error",))
    _, late = played(tmp_path, client, 100 * MS, 2000 * MS, count=1, retries=retries)
    # After 100 ms it waits for its second attempt; after 2 s the third has its first token.
    (open_now,) = late.open
    assert len(open_now.stamps_ns) == 1
    assert (late.ended[-1].attempt, late.ended[-1].outcome) == (2, "ok")


def test_a_worker_reports_its_late_requests_once_and_without_its_log() -> None:
    class Log:
        size = 70

    sent: list[Any] = []
    updates = Updates(Log(), sent.append, LastAnswers())  # type: ignore[arg-type]
    waiting = record(outcome="cancelled", index=3)
    updates.late(waiting)
    updates.send()
    updates.send()
    assert sent == [Update(70, late=(waiting,)), Update(70)]
    assert decode_event(line_of(sent[0])) == sent[0]


def test_a_worker_counts_its_measured_requests_for_a_parent_process_that_reads_no_records() -> None:
    sent: list[Any] = []
    updates = Updates(None, sent.append, LastAnswers())
    warm_up = record(index=0, phase="warmup")
    updates.record(warm_up)
    updates.retry(record(index=0, outcome="connect_error", stamps_ns=()))
    updates.record(record(index=0))
    updates.record(record(index=1, outcome="timeout"))
    updates.send()
    updates.send()
    first = Update(0, retries=(1,), warm_up=(warm_up,), counts=EndedCounts(2, 1))
    assert sent == [first, Update(0)]
    assert decode_event(line_of(first)) == first


def test_a_parent_process_that_reads_no_records_hears_whether_servers_answer() -> None:
    answers = LastAnswers()
    for index, outcome in enumerate(("ok", "connect_error", "cancelled", "ok", "connect_error")):
        stamps = () if outcome == "connect_error" else (1, 2, 3)
        status = None if outcome == "connect_error" else 200
        answers.record(record(index=index, outcome=outcome, stamps_ns=stamps, status=status))
    answers.record(record(index=9, phase="warmup"))
    assert [(each.index, each.outcome, each.stamps_ns) for each in answers.take()] == [
        (3, "ok", (1,)),
        (4, "connect_error", ()),
    ]
    assert answers.take() == ()
