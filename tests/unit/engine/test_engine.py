"""The players, in virtual time: who sends when, whatever the server does, and every planned request kept once."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from loadgen.engine.players import CONNECT_PAUSE_NS, GONE_NS
from loadgen.engine.stop import INTERRUPTIBLE_NS, StopSignal
from loadgen.live.sink import NullSink
from loadgen.plan.plan import Level, Planned, Stage
from loadgen.record import Outcome, Phase, Record, Reply, ReplyFields
from loadgen.scenario.stop_rule import StopRule
from tests.players import ScriptedRunner
from tests.virtual import START_NS, VirtualClock, run

MS = 1_000_000
S = 1_000 * MS
EPOCH_NS = START_NS - 7 * S
"""The run began seven seconds before the stage."""
FROM_EPOCH_NS = START_NS - EPOCH_NS

CLOCK = VirtualClock()
law = settings(derandomize=True, deadline=None, max_examples=80)
Takes = Callable[[Planned], int]


class Sent(Struct, frozen=True):
    """What the server saw of a request: when it came, from the stage's start, and how many were there already."""

    planned: Planned
    at_ns: int
    before_it: int


class Kept(Struct, frozen=True):
    """What the engine handed over. intended_ns: as kept, on the run's clock."""

    planned: Planned
    phase: Phase
    intended_ns: int
    reply: ReplyFields

    @property
    def intended_from_start_ns(self) -> int:
        return self.intended_ns - FROM_EPOCH_NS


class Server:
    """Answers after as long as it is told, in virtual time. trailer_ns: from an answer's orderly end to its last byte.
    late_ns: how much later than that `send` returns, as when the event loop is busy."""

    def __init__(self, takes: Takes, *, trailer_ns: int = 0, late_ns: int = 0, outcome: Outcome = "ok") -> None:
        self.takes = takes
        self.trailer_ns = trailer_ns
        self.late_ns = late_ns
        self.outcome = outcome
        self.sent: list[Sent] = []
        self.in_flight = 0

    async def send(self, planned: Planned, dispatched_ns: int) -> Reply:
        self.sent.append(Sent(planned, CLOCK.now_ns() - START_NS, self.in_flight))
        self.in_flight += 1
        end_ns = CLOCK.now_ns() + self.takes(planned)
        last_byte_ns = end_ns + self.trailer_ns
        await CLOCK.sleep_until_ns(last_byte_ns)
        self.in_flight -= 1
        await CLOCK.sleep_until_ns(last_byte_ns + self.late_ns)
        return Reply(
            outcome=self.outcome,
            dispatched_ns=dispatched_ns - EPOCH_NS,
            end_ns=end_ns - EPOCH_NS,
            last_byte_ns=last_byte_ns - EPOCH_NS,
        )

    @property
    def moments_ns(self) -> list[int]:
        return [sent.at_ns for sent in self.sent]

    @property
    def most_at_once(self) -> int:
        return max((sent.before_it + 1 for sent in self.sent), default=0)


class Played(Struct, frozen=True):
    """What came of a stage. lasted_ns: from its start to the player's return."""

    kept: list[Kept]
    server: Server
    lasted_ns: int

    def outcomes(self) -> list[str]:
        return [kept.reply.outcome for kept in self.kept]

    def of(self, outcome: Outcome) -> list[Kept]:
        return [kept for kept in self.kept if kept.reply.outcome == outcome]


class Keeping(NullSink):
    """Keeps what the engine hands over, and ends the stage when that is enough."""

    def __init__(self, stop: StopSignal | None = None, enough_after: int | None = None) -> None:
        self.kept: list[Kept] = []
        self._stop = stop
        self._enough_after = enough_after

    def record(self, record: Record) -> None:
        planned = Planned(model=int(record.model), index=record.index, prompt=0)
        self.kept.append(Kept(planned, record.phase, record.intended_ns, record))
        if self._stop is not None and len(self.kept) == self._enough_after:
            self._stop.end_stage()


