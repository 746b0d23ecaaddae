"""The verdict: each reason at its line, just beyond it, and grossly beyond it; and that the set is closed."""

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.analysis.busy_machine import busy_text
from loadgen.analysis.evidence import Evidence, InFlight
from loadgen.analysis.reason_codes import RuleCode
from loadgen.analysis.summary import Effect
from loadgen.analysis.validity import Judgment, judge
from loadgen.record import MachineFacts, Neighbor


def judged(**changes: Any) -> Judgment:
    """The verdict on a stage in which all is as it should be, but for the changes."""
    seen: dict[str, Any] = {
        "stamp_source": "kernel",
        "ok": 100,
        "dispatch_slip_p99_ms": 0.2,
        "slip_effect": Effect(0.001, "throughput", 0.2),
        "loop_lag_p99_ms": 1.0,
        "cpu_share": 0.1,
        "gc_pause_max_ms": 0.0,
        "achieved_share": 1.0,
        "in_flight": InFlight(50.0, 50.0, 0.0),
        "shared_reads_share": 0.0,
        "window_s": 10.0,
    }
    return judge(Evidence(**{**seen, **changes}))


def codes(judgment: Judgment) -> list[str]:
    return [reason.code for reason in judgment.reasons]


def test_where_all_is_well_a_stage_is_valid_without_a_word() -> None:
    assert judged() == Judgment("valid", ())


USER: dict[str, Any] = {"stamp_source": "user"}
PAUSED: dict[str, Any] = {**USER, "gc_pause_max_ms": 5.0, "pause_effect": Effect(0.5, "slowest ITL", 5.0)}


def throughput(share: float) -> Effect:
    return Effect(share, "throughput", 11.0)


def ttft(share: float) -> Effect:
    return Effect(share, "TTFT p99", 11.0)


def machine(slowdown: float | None, **changes: Any) -> MachineFacts:
    return MachineFacts(cores=2, slowdown=slowdown, busiest=(Neighbor("cc1plus", 0.97),), **changes)


def shared(slowdown: float) -> MachineFacts:
    return machine(slowdown, slowdown_source="shared_waits")


def hosted(slowdown: float) -> MachineFacts:
    return MachineFacts(cores=2, slowdown=0.0, host_slowdown=slowdown, steal_share=slowdown)


# What is changed at the line (still good), just beyond it, and how it is judged there.
LINES: list[tuple[RuleCode, dict[str, Any], dict[str, Any], str]] = [
    ("dispatch_slip", {"slip_effect": throughput(0.03)}, {"slip_effect": throughput(0.0301)}, "degraded"),
    ("dispatch_slip", {"slip_effect": throughput(0.03)}, {"slip_effect": throughput(0.2501)}, "invalid"),
    ("dispatch_slip", {"slip_effect": ttft(0.03)}, {"slip_effect": ttft(0.0301)}, "degraded"),
    ("dispatch_slip", {"slip_effect": ttft(0.03)}, {"slip_effect": ttft(0.2501)}, "invalid"),
    ("loop_lag", {**USER, "lag_effect": ttft(0.03)}, {**USER, "lag_effect": ttft(0.0301)}, "degraded"),
    ("loop_lag", {**USER, "lag_effect": ttft(0.03)}, {**USER, "lag_effect": ttft(0.2501)}, "invalid"),
    ("stamp_lag", {"stamp_lag_p99_ms": 100.0}, {"stamp_lag_p99_ms": 100.001}, "invalid"),
    ("busy_machine", {"machine": machine(0.03)}, {"machine": machine(0.0301)}, "degraded"),
    ("busy_machine", {"machine": machine(0.03)}, {"machine": machine(0.2501)}, "invalid"),
    ("busy_machine", {"machine": shared(0.02)}, {"machine": shared(0.0201)}, "degraded"),
    ("busy_machine", {"machine": hosted(0.1)}, {"machine": hosted(0.1001)}, "degraded"),
    ("achieved_users", {"users_share": 0.95}, {"users_share": 0.9499}, "degraded"),
    ("achieved_users", {"users_share": 0.95}, {"users_share": 0.7999}, "invalid"),
    ("never_steady", {"unsteady": None}, {"unsteady": "it kept growing"}, "degraded"),
    ("server_died", {"server_ended": None}, {"server_ended": "ended by SIGKILL"}, "invalid"),
    ("worker_lost", {"lost_workers": ()}, {"lost_workers": ("worker 2 of 3 died",)}, "invalid"),
    ("beyond_calibration", {"beyond": None}, {"beyond": "9,000 tokens a second"}, "degraded"),
    ("own_cpu", {"cpu_share": 0.5}, {"cpu_share": 0.501}, "degraded"),
    ("own_cpu", {"cpu_share": 0.5}, {"cpu_share": 0.901}, "invalid"),
    ("gc_pause", {**PAUSED, "gc_pause_max_ms": 1.0}, {**PAUSED, "gc_pause_max_ms": 1.001}, "degraded"),
    ("gc_pause", {**PAUSED, "pause_effect": ttft(0.03)}, {**PAUSED, "pause_effect": ttft(0.9)}, "degraded"),
    ("clock_step", {"clock_steps": 0}, {"clock_steps": 1}, "invalid"),
    ("shed", {"shed": 0}, {"shed": 1}, "degraded"),
    ("achieved_rate", {"achieved_share": 0.99}, {"achieved_share": 0.9899}, "degraded"),
    ("achieved_rate", {"achieved_share": 0.99}, {"achieved_share": 0.8999}, "invalid"),
    ("littles_law", {"in_flight": InFlight(50.0, 51.5, 0.0)}, {"in_flight": InFlight(50.0, 51.51, 0.0)}, "degraded"),
    ("littles_law", {"in_flight": InFlight(50.0, 48.5, 0.0)}, {"in_flight": InFlight(50.0, 48.49, 0.0)}, "degraded"),
    ("littles_law", {"in_flight": InFlight(50.0, 51.5, 0.0)}, {"in_flight": InFlight(50.0, 55.01, 0.0)}, "invalid"),
    ("littles_law", {"in_flight": InFlight(50.0, 48.5, 0.0)}, {"in_flight": InFlight(50.0, 44.99, 0.0)}, "invalid"),
    ("no_window", {"window_s": 0.001}, {"window_s": None}, "degraded"),
    ("nothing_answered", {"ok": 1}, {"ok": 0}, "invalid"),
    ("incomplete", {"complete": True}, {"complete": False}, "degraded"),
    ("shared_reads", {"shared_reads_share": 0.1}, {"shared_reads_share": 0.1001}, "degraded"),
    ("held_back", {"held_back": None}, {"held_back": "tokens were held back", "shared_reads_share": 1.0}, "degraded"),
    ("over_range", {"over_range": 0}, {"over_range": 1}, "invalid"),
]


