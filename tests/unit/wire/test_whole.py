"""An answer that came whole: what its body says, and what a run of such answers can and cannot say."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Window
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import StageSummary
from loadgen.plan.plan import Planned, digest, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.main_remarks import NOT_STREAMED
from loadgen.report.main_table import main_table
from loadgen.report.markdown import markdown
from loadgen.scenario import Sampling, Scenario
from loadgen.targets.request import body_of
from loadgen.wire.chat_whole import WholeAnswer, decode_whole
from tests.records import MS, S, planned, run_of, turn

UNSTREAMED = {"name": "x", "seed": 1, "sampling": {"stream": False}}


def completion(**changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return {"object": "chat.completion", "choices": [choice], "usage": usage, **changes}


def decoded(value: Any) -> WholeAnswer:
    return decode_whole(json.dumps(value).encode())


def message(**fields: Any) -> dict[str, Any]:
    return completion(choices=[{"message": {"role": "assistant", **fields}}])


# --- the body ---------------------------------------------------------------------------------------------------------


def test_a_completion_tells_its_text_its_tokens_and_why_it_ended() -> None:
    answer = decoded(completion())
    assert (answer.answers, answer.speaks, answer.text, answer.finish_reason) == (True, True, "Hello.", "stop")
    assert (answer.prompt_tokens, answer.output_tokens) == (9, 3)
    assert (answer.error, answer.malformed, answer.cut) == (None, None, False)


def test_counts_that_are_written_as_floats_are_counts() -> None:
    answer = decoded(completion(usage={"prompt_tokens": 9.0, "completion_tokens": 3.0}))
    assert (answer.prompt_tokens, answer.output_tokens) == (9, 3)


def test_the_text_is_what_the_user_reads_without_reasoning() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    assert decoded(message(content=[thought, {"type": "text", "text": "a"}])).text == "a"
    assert decoded(message(content=None, refusal="no")).text == "no"


def test_without_usage_nobody_has_counted_the_tokens() -> None:
    answer = decoded(completion(usage=None))
    assert (answer.speaks, answer.prompt_tokens, answer.output_tokens) == (True, None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "a"},
        {"content": [{"type": "text", "text": "a"}]},
        {"content": None, "reasoning_content": "hm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": None, "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": None, "refusal": "no"},
        {"content": None, "audio": {"id": "audio_1", "data": "UklGRg==", "transcript": "a"}},
        {"content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]},
    ],
)
def test_content_reasoning_and_tool_calls_are_all_something_said(fields: dict[str, Any]) -> None:
    assert decoded(message(**fields)).speaks


@pytest.mark.parametrize(
    "value", [message(content=""), message(content=None), completion(choices=[]), completion(choices=[{"message": 1}])]
)
def test_a_completion_with_nothing_in_it_answers_and_says_nothing(value: dict[str, Any]) -> None:
    answer = decoded(value)
    assert (answer.answers, answer.speaks, answer.text_sha256) == (True, False, None)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"error": "no such model"}, "no such model"),
        ({"object": "error", "message": "overloaded"}, "overloaded"),
    ],
)
def test_an_error_under_a_status_of_200_is_an_error(value: dict[str, Any], error: str) -> None:
    assert decoded(value) == WholeAnswer(error=error)


def test_a_null_error_beside_choices_is_none() -> None:
    assert decoded(completion(error=None)).answers


@pytest.mark.parametrize(
    ("body", "malformed"),
    [
        (b"<!doctype html>", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"choices": []} x', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"id": "x"}', "a JSON object without choices"),
        (b'{"choices": "\xff"}', "not UTF-8 at byte 13"),
        (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "server-sent events where a whole answer was asked for"),
    ],
)
def test_bytes_that_are_no_completion_are_malformed(body: bytes, malformed: str) -> None:
    assert decode_whole(body) == WholeAnswer(malformed=malformed)


BODY = json.dumps(completion(choices=[{"message": {"content": "Grüß dich \U0001f600"}}]), ensure_ascii=False).encode()


@given(st.integers(0, len(BODY) - 1))
def test_wherever_a_completion_breaks_off_it_is_cut_and_nothing_else(length: int) -> None:
    assert decode_whole(BODY[:length]) == WholeAnswer(cut=True)


@given(st.binary())
def test_no_bytes_make_it_raise(body: bytes) -> None:
    answer = decode_whole(body)
    assert answer.answers or answer.cut or answer.malformed or answer.error


# --- the request ------------------------------------------------------------------------------------------------------


def plan(sampling: Sampling) -> Any:
    return make_plan(Scenario(name="x", prompts="hi", sampling=sampling), (Prompt("p1", "hi"),))


def test_a_whole_answer_is_asked_for_without_the_options_of_a_stream() -> None:
    body = body_of(plan(Sampling(stream=False)), Planned(model=0, index=0, prompt=0))
    assert body["stream"] is False
    assert "stream_options" not in body


def test_streamed_and_whole_are_two_plans() -> None:
    assert digest(plan(Sampling())) != digest(plan(Sampling(stream=False)))


# --- what a run says --------------------------------------------------------------------------------------------------


def whole_turns(count: int, **changes: Any) -> list[Any]:
    return [
        turn(i, **{"stamps_ns": (), "first_visible_ns": None, "output_tokens": 26, **changes}) for i in range(count)
    ]


def stage_of(count: int, slo: dict[str, float] | None = None, **changes: Any) -> StageSummary:
    run = run_of(whole_turns(count, **changes), scenario={**UNSTREAMED, "slo": slo or {}})
    return summarize(run).stages[0]


def test_a_run_of_whole_answers_has_e2e_and_neither_ttft_nor_itl_nor_tpot() -> None:
    stage = stage_of(40)
    assert stage.metrics is not msgspec.UNSET
    counts = {name: told.count for name, told in stage.metrics.items()}
    assert {name for name, count in counts.items() if count} == {"e2e_ms", "queue_ms"}
    assert stage.metrics["e2e_ms"].percentile("p50").value == 208.0


def test_tokens_per_second_of_whole_answers_are_output_tokens_over_e2e() -> None:
    stage = stage_of(40)
    assert stage.throughput is not msgspec.UNSET
    assert stage.throughput.per_user_tokens_per_s is None
    assert stage.throughput.e2e_tokens_per_s == pytest.approx(26 / 0.208)
    assert stage.throughput.e2e_tokens_per_s_ci == (125.0, 125.0)


def test_without_usage_there_is_no_rate_of_tokens() -> None:
    stage = stage_of(40, output_tokens=None, token_source="events")
    assert stage.throughput is not msgspec.UNSET
    assert (stage.throughput.e2e_tokens_per_s, stage.throughput.output_tokens_per_s) == (None, 0.0)


def test_the_tokens_of_a_whole_answer_count_at_its_end() -> None:
    records = whole_turns(3)
    assert metrics.tokens_inside(records, Window(0, 10 * S)) == 78
    assert metrics.tokens_inside(records, Window(311 * MS, 10 * S)) == 52
    assert metrics.tokens_inside(records, Window(0, 309 * MS)) == 0


def test_an_slo_on_what_is_not_known_is_not_judged_and_the_table_says_so() -> None:
    stage = stage_of(40, slo={"ttft_ms": 1.0, "tpot_ms": 1.0, "e2e_ms": 300.0})
    assert stage.slo is not None
    assert (stage.slo.slo, stage.slo.share) == ({"e2e_ms": 300.0}, 1.0)
    assert stage_of(40, slo={"ttft_ms": 1.0}).slo is None
    assert NOT_STREAMED in main_table(summarize(run_of(whole_turns(40), scenario=UNSTREAMED))).remarks


def test_the_table_shows_dashes_for_what_is_not_known_and_the_rate_that_is() -> None:
    table = main_table(summarize(run_of(whole_turns(40), scenario=UNSTREAMED)))
    cells = dict(zip((column.title for column in table.columns), table.rows[0].cells, strict=True))
    assert (cells["TTFT p50"], cells["TPOT p50"], cells["tok/s/user"], cells["tok/s E2E"]) == ("–", "–", "–", "125")


def test_a_streamed_run_has_no_column_for_it() -> None:
    table = main_table(summarize(run_of([turn(i) for i in range(40)])))
    assert "tok/s E2E" not in {column.title for column in table.columns}
    assert NOT_STREAMED not in table.remarks


def test_every_report_of_whole_answers_can_be_made() -> None:
    run = run_of(whole_turns(40), scenario=UNSTREAMED)
    summary = summarize(run)
    assert "e2e" in markdown(make_document(report_data(summary, [run])))
    assert "e2e_tokens_per_s," in csv_text(summary)
    assert "_ci" not in csv_text(summary)


def test_a_late_dispatch_is_held_against_the_latency_that_is_known() -> None:
    # 2 ms late, of an answer that takes 50 ms, is more than 3 % of it; of one that takes 408 ms it is not.
    def reasons(took_ms: int) -> list[str]:
        late: dict[str, Any] = {"intended_ns": 99 * MS, "sent_ns": 101 * MS, "end_ns": (101 + took_ms) * MS}
        load = {"mode": "constant", "rate_per_s": 1.0}
        run = run_of(whole_turns(40, **late), [planned(40, load=load)], scenario=UNSTREAMED)
        stage = summarize(run).stages[0]
        assert stage.validity is not msgspec.UNSET
        return [f"{reason.code}: {reason.observed}" for reason in stage.validity.reasons]

    assert reasons(408) == []
    assert reasons(50) == ["dispatch_slip: E2E p99 is up to 4% (2 ms) too high, because loadgen sent requests late"]


def test_the_text_of_a_completion_is_the_answer_where_there_is_no_message() -> None:
    answer = decoded(completion(choices=[{"index": 0, "text": "Hello.", "finish_reason": "stop"}]))
    assert (answer.text, answer.speaks, answer.finish_reason) == ("Hello.", True, "stop")
    both = completion(choices=[{"text": "Hello.", "message": {"content": "Hi."}}])
    assert decoded(both).text == "Hi."
