"""A visit from its records: what counts, in which order, up to where, and what it is worth."""

import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from loadgen.decisions.capacity.visit import Visit, VisitTally, most_at_once
from loadgen.plan.plan import StageLoad
from loadgen.record import Record
from loadgen.scenario import Slo
from loadgen.scenario.objective import objective_of
from tests.records import MS, record, unsent

OBJECTIVES = (objective_of("ttft_p90=1s"), objective_of("ok=99%"))


def asked(index: int, at_ms: float, ttft_ms: float = 100.0, **changes: object) -> Record:
    """A request that was sent at a moment, with two tokens 100 ms apart."""
    start = round(at_ms * MS)
    first = start + round(ttft_ms * MS)
    answered = record(
        index=index,
        intended_ns=start,
        dispatched_ns=start,
        sent_ns=start,
        written_ns=start,
        stamps_ns=(first, first + 100 * MS),
        end_ns=first + 100 * MS,
        output_tokens=2,
    )
    return structs.replace(answered, **changes)


def visit_of(records: Iterable[Record], load: StageLoad, workers: int = 1) -> Visit:
    tally = VisitTally(OBJECTIVES, load, Slo(), workers)
    for each in records:
        tally.take(each)
    return tally.visit(level=float(load.concurrency or load.rate_per_s or 0), label="c2", seconds=10.0)


def users(count: int) -> StageLoad:
    return StageLoad("closed", concurrency=count)


def rate(per_s: float) -> StageLoad:
    return StageLoad("poisson", rate_per_s=per_s)


def test_the_first_round_is_left_out() -> None:
    visit = visit_of([asked(i, 1000 * i, 2000 if i < 2 else 100) for i in range(10)], users(2))
    assert (visit.requests, visit.met, visit.missed) == (8, (8, 8), (0, 0))
    assert visit.played == 10


def test_warm_up_and_what_was_never_sent_do_not_count() -> None:
    records = [asked(i, 1000 * i) for i in range(6)]
    extra = [asked(6, 7000, phase="warmup"), unsent("cancelled", index=6)]
    assert visit_of([*records, *extra], users(1)) == visit_of(records, users(1))


@given(order=st.permutations(range(30)))
def test_the_order_in_which_records_come_changes_nothing(order: list[int]) -> None:
    records = [asked(i, 500 * i, 1500 if i % 7 == 0 else 100 + i) for i in range(30)]
    assert visit_of([records[i] for i in order], users(3)) == visit_of(records, users(3))


def test_an_open_request_ends_what_counts_until_its_limit_has_passed() -> None:
    records = [asked(i, 1000 * i) for i in range(10)]
    still = {"outcome": "cancelled", "stamps_ns": (), "first_visible_ns": None}
    records[5] = structs.replace(asked(5, 5000), **still, end_ns=5900 * MS)
    assert visit_of(records, users(1)).requests == 4
    records[5] = structs.replace(records[5], end_ns=6001 * MS)
    visit = visit_of(records, users(1))
    # Its TTFT is missed, but `ok` is not decided: each objective counts up to its own first undecided request.
    assert (visit.requests, visit.met, visit.missed) == (9, (8, 4), (1, 0))
    tally = VisitTally(OBJECTIVES[:1], users(1), Slo())
    for each in records:
        tally.take(each)
    visit = tally.visit(level=1.0, label="c1", seconds=1.0)
    assert (visit.requests, visit.missed) == (9, (1,))


def still_open(index: int, at_ms: float, now_ms: float, ttft_ms: float | None = None) -> Record:
    """A request that was sent at a moment and is open now, with its first token or without."""
    first = () if ttft_ms is None else (round((at_ms + ttft_ms) * MS),)
    return asked(
        index,
        at_ms,
        outcome="cancelled",
        stamps_ns=first,
        first_visible_ns=first[0] if first else None,
        end_ns=round(now_ms * MS),
        output_tokens=None,
    )


def open_visit(
    late: Record, *texts: str, load: StageLoad | None = None, workers: int = 1, slo: Slo | None = None
) -> Visit:
    """A visit of two users, twelve of whose thirteen requests have ended: number 6, of 3 s, is `late`."""
    load = load or users(2)
    tally = VisitTally(tuple(map(objective_of, texts)), load, slo or Slo(), workers)
    for i in range(13):
        if i != late.index:
            tally.take(asked(i, 500 * i))
    tally.take_open(late)
    return tally.visit(level=2.0, label="c2", seconds=10.0)


@pytest.mark.parametrize(("workers", "counted"), [(1, 11), (2, 10)])  # the last of the second process was at 5.5 s
def test_an_open_request_past_its_limit_is_a_miss_before_its_record_comes(workers: int, counted: int) -> None:
    early = open_visit(still_open(6, 3000, 3900), "ttft_p90=1s", workers=workers)
    assert (early.requests, early.met, early.missed) == (4, (4,), (0,))
    late = open_visit(still_open(6, 3000, 4001), "ttft_p90=1s", workers=workers)
    assert (late.requests, late.met, late.missed) == (counted, (counted - 1,), (1,))
    assert (late.played, late.streams) == (12, 1), "it has not ended"


