"""Whose limit it was: each word when its figures say so, and in the order of the list."""

from typing import Any

import pytest
from msgspec import structs

from benchmarks.queues import Queue
from loadgen.decisions.capacity.answer import ModelAnswer, answer_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.visit_data import VisitData
from loadgen.record import MachineFacts, Record, ServerFacts, ServerTimings
from loadgen.scenario import Slo
from loadgen.scenario.objective import objective_of
from tests.capacity_visits import of_queue, played
from tests.records import facts

QUEUE = Queue()
SERVER = ServerFacts(7, 1.0, 10**9, 10**9)


def settings(*objectives: str) -> SearchSettings:
    return SearchSettings(objectives=tuple(map(objective_of, objectives)))


def answer(visits: list[VisitData], asked: SearchSettings) -> ModelAnswer:
    return answer_of(visits, asked, "within", model="m", target="t")


def test_ttft_that_grows_while_streams_do_not_is_a_queue() -> None:
    asked = settings("ttft_p95=2500ms")
    result = answer(of_queue(asked, QUEUE, [1, 4, 8]), asked)
    assert (result.limited_by, result.limit.served_at_once) == ("queue", 4)
    assert result.limit.in_flight == pytest.approx(8, abs=0.5)
    assert result.limit.streams is not None
    assert result.limit.streams < 4


def test_requests_that_found_no_server_blame_neither_prompts_nor_tokens() -> None:
    def lost(record: Record) -> Record:
        is_lost = record.level == "c8" and record.index % 4 != 3
        return structs.replace(record, outcome="connect_error", stamps_ns=()) if is_lost else record

    asked = settings("ttft_p95=2500ms")
    result = answer(of_queue(asked, QUEUE, [1, 4, 8], change=lost), asked)
    assert (result.holds, result.fails, result.limited_by) == (4, 8, None)


@pytest.mark.parametrize("objective", ["tpot_p95=50ms", "itl_p95=2s"])
def test_time_per_token_that_fails_is_decode(objective: str) -> None:
    asked = settings(objective)
    result = answer(of_queue(asked, QUEUE, [1, 4, 8]), asked)
    if result.fails is not None:
        assert result.limited_by == "decode"


def test_e2e_is_blamed_on_what_grew() -> None:
    asked = settings("e2e_p95=3s")
    assert answer(of_queue(asked, QUEUE, [1, 12]), asked).limited_by == "queue"
    slow = Queue(slots=32, slowdown=0.3, prefill_s=0.01)
    assert answer(of_queue(asked, slow, [1, 12]), asked).limited_by == "decode"


@pytest.mark.parametrize(("slo", "word"), [(Slo(ttft_ms=1500.0), "queue"), (Slo(tpot_ms=45.0), "decode")])
def test_goodput_is_blamed_on_the_limit_that_is_exceeded_most(slo: Slo, word: str) -> None:
    """The limits are those of the scenario, which these stages do not have; see `limit._is_late_to_begin`."""
    from loadgen.decisions.capacity.limit import _is_late_to_begin

    asked = settings("ttft_p95=2500ms")
    visits = of_queue(asked, QUEUE, [1, 8])
    with_slo = [structs.replace(each, stage=structs.replace(each.stage, slo=slo)) for each in visits]
    late = _is_late_to_begin(objective_of("goodput=95%"), with_slo[:1], with_slo[1:])
    assert late == (word == "queue")


def _timed(waits: bool) -> Any:
    """Records with the server's timings: the prompt took all of the TTFT, or always the same."""

    def change(record: Record) -> Record:
        ttft_ms = (record.stamps_ns[0] - (record.written_ns or 0)) / 1e6
        return structs.replace(record, timings=ServerTimings(10, 100.0 if waits else ttft_ms, 10, 100.0))

    return change


def test_timings_tell_a_queue_from_prefill() -> None:
    asked = settings("ttft_p95=2500ms")
    waits = answer(of_queue(asked, QUEUE, [1, 8], change=_timed(True)), asked)
    assert waits.limited_by == "queue"
    assert waits.limit.waiting_share is not None
    assert waits.limit.waiting_share > 0.95
    works = answer(of_queue(asked, QUEUE, [1, 8], change=_timed(False)), asked)
    assert (works.limited_by, works.limit.served_at_once) == ("prefill", None)
    assert works.limit.waiting_share == pytest.approx(0, abs=0.01)


def test_the_servers_errors_go_first_with_what_it_said() -> None:
    asked = settings("ok=90%")

    def refuse(record: Record) -> Record:
        if record.level == "c8" and record.index % 2:
            return structs.replace(record, outcome="http_error", status=503, detail="the queue is full", stamps_ns=())
        return record

    result = answer(of_queue(asked, QUEUE, [1, 8], change=refuse), asked)
    assert (result.limited_by, result.fails) == ("errors", 8)
    limit = result.limit
    assert (limit.outcome, limit.status, limit.detail, limit.share) == ("http_error", 503, "the queue is full", 1.0)


def test_timeouts_are_not_the_servers_errors() -> None:
    asked = settings("ok=90%")

    def late(record: Record) -> Record:
        return structs.replace(record, outcome="timeout") if record.level == "c8" and record.index % 2 else record

    assert answer(of_queue(asked, QUEUE, [1, 8], change=late), asked).limited_by != "errors"


def test_a_server_that_died_or_swapped_was_short_of_memory() -> None:
    asked = settings("ttft_p95=2500ms")
    low, high = of_queue(asked, QUEUE, [1, 8])
    records = high.stage.measured
    died = played(asked, 8, records, server_ended="killed by signal 9")
    result = answer([low, died], asked)
    assert (result.limited_by, result.limit.reason) == ("memory", "the server died: killed by signal 9")
    machine = MachineFacts(cores=2, swapped_in_bytes=70 * 2**20)
    swapped = played(asked, 8, records, seen=facts(level="c8", end_ns=10**12, machine=machine))
    assert answer([low, swapped], asked).limited_by == "memory"


@pytest.mark.parametrize(
    ("at_low", "at_high", "servers", "word"),
    [
        (0.3, 0.049, (SERVER,), "memory"),
        (0.3, 0.05, (SERVER,), "queue"),
        (0.01, 0.3, (SERVER,), "queue"),
        (0.3, 0.01, (), "queue"),
        (0.3, None, (SERVER,), "queue"),
    ],
)
def test_little_memory_limits_where_a_level_does_not_hold_and_the_server_is_on_this_machine(
    at_low: float, at_high: float | None, servers: tuple[ServerFacts, ...], word: str
) -> None:
    asked = settings("ttft_p95=2500ms")
    visits = []
    for visit, share in zip(of_queue(asked, QUEUE, [1, 8]), (at_low, at_high), strict=True):
        machine = MachineFacts(cores=2, memory_available_share=share)
        level = int(visit.visit.level)
        seen = facts(level=f"c{level}", end_ns=10**12, machine=machine, servers=servers)
        visits.append(played(asked, level, visit.stage.measured, seen=seen))
    result = answer(visits, asked)
    assert result.limited_by == word
    if word == "memory":
        assert result.limit.reason == "only 4.9 % of the memory was available"


def test_where_everything_holds_nothing_limited() -> None:
    asked = settings("ttft_p95=2500ms")
    assert answer(of_queue(asked, QUEUE, [1, 2, 4]), asked).limited_by is None