def played(
    stage: Stage,
    server: Server,
    *,
    stop_ns: int | None = None,
    warmup: bool = False,
    start_ns: int | None = None,
    enough_after: int | None = None,
) -> Played:
    """Play a stage; stop_ns: somebody asks for an end so long after its start. start_ns: when it is to begin, from now.
    enough_after: so many ended requests are enough."""

    async def main() -> tuple[list[Kept], int]:
        run_stop = StopSignal()
        with run_stop.of_stage() as stop:
            sink = Keeping(stop, enough_after)
            runner = ScriptedRunner(stage, server.send, sink, epoch_ns=EPOCH_NS, run_stop=run_stop, stop=stop)
            begin_ns = None if start_ns is None else START_NS + start_ns
            playing = asyncio.ensure_future(runner.play_all("warmup" if warmup else "measured", begin_ns))
            if stop_ns is not None:
                await CLOCK.sleep_until_ns(START_NS + stop_ns)
                run_stop.drain()
            await playing
        return sink.kept, CLOCK.now_ns() - START_NS

    kept, lasted_ns = run(main())
    return Played(kept, server, lasted_ns)


def closed(
    users: int,
    count: int | None,
    *,
    think_ns: Sequence[int] | None = None,
    ramp_in_ns: Sequence[int] | None = None,
    duration_ns: int | None = None,
    models: tuple[int, ...] = (0,),
    warmup: int = 0,
    ceiling_per_s: int | None = None,
    min_count: int = 0,
) -> Stage:
    return Stage(
        level=Level(f"c{users}", "closed", concurrency=users),
        models=models,
        warmup=warmup,
        prompts=3,
        count=count,
        duration_ns=duration_ns,
        think_ns=None if think_ns is None else np.array(think_ns, dtype=np.int64),
        ramp_in_ns=np.array([0] * users if ramp_in_ns is None else ramp_in_ns, dtype=np.int64),
        max_requests_per_s=ceiling_per_s,
        min_count=min_count,
    )


def opened(
    due_ns: Sequence[int],
    *,
    limit: int | None = None,
    at_limit: Literal["shed", "queue"] = "shed",
    models: tuple[int, ...] = (0,),
    warmup: int = 0,
) -> Stage:
    return Stage(
        level=Level("r1", "constant", rate_per_s=1.0),
        models=models,
        warmup=warmup,
        prompts=3,
        count=len(due_ns),
        duration_ns=None,
        due_ns=np.array(due_ns, dtype=np.int64),
        max_in_flight=limit,
        at_limit=at_limit,
    )


def always(ns: int) -> Takes:
    return lambda _: ns


def by_index(*times_ns: int) -> Takes:
    return lambda planned: times_ns[planned.index % len(times_ns)]


times_ns = st.lists(st.integers(0, 3 * S), min_size=1, max_size=8)


# --- closed loop ------------------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 6), st.integers(0, 30), times_ns, st.none() | times_ns)
def test_users_never_exceed_the_concurrency(
    users: int, count: int, takes_ns: list[int], think_ns: list[int] | None
) -> None:
    told = played(closed(users, count, think_ns=think_ns), Server(by_index(*takes_ns)))
    assert told.server.most_at_once <= users
    assert len(told.kept) == len(told.server.sent) == count


@pytest.mark.parametrize("users", [1, 2, 5])
def test_without_think_time_all_users_are_busy_to_the_end(users: int) -> None:
    told = played(closed(users, 4 * users), Server(always(100 * MS)))
    assert told.server.moments_ns == [turn * 100 * MS for turn in range(4) for _ in range(users)]
    assert {sent.before_it + 1 for sent in told.server.sent[users - 1 :: users]} == {users}
    assert told.lasted_ns == 400 * MS


def test_a_user_asks_again_when_the_answer_has_ended_and_the_think_time_is_over() -> None:
    told = played(closed(1, 4, think_ns=[7 * MS, 1 * S, 0, 5 * S]), Server(by_index(30 * MS, 40 * MS, 50 * MS, MS)))
    assert told.server.moments_ns == [0, 37 * MS, 37 * MS + 40 * MS + 1 * S, 37 * MS + 40 * MS + 1 * S + 50 * MS]


def test_the_next_request_is_intended_at_the_last_byte_and_what_the_loop_loses_after_it_is_lateness() -> None:
    server = Server(always(100 * MS), trailer_ns=20 * MS, late_ns=3 * MS)
    told = played(closed(1, 3, think_ns=[0, 1 * MS, 0]), server)
    # Sent when `send` has returned; intended at the last byte, or a think time of 1 ms after it, which is over by then.
    assert server.moments_ns == [0, 123 * MS, 246 * MS]
    assert [kept.intended_from_start_ns for kept in told.kept] == [0, 120 * MS, 244 * MS]


