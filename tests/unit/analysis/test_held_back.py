"""Streams that were held back on their way, and those that only look so: what is marked, withheld and judged."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from loadgen.analysis import held_back
from loadgen.analysis.stage import stages_of
from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import Attainment, StageSummary
from loadgen.record import Record, ServerTimings
from loadgen.report.answer import answer
from loadgen.report.console import console
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.sections.highlights import highlight_lines
from loadgen.store.manifest import Probe, ServedModel
from loadgen.store.run_folder import Run
from loadgen.targets.probe.findings import LONG_EVENT_CHARS, TOKEN_CHARS
from tests.records import MS, facts, planned, run_of, turn

PACED = {"ttft_ms", "service_ttft_ms", "itl_ms", "tpot_ms", "per_user_tokens_per_s"}
QUICK = 20_000
"""ns between events that are written in one go, each read by itself."""


def lumps(*sizes: int, every_ms: float, within_ns: int = 0) -> tuple[int, ...]:
    """Events that come in lumps of these sizes, every so many ms, the first 200 ms after the run began."""
    return tuple(
        round((200 + at * every_ms) * MS) + place * within_ns for at, size in enumerate(sizes) for place in range(size)
    )


def answers(stamps: Sequence[int], count: int = 20, **changes: Any) -> list[Record]:
    shared = sum(after == before for before, after in pairwise(stamps))
    return [
        turn(
            index,
            stamps_ns=tuple(stamps),
            shared_reads=shared,
            output_tokens=changes.get("output_tokens", len(stamps)),
            end_ns=stamps[-1] + MS,
            last_byte_ns=stamps[-1] + 2 * MS,
            **{name: value for name, value in changes.items() if name != "output_tokens"},
        )
        for index in range(count)
    ]


def run(records: Sequence[Record], lag_ms: float = 0.1, **changes: Any) -> Run:
    return run_of(records, seen=[facts(loop_lag_p50_ns=round(lag_ms * MS))], **changes)


def stage_of(records: Sequence[Record], lag_ms: float = 0.1, **changes: Any) -> StageSummary:
    return summarize(run(records, lag_ms, **changes)).stages[0]


def codes(stage: StageSummary) -> list[str]:
    return [] if stage.validity is UNSET else [reason.code for reason in stage.validity.reasons]


def timings(ms: float, tokens: int) -> ServerTimings:
    return ServerTimings(prompt_n=10, prompt_ms=20.0, predicted_n=tokens, predicted_ms=ms)


def steady(count: int, every_ms: float) -> tuple[int, ...]:
    return lumps(*[1] * count, every_ms=every_ms)


def in_turns(*sizes: int, pace_ms: float) -> tuple[int, ...]:
    """Events of an even pace, picked up by a reader who comes for so many at a time: stamped with the last of each."""
    ends = list(accumulate(sizes))
    return tuple(round((200 + end * pace_ms) * MS) for size, end in zip(sizes, ends, strict=True) for _ in range(size))


HELD_BACK = [
    pytest.param(lumps(49, every_ms=0), id="all in one read"),
    pytest.param(lumps(49, every_ms=0, within_ns=QUICK), id="all at once, in a read each"),
    pytest.param(steady(49, 0.4), id="one by one, within 20 ms at the end"),
    pytest.param(lumps(*[6] * 21, every_ms=1.2), id="all at once, by a slow network"),
    pytest.param(lumps(3, every_ms=0), id="three tokens at once"),
    pytest.param(lumps(25, 24, every_ms=250), id="two halves"),
    pytest.param(lumps(17, 16, 16, every_ms=160), id="three bursts"),
    pytest.param(lumps(17, 16, 16, every_ms=160, within_ns=QUICK), id="three bursts, in a read each"),
    pytest.param(lumps(1, 48, every_ms=400), id="the first token, then all others"),
    pytest.param(lumps(1, 4, every_ms=40), id="the first of five tokens, then the others"),
    pytest.param(lumps(*[17] * 7, 9, every_ms=340), id="a buffer of 4 KiB"),
    pytest.param(lumps(*[34] * 3, 26, every_ms=680), id="a buffer of 8 KiB"),
    pytest.param(lumps(*[5] * 10, every_ms=100), id="a buffer of 1 KiB"),
    pytest.param(lumps(1, *[16] * 8, every_ms=320), id="the first token, then a buffer of 4 KiB"),
    pytest.param(lumps(*[3, 3, 4] * 5, every_ms=100), id="a proxy that lets go every 100 ms, at 33 tokens a second"),
    pytest.param(lumps(*[5, 6, 5, 5, 2, 5] * 4, every_ms=100), id="the same at 50 tokens a second, with a hitch"),
    pytest.param(lumps(*[3] * 16, every_ms=100, within_ns=QUICK), id="the same, in a read each"),
]
NOT_HELD_BACK = [
    pytest.param(steady(49, 5.0), 0.1, id="a steady stream"),
    pytest.param(steady(200, 0.83), 0.1, id="1,200 tokens a second"),
    pytest.param(steady(25, 0.83), 0.1, id="1,200 tokens a second, within 20 ms at the end"),
    pytest.param(steady(200, 0.4), 0.1, id="2,500 tokens a second, nearly half of the time"),
    pytest.param(in_turns(*[1, 2] * 40, pace_ms=0.83), 0.7, id="1,200 a second, one or two a read"),
    # As measured: 16 and 48 streams at once on two busy cores.
    pytest.param(in_turns(*[5] * 25, pace_ms=0.83), 2.3, id="1,200 a second, five a read of a busy reader"),
    pytest.param(in_turns(*[17] * 8, pace_ms=0.83), 12.3, id="1,200 a second, seventeen a read of a busier one"),
    pytest.param(in_turns(*[10] * 12, pace_ms=0.83), 0.1, id="1,200 a second, and the lag was not caught"),
    pytest.param(lumps(1, *[3] * 16, every_ms=30), 0.1, id="speculative decoding, an event a token"),
    pytest.param(lumps(1, every_ms=0), 0.1, id="one token"),
    pytest.param(lumps(1, 2, every_ms=40), 0.1, id="three tokens, of which two end the text"),
    pytest.param(lumps(*[1] * 20, 5, every_ms=20), 0.1, id="an end that is sent at once"),
    pytest.param(lumps(4, *[1] * 45, every_ms=20), 0.1, id="a first burst, then a steady stream"),
    pytest.param(lumps(4, 1, 1, 1, every_ms=20), 0.1, id="a first burst, then the few tokens that are left"),
    pytest.param(lumps(4, *[2] * 20, every_ms=30), 0.1, id="a first burst, then two tokens at a time"),
    pytest.param(lumps(4, *[1, 2, 3] * 8, every_ms=30), 0.1, id="a first burst, then speculative decoding"),
    pytest.param(lumps(*[5, 1, 3, 4, 1, 2, 5, 1, 4] * 3, every_ms=35), 0.1, id="speculative decoding, uneven steps"),
    pytest.param(lumps(1, *[4, 5, 3, 5, 1] * 5, every_ms=35), 0.1, id="speculative decoding that is mostly right"),
    pytest.param(lumps(*[2] * 25, every_ms=100), 0.1, id="two tokens at a time"),
]


@pytest.mark.parametrize("stamps", HELD_BACK)
def test_a_stream_that_was_held_back_is_marked_without_a_pace_and_never_invalid(stamps: tuple[int, ...]) -> None:
    stage = stage_of(answers(stamps))
    assert set(stage.not_valid) == PACED
    assert codes(stage) == ["held_back"]
    assert isinstance(stage.metrics, dict)
    assert {name for name, metric in stage.metrics.items() if metric.count == 0} == {"itl_ms", "tpot_ms", "connect_ms"}
    assert stage.throughput is not UNSET and stage.throughput.per_user_tokens_per_s is None
    assert stage.throughput.output_tokens_per_s
    assert stage.tokens is not UNSET and stage.tokens.output == 20 * len(stamps)
    assert stage.metrics["e2e_ms"].count == stage.metrics["ttft_ms"].count == 20


@pytest.mark.parametrize(("stamps", "lag_ms"), NOT_HELD_BACK)
def test_a_stream_that_was_not_held_back_is_not_marked(stamps: tuple[int, ...], lag_ms: float) -> None:
    stage = stage_of(answers(stamps), lag_ms)
    assert stage.not_valid == {}
    assert "held_back" not in codes(stage)


@pytest.mark.parametrize(
    ("count", "lag_ms"),
    [
        pytest.param(10, 3.0, id="ten tokens within one turn of a busy reader"),
        pytest.param(2, 0.1, id="two tokens at once"),
    ],
)
def test_an_answer_in_one_read_was_not_held_back_and_has_no_pace(count: int, lag_ms: float) -> None:
    stage = stage_of(answers(lumps(count, every_ms=0)), lag_ms)
    assert set(stage.not_valid) == {"tpot_ms", "itl_ms", "per_user_tokens_per_s"}
    assert "in 20 of 20 answers, all tokens came in one read" in stage.not_valid["tpot_ms"]
    assert codes(stage) == ["shared_reads"]
    assert isinstance(stage.metrics, dict)
    assert stage.metrics["tpot_ms"].count == stage.metrics["itl_ms"].count == 0
    assert stage.metrics["ttft_ms"].count == 20


@pytest.mark.parametrize(("in_one_read", "marked"), [(10, False), (11, True)])
def test_the_gaps_of_other_answers_stay_where_most_came_in_one_read(in_one_read: int, marked: bool) -> None:
    mixed = [*answers(lumps(2, every_ms=0))[:in_one_read], *answers(steady(49, 5.0))[in_one_read:]]
    stage = stage_of(mixed)
    assert set(stage.not_valid) == ({"tpot_ms", "per_user_tokens_per_s"} if marked else set())
    assert isinstance(stage.metrics, dict) and stage.metrics["itl_ms"].count == 48 * (20 - in_one_read) + in_one_read


def test_a_gate_on_the_pace_of_answers_in_one_read_fails() -> None:
    stage, attained = slo_of(lumps(2, every_ms=0), tpot_ms=500.0, attainment=0.5)
    assert attained == Attainment({}, 0, None, 0.5, False)
    assert "TPOT is not judged: in 20 of 20 answers, all tokens" in stage.not_valid["slo"]


def test_tokens_that_share_reads_of_a_busy_reader_still_say_so() -> None:
    assert codes(stage_of(answers(in_turns(*[5] * 25, pace_ms=0.83)), 2.3)) == ["shared_reads"]


def test_multi_token_events_are_judged_by_their_events() -> None:
    assert codes(stage_of(answers(steady(20, 30.0), output_tokens=80))) == []
    assert codes(stage_of(answers(lumps(20, every_ms=0), output_tokens=80))) == ["held_back"]


SHOWS_ALL = Probe(hidden_tokens=0, tokens_per_event=9.0)


@pytest.mark.parametrize(
    ("stamps", "tokens", "probe", "marked"),
    [
        pytest.param(steady(1, 0), 49, SHOWS_ALL, True, id="a stream that is one event"),
        pytest.param(steady(1, 0), 49, None, False, id="one event, and perhaps hidden tokens"),
        pytest.param(steady(1, 0), 49, Probe(hidden_tokens=48), False, id="one event, and hidden tokens"),
        pytest.param(steady(1, 0), 5, SHOWS_ALL, False, id="one event of few tokens"),
        pytest.param(steady(5, 200), 50, SHOWS_ALL, True, id="cut anew, ten tokens an event"),
        pytest.param(steady(20, 30), 100, SHOWS_ALL, False, id="speculative decoding, five tokens an event"),
        pytest.param(steady(2, 30), 8, SHOWS_ALL, False, id="speculative decoding of a short answer"),
    ],
)
def test_many_tokens_in_an_event_were_held_back_where_none_is_hidden(
    stamps: tuple[int, ...], tokens: int, probe: Probe | None, marked: bool
) -> None:
    model = ServedModel(alias="m", id="m", target="t", probe=UNSET if probe is None else probe)
    stage = stage_of(answers(stamps, output_tokens=tokens), models=[msgspec.to_builtins(model)])
    assert ("held_back" in codes(stage)) is marked
    assert ("held back" in stage.not_valid.get("ttft_ms", "")) is marked


@pytest.mark.parametrize(
    ("stamps", "characters", "marked"),
    [
        pytest.param(steady(1, 0), 200.0, True, id="the whole text in one event"),
        pytest.param(steady(1, 0), 20.0, False, id="one event of a few words"),
        pytest.param(steady(1, 0), 4.0, False, id="one token"),
        pytest.param(steady(2, 300), 100.0, True, id="the whole text in two events"),
        pytest.param(steady(20, 100), 20.0, False, id="events of five tokens, steadily"),
        pytest.param(steady(49, 20), 5.0, False, id="events of a token, steadily"),
        pytest.param(steady(200, 0.83), 8.0, False, id="1,200 long tokens a second"),
        pytest.param(lumps(4, *[1] * 12, every_ms=60), 18.0, False, id="a first burst, then events of several tokens"),
        pytest.param(steady(1, 0), None, False, id="nobody looked"),
    ],
)
def test_without_usage_the_length_of_the_text_tells_what_came_together(
    stamps: tuple[int, ...], characters: float | None, marked: bool
) -> None:
    model = ServedModel(alias="m", id="m", target="t", probe=Probe(characters_per_event=characters))
    stage = stage_of(answers(stamps, token_source="events"), models=[msgspec.to_builtins(model)])
    assert ("held_back" in codes(stage)) is marked
    assert (": about " in stage.not_valid.get("ttft_ms", "")) is marked


def test_an_answer_that_came_whole_is_no_stream_that_was_held_back() -> None:
    stage = stage_of([turn(index, stamps_ns=(), first_visible_ns=None) for index in range(20)])
    assert stage.not_valid == {}


@pytest.mark.parametrize(
    ("stamps", "told_ms", "lag_ms", "marked"),
    [
        pytest.param(steady(49, 1.0), 480.0, 0.1, True, id="generated for ten times as long as it came"),
        pytest.param(steady(49, 10.0), 485.0, 0.1, False, id="generated for as long as it came"),
        pytest.param(lumps(49, every_ms=0), 480.0, 0.1, True, id="generated for long and came at once"),
        pytest.param(lumps(49, every_ms=0, within_ns=QUICK), 1.0, 0.1, False, id="generated at once"),
        pytest.param(lumps(49, every_ms=0), 40.0, 12.0, False, id="generated within a turn of a busy reader"),
        pytest.param(lumps(*[17] * 7, 9, every_ms=340), 2560.0, 0.1, True, id="in lumps, far apart"),
    ],
)
def test_where_the_server_tells_how_long_it_generated_that_decides(
    stamps: tuple[int, ...], told_ms: float, lag_ms: float, marked: bool
) -> None:
    stage = stage_of(answers(stamps, timings=timings(told_ms, len(stamps))), lag_ms)
    assert ("held_back" in codes(stage)) is marked
    assert (set(stage.not_valid) >= PACED) is marked


def test_timings_that_count_tokens_which_were_not_shown_decide_nothing() -> None:
    stage = stage_of(answers(steady(10, 5.0), timings=timings(5_000.0, 1_000)))
    assert "held_back" not in codes(stage)


@pytest.mark.parametrize(("held", "marked"), [(10, False), (11, True)])
def test_most_of_the_answers_decide(held: int, marked: bool) -> None:
    mixed = [*answers(lumps(49, every_ms=0))[:held], *answers(steady(49, 5.0))[held:]]
    assert ("held_back" in codes(stage_of(mixed))) is marked


def test_answers_that_say_nothing_outvote_nobody() -> None:
    mixed = [*answers(lumps(49, every_ms=0))[:2], *answers(steady(1, 5.0))[2:]]
    assert "2 of 2 answers" in stage_of(mixed).not_valid["ttft_ms"]


def test_an_open_loop_marks_the_latencies_from_the_send_too() -> None:
    records = answers(lumps(49, every_ms=0))
    stage = stage_of(records, stages=[planned(20, load={"mode": "constant", "rate_per_s": 1.0})])
    assert "ttft_from_send_ms" in stage.not_valid and "ttfc_ms" not in stage.not_valid


def slo_of(stamps: Sequence[int], **slo: float) -> tuple[StageSummary, Attainment | None]:
    stage = stage_of(answers(stamps), scenario={"slo": slo})
    return stage, stage.slo


def test_an_slo_on_what_is_not_known_is_not_judged_and_a_gate_on_it_fails() -> None:
    stage, attained = slo_of(lumps(49, every_ms=0), ttft_ms=5000.0, tpot_ms=500.0)
    assert attained is None
    assert "TTFT and TPOT are not judged" in stage.not_valid["slo"]
    assert stage.throughput is not UNSET and stage.throughput.goodput_requests_per_s is None
    stage, attained = slo_of(lumps(49, every_ms=0), ttft_ms=5000.0, tpot_ms=500.0, attainment=0.5)
    assert attained == Attainment({}, 0, None, 0.5, False)


def test_of_an_slo_the_rest_is_judged_and_a_gate_on_all_of_it_fails() -> None:
    stage, attained = slo_of(lumps(49, every_ms=0), ttft_ms=5000.0, e2e_ms=5000.0, attainment=0.5)
    assert attained is not None
    assert (attained.slo, attained.share, attained.passed) == ({"e2e_ms": 5000.0}, 1.0, False)
    assert attained.fluidity is None
    assert "TTFT is not judged" in stage.not_valid["slo"]


def test_an_slo_on_the_whole_answer_is_judged_as_ever() -> None:
    stage, attained = slo_of(lumps(49, every_ms=0), e2e_ms=5000.0, attainment=0.5)
    assert attained is not None and attained.passed and "slo" not in stage.not_valid


def test_every_report_says_what_is_marked_and_names_the_likely_cause() -> None:
    played = run(answers(lumps(49, every_ms=0)), scenario={"slo": {"ttft_ms": 5000.0, "attainment": 0.5}})
    summary = summarize(played)
    document = make_document(report_data(summary, [played]))
    for text in (console(summary), markdown(document), html(document).decode()):
        flat = " ".join(text.split())
        assert "tokens were held back in 20 of 20 answers: 49 tokens in 1 arrival" in flat
        assert "†" in flat and "nginx" in flat
    assert "ttft_ms" in csv_text(summary) and "per_user_tokens_per_s" in csv_text(summary)
    assert "the SLO was met: TTFT is not judged" in (answer(summary) or "")
    assert stages_of(played)[0].histograms["itl"].count == 0


def test_charts_say_it_and_do_not_draw_what_is_withheld() -> None:
    for stamps, held in ((lumps(25, 24, every_ms=250), True), (steady(49, 5.0), False)):
        played = run(answers(stamps))
        sections = make_document(report_data(summarize(played), [played])).sections
        charts = {chart.title: chart for section in sections for chart in section.charts}
        for title in ("Time to first token", "Throughput", "Spread of time to first token"):
            assert ("tokens were held back" in charts[title].caption) is held
        assert ("Spread of gaps between tokens" in charts) is not held


def test_no_model_is_called_the_best_by_what_was_held_back() -> None:
    held = [*answers(lumps(49, every_ms=0)), *answers(steady(49, 5.0), model="n")]
    stages = [planned(20), planned(20, model="n")]
    seen = [facts(), facts(models=("n",))]
    lines = highlight_lines(summarize(run_of(held, stages, seen=seen)))
    unknown = [line.split(": ")[0] for line in lines if "not compared: tokens were held back" in line]
    assert unknown == ["1 user, lowest TTFT", "1 user, least time per token"]
    assert any(line.startswith("1 user, lowest E2E") for line in lines)


def test_merged_runs_fail_a_gate_that_one_of_them_could_not_judge() -> None:
    scenario = {"slo": {"ttft_ms": 5000.0, "e2e_ms": 5000.0, "attainment": 0.5}}
    runs = [
        run(answers(stamps), scenario=scenario, run_id=f"run{at}")
        for at, stamps in enumerate((steady(49, 5.0), lumps(49, every_ms=0)))
    ]
    stage = merged(runs).stages[0]
    assert stage.slo is not None and stage.slo.passed is False
    assert "in 1 of 2 runs" in stage.not_valid["slo"]


def test_the_lines_in_the_docs_are_those_of_the_program() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
    section = page.split("## A stream that was held back\n")[1].split("\n## ")[0]
    lines = (
        *(f"within {held_back.TOGETHER_NS / 1e6:g} ms", f"gap is below {held_back.AT_ONCE_NS / 1e6:g} ms"),
        *(f"at least {held_back.MIN_EVENTS} events", f"{held_back.FIRST_LUMP} events or more"),
        *(f"{held_back.FEW_ARRIVALS} arrivals at most", f"{held_back.LUMP} tokens to an arrival"),
        *(f"at least {held_back.APART_NS / 1e6:g} ms apart", f"{held_back.LATENESS:g} times its median lag"),
        *(f"{held_back.EVEN:.0%} of the others", f"{TOKEN_CHARS:g} characters to a token"),
        f"at least {LONG_EVENT_CHARS:g} characters each",
    )
    assert [line for line in lines if line not in section] == []
    assert held_back.COVERED == held_back.MOST == 0.5