def test_an_open_request_that_has_its_first_token_in_time_has_not_missed_its_ttft() -> None:
    late = still_open(6, 3000, 9000, ttft_ms=200)
    assert open_visit(late, "ttft_p90=1s").requests == 4
    assert open_visit(late, "ttfc_p90=1s").requests == 4
    assert open_visit(late, "tpot_p90=1s").requests == 4
    assert open_visit(late, "ok=90%").requests == 4
    assert open_visit(late, "e2e_p90=5s").missed == (1,)
    assert open_visit(late, "e2e_p90=7s").requests == 4
    assert open_visit(late, "goodput=90%", slo=Slo(ttft_ms=1000.0, e2e_ms=5000.0)).missed == (1,)
    assert open_visit(late, "goodput=90%", slo=Slo(ttft_ms=1000.0)).requests == 4


def test_each_objective_counts_up_to_its_own_first_undecided_request() -> None:
    visit = open_visit(still_open(6, 3000, 4001), "ok=99%", "ttft_p90=1s")
    assert (visit.requests, visit.met, visit.missed) == (11, (4, 10), (0, 1))


def test_the_record_of_a_late_request_replaces_what_was_known_while_it_was_open() -> None:
    tally = VisitTally(OBJECTIVES, users(1), Slo())
    for i in range(6):
        tally.take(asked(i, 1000 * i))
    tally.take_open(still_open(6, 6000, 7001))
    assert (tally.taken, tally.visit(level=1.0, label="c1", seconds=9.0).missed) == (7, (1, 0))
    tally.take_open(still_open(6, 6000, 8001))  # past another limit
    tally.take(asked(6, 6000, 2500))
    visit = tally.visit(level=1.0, label="c1", seconds=9.0)
    assert (tally.taken, visit.met, visit.missed, visit.played) == (7, (5, 6), (1, 0), 7)


def test_an_open_loop_in_which_late_requests_pile_up_falls_behind() -> None:
    tally = VisitTally(OBJECTIVES[:1], rate(2.0), Slo())
    for i in range(300):
        tally.take(asked(i, 500 * i)) if i % 2 else tally.take_open(still_open(i, 500 * i, 500 * i + 1001))
    visit = tally.visit(level=2.0, label="r2", seconds=150.0)
    assert visit.doubt == "behind"
    assert visit.missed[0] >= 100


def test_a_request_without_a_record_ends_what_counts() -> None:
    """Requests are taken in order, so that a gap is one that has not ended. A slow one would else be missing."""
    records = [asked(i, 1000 * i) for i in range(12) if i != 6]
    assert visit_of(records, users(2)).requests == 4
    assert visit_of([each for each in records if each.index != 0], users(2)).requests == 0


def test_with_several_processes_each_takes_its_own_requests_in_order() -> None:
    """Of 3 users with 2 processes, one plays users 0 and 2, the other user 1: one may be far ahead of the other."""
    load = users(3)
    fast = [asked(index, 100 * place, 10) for place, index in enumerate([0, 2, 3, 5, 6, 8, 9, 11])]
    slow = [asked(index, 350 * place, 10) for place, index in enumerate([1, 4])]
    # The second process's third request was not dispatched before 350 ms, so that what began by then is complete.
    assert visit_of([*fast, *slow], load, workers=2).requests == 6 - 3
    assert visit_of([*fast, *slow], load, workers=1).requests == 7 - 3
    gap = [each for each in fast if each.index != 3]
    assert visit_of([*gap, *slow], load, workers=2).requests == 3 - 3


def test_failures_are_misses_and_the_slowest() -> None:
    records = [asked(i, 1000 * i, outcome="http_error" if i % 5 == 0 else "ok") for i in range(1, 41)]
    records = [asked(0, 0), *records]
    visit = visit_of(records, users(1))
    assert (visit.met, visit.missed) == ((32, 32), (8, 8))


@pytest.mark.parametrize("load", [users(2), rate(2.0)])
def test_connections_refused_at_the_end_do_not_count_because_the_server_is_gone(load: StageLoad) -> None:
    answered = [asked(i, 1000 * i) for i in range(40)]
    cut = structs.replace(asked(40, 40_000), outcome="truncated")
    gone = [
        structs.replace(asked(i, 1000 * i), outcome="connect_error", stamps_ns=(), first_visible_ns=None)
        for i in range(41, 61)
    ]
    visit = visit_of([*answered, cut, *gone], load)
    assert (visit.met, visit.missed) == ((visit.requests - 1,) * 2, (1, 1)), "the answer that broke off is a miss"
    # A server that refuses some connections because of the load is not gone.
    back = visit_of([*answered, cut, *gone, asked(61, 61_000)], load)
    assert back.missed == (21, 21)
    few = visit_of([*answered, *(structs.replace(each, index=each.index - 1) for each in gone[:2])], load)
    assert few.missed == (2, 2)