def test_where_nothing_is_known_of_the_end_a_user_asks_again_at_once() -> None:
    moments: list[int] = []

    async def refuse(_: Planned, dispatched_ns: int) -> Reply:
        moments.append(dispatched_ns - START_NS)
        await CLOCK.sleep_until_ns(dispatched_ns + 5 * MS)
        return Reply(outcome="truncated")

    async def main() -> list[int]:
        sink = Keeping()
        await ScriptedRunner(closed(1, 3), refuse, sink, epoch_ns=EPOCH_NS).play_all("measured")
        return [kept.intended_from_start_ns for kept in sink.kept]

    kept = run(main())
    assert moments == kept == [0, 5 * MS, 10 * MS]


def test_users_begin_spread_over_the_ramp_in() -> None:
    told = played(closed(3, 6, ramp_in_ns=[0, 300 * MS, 600 * MS]), Server(always(10 * S)))
    assert told.server.moments_ns == [0, 300 * MS, 600 * MS, 10 * S, 10 * S + 300 * MS, 10 * S + 600 * MS]
    assert [kept.intended_from_start_ns for kept in told.kept[:3]] == [0, 300 * MS, 600 * MS]


@law
@given(st.integers(1, 5), st.integers(0, 25), times_ns)
def test_a_bound_on_requests_is_exact(users: int, count: int, takes_ns: list[int]) -> None:
    told = played(closed(users, count), Server(by_index(*takes_ns)))
    assert [sent.planned.index for sent in told.server.sent] == list(range(count))
    assert told.outcomes() == ["ok"] * count


def test_within_a_duration_as_many_are_sent_as_start_in_it_and_the_last_may_end() -> None:
    told = played(closed(2, None, duration_ns=250 * MS), Server(always(100 * MS)))
    assert told.server.moments_ns == [0, 0, 100 * MS, 100 * MS, 200 * MS, 200 * MS]
    assert told.lasted_ns == 300 * MS
    assert told.outcomes() == ["ok"] * 6


def test_nothing_starts_at_the_very_end_of_a_duration() -> None:
    told = played(closed(1, None, duration_ns=200 * MS), Server(always(100 * MS)))
    assert told.server.moments_ns == [0, 100 * MS]


@pytest.mark.parametrize(("count", "sent"), [(3, 3), (100, 5)])
def test_of_a_bound_on_requests_and_a_duration_the_first_to_come_holds(count: int, sent: int) -> None:
    told = played(closed(1, count, duration_ns=450 * MS), Server(always(100 * MS)))
    assert told.outcomes() == ["ok"] * sent


@pytest.mark.parametrize(("count", "sent"), [(100, 6), (None, 6), (4, 4)])
def test_the_fewest_requests_begin_though_time_is_over_and_no_more_than_that(count: int | None, sent: int) -> None:
    stage = closed(1, count, duration_ns=250 * MS, min_count=6)
    told = played(stage, Server(always(100 * MS)))
    assert told.server.moments_ns == [index * 100 * MS for index in range(sent)]
    assert told.outcomes() == ["ok"] * sent


def test_the_fewest_requests_are_those_of_all_users_together_and_thinkers_are_not_waited_for() -> None:
    thinks_ns = [0, 0, 0, 3_600 * S]
    told = played(closed(2, None, think_ns=thinks_ns, duration_ns=S, min_count=4), Server(always(900 * MS)))
    assert told.outcomes() == ["ok"] * 4
    assert told.lasted_ns == 1_800 * MS
    late = played(closed(2, None, think_ns=[3_600 * S, 0, 0], duration_ns=S, min_count=4), Server(always(900 * MS)))
    assert late.outcomes() == ["ok"] * 4
    assert late.lasted_ns == 2_700 * MS


def test_a_rate_limit_is_kept_in_every_second_and_takes_no_longer_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: CLOCK.now_ns() / S)
    monkeypatch.setattr("asyncio_throttle.throttler.time", clock)
    told = played(closed(8, 25, ceiling_per_s=10), Server(always(MS)))
    moments_ns = told.server.moments_ns
    assert len(moments_ns) == 25
    for start_ns in moments_ns:
        assert sum(start_ns <= other_ns <= start_ns + S for other_ns in moments_ns) <= 10
    assert told.lasted_ns < 2 * S + 100 * MS


