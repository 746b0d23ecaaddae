"""Objectives: what texts say, what each mistake is answered by, and whether a request met one."""

import pytest

from loadgen.decisions.capacity.objective import check_streamed, objectives_of, verdict_of
from loadgen.errors import InputError
from loadgen.record import Record
from loadgen.scenario import Sampling, Slo
from loadgen.scenario.objective import Objective, objective_of
from tests.records import MS, record, scenario_of, unsent

NAME = "summarizer"


def objectives(*texts: str, slo: Slo | None = None) -> tuple[Objective, ...]:
    return objectives_of(texts, slo, scenario=NAME)


def error_of(*texts: str, slo: Slo | None = None) -> str:
    with pytest.raises(InputError) as info:
        objectives(*texts, slo=slo)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize(
    ("text", "metric", "limit_ms", "share"),
    [
        ("ttft_p95=2s", "ttft", 2000.0, 0.95),
        ("ttfc_p90=500ms", "ttfc", 500.0, 0.9),
        ("tpot_p95=60ms", "tpot", 60.0, 0.95),
        ("e2e_p99.9=1.5m", "e2e", 90_000.0, 0.999),
        (" e2e_p99 = 1 min ", "e2e", 60_000.0, 0.99),
        ("ok=99%", "ok", None, 0.99),
        ("goodput=97.5%", "goodput", None, 0.975),
    ],
)
def test_a_text_says_a_metric_a_limit_and_a_share(text: str, metric: str, limit_ms: float | None, share: float) -> None:
    objective = objective_of(text)
    assert (objective.metric, objective.limit_ms, objective.share) == (metric, limit_ms, share)
    assert objective.text == "".join(text.split())


def test_itl_asks_95_percent_of_the_requests_for_their_own_percentile() -> None:
    objective = objective_of("itl_p99=80ms")
    assert (objective.share, objective.gap_percentile, objective.limit_ms) == (0.95, 99.0, 80.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft_p95=2", ["no unit", "ttft_p95=2s or ttft_p95=2ms"]),
        ("latency_p95=2s", ['unknown metric "latency"', "ttft_pNN", "goodput"]),
        ("tftt_p95=2s", ["did you mean ttft_p95?"]),
        ("ttft_90=1s", ['unknown metric "ttft_90"', "did you mean ttft_p90?"]),
        ("TTFT90=1s", ["did you mean ttft_p90?"]),
        ("e2e-99.5=1s", ["did you mean e2e_p99.5?"]),
        ("ttftp95=2s", ["did you mean ttft_p95?"]),
        ("ttft_20=2s", ["did you mean ttft?"]),
        ("goodputs=99%", ["did you mean goodput?"]),
        ("ttft=2s", ["is not METRIC_pNN=TIME", "ttft_p95=2s"]),
        ("ttft_p95", ["is not METRIC_pNN=TIME"]),
        ("ttft_p50=2s", ["p50 is not between p50 and p100"]),
        ("ttft_p100=2s", ["p100 is not between"]),
        ("ttft_p95=0s", ["no time above 0"]),
        ("ttft_p95=-2s", ["no time above 0"]),
        ("ttft_p95=2h", ["no time above 0", "2s or"]),
        ("ttft_p95=", ["no time above 0"]),
        ("ok=100%", ["can be missed but never shown", "use ok=99%"]),
        ("ok=50%", ["not above 50 %"]),
        ("ok=0.99", ["is not ok=PERCENT%"]),
        ("ok", ["is not ok=PERCENT%"]),
        ("goodput=120%", ["not above 50 % and below 100 %"]),
        ("", ["is empty; write e.g. ttft_p95=2s or ok=99%"]),
    ],
)
def test_each_mistake_is_one_line_with_its_flag_and_a_hint(text: str, says: list[str]) -> None:
    message = error_of(text)
    assert message.startswith(f"capacity: --slo {text}".strip())
    for part in says:
        assert part in message


def test_without_an_objective_the_line_says_what_to_add() -> None:
    line = "capacity: there is no objective; add --slo ttft_p95=2s, or [slo] to summarizer"
    assert error_of() == line
    assert error_of(slo=Slo()) == line


def test_flags_go_before_the_scenario_and_its_objectives_before_its_limits() -> None:
    slo = Slo(ttft_ms=500.0, objectives=("e2e_p95=4s",))
    assert [o.text for o in objectives("ok=99%", slo=slo)] == ["ok=99%"]
    assert [o.text for o in objectives(slo=slo)] == ["e2e_p95=4s"]


@pytest.mark.parametrize(("attainment", "share"), [(None, 0.9), (0.95, 0.95)])
def test_limits_alone_make_one_goodput_objective(attainment: float | None, share: float) -> None:
    (objective,) = objectives(slo=Slo(ttft_ms=500.0, e2e_ms=4000.0, attainment=attainment))
    assert (objective.metric, objective.limit_ms, objective.share) == ("goodput", None, share)
    assert objective.text == f"goodput={100 * share:g}%"


