"""Requests that are asked again: when, after how long, and what counts; the players of them in virtual time."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.stage import split_by_attempt, stages_of
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Requests
from loadgen.engine.retry import as_one, is_last, is_retryable, wait_ns
from loadgen.engine.stop import StopSignal
from loadgen.live.sink import NullSink
from loadgen.plan.plan import Level, Planned, Stage, digest, make_plan
from loadgen.plan.prompts import load_prompts
from loadgen.plan.rng import generator
from loadgen.record import OUTCOMES, Phase, Record, Reply, ReplyFields
from loadgen.scenario import Retries, Scenario
from loadgen.wire.reply import retry_after_s
from tests.players import ScriptedRunner
from tests.records import MS, S, planned, record, run_of, turn, unsent
from tests.virtual import START_NS, VirtualClock, run

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CLOCK = VirtualClock()
CHANCE = generator(1, "test")
EVEN = Retries(attempts=3, backoff_s=0.5, max_backoff_s=8.0, jitter=0.0)


def refused(status: int = 503, retry_after_s: float | None = None, **rest: Any) -> Reply:
    return Reply(outcome="http_error", status=status, detail="busy", retry_after_s=retry_after_s, **rest)


# --- the policy -------------------------------------------------------------------------------------------------------


def test_by_default_nothing_is_asked_again() -> None:
    assert is_last(Retries(), Reply(outcome="connect_error"))
    assert is_last(Retries(), refused(503))


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        (Reply(outcome="connect_error"), True),
        (refused(429), True),
        (refused(503), True),
        (refused(500), False),
        (refused(404), False),
        (Reply(outcome="truncated", status=200), False),
        (Reply(outcome="timeout"), False),
        (Reply(outcome="ok", status=200), False),
        (Reply(outcome="cancelled"), False),
        (Reply(outcome="shed"), False),
    ],
)
def test_unless_told_otherwise_what_is_refused_is_asked_again_and_nothing_else(reply: Reply, again: bool) -> None:
    assert is_last(Retries(attempts=1), reply) is not again


def test_failures_are_named_by_outcome_by_status_or_by_its_first_digit() -> None:
    assert is_retryable(("http_5xx",), refused(502))
    assert not is_retryable(("http_5xx",), refused(429))
    assert is_retryable(("http_4xx",), refused(429))
    assert is_retryable(("http_error",), refused(418))
    assert is_retryable(("truncated",), Reply(outcome="truncated", status=200))
    assert not is_retryable(("http_503",), Reply(outcome="stream_error", status=503))


def test_there_are_so_many_attempts_more_and_then_no_other() -> None:
    assert [is_last(EVEN, refused(attempt=attempt)) for attempt in range(5)] == [False, False, False, True, True]


def test_each_wait_is_twice_the_one_before_and_none_is_longer_than_the_longest() -> None:
    waits = [wait_ns(EVEN, refused(attempt=attempt), CHANCE) for attempt in range(7)]
    assert waits == [500 * MS, 1 * S, 2 * S, 4 * S, 8 * S, 8 * S, 8 * S]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Jan 2026 99:04:15 GMT", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_understood_in_seconds_and_as_a_date(said: str, seconds: float | None) -> None:
    assert retry_after_s(said, NOW) == seconds


def test_a_server_s_text_that_reads_like_a_retry_after_asks_nothing() -> None:
    worded = Reply(outcome="http_error", status=503, detail="Retry-After: 3; x", attempt=0)
    assert wait_ns(EVEN, worded, CHANCE) == 500 * MS
    assert wait_ns(EVEN, msgspec.structs.replace(worded, retry_after_s=3.0), CHANCE) == 3 * S


def test_the_server_s_word_goes_before_the_backoff_up_to_the_longest_wait() -> None:
    assert wait_ns(EVEN, refused(429, 3.0, attempt=0), CHANCE) == 3 * S
    assert wait_ns(EVEN, refused(429, 0.0, attempt=2), CHANCE) == 0
    assert wait_ns(EVEN, refused(429, 3600.0), CHANCE) == 8 * S
    assert wait_ns(EVEN, refused(429, None, attempt=1), CHANCE) == 1 * S


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    attempt=st.integers(0, 100),
    backoff=st.floats(0, 1e6),
    most=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    seed=st.integers(0, 9),
    asked=st.none() | st.floats(0, 1e6),
)
def test_every_wait_lies_between_what_was_asked_and_the_jitter_above_it(
    attempt: int, backoff: float, most: float, jitter: float, seed: int, asked: float | None
) -> None:
    retries = Retries(attempts=100, backoff_s=backoff, max_backoff_s=most, jitter=jitter)
    reply = refused(503, asked, attempt=attempt)
    wait = wait_ns(retries, reply, generator(seed, "test"))
    least = min(most, backoff * 2.0**attempt if asked is None else asked)
    assert round(least * 1e9) <= wait <= round(min(most, least * (1 + jitter)) * 1e9) + 1
    assert wait == wait_ns(retries, reply, generator(seed, "test")), "the seed alone decides"


def test_jitter_tells_those_apart_who_were_refused_together() -> None:
    retries = Retries(attempts=1, jitter=0.5)
    waits = {wait_ns(retries, refused(), generator(1, "retry", index)) for index in range(20)}
    assert len(waits) == 20
    assert max(waits) - min(waits) > 100 * MS


def test_what_counts_is_the_last_reply_begun_when_the_first_was() -> None:
    first = refused(dispatched_ns=1, sent_ns=2, written_ns=3, end_ns=4)
    last = Reply(outcome="ok", dispatched_ns=10, sent_ns=20, written_ns=30, stamps_ns=(40,), end_ns=50)
    assert as_one(first, last, 0) is last
    assert as_one(first, last, 2) == Reply(
        outcome="ok",
        dispatched_ns=1,
        sent_ns=2,
        written_ns=30,
        stamps_ns=(40,),
        end_ns=50,
        attempt=2,
        attempt_ns=10,
    )
    unconnected = Reply(outcome="connect_error", dispatched_ns=1)
    assert as_one(unconnected, last, 1).sent_ns == 1


def test_a_plan_that_asks_again_is_another_plan_and_one_that_does_not_is_the_same_as_ever() -> None:
    def digest_of(**retries: Any) -> str:
        scenario = Scenario(name="x", prompts=("Say hello.",), retries=Retries(**retries))
        return digest(make_plan(scenario, load_prompts(scenario, Path(), "the test")))

    assert digest_of() == digest_of(backoff_s=9.0)
    assert digest_of(attempts=1) != digest_of()
    assert digest_of(attempts=1) != digest_of(attempts=1, backoff_s=9.0)


# --- the players ------------------------------------------------------------------------------------------------------


class Kept(Struct, frozen=True):
    index: int
    phase: Phase
    intended_ns: int
    reply: ReplyFields


class Played(Struct, frozen=True):
    """counted: the sink's records; earlier: the attempts that it heard were retried. sent_ns: from the stage's
    start."""

    counted: list[Kept]
    earlier: list[Kept]
    sent_ns: list[int]
    lasted_ns: int
    waiting: list[int]


def closed(users: int, count: int, **rest: Any) -> Stage:
    level = Level(label=f"c{users}", mode="closed", concurrency=users)
    ramp = np.zeros(users, dtype=np.int64)
    return Stage(level, (0,), 0, 1, count, None, ramp_in_ns=ramp, **rest)


def opened(due_ns: Sequence[int], **rest: Any) -> Stage:
    level = Level(label="r1", mode="constant", rate_per_s=1.0)
    return Stage(level, (0,), 0, 1, len(due_ns), None, due_ns=np.array(due_ns, dtype=np.int64), **rest)


def played(
    stage: Stage,
    answers: Sequence[Reply],
    retries: Retries = EVEN,
    *,
    takes_ns: int = 100 * MS,
    stop_ns: int | None = None,
    warmup: bool = False,
) -> Played:
    """Play a stage whose server gives these answers in turn, and ok from then on. stop_ns: somebody asks for an end."""
    sink, sent_ns, waiting = Keeping(), list[int](), list[int]()
    turns = iter(answers)

    async def main() -> int:
        async def send(_: Planned, dispatched_ns: int) -> Reply:
            told = next(turns, Reply(outcome="ok", status=200))
            sent_ns.append(CLOCK.now_ns() - START_NS)
            waiting.append(runner.waiting)
            await CLOCK.sleep_until_ns(CLOCK.now_ns() + takes_ns)
            begun_ns = dispatched_ns - START_NS
            end_ns = CLOCK.now_ns() - START_NS
            return msgspec.structs.replace(told, dispatched_ns=begun_ns, sent_ns=begun_ns, end_ns=end_ns)

        stop = StopSignal()
        runner = ScriptedRunner(stage, send, sink, epoch_ns=START_NS, retries=retries, run_stop=stop)
        playing = asyncio.ensure_future(runner.play_all("warmup" if warmup else "measured"))
        if stop_ns is not None:
            await CLOCK.sleep_until_ns(START_NS + stop_ns)
            stop.drain()
        await playing
        assert runner.waiting == 0
        return CLOCK.now_ns() - START_NS

    lasted_ns = run(main())
    return Played(sink.counted, sink.earlier, sent_ns, lasted_ns, waiting)


class Keeping(NullSink):
    def __init__(self) -> None:
        self.counted: list[Kept] = []
        self.earlier: list[Kept] = []

    def record(self, record: Record) -> None:
        self.counted.append(Kept(record.index, record.phase, record.intended_ns, record))

    def retry(self, record: Record) -> None:
        self.earlier.append(Kept(record.index, record.phase, record.intended_ns, record))


def test_a_request_is_asked_until_it_is_answered_and_all_that_was_waited_counts() -> None:
    seen = played(closed(1, 2), [refused(), refused(429, 3.0)])
    assert seen.sent_ns == [0, 600 * MS, 3700 * MS, 3800 * MS], "the wait is from the end of an attempt"
    assert [(kept.index, kept.reply.outcome) for kept in seen.counted] == [(0, "ok"), (1, "ok")]
    assert [(kept.reply.attempt, kept.reply.status) for kept in seen.earlier] == [(0, 503), (1, 429)]
    first, second = (kept.reply for kept in seen.counted)
    assert (first.attempt, first.dispatched_ns, first.sent_ns, first.attempt_ns) == (2, 0, 0, 3700 * MS)
    assert (first.end_ns, second.attempt, second.attempt_ns) == (3800 * MS, 0, None)
    assert [kept.reply.attempt_ns for kept in seen.earlier] == [None, 600 * MS]


def test_when_all_attempts_failed_the_last_one_says_how() -> None:
    answers = [refused(503), refused(429), Reply(outcome="connect_error"), refused(503), Reply(outcome="ok")]
    seen = played(closed(1, 1), answers)
    assert [kept.reply.outcome for kept in seen.earlier] == ["http_error", "http_error", "connect_error"]
    (kept,) = seen.counted
    assert (kept.reply.outcome, kept.reply.status, kept.reply.attempt) == ("http_error", 503, 3)
    assert len(seen.sent_ns) == 4


def test_what_is_not_to_be_asked_again_is_not() -> None:
    seen = played(closed(1, 2), [refused(500), Reply(outcome="truncated")])
    assert [kept.reply.outcome for kept in seen.counted] == ["http_error", "truncated"]
    assert seen.earlier == []


def test_in_an_open_loop_others_come_due_while_one_waits_and_its_time_counts_from_when_it_was_due() -> None:
    seen = played(opened([0, 200 * MS, 400 * MS]), [refused(429, 2.0)])
    assert seen.sent_ns == [0, 200 * MS, 400 * MS, 2100 * MS]
    assert seen.waiting == [0, 1, 1, 0]
    asked_again = next(kept for kept in seen.counted if kept.index == 0)
    assert (asked_again.intended_ns, asked_again.reply.end_ns) == (0, 2200 * MS)


def test_who_waits_for_another_attempt_keeps_the_place_within_the_limit() -> None:
    seen = played(opened([0, 300 * MS, 2000 * MS], max_in_flight=1), [refused(429, 1.0)])
    assert {kept.index: kept.reply.outcome for kept in seen.counted} == {0: "ok", 1: "shed", 2: "ok"}


def test_a_stop_ends_the_wait_and_the_request_is_cancelled_once() -> None:
    seen = played(closed(1, 1), [refused(429, 8.0)], stop_ns=1 * S)
    assert seen.lasted_ns == 1 * S
    assert [kept.reply.status for kept in seen.earlier] == [429]
    (kept,) = seen.counted
    assert (kept.reply.outcome, kept.reply.attempt, kept.reply.attempt_ns) == ("cancelled", 1, None)
    assert (kept.reply.dispatched_ns, kept.reply.end_ns) == (0, 1 * S)
    assert "http_error 429" in str(kept.reply.detail)


def test_a_request_that_fails_after_a_stop_is_not_asked_again() -> None:
    seen = played(closed(1, 1), [refused(429)], stop_ns=50 * MS)
    assert [(kept.reply.outcome, kept.reply.attempt) for kept in seen.counted] == [("http_error", 0)]
    assert seen.earlier == []


def test_warm_up_requests_are_asked_again_too() -> None:
    level = Level(label="c1", mode="closed", concurrency=1)
    seen = played(Stage(level, (0,), 1, 1, 1, None), [refused()], warmup=True)
    assert [(kept.phase, kept.reply.outcome) for kept in seen.counted] == [("warmup", "ok")]
    assert [(kept.phase, kept.reply.outcome) for kept in seen.earlier] == [("warmup", "http_error")]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    outcomes=st.lists(st.sampled_from(["ok", "http_error", "connect_error", "truncated"]), max_size=25),
    users=st.integers(1, 4),
    attempts=st.integers(0, 3),
    stop_ns=st.none() | st.integers(0, 6 * S),
)
def test_whatever_fails_each_planned_request_counts_once_and_its_attempts_are_numbered(
    outcomes: list[str], users: int, attempts: int, stop_ns: int | None
) -> None:
    answers = [refused() if name == "http_error" else Reply(outcome=name) for name in outcomes]  # type: ignore[arg-type]
    retries = Retries(attempts=attempts, backoff_s=0.3, jitter=0.0)
    seen = played(closed(users, 10), answers, retries, stop_ns=stop_ns)
    assert sorted(kept.index for kept in seen.counted) == list(range(10))
    for kept in seen.counted:
        numbers = [other.reply.attempt for other in seen.earlier if other.index == kept.index]
        assert [*numbers, kept.reply.attempt] == list(range(len(numbers) + 1))
        assert len(numbers) <= attempts
    made = sum(kept.reply.attempt_ns is not None or kept.reply.dispatched_ns is not None for kept in seen.earlier)
    last = [kept.reply for kept in seen.counted]
    made += sum((r.attempt_ns if r.attempt else r.dispatched_ns) is not None for r in last)
    assert made == len(seen.sent_ns)


# --- what the records say ---------------------------------------------------------------------------------------------


def attempts_of(index: int, count: int, every_ns: int = 2 * S, **last: Any) -> list[Record]:
    """The attempts of one user's turn: refused but for the last, which is ok, each 400 ms after the one before."""
    whole = turn(index, every_ns=every_ns)
    refusal = {"outcome": "http_error", "status": 503, "stamps_ns": (), "output_tokens": None}
    found = []
    for attempt in range(count):
        shift = attempt * 400 * MS
        moments = {
            name: getattr(whole, name) + shift for name in ("written_ns", "end_ns", "last_byte_ns", "first_visible_ns")
        }
        stamps = tuple(stamp + shift for stamp in whole.stamps_ns)
        rest = {} if attempt == count - 1 else refusal
        at = None if attempt == 0 else (whole.dispatched_ns or 0) + shift
        changes = {**moments, "stamps_ns": stamps, **rest, "attempt": attempt, "attempt_ns": at}
        found.append(record(**{**{n: getattr(whole, n) for n in _FIXED}, **changes, **(last if not rest else {})}))
    return found