@pytest.mark.slow
def test_the_fewest_requests_wait_for_the_rate_limit_though_time_is_over() -> None:
    told = played(closed(1, 100, duration_ns=S, ceiling_per_s=1, min_count=3), Server(always(10 * MS)))
    assert told.outcomes() == ["ok"] * 3
    assert told.lasted_ns > S


def test_a_level_ends_with_its_last_answer_whoever_still_thinks() -> None:
    in_a_box = played(closed(2, None, think_ns=[3_600 * S], duration_ns=2 * S), Server(by_index(MS, 5 * MS)))
    assert in_a_box.outcomes() == ["ok"] * 2
    assert in_a_box.lasted_ns == 5 * MS
    counted = played(closed(3, 4, think_ns=[10 * S, 3_600 * S, 3_600 * S]), Server(always(MS)))
    assert counted.outcomes() == ["ok"] * 4
    assert counted.lasted_ns == 10 * S + 2 * MS


def test_users_think_as_long_as_they_can_ask_within_the_duration() -> None:
    told = played(closed(1, None, think_ns=[900 * MS], duration_ns=2 * S), Server(always(100 * MS)))
    assert told.server.moments_ns == [0, 1 * S]
    assert told.lasted_ns == 1_100 * MS


def test_a_user_who_would_begin_when_all_is_over_is_not_waited_for() -> None:
    asked = played(closed(3, 2, ramp_in_ns=[0, 0, 3_600 * S]), Server(always(MS)))
    in_a_box = played(closed(3, None, ramp_in_ns=[0, 0, 3_600 * S], duration_ns=MS), Server(always(MS)))
    for told in (asked, in_a_box):
        assert told.outcomes() == ["ok"] * 2
        assert told.lasted_ns == MS


def test_users_whom_the_ceiling_on_the_rate_keeps_back_end_with_the_duration() -> None:
    told = played(closed(9, None, duration_ns=500 * MS, ceiling_per_s=1), Server(always(MS)))
    assert told.outcomes() == ["ok"]
    assert told.lasted_ns == 500 * MS


def test_users_who_think_do_not_wait_for_a_server_that_is_gone() -> None:
    thinks_ns = [3_600 * S, *[0] * 200]
    told = played(closed(2, 201, think_ns=thinks_ns), Server(always(0), outcome="connect_error"))
    assert GONE_NS <= told.lasted_ns < GONE_NS + S
    assert len(told.kept) == 201


def test_a_server_that_fails_at_once_gets_no_more_than_was_planned() -> None:
    told = played(closed(3, 20), Server(always(0), outcome="http_error"))
    assert told.outcomes() == ["http_error"] * 20
    assert told.lasted_ns == 0


def test_a_server_that_takes_no_connection_is_asked_four_times_a_second_and_after_ten_seconds_no_more() -> None:
    told = played(closed(2, 1000), Server(always(0), outcome="connect_error"))
    assert told.lasted_ns == GONE_NS + CONNECT_PAUSE_NS
    refused, cancelled = told.of("connect_error"), told.of("cancelled")
    assert len(refused) == 2 * GONE_NS // CONNECT_PAUSE_NS + 1
    assert len(refused) + len(cancelled) == 1000
    assert {kept.reply.detail for kept in cancelled} == {"the server accepted no more connections"}


def test_a_server_that_comes_back_within_ten_seconds_gets_all_of_its_requests() -> None:
    class Restarting(Server):
        async def send(self, planned: Planned, dispatched_ns: int) -> Reply:
            away = 2 * S <= CLOCK.now_ns() - START_NS < 9 * S
            self.outcome = "connect_error" if away else "ok"
            return await super().send(planned, dispatched_ns)

    told = played(closed(1, 60), Restarting(always(200 * MS)))
    assert len(told.of("ok")) + len(told.of("connect_error")) == 60
    assert told.of("connect_error")
    assert told.outcomes()[-1] == "ok"


# --- open loop --------------------------------------------------------------------------------------------------------


@law
@given(st.lists(st.integers(0, 5 * S), max_size=40).map(sorted), times_ns)
def test_requests_are_sent_at_their_absolute_due_times_whatever_the_server_does(
    due_ns: list[int], takes_ns: list[int]
) -> None:
    told = played(opened(due_ns), Server(by_index(*takes_ns)))
    assert told.server.moments_ns == due_ns
    assert [sent.planned.due_ns for sent in told.server.sent] == due_ns
    assert sorted(kept.intended_from_start_ns for kept in told.kept) == due_ns