@pytest.mark.parametrize(("attainment", "hint"), [(1.0, "goodput=99%"), (0.5, "goodput=90%")])
def test_an_attainment_that_no_search_can_show_is_refused(attainment: float, hint: str) -> None:
    message = error_of(slo=Slo(ttft_ms=500.0, attainment=attainment))
    assert message.startswith("summarizer: slo.attainment: ")
    assert hint in message


def test_goodput_needs_limits_and_nothing_is_asked_twice() -> None:
    assert "asks for every limit of [slo] at once, but [slo] has no limits" in error_of("goodput=95%")
    assert "asked for twice" in error_of("ttft_p95=2s", "ttft_p95=3s")
    assert len(objectives("ttft_p95=2s", "ttft_p90=1s")) == 2
    assert error_of(slo=Slo(objectives=("ok=2%",))).startswith("summarizer: slo.objectives[0]: ")


@pytest.mark.parametrize("text", ["ttft_p95=2s", "ttfc_p95=2s", "tpot_p95=60ms", "itl_p95=60ms", "goodput=95%"])
def test_answers_that_come_whole_have_no_token_latencies(text: str) -> None:
    slo = Slo(ttft_ms=500.0)
    whole = scenario_of({"sampling": {"stream": False}, "slo": {"ttft_ms": 500.0}})
    with pytest.raises(InputError, match="stream = false"):
        check_streamed(objectives(text, slo=slo), whole)
    check_streamed(objectives(text, slo=slo), scenario_of({}))
    check_streamed(objectives("e2e_p95=2s", "ok=99%"), whole)


def verdict(text: str, judged: Record, slo: Slo | None = None) -> str:
    return verdict_of(objective_of(text), judged, origin="sent", slo=slo).verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft_p95=98ms", "met"),  # at the line
        ("ttft_p95=97ms", "missed"),
        ("ttfc_p95=98ms", "met"),
        ("tpot_p95=50ms", "met"),
        ("tpot_p95=49ms", "missed"),
        ("e2e_p95=208ms", "met"),
        ("e2e_p95=207ms", "missed"),
        ("itl_p99=50ms", "met"),
        ("itl_p99=49ms", "missed"),
        ("ok=99%", "met"),
    ],
)
def test_an_answered_request_is_judged_by_its_latency(text: str, expected: str) -> None:
    assert verdict(text, record()) == expected


@pytest.mark.parametrize("text", ["ttft_p95=9s", "tpot_p95=9s", "itl_p95=9s", "e2e_p95=9s", "ok=99%", "goodput=95%"])
@pytest.mark.parametrize("outcome", ["http_error", "truncated", "timeout", "empty", "connect_error"])
def test_a_request_that_failed_missed_every_objective(text: str, outcome: str) -> None:
    assert verdict(text, record(outcome=outcome), Slo(ttft_ms=9e9)) == "missed"


def test_a_shed_request_missed() -> None:
    assert verdict("ttft_p95=9s", unsent("shed")) == "missed"


@pytest.mark.parametrize("text", ["tpot_p95=1ms", "itl_p95=1ms"])
def test_one_token_has_no_time_per_token(text: str) -> None:
    assert verdict(text, record(stamps_ns=(200 * MS,), output_tokens=1)) == "not_applicable"


def test_goodput_asks_for_every_limit_at_once() -> None:
    assert verdict("goodput=95%", record(), Slo(ttft_ms=98.0, tpot_ms=50.0, e2e_ms=208.0)) == "met"
    assert verdict("goodput=95%", record(), Slo(ttft_ms=98.0, tpot_ms=49.0)) == "missed"


@pytest.mark.parametrize(
    ("text", "stamps", "end_ms", "expected"),
    [
        ("ttft_p95=1s", (), 1103, "missed"),  # no token yet, and the limit has passed
        ("ttft_p95=1s", (), 1102, "undecided"),
        ("ttft_p95=1s", (200 * MS,), 5000, "undecided"),  # its token came in time, but it may still fail
        ("ttft_p95=1s", (1200 * MS,), 5000, "missed"),
        ("e2e_p95=1s", (200 * MS,), 1103, "missed"),
        ("e2e_p95=1s", (200 * MS,), 1000, "undecided"),
        ("ok=99%", (), 5000, "undecided"),
        ("tpot_p95=1ms", (200 * MS,), 5000, "undecided"),
        ("goodput=95%", (), 1103, "missed"),
    ],
)
def test_a_request_that_is_still_open_is_decided_when_its_limit_has_passed(
    text: str, stamps: tuple[int, ...], end_ms: int, expected: str
) -> None:
    open_request = record(outcome="cancelled", stamps_ns=stamps, end_ns=end_ms * MS, first_visible_ns=None)
    assert verdict(text, open_request, Slo(e2e_ms=1000.0)) == expected


def test_latencies_of_an_open_loop_count_from_the_intended_time() -> None:
    late = verdict_of(objective_of("ttft_p95=99ms"), record(), origin="intended")
    assert late.verdict == "missed"


def test_whole_answers_are_judged_by_their_end() -> None:
    whole = record(stamps_ns=(), first_visible_ns=None)
    assert verdict("ttft_p95=9s", whole) == "not_applicable"
    assert verdict("e2e_p95=208ms", whole) == "met"
    assert scenario_of({}).sampling == Sampling()