_FIXED = ("index", "dispatched_ns", "sent_ns", "intended_ns")


def test_only_the_last_attempt_counts_and_the_others_are_counted_apart() -> None:
    records = [*attempts_of(0, 1), *attempts_of(1, 3), *attempts_of(2, 2, outcome="timeout"), unsent("cancelled", 3)]
    found = run_of(records, [planned(4)])
    (part,) = stages_of(found)
    assert [(kept.index, kept.attempt) for kept in part.measured] == [(0, 0), (1, 2), (2, 1), (3, 0)]
    assert [(kept.index, kept.attempt) for kept in part.earlier] == [(1, 0), (1, 1), (2, 0)]
    (stage,) = summarize(found).stages
    assert stage.requests == Requests(
        warmup=0, planned=4, ok=2, failed=2, by_outcome={"ok": 2, "timeout": 1, "cancelled": 1}, retried=2, attempts=6
    )
    assert not stage.incomplete


def test_the_waits_are_in_ttft_and_e2e_and_in_no_lateness_of_ours() -> None:
    records = attempts_of(0, 3)
    (part,) = stages_of(run_of(records, [planned(1)]))
    found = metrics.of_requests(part.ok, origin="sent")
    plain = metrics.of_requests([turn(0)], origin="sent")
    assert found["ttft"] - plain["ttft"] == [800 * MS]
    assert found["e2e"] - plain["e2e"] == [800 * MS]
    for name in ("queue", "service_ttft", "tpot"):
        assert list(found[name]) == list(plain[name])
    assert list(metrics.slips(part.measured)) == list(metrics.slips([turn(0)]))