def test_a_server_that_stalls_does_not_delay_arrivals() -> None:
    due_ns = [turn * 100 * MS for turn in range(20)]
    told = played(opened(due_ns), Server(always(3_600 * S)))
    assert told.server.moments_ns == due_ns
    assert told.server.most_at_once == 20
    assert told.lasted_ns == 3_600 * S + 1_900 * MS


def test_each_time_that_answers_end_as_many_are_let_in() -> None:
    told = played(opened([index * 20 * MS for index in range(30)], limit=4), Server(always(300 * MS)))
    assert told.server.moments_ns == [turn * 300 * MS + place * 20 * MS for turn in range(2) for place in range(4)]
    assert len(told.of("shed")) == 22


def test_at_the_in_flight_limit_arrivals_are_shed_not_delayed() -> None:
    due_ns = [0, 100 * MS, 200 * MS, 300 * MS, 1_000 * MS, 1_100 * MS]
    told = played(opened(due_ns, limit=2), Server(always(500 * MS)))
    assert told.server.moments_ns == [0, 100 * MS, 1_000 * MS, 1_100 * MS]
    assert told.server.most_at_once == 2
    refused = told.of("shed")
    assert [kept.planned.index for kept in refused] == [2, 3]
    assert [kept.intended_from_start_ns for kept in refused] == [200 * MS, 300 * MS]
    assert all(kept.reply.dispatched_ns is None and kept.reply.detail for kept in refused)


def test_a_place_that_has_become_free_is_there_for_the_next_arrival() -> None:
    told = played(opened([0, 100 * MS - 1, 100 * MS + 1], limit=1), Server(always(100 * MS)))
    assert told.server.moments_ns == [0, 100 * MS + 1]
    assert [kept.planned.index for kept in told.of("shed")] == [1]


@law
@given(st.lists(st.integers(0, 5 * S), max_size=40).map(sorted), times_ns, st.integers(1, 5))
def test_the_in_flight_limit_holds_and_every_arrival_is_sent_or_shed(
    due_ns: list[int], takes_ns: list[int], limit: int
) -> None:
    told = played(opened(due_ns, limit=limit), Server(by_index(*takes_ns)))
    assert told.server.most_at_once <= limit
    assert set(told.server.moments_ns) <= set(due_ns)
    assert len(told.of("ok")) + len(told.of("shed")) == len(told.kept) == len(due_ns)
    assert sorted(kept.intended_from_start_ns for kept in told.kept) == due_ns


def test_a_burst_due_at_one_moment_is_sent_at_that_moment() -> None:
    told = played(opened([1 * S] * 100), Server(always(1 * S)))
    assert told.server.moments_ns == [1 * S] * 100


# --- an in-flight limit that queues -----------------------------------------------------------------------------------


def queued(due_ns: Sequence[int], limit: int) -> Stage:
    return opened(due_ns, limit=limit, at_limit="queue")


def held(told: Played) -> dict[int, int]:
    return {kept.planned.index: kept.reply.held_ns for kept in told.kept}


def test_where_the_limit_queues_a_request_waits_for_its_place_and_is_charged_from_its_due_time() -> None:
    told = played(queued([0, 100 * MS, 200 * MS, 300 * MS, 2_000 * MS], 2), Server(always(500 * MS)))
    assert told.server.moments_ns == [0, 100 * MS, 500 * MS, 600 * MS, 2_000 * MS]
    assert told.outcomes() == ["ok"] * 5
    assert sorted(kept.intended_from_start_ns for kept in told.kept) == [0, 100 * MS, 200 * MS, 300 * MS, 2_000 * MS]
    assert held(told) == {0: 0, 1: 0, 2: 300 * MS, 3: 300 * MS, 4: 0}


def test_what_we_need_to_see_that_a_place_is_free_is_our_lateness_and_not_the_limits() -> None:
    told = played(queued([0, 10 * MS], 1), Server(always(100 * MS), late_ns=7 * MS))
    second = told.kept[1]
    assert held(told)[1] == 90 * MS
    assert second.reply.dispatched_ns is not None
    assert second.reply.dispatched_ns - second.intended_ns - second.reply.held_ns == 7 * MS


