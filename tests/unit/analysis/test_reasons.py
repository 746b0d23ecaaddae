"""The text of each reason: who caused it, which number is off, and by about how much, or that this is not known."""

import re
from typing import Any, Final, get_args

import pytest

from loadgen.analysis.evidence import Evidence, InFlight
from loadgen.analysis.reason_codes import RuleCode
from loadgen.analysis.stage_steady import unsteady_words
from loadgen.analysis.summary import Effect, Steadiness
from loadgen.analysis.validity import judge
from loadgen.record import MachineFacts, Neighbor

NUMBERS: Final = r"TTFT|ITL|TPOT|E2E|throughput|latenc|a latency"
SIZES: Final = r"\d ?%|\d ms|by how much is not known|not known|no latency"
ACTORS: Final = (
    r"loadgen|the server|server has died|the system|other work|proxy|the stage|requested load|request was answered|"
    r"tokens were held back|the stage was|middle of the stage|value"
)

USER: Final[dict[str, Any]] = {"stamp_source": "user"}

TEXTS: Final[list[tuple[RuleCode, dict[str, Any], str]]] = [
    (
        "dispatch_slip",
        {"slip_effect": Effect(0.04, "throughput", 11.0)},
        "throughput is up to 4% too low, because users waited 11 ms for loadgen before each request",
    ),
    (
        "dispatch_slip",
        {"slip_effect": Effect(0.062, "TTFT p99", 3.218)},
        "TTFT p99 is up to 6% (3.22 ms) too high, because loadgen sent requests late",
    ),
    (
        "loop_lag",
        {**USER, "lag_effect": Effect(0.062, "ITL p99", 3.218)},
        "ITL p99 is off by about 6% (3.22 ms), because loadgen's event loop took stamps late",
    ),
    (
        "stamp_lag",
        {"stamp_lag_p99_ms": 130.0},
        "ITL and E2E may be too high, by how much is not known, because loadgen read bytes 130.0 ms after they had "
        "arrived (p99), for which the server may have waited",
    ),
    (
        "own_cpu",
        {"cpu_share": 0.62},
        "TTFT, ITL and E2E may be too high, by how much is not known, because loadgen used 62% of a core",
    ),
    (
        "own_cpu",
        {"cpu_share": 0.62, "longer_by_own_cpu": 0.043},
        "TTFT, ITL and E2E are up to 4.3% too high where the server waited for a core, because loadgen used 62% of a "
        "core",
    ),
    (
        "gc_pause",
        {**USER, "gc_pause_max_ms": 5.0, "pause_effect": Effect(0.5, "slowest ITL", 5.0)},
        "the slowest ITL may be 50% (5 ms) too high, because loadgen collected garbage meanwhile",
    ),
    (
        "clock_step",
        {"clock_steps": 2, "clock_step_max_ms": 41.25},
        "TTFT, ITL and E2E of the requests then in flight are off, by up to 41.2 ms, because the system set its clock "
        "2 times",
    ),
    (
        "clock_step",
        {"clock_steps": 1},
        "TTFT, ITL and E2E of the requests then in flight are off, by how much is not known, because the system set "
        "its clock once",
    ),
    (
        "busy_machine",
        {"machine": MachineFacts(cores=2, slowdown=0.12, busiest=(Neighbor("cc1plus", 0.97),))},
        "TTFT, ITL and E2E are about 12% too high, because other work on this machine slowed the server (cc1plus 97% "
        "of a core)",
    ),
    (
        "shed",
        {"shed": 3, "requests": 60},
        "the load was 5.0% lower than requested, because loadgen shed 3 of 60 requests at max_in_flight, so "
        "TTFT and E2E are too low, by how much is not known",
    ),
    (
        "achieved_rate",
        {"achieved_share": 0.7512},
        "throughput is up to 24.9% too low, because loadgen sent only 75.1% of the requested rate",
    ),
    (
        "achieved_users",
        {"users_share": 0.93},
        "throughput is up to 7% too low, because only 93.0% of the users were being answered, and the others waited "
        "for loadgen",
    ),
    (
        "server_died",
        {"server_ended": "llama-server has died (exit code 3)", "ok": 12},
        "llama-server has died (exit code 3), so throughput and all latencies are of the 12 requests that it had "
        "answered, and off, by how much is not known",
    ),
    (
        "worker_lost",
        {"lost_workers": ("process 2 of 3: sent nothing for 10 s",), "workers": 3},
        "throughput is up to 33% too low, because loadgen lost process 2 of 3: sent nothing for 10 s",
    ),
    (
        "beyond_calibration",
        {"beyond": "9,000 token events a second (calibrated for 8,000)"},
        "one TTFT, ITL or E2E in a hundred may be off by more than 1 ms, because loadgen took 9,000 token events a "
        "second (calibrated for 8,000)",
    ),
    (
        "littles_law",
        {"in_flight": InFlight(50.0, 46.0, 0.0)},
        "throughput or E2E is off by about 8%, because loadgen saw 50.00 requests in flight, and recorded 46.00",
    ),
    (
        "no_window",
        {"window_s": None},
        "throughput is not known, and TTFT and E2E are off, by how much is not known, because the requested load was "
        "never reached",
    ),
    (
        "nothing_answered",
        {"ok": 0},
        "no request was answered, so no latency and no throughput is known",
    ),
    (
        "incomplete",
        {"complete": False, "requests": 12, "planned": 40},
        "throughput and all latencies may be off, by how much is not known, because the stage was cut short after 12 "
        "of 40 requests",
    ),
    (
        "incomplete",
        {"complete": False, "requests": 12},
        "throughput and all latencies may be off, by how much is not known, because the stage was cut short",
    ),
    (
        "never_steady",
        {"unsteady": unsteady_words(Steadiness(False, "drift", 0, 0.46), "TTFT")},
        "TTFT grew all the time, by 46% from the first third to the last, so it depends on how long the stage was",
    ),
    (
        "never_steady",
        {"unsteady": unsteady_words(Steadiness(False, "never_settles", 0, None), "E2E")},
        "E2E had not settled by the middle of the stage, and is off, by how much is not known",
    ),
    (
        "shared_reads",
        {"shared_reads_share": 0.4, "shared_reads_effect": Effect(1.0, "ITL p50", -12.14)},
        "ITL p50 is up to 100% (12.1 ms) too low, because 40% of the tokens reached loadgen in one read with the token "
        "before",
    ),
    (
        "shared_reads",
        {"shared_reads_share": 0.4},
        "ITL is off, by how much is not known, because 40% of the tokens reached loadgen in one read with the token "
        "before",
    ),
    (
        "held_back",
        {"held_back": "tokens were held back in 9 of 10 answers: 64 tokens in 2 arrivals within 1 ms (medians)"},
        "TTFT is too high, by how much is not known, and TPOT and ITL are not known, because tokens were held back in "
        "9 of 10 answers: 64 tokens in 2 arrivals within 1 ms (medians)",
    ),
    (
        "over_range",
        {"over_range": 1, "over_range_metrics": ("E2E",)},
        "the mean and the highest percentiles of E2E are off, by how much is not known, because 1 value is below 0 or "
        "above 1 h",
    ),
]


def reasons_of(changes: dict[str, Any]) -> list[tuple[str, str]]:
    seen: dict[str, Any] = {"stamp_source": "kernel", "ok": 50, "window_s": 10.0}
    return [(reason.code, reason.observed) for reason in judge(Evidence(**{**seen, **changes})).reasons]


@pytest.mark.parametrize(("code", "changes", "text"), TEXTS, ids=[f"{i}-{code}" for i, (code, *_) in enumerate(TEXTS)])
def test_a_reason_says_who_made_which_number_wrong_and_by_about_how_much(
    code: RuleCode, changes: dict[str, Any], text: str
) -> None:
    assert reasons_of(changes) == [(code, text)]
    for part in (NUMBERS, SIZES, ACTORS):
        assert re.search(part, text), part
    assert ";" not in text, "reports put it between reasons"


def test_the_table_has_every_reason() -> None:
    assert {code for code, *_ in TEXTS} == set(get_args(RuleCode))
