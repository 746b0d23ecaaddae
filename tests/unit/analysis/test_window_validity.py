"""Whether loadgen measured a window well: the limits are those of a stage, on each side of them."""

from typing import Any

import msgspec
import numpy as np
import pytest

from loadgen.analysis.validity import LATE_READ_MS, OFF, OWN_CPU
from loadgen.analysis.window_validity import OWN_CODES, ClosedLoad, MeasuredWindow, window_reasons
from loadgen.record import LAG_PERCENTILES, ProcessFacts
from loadgen.stats.histogram import Histogram
from tests.records import MS, S

CALM = ProcessFacts(
    cpu_share=0.1,
    ticks=3_000,
    loop_lags_ns=(1 * MS,) * len(LAG_PERCENTILES),
    stamped_reads=1_000,
    stamp_lags_ns=(1 * MS,) * len(LAG_PERCENTILES),
)
USERS = ClosedLoad(users=2, length_ns=60 * S, sent=100, slip_ns=0)


def histogram(value_ms: float, count: int = 500) -> Histogram:
    filled = Histogram()
    filled.record(np.full(count, round(value_ms * MS)))
    return filled


WINDOW = MeasuredWindow(
    stamp_source="kernel",
    histograms={"ttft": histogram(100), "itl": histogram(20), "e2e": histogram(1_000)},
    slowest_ns={"ttft": 110 * MS, "itl": 25 * MS, "e2e": 1_100 * MS},
    over_range=0,
    closed_load=USERS,
    facts=CALM,
)
USER: dict[str, Any] = {"stamp_source": "user"}


def reasons(**changes: Any) -> tuple[str, ...]:
    return window_reasons(msgspec.structs.replace(WINDOW, **changes))


def of_us(**changes: Any) -> ProcessFacts:
    return msgspec.structs.replace(CALM, **changes)


def late_ns(ms: float) -> tuple[int, ...]:
    return (round(ms * MS),) * len(LAG_PERCENTILES)


def slip(share: float) -> ClosedLoad:
    return msgspec.structs.replace(USERS, slip_ns=round(share * 2 * 60 * S))


@pytest.mark.parametrize(
    ("within", "beyond", "code"),
    [
        ({"closed_load": slip(OFF)}, {"closed_load": slip(OFF + 0.01)}, "dispatch_slip"),
        ({"facts": of_us(cpu_share=OWN_CPU)}, {"facts": of_us(cpu_share=OWN_CPU + 0.01)}, "own_cpu"),
        (
            {"facts": of_us(stamp_lags_ns=late_ns(LATE_READ_MS - 1))},
            {"facts": of_us(stamp_lags_ns=late_ns(LATE_READ_MS + 1))},
            "stamp_lag",
        ),
        (
            {"facts": of_us(loop_lags_ns=late_ns(2.0))} | USER,
            {"facts": of_us(loop_lags_ns=late_ns(3.0))} | USER,
            "loop_lag",
        ),
        ({"facts": of_us(collector_ns=1 * MS)} | USER, {"facts": of_us(collector_ns=2 * MS)} | USER, "gc_pause"),
        ({}, {"facts": of_us(clock_steps=1, clock_step_max_ns=9 * MS)}, "clock_step"),
        ({}, {"over_range": 1}, "over_range"),
    ],
)
def test_a_window_is_valid_up_to_the_limit_of_a_stage_and_not_beyond_it(
    within: dict[str, Any], beyond: dict[str, Any], code: str
) -> None:
    assert reasons(**within) == ()
    assert reasons(**beyond) == (code,)
    assert code in OWN_CODES


def test_in_an_open_loop_lateness_counts_as_far_as_it_lengthened_a_latency() -> None:
    late = {**WINDOW.histograms} | {"punctual_ttft": histogram(96), "punctual_e2e": histogram(996)}
    assert reasons(closed_load=None, histograms=late) == ("dispatch_slip",)
    late |= {"punctual_ttft": histogram(99)}
    assert reasons(closed_load=None, histograms=late) == ()
    few = {"ttft": histogram(100, 5), "punctual_ttft": histogram(50, 5)}
    assert reasons(closed_load=None, histograms=few) == (), "a percentile that needs more is not shown"


def test_the_lag_of_the_loop_and_its_pauses_matter_only_where_stamps_are_taken_in_it() -> None:
    facts = of_us(loop_lags_ns=late_ns(300), collector_ns=300 * MS)
    assert reasons(facts=facts) == ()
    assert reasons(facts=facts, **USER) == ("loop_lag", "gc_pause")


def test_what_the_server_did_makes_no_window_invalid() -> None:
    assert reasons(histograms={}, slowest_ns={}) == ()
    assert reasons(histograms={}, slowest_ns={}, facts=None) == ()
    assert reasons(histograms={}, slowest_ns={}, **USER) == ()


def test_too_few_requests_or_ticks_for_a_percentile_say_nothing() -> None:
    assert reasons(closed_load=msgspec.structs.replace(slip(0.5), sent=5)) == ()
    assert reasons(facts=of_us(ticks=5, loop_lags_ns=late_ns(300)), **USER) == ()
    assert reasons(facts=of_us(stamped_reads=50, stamp_lags_ns=late_ns(300))) == ()