def test_an_objective_that_applies_to_no_request_counts_none() -> None:
    tally = VisitTally((objective_of("tpot_p90=1s"),), users(1), Slo())
    for i in range(20):
        tally.take(structs.replace(asked(i, 1000 * i), output_tokens=1))
    visit = tally.visit(level=1.0, label="c1", seconds=20.0)
    assert (visit.requests, visit.met, visit.missed, visit.inflation) == (19, (0,), (0,), (1.0,))


def test_slow_spells_inflate() -> None:
    spell = [asked(i, 1000 * i, 900 if 40 <= i < 80 else 100 + i % 3) for i in range(160)]
    assert visit_of(spell, users(1)).inflation[0] > 5
    far = [asked(i, 1000 * i, 400 if 40 <= i < 80 else 100 + i % 3) for i in range(160)]
    assert visit_of(far, users(1)).inflation == (1.0, 1.0), "no limit is near"
    mixed = list(range(160))
    random.Random(1).shuffle(mixed)
    at_random = [asked(i, 1000 * i, 900 if mixed[i] < 40 else 100 + i % 3) for i in range(160)]
    assert visit_of(at_random, users(1)).inflation[0] < 2


def test_streams_are_counted_between_first_token_and_end() -> None:
    visit = visit_of([asked(i, 30 * i, 50) for i in range(12)], users(4))
    assert visit.streams == 4  # each streams for 100 ms, one every 30 ms
    assert most_at_once(np.array([-1, 5]), np.array([3, -1])) is None
    assert most_at_once(np.array([0, 10]), np.array([10, 20])) == 1


def test_a_burst_at_the_start_of_an_open_loop_is_left_out() -> None:
    burst = [asked(i, 0, 100 + 50 * i) for i in range(24)]
    rng = np.random.default_rng(3)
    rest = [asked(24 + i, 500 * (i + 1), 100 + 40 * rng.random()) for i in range(200)]
    visit = visit_of([*burst, *rest], rate(2.0))
    assert 100 <= visit.requests <= 198  # the last of the burst ended after 1.35 s
    assert (visit.doubt, visit.burst) == (None, 24)


def test_a_queue_that_still_drains_is_in_doubt() -> None:
    rng = np.random.default_rng(1)
    drains = [asked(i, 500 * i, 900 - 2 * i + 40 * rng.random()) for i in range(300)]
    assert visit_of(drains, rate(2.0)).doubt == "drains"


def test_few_requests_fall_behind_by_chance() -> None:
    lumpy = [asked(i, 500 * i, 100 if i < 12 else 3000) for i in range(20)]
    assert visit_of(lumpy, rate(2.0)).doubt is None


def test_an_open_loop_that_falls_behind_is_in_doubt() -> None:
    behind = [asked(i, 500 * i, 100 + 60 * i) for i in range(300)]
    assert visit_of(behind, rate(2.0)).doubt == "behind"


def test_an_open_loop_whose_latencies_drift_is_in_doubt() -> None:
    rng = np.random.default_rng(1)
    drifts = [asked(i, 500 * i, 100 + 2 * i + 40 * rng.random()) for i in range(300)]
    assert visit_of(drifts, rate(2.0)).doubt == "drift"
    steady = [asked(i, 500 * i, 100 + 40 * rng.random()) for i in range(300)]
    assert visit_of(steady, rate(2.0)).doubt is None


def test_shed_requests_are_misses() -> None:
    records = [asked(i, 500 * i) if i % 2 else unsent("shed", index=i, intended_ns=500 * i * MS) for i in range(100)]
    visit = visit_of(records, rate(2.0))
    assert sum(visit.missed) >= 2 * 40


def test_a_visit_of_which_nothing_has_ended_counts_nothing() -> None:
    for load in (users(4), rate(1.0)):
        visit = visit_of([], load)
        assert (visit.requests, visit.met, visit.missed, visit.played, visit.streams) == (0, (0, 0), (0, 0), 0, None)
    assert visit_of([asked(0, 0)], rate(1.0)).requests == 1


@pytest.mark.parametrize("doubt", ["client", "busy_machine", "busy_host"])
def test_a_visit_in_which_we_were_in_the_way_is_not_judged(doubt: str) -> None:
    tally = VisitTally(OBJECTIVES, users(1), Slo())
    visit = tally.visit(level=1.0, label="c1", seconds=1.0, doubt=doubt)  # type: ignore[arg-type]
    assert not visit.is_judged


def test_a_look_is_needless_before_enough_requests_can_count() -> None:
    tally = VisitTally(OBJECTIVES, users(4), Slo())
    for i in range(10):
        tally.take(asked(i, 100 * i))
    assert tally.counted_at_most == 6
    tally.take(asked(12, 1200))  # two are still open
    assert tally.visit(level=4.0, label="c4", seconds=1.0).requests == 6
    assert tally.counted_at_most == 6