@pytest.mark.parametrize(("code", "at", "beyond", "verdict"), LINES)
def test_a_line_is_crossed_just_beyond_it_and_not_at_it(
    code: RuleCode, at: dict[str, Any], beyond: dict[str, Any], verdict: str
) -> None:
    assert judged(**at) == Judgment("valid", ())
    crossed = judged(**beyond)
    assert (crossed.verdict, codes(crossed)) == (verdict, [code])
    (reason,) = crossed.reasons
    assert reason.fatal is (verdict == "invalid")
    assert reason.observed and reason.limit and reason.advice


@pytest.mark.parametrize(
    "gross",
    [
        {"slip_effect": ttft(0.25)},
        {"slip_effect": Effect(0.9, "TTFT p99", 10.0)},
        {"cpu_share": 0.9},
        {"achieved_share": 0.9},
        {"in_flight": InFlight(50.0, 55.0, 0.0)},
        {**USER, "lag_effect": ttft(0.25)},
        {"users_share": 0.8},
        {**PAUSED, "gc_pause_max_ms": 1e6, "pause_effect": ttft(1.0)},
        {"shed": 10**6},
        {"shared_reads_share": 1.0},
        {"machine": machine(0.25)},
        {"machine": hosted(3.0)},
    ],
)
def test_what_is_not_grossly_beyond_its_line_is_degraded_only(gross: dict[str, Any]) -> None:
    assert judged(**gross).verdict == "degraded"


def test_every_reason_of_the_closed_set_is_reached_above_and_there_is_no_other() -> None:
    assert {code for code, *_ in LINES} == set(get_args(RuleCode))


def test_a_late_loop_is_in_stamps_of_user_space_and_in_none_of_the_kernel() -> None:
    assert judged(lag_effect=ttft(0.9), stamp_source="kernel").verdict == "valid"
    assert judged(lag_effect=ttft(0.9), stamp_source="user").verdict == "invalid"


def test_a_late_loop_late_reads_and_a_pause_are_in_no_number_where_the_kernel_stamps() -> None:
    late = {"loop_lag_p99_ms": 90.0, "stamp_lag_p99_ms": 90.0, "gc_pause_max_ms": 90.0, "dispatch_slip_p99_ms": 90.0}
    assert judged(**late) == Judgment("valid", ())


def test_late_reads_are_held_against_a_stage_only_as_far_as_they_are_shown() -> None:
    def reasons(**known: Any) -> list[str]:
        return [reason.observed for reason in judged(**known).reasons]

    assert reasons(stamp_lag_p99_ms=180.0, stamp_lag_p99_ci_ms=(99.0, 300.0)) == []
    (text,) = reasons(stamp_lag_p99_ms=180.0, stamp_lag_p99_ci_ms=(120.0, 300.0))
    assert "loadgen read bytes 120.0 to 300.0 ms after they had arrived (p99)" in text
    assert reasons(stamp_lag_p99_at_least_ms=99.0, stamp_lag_max_ms=900.0) == []
    assert reasons(stamp_lag_p99_at_least_ms=None) == []
    (text,) = reasons(stamp_lag_p99_at_least_ms=130.0)
    assert "loadgen read bytes 130.0 ms or more after they had arrived (p99)" in text