def test_a_place_that_was_free_before_the_due_time_held_nobody() -> None:
    # The answer had ended at 100 ms; we saw it at 130, and the request that came due at 110 was only ours to send.
    told = played(queued([0, 110 * MS], 1), Server(always(100 * MS), late_ns=30 * MS))
    assert told.server.moments_ns == [0, 130 * MS]
    assert held(told) == {0: 0, 1: 0}


@law
@given(st.lists(st.integers(0, 5 * S), max_size=40).map(sorted), times_ns, st.integers(1, 5))
def test_the_queue_is_served_in_order_within_the_limit_and_nobody_starves(
    due_ns: list[int], takes_ns: list[int], limit: int
) -> None:
    told = played(queued(due_ns, limit), Server(by_index(*takes_ns)))
    assert told.server.most_at_once <= limit
    assert told.outcomes() == ["ok"] * len(due_ns)
    assert [sent.planned.index for sent in told.server.sent] == list(range(len(due_ns)))
    assert sorted(kept.intended_from_start_ns for kept in told.kept) == due_ns
    for kept in told.kept:
        assert kept.reply.dispatched_ns == kept.intended_ns + kept.reply.held_ns


def test_a_stop_cancels_those_who_wait_for_a_place() -> None:
    told = played(queued([0, 100 * MS, 200 * MS, 5 * S], 1), Server(always(1 * S)), stop_ns=300 * MS)
    assert told.server.moments_ns == [0]
    waiting = told.of("cancelled")
    assert sorted(kept.planned.index for kept in waiting) == [1, 2, 3]
    assert {kept.planned.index: kept.intended_from_start_ns for kept in waiting} == {1: 100 * MS, 2: 200 * MS, 3: 5 * S}


# --- a common start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [closed(2, 4, ramp_in_ns=[0, 30 * MS]), opened([0, 30 * MS, 200 * MS, 230 * MS])])
def test_a_start_that_is_to_come_moves_all_of_the_stage(stage: Stage) -> None:
    at_once, later = played(stage, Server(always(200 * MS))), played(stage, Server(always(200 * MS)), start_ns=50 * MS)
    assert [moment - 50 * MS for moment in later.server.moments_ns] == at_once.server.moments_ns
    assert [kept.intended_ns - 50 * MS for kept in later.kept] == [kept.intended_ns for kept in at_once.kept]


def test_a_duration_counts_from_the_common_start() -> None:
    told = played(closed(1, None, duration_ns=250 * MS), Server(always(100 * MS)), start_ns=1 * S)
    assert told.server.moments_ns == [1_000 * MS, 1_100 * MS, 1_200 * MS]


def test_who_comes_too_late_for_the_common_start_is_late() -> None:
    told = played(opened([0, 100 * MS]), Server(always(MS)), start_ns=-60 * MS)
    assert told.server.moments_ns == [0, 40 * MS]
    assert [kept.intended_from_start_ns for kept in told.kept] == [-60 * MS, 40 * MS]


# --- enough -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [50, None])
def test_when_it_is_enough_no_user_asks_again_and_those_in_flight_end(count: int | None) -> None:
    stage = closed(3, count, ramp_in_ns=[0, 10 * MS, 20 * MS], duration_ns=None if count else 3_600 * S)
    told = played(stage, Server(always(100 * MS)), enough_after=4)
    assert told.server.moments_ns == [0, 10 * MS, 20 * MS, 100 * MS, 110 * MS, 120 * MS]
    assert told.outcomes() == ["ok"] * 6, "nothing is missed"


def test_when_it_is_enough_those_who_think_or_are_far_away_go_home_at_once() -> None:
    thinking = played(closed(2, 9, think_ns=[3_600 * S]), Server(by_index(MS, 5 * MS)), enough_after=2)
    waiting = played(opened([0, 1 * MS, 3_600 * S]), Server(always(4 * MS)), enough_after=2)
    for told in (thinking, waiting):
        assert told.outcomes() == ["ok", "ok"]
        assert told.lasted_ns == 5 * MS


def test_when_it_is_enough_those_who_wait_for_a_place_are_not_begun() -> None:
    told = played(queued([0, 0, 0, 0, 5 * MS], 1), Server(always(10 * MS)), enough_after=2)
    assert [kept.planned.index for kept in told.kept] == [0, 1]
    assert told.lasted_ns == 20 * MS


def test_when_it_is_enough_nobody_is_kept_waiting_by_the_ceiling_on_the_rate() -> None:
    told = played(closed(3, 9, ceiling_per_s=1), Server(always(5 * MS)), enough_after=1)
    assert told.outcomes() == ["ok"]
    assert told.lasted_ns == 5 * MS