def test_one_that_was_stopped_before_another_attempt_made_none() -> None:
    waited = unsent("cancelled", 0, attempt=1, dispatched_ns=101 * MS, sent_ns=102 * MS, end_ns=900 * MS)
    (stage,) = summarize(run_of([*attempts_of(0, 1, outcome="http_error"), waited], [planned(1)])).stages
    assert stage.requests == Requests(
        warmup=0, planned=1, ok=0, failed=1, by_outcome={"cancelled": 1}, retried=0, attempts=1
    )


def test_requests_of_other_phases_levels_and_models_have_attempts_of_their_own() -> None:
    again = record(attempt=1, attempt_ns=1)
    others = [record(phase="warmup"), record(level="c2"), record(model="n"), record(target="u"), record(index=1)]
    last, earlier = split_by_attempt([record(), *others, again])
    assert last == [*others, again]
    assert earlier == [record()]


def test_without_retries_every_record_counts() -> None:
    records = [record(), record(), record(outcome="timeout")]
    assert split_by_attempt(records) == (records, [])


def test_what_a_killed_run_last_heard_of_a_request_counts() -> None:
    records = [*attempts_of(0, 1), *attempts_of(1, 3)[:2]]
    (stage,) = summarize(run_of(records, [planned(3)], state="running")).stages
    assert stage.requests == Requests(
        warmup=0,
        planned=3,
        ok=1,
        failed=2,
        by_outcome={"ok": 1, "http_error": 1, "cancelled": 1},
        retried=1,
        attempts=3,
    )
    assert stage.incomplete


def test_a_scenario_can_name_every_failure_of_a_server_and_nothing_else() -> None:
    for name in (*OUTCOMES, "http_404", "http_4xx", "http_5xx"):
        if name in {"ok", "cancelled", "shed"}:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert({"on": [name]}, Retries)
        else:
            assert msgspec.convert({"on": [name]}, Retries).on == (name,)
    for wrong in ("http_200", "http_3xx", "http_5x", "503", "http_503\n"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"on": [wrong]}, Retries)