def test_a_stepped_wall_clock_is_in_no_stamp_of_user_space() -> None:
    assert judged(clock_steps=1, stamp_source="user").verdict == "valid"
    assert judged(clock_steps=1, stamp_source="user", stamp_lag_max_ms=1.0).verdict == "invalid", (
        "some are the kernel's"
    )


def test_one_request_that_was_late_at_the_end_is_no_falling_behind() -> None:
    assert judged(achieved_share=0.95, achieved_at_best=0.999).verdict == "valid"
    assert judged(achieved_share=0.95, achieved_at_best=0.96).verdict == "degraded"
    assert judged(achieved_share=0.8, achieved_at_best=0.85).verdict == "invalid"


def test_what_few_samples_of_requests_in_flight_differ_by_chance_breaks_no_law() -> None:
    assert judged(in_flight=InFlight(50.0, 52.0, 0.01)).verdict == "valid"
    assert judged(in_flight=InFlight(50.0, 52.0, 0.0)).verdict == "degraded"
    assert judged(in_flight=InFlight(50.0, 60.0, 0.01)).verdict == "invalid"


def test_a_busy_machine_says_by_how_much_and_who() -> None:
    (reason,) = judged(machine=machine(0.12, neighbors_cpu_share=0.97)).reasons
    slowed = "TTFT, ITL and E2E are about 12% too high, because other work on this machine slowed the server"
    assert reason.observed == f"{slowed} (cc1plus 97% of a core)"
    others = (Neighbor("a", 1.5), Neighbor("b", 0.2))
    several = MachineFacts(cores=2, slowdown=0.5, busiest=others, steal_share=0.18, host_slowdown=0.2)
    assert "E2E are too high, by how much is not known, because" in busy_text(several), "more than a quarter"
    assert "(a 150%, b 20% of a core; the host of this virtual machine took 18% of a core)" in busy_text(several)
    assert "are about 25% too high" in busy_text(shared(0.25)), "as much as makes a stage invalid is the most"
    assert "by how much is not known" in busy_text(shared(0.26))
    gone = MachineFacts(cores=2, slowdown=0.5, neighbors_cpu_share=0.4, memory_pressure=0.3)
    assert busy_text(gone).endswith("(programs that came and went 40% of a core; memory was short for 30% of the time)")
    assert judged(machine=machine(None, neighbors_cpu_share=2.0)).verdict == "valid", "where the server is not known"
    (reason,) = judged(machine=hosted(0.2)).reasons
    assert "(the host of this virtual machine took 20% of a core)" in reason.observed
    assert reason.advice.startswith("run it again later, or on a machine of your own"), "nobody can close a host"
    assert reason.limit == "≤ 10% because of the host"
    for both in (machine(0.2, host_slowdown=0.2, steal_share=0.2), machine(0.2)):
        (other,) = judged(machine=both).reasons
        assert other.advice.startswith("close the other programs")


def test_without_an_answer_there_is_no_complaint_about_the_window_too() -> None:
    assert codes(judged(ok=0, window_s=None)) == ["nothing_answered"]


def test_what_is_not_known_is_not_judged() -> None:
    assert judge(Evidence(stamp_source="user", ok=1, window_s=1.0)) == Judgment("valid", ())
    assert judged(in_flight=None).verdict == "valid"


share = st.floats(0, 2)
ms = st.none() | st.floats(0, 1_000)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.builds(
        Evidence,
        stamp_source=st.sampled_from(["kernel", "user"]),
        ok=st.integers(0, 5),
        complete=st.booleans(),
        slip_effect=st.none() | st.builds(ttft, share),
        lag_effect=st.none() | st.builds(ttft, share),
        pause_effect=st.none() | st.builds(ttft, share),
        machine=st.none() | st.builds(machine, share),
        achieved_at_best=st.none() | share,
        loop_lag_p99_ms=ms,
        stamp_lag_p99_ms=ms,
        cpu_share=st.none() | share,
        gc_pause_max_ms=ms,
        shed=st.integers(0, 2),
        achieved_share=st.none() | share,
        users_share=st.none() | share,
        in_flight=st.none() | st.builds(InFlight, share, share, share),
        shared_reads_share=st.none() | share,
        over_range=st.integers(0, 1),
        clock_steps=st.integers(0, 1),
        window_s=st.none() | share,
    )
)
def test_a_verdict_follows_from_its_reasons_each_of_which_stands_once(evidence: Evidence) -> None:
    judgment = judge(evidence)
    assert len(set(codes(judgment))) == len(judgment.reasons)
    fatal = any(reason.fatal for reason in judgment.reasons)
    assert judgment.verdict == ("invalid" if fatal else "degraded" if judgment.reasons else "valid")


def test_in_flight_that_was_sampled_where_the_records_know_none_breaks_little_s_law() -> None:
    assert judged(in_flight=InFlight(4.0, 0.0, 0.0)).verdict == "invalid"
    assert judged(in_flight=InFlight(0.0, 0.0, 0.0)).verdict == "valid"