@pytest.mark.parametrize("stage", [closed(1, 50), opened([at * 5 * MS for at in range(50)])])
def test_what_was_never_promised_is_not_missed_when_the_person_stops(stage: Stage) -> None:
    some = msgspec.structs.replace(stage, until=StopRule("e2e", 50.0, 0.1))
    told, promised = (played(one, Server(always(5 * MS)), stop_ns=22 * MS) for one in (some, stage))
    assert told.outcomes() == ["ok"] * 5
    assert sorted(promised.outcomes()) == ["cancelled"] * 45 + ["ok"] * 5


# --- warm-up ----------------------------------------------------------------------------------------------------------


def test_warm_up_is_recorded_apart_and_as_many_at_once_as_there_will_be_users() -> None:
    told = played(closed(2, 10, warmup=5), Server(always(100 * MS)), warmup=True)
    assert [(kept.phase, kept.planned.index) for kept in told.kept] == [("warmup", index) for index in range(5)]
    assert told.server.moments_ns == [0, 0, 100 * MS, 100 * MS, 200 * MS]
    assert [kept.intended_from_start_ns for kept in told.kept] == told.server.moments_ns


def test_warm_up_of_an_open_loop_goes_one_after_the_other() -> None:
    told = played(opened([0], warmup=3), Server(always(100 * MS)), warmup=True)
    assert told.server.moments_ns == [0, 100 * MS, 200 * MS]


def test_warm_up_is_counted_for_each_model() -> None:
    told = played(closed(1, 4, models=(4, 9), warmup=2), Server(always(MS)), warmup=True)
    assert [kept.planned.model for kept in told.kept] == [4, 9, 4, 9]


@pytest.mark.parametrize("stage", [closed(3, 5), opened([0, 1])])
def test_without_warm_up_none_is_sent(stage: Stage) -> None:
    assert not played(stage, Server(always(MS)), warmup=True).kept


def test_a_stop_ends_the_warm_up_and_every_request_of_it_is_kept() -> None:
    told = played(closed(1, 4, warmup=4), Server(always(100 * MS)), warmup=True, stop_ns=150 * MS)
    assert told.outcomes() == ["ok", "ok", "cancelled", "cancelled"]
    assert {kept.phase for kept in told.kept} == {"warmup"}


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_lets_those_in_flight_end_and_cancels_the_rest() -> None:
    told = played(closed(2, 10), Server(always(100 * MS)), stop_ns=150 * MS)
    assert told.outcomes() == ["ok"] * 4 + ["cancelled"] * 6
    assert told.lasted_ns == 200 * MS
    assert [kept.planned.index for kept in told.of("cancelled")] == [4, 5, 6, 7, 8, 9]
    assert {kept.intended_from_start_ns for kept in told.of("cancelled")} == {200 * MS}
    assert all(kept.reply.dispatched_ns is None for kept in told.of("cancelled"))


def test_a_stop_wakes_users_who_think_and_arrivals_that_are_far_away() -> None:
    thinking = played(closed(1, 2, think_ns=[3_600 * S]), Server(always(MS)), stop_ns=10 * S)
    waiting = played(opened([0, 3_600 * S]), Server(always(MS)), stop_ns=10 * S)
    for told in (thinking, waiting):
        assert told.outcomes() == ["ok", "cancelled"]
        assert told.lasted_ns == 10 * S


def test_a_wait_too_short_to_be_cut_short_ends_before_the_stop_is_seen() -> None:
    told = played(opened([0, INTERRUPTIBLE_NS, 2 * INTERRUPTIBLE_NS]), Server(always(0)), stop_ns=INTERRUPTIBLE_NS // 2)
    assert told.outcomes() == ["ok", "cancelled", "cancelled"]
    assert told.lasted_ns == INTERRUPTIBLE_NS


def test_what_came_due_after_a_stop_keeps_its_due_time() -> None:
    told = played(opened([0, 1 * S, 2 * S, 3 * S]), Server(always(5 * S)), stop_ns=1_500 * MS)
    assert [(k.planned.index, k.intended_from_start_ns) for k in told.of("cancelled")] == [(2, 2 * S), (3, 3 * S)]
    assert told.lasted_ns == 6 * S


def test_a_stop_leaves_nothing_to_cancel_where_time_bounds_the_load() -> None:
    for count in (None, 1_000):
        told = played(closed(1, count, duration_ns=10 * S), Server(always(1 * S)), stop_ns=2_500 * MS)
        assert told.outcomes() == ["ok"] * 3


def test_a_stop_is_not_kept_waiting_by_the_ceiling_on_the_rate() -> None:
    told = played(closed(3, 4, ceiling_per_s=1), Server(always(1 * S)), stop_ns=5 * MS)
    assert told.server.moments_ns == [0]
    assert sorted(told.outcomes()) == ["cancelled"] * 3 + ["ok"]
    assert sorted(kept.planned.index for kept in told.kept) == [0, 1, 2, 3]
    assert told.lasted_ns == 1 * S


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """Any stage that promises a number of requests."""
    models = tuple(range(draw(st.integers(1, 3))))
    if draw(st.booleans()):
        due = draw(st.lists(st.integers(0, 3 * S), max_size=25).map(sorted))
        at_limit: Literal["shed", "queue"] = draw(st.sampled_from(["shed", "queue"]))
        return opened(due, limit=draw(st.none() | st.integers(1, 4)), at_limit=at_limit, models=models)
    users = draw(st.integers(1, 5))
    ramp = sorted(draw(st.lists(st.integers(0, 2 * S), min_size=users, max_size=users)))
    thinks = draw(st.none() | times_ns)
    return closed(users, draw(st.integers(0, 25)), think_ns=thinks, ramp_in_ns=ramp, models=models)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=200)
@given(stages(), times_ns, st.none() | st.integers(0, 6 * S))
def test_every_planned_request_is_kept_exactly_once_whenever_it_is_stopped(
    stage: Stage, takes_ns: list[int], stop_ns: int | None
) -> None:
    told = played(stage, Server(by_index(*takes_ns)), stop_ns=stop_ns)
    kept = sorted((kept.planned.model, kept.planned.index) for kept in told.kept)
    planned = [stage.request(position) for position in range(stage.count or 0)]
    assert kept == sorted((request.model, request.index) for request in planned)
    assert {kept.phase for kept in told.kept} <= {"measured"}
    assert sorted(told.server.moments_ns) == sorted(
        kept.reply.dispatched_ns - FROM_EPOCH_NS for kept in told.kept if kept.reply.dispatched_ns is not None
    )
    if stop_ns is None:
        assert not told.of("cancelled")
    else:
        assert all(moment_ns <= stop_ns + INTERRUPTIBLE_NS for moment_ns in told.server.moments_ns)


# --- taking turns -----------------------------------------------------------------------------------------------------


@law
@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 30), times_ns, st.sampled_from(["closed", "open"]))
def test_interleaved_models_take_turns(
    models: int, users: int, count: int, takes_ns: list[int], loop: Literal["closed", "open"]
) -> None:
    who = tuple(range(models))
    stage = closed(users, count, models=who) if loop == "closed" else opened(range(0, count * S, S), models=who)
    told = played(stage, Server(by_index(*takes_ns)))
    assert [sent.planned.model for sent in told.server.sent] == [position % models for position in range(count)]
    counts = [sum(kept.planned.model == model for kept in told.kept) for model in who]
    assert counts == [stage.planned_of(model) for model in who]
    assert max(counts) - min(counts) <= 1


def test_a_slow_model_does_not_make_the_other_wait_for_its_due_times() -> None:
    due_ns = [turn * 100 * MS for turn in range(10)]
    told = played(opened(due_ns, models=(0, 1)), Server(lambda planned: 60 * S if planned.model == 0 else MS))
    assert told.server.moments_ns == due_ns


def test_a_clock_that_breaks_is_not_taken_for_the_end_of_a_wait() -> None:
    class Broken(VirtualClock):
        async def sleep_until_ns(self, deadline_ns: int) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        await StopSignal().sleep_until_ns(Broken(), START_NS + 1 * S)

    with pytest.raises(ZeroDivisionError):
        run(main())


def test_what_goes_wrong_in_the_harness_itself_is_not_taken_for_a_failed_request() -> None:
    async def broken(_: Planned, __: int) -> Reply:
        raise ZeroDivisionError

    async def main() -> None:
        await ScriptedRunner(opened([0]), broken, NullSink(), epoch_ns=EPOCH_NS).play_all("measured")

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert caught.group_contains(ZeroDivisionError)
