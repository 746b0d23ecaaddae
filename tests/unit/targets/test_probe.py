"""What a server does, as it is judged from bytes and stamps; and what that makes of a stage's metrics."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.analysis.metric_flags import metric_flags
from loadgen.analysis.stage import stages_of
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import StageSummary
from loadgen.record import Record, Reply
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.html import html
from loadgen.report.main_table import main_table
from loadgen.report.markdown import markdown
from loadgen.report.sections.server_behavior import HOW_TO_ASK, NOT_ASKED, UNDECIDED, server_table
from loadgen.store.manifest import ModelCard, Probe, ServedModel, manifest_from
from loadgen.targets.extra_chats import QUESTIONS
from loadgen.targets.probe import findings
from loadgen.targets.probe.answers import MAX_BODY_BYTES, SAMPLED_ANSWERS, AnswerSampler, merge_answers
from loadgen.targets.probe.cache import recall, remember
from loadgen.targets.probe.findings import ProbeAnswer
from loadgen.targets.probe.probe import STREAMS
from loadgen.targets.probe.traits import Traits, traits_of
from loadgen.targets.served import Served
from loadgen.wire.chat_stream import decode
from loadgen.wire.exchange import ChatRequest, Deadlines, Exchange
from tests.integration.server import COMMENT, DONE, FINISH, ROLE, event, token
from tests.records import MS, manifest, run_of, turn

DATA = Path(__file__).parents[2] / "data"
PLAIN = Traits(role_event=False, keep_alives=0, reasoning_events=0, reasoning_tokens=None)


def sample(
    text: str = "abcd" * 16,
    stamps: Sequence[int] = tuple(range(10, 170, 10)),
    *,
    traits: Traits = PLAIN,
    **changes: Any,
) -> ProbeAnswer:
    """An answer of 16 tokens at the limit, one every 10 ms from 10 ms after the request."""
    reply = Reply(
        outcome="ok" if stamps else "empty",
        status=200,
        written_ns=0,
        stamps_ns=tuple(stamp * MS for stamp in stamps),
        output_tokens=16,
        token_source="usage",
        finish_reason="length",
        text=text,
    )
    return ProbeAnswer(msgspec.structs.replace(reply, **changes), traits)


def shown_by(answer: ProbeAnswer) -> Probe:
    """What one answer shows of its server."""
    shown = findings.of_streams([answer.stream])
    assert shown is not None
    return shown


def traits(body: bytes) -> Traits:
    return traits_of(body, next(iter(decode(body).token_ends), None))


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_a_role_event_and_keep_alives_count_before_the_first_token_only() -> None:
    body = COMMENT + COMMENT + ROLE + token("a") + COMMENT + token("b") + FINISH + DONE
    assert traits(body) == Traits(role_event=True, keep_alives=2, reasoning_events=0, reasoning_tokens=None)


def test_a_role_in_the_event_of_the_first_token_is_no_role_event() -> None:
    first = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]})
    assert not traits(first + token("b") + DONE).role_event


def test_a_colon_in_an_answer_is_no_keep_alive() -> None:
    assert traits(ROLE + token("a\n: b") + DONE).keep_alives == 0
    assert traits(b": one\r\n\r\n:two\r\n\r\n" + token(": c")).keep_alives == 2


def test_reasoning_is_counted_by_its_events_and_by_usage() -> None:
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    details = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}
    told = traits(thought + thought + token("a") + event({"choices": [], "usage": details}) + DONE)
    assert (told.reasoning_events, told.reasoning_tokens) == (2, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"thinking": "hm"},
    ],
)
def test_reasoning_is_counted_wherever_a_delta_has_it(fields: dict[str, Any]) -> None:
    assert traits(event({"choices": [{"index": 0, "delta": fields}]}) + DONE).reasoning_events == 1


def test_foundry_local_sends_a_role_event() -> None:
    assert traits((DATA / "foundry_v2.sse").read_bytes()).role_event


@given(st.binary(max_size=300))
def test_no_bytes_make_the_traits_fail(body: bytes) -> None:
    assert traits(body).keep_alives >= 0


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_one_token_an_event_is_one_and_the_end_token_has_no_event() -> None:
    ended = sample(output_tokens=17, finish_reason="stop")
    assert findings.tokens_per_event([sample().stream, ended.stream]) == 1.0
    assert findings.hidden_tokens(ended.stream) == 0


def test_several_tokens_an_event_are_told_by_the_text_that_they_bear() -> None:
    packed = sample(stamps=(10, 20, 30, 40))
    found = shown_by(packed)
    assert (found.tokens_per_event, found.hidden_tokens) == (4.0, 0)


def test_tokens_that_are_counted_and_not_shown_are_hidden() -> None:
    assert findings.hidden_tokens(sample(text="abc", stamps=(150, 160)).stream) == 14
    assert findings.hidden_tokens(sample(text="", stamps=()).stream) == 16
    told = msgspec.structs.replace(PLAIN, reasoning_tokens=9)
    assert findings.hidden_tokens(sample(stamps=range(100, 170, 10), traits=told).stream) == 9
    assert shown_by(sample(text="abc", stamps=(150, 160))).tokens_per_event is None


def test_between_packed_and_hidden_it_is_not_told() -> None:
    assert findings.hidden_tokens(sample(text="a" * 24, stamps=(10, 20)).stream) is None


def test_reasoning_that_is_shown_is_not_hidden() -> None:
    shown = msgspec.structs.replace(PLAIN, reasoning_tokens=9, reasoning_events=9)
    assert findings.hidden_tokens(sample(text="", traits=shown).stream) == 0


def test_without_usage_neither_packed_nor_hidden_tokens_are_told() -> None:
    found = shown_by(sample(token_source="events"))
    assert (found.usage_in_stream, found.tokens_per_event, found.hidden_tokens) == (False, None, None)


def test_of_answers_that_failed_nothing_is_told() -> None:
    sampler = AnswerSampler()
    sampler.take(0, exchange_of(ROLE), sample(outcome="truncated").reply)
    assert sampler.answers() == {}
    assert findings.of_streams([]) is None


# --- the answers of a stage -------------------------------------------------------------------------------------------


def exchange_of(body: bytes, *, streams: bool = True) -> Exchange:
    """One that has ended with this body."""
    exchange = Exchange(ChatRequest("http://127.0.0.1/", b"{}", {}, Deadlines(request_ns=1), streams), 0)
    exchange.response.status, exchange.ended_ns = 200, 1
    exchange.response.append(body)
    return exchange


ANSWER = COMMENT + ROLE + token("abcd") + token("efgh") + FINISH + DONE


def test_the_first_answers_of_each_model_are_held_and_read_when_the_stage_is_over() -> None:
    sampler = AnswerSampler()
    for model in (0, 1):
        for _ in range(2 * SAMPLED_ANSWERS):
            sampler.take(model, exchange_of(ANSWER), sample(stamps=(10, 20), output_tokens=2).reply)
    answers = sampler.answers()
    assert {model: len(held) for model, held in answers.items()} == {0: SAMPLED_ANSWERS, 1: SAMPLED_ANSWERS}
    assert answers[1][0] == sample("abcdefgh", (10, 20), traits=traits(ANSWER), output_tokens=2).stream


def test_answers_that_came_whole_and_bodies_too_long_to_hold_are_passed_over() -> None:
    sampler = AnswerSampler()
    sampler.take(0, exchange_of(ANSWER, streams=False), sample().reply)
    sampler.take(0, exchange_of(COMMENT * MAX_BODY_BYTES), sample().reply)
    assert sampler.answers() == {}


def test_of_several_answers_the_most_hidden_tokens_count_and_doubt_outweighs_none() -> None:
    none, some, doubt = sample(), sample(text="abc", stamps=(150, 160)), sample(text="a" * 24, stamps=(10, 20))
    assert findings.most_hidden_tokens([none.stream, doubt.stream, some.stream]) == 14
    assert findings.most_hidden_tokens([none.stream, doubt.stream]) is None
    assert findings.most_hidden_tokens([none.stream, none.stream]) == 0


def test_answers_of_several_stages_and_processes_are_one_account() -> None:
    a, b = sample().stream, sample(output_tokens=17).stream
    assert merge_answers([{0: (a,)}, {}, {0: (b,), 1: (a,)}]) == {0: (a, b), 1: (a,)}


def test_what_answers_show_stands_beside_what_was_asked_for() -> None:
    asked = Probe(honors_seed=True, usage_in_stream=None)
    shown = findings.with_streams(asked, [sample().stream])
    assert shown is not None
    assert (shown.honors_seed, shown.usage_in_stream) == (True, True)
    assert findings.with_streams(asked, []) == asked
    assert findings.with_streams(None, []) is None


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_max_tokens_is_honored_at_the_limit_broken_above_it_and_untold_below() -> None:
    assert findings.honors_max_tokens(sample(), 16) is True
    assert findings.honors_max_tokens(sample(), 8) is False
    assert findings.honors_max_tokens(sample(output_tokens=5, finish_reason="stop"), 16) is None
    assert findings.honors_max_tokens(sample(outcome="timeout"), 16) is None


STORY = "In a small town by the sea there lived a keeper"


def test_the_word_to_stop_at_is_new_behind_a_quarter_and_not_the_last() -> None:
    assert findings.stop_word(STORY) == "town"
    assert findings.stop_word("keeper keeper keeper") is None
    assert findings.stop_word("") is None


@given(st.text(max_size=80))
def test_a_stop_word_is_met_behind_the_beginning_of_the_text(text: str) -> None:
    word = findings.stop_word(text)
    assert word is None or 0 < text.find(word) < len(text) - len(word)


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("In a small ", {"finish_reason": "stop"}, True),
        ("In a small", {"finish_reason": "stop"}, True),
        ("In a small town", {"finish_reason": "stop"}, True),
        (STORY, {}, False),
        ("Another small city", {"finish_reason": "stop"}, None),
        ("", {"outcome": "http_error", "status": 400}, False),
        ("", {"outcome": "http_error", "status": 503}, None),
    ],
)
def test_stop_is_honored_where_the_same_answer_ends_before_the_word(
    text: str, changes: dict[str, Any], expected: bool | None
) -> None:
    assert findings.honors_stop(STORY, "town", sample(text=text, **changes)) is expected


@pytest.mark.parametrize(
    ("texts", "expected"), [("aab", True), ("abb", False), ("abc", False), ("aaa", None), (" aa", False)]
)
def test_a_seed_is_honored_when_it_repeats_an_answer_and_another_seed_does_not(
    texts: str, expected: bool | None
) -> None:
    once, again, other = (sample(text=text) for text in texts)
    assert findings.honors_seed(once, again, other) is expected


def test_a_seed_that_is_refused_is_not_honored_and_one_that_failed_otherwise_is_not_told() -> None:
    refused, failed = (sample(text="", outcome="http_error", status=status) for status in (400, 500))
    assert findings.honors_seed(refused, refused, refused) is False
    assert findings.honors_seed(sample(), failed, sample()) is None


# --- streams at once --------------------------------------------------------------------------------------------------


def late(by_ms: int, gap_ms: int = 10) -> ProbeAnswer:
    return sample(stamps=range(by_ms, by_ms + 16 * gap_ms, gap_ms))


def test_streams_one_after_another_do_not_overlap() -> None:
    assert findings.most_parallel([late(10), late(200), late(400)]) == 1
    assert findings.most_parallel([late(0), late(150)]) == 1, "one ends as the other begins"
    assert findings.scaling([late(10)], [late(10), late(200)]) is None


def test_streams_in_batches_overlap_by_batch() -> None:
    assert findings.most_parallel([late(10), late(11), late(12), late(200), late(201)]) == 3


def test_streams_that_came_whole_say_nothing_of_overlap() -> None:
    assert findings.most_parallel([sample(stamps=(10, 10, 10))]) is None
    assert findings.most_parallel([]) is None


def test_streams_that_take_turns_scale_to_one_and_a_batch_to_its_size() -> None:
    assert findings.scaling([late(10)], [late(start, gap_ms=40) for start in (10, 20, 30, 40)]) == pytest.approx(1, 0.1)
    assert findings.scaling([late(10)], [late(start) for start in (10, 11, 12, 13)]) == pytest.approx(4, 0.1)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 50)), min_size=1, max_size=8))
def test_overlap_is_at_least_one_and_at_most_all(streams: list[tuple[int, int]]) -> None:
    found = findings.most_parallel([late(start, gap) for start, gap in streams])
    assert found is not None
    assert 1 <= found <= len(streams)


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_stream_has_stopped_when_an_answer_is_as_quick_as_alone_again() -> None:
    told = {"alone_ns": 100.0, "left_ns": 3000.0}
    assert findings.stops_when_closed(company_ns=200.0, after_ns=105.0, **told) is True
    assert findings.stops_when_closed(company_ns=200.0, after_ns=190.0, **told) is False


def test_where_company_does_not_slow_an_answer_closing_is_not_told() -> None:
    assert findings.stops_when_closed(alone_ns=100.0, company_ns=110.0, after_ns=100.0, left_ns=3000.0) is None


def test_where_streams_take_turns_an_answer_waits_for_one_that_goes_on() -> None:
    def told(after_ns: float, left_ns: float) -> bool | None:
        return findings.stops_when_closed(alone_ns=100.0, company_ns=None, after_ns=after_ns, left_ns=left_ns)

    assert told(120.0, 3000.0) is True
    assert told(2900.0, 3000.0) is False
    assert told(120.0, 50.0) is None


def test_servers_that_count_their_requests_are_read_and_others_are_not() -> None:
    slots = b'[{"id": 0, "is_processing": true}, {"id": 1, "is_processing": false}]'
    assert [findings.busy_slots(body) for body in (slots, b"[]", b"{}", b"<html>", b"[1]")] == [
        1,
        None,
        None,
        None,
        None,
    ]
    llama = b"# HELP x\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 7\n"
    vllm = b'vllm:num_requests_running{engine="0",model_name="m"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n'
    assert [findings.busy_requests(body) for body in (llama, vllm, b"", b"requests_processing nan\n")] == [
        2,
        3,
        None,
        None,
    ]


# --- marks ------------------------------------------------------------------------------------------------------------

HIDING = Probe(hidden_tokens=9)


def records(**changes: Any) -> list[Record]:
    return [turn(index, **changes) for index in range(40)]


def stage_of(probe: Probe | None, slo: dict[str, float] | None = None, **changes: Any) -> tuple[StageSummary, Any]:
    card: dict[str, Any] = {"alias": "m", "target": "t", "id": "m"}
    card |= {} if probe is None else {"probe": msgspec.to_builtins(probe)}
    run = run_of(records(**changes), models=(card,), scenario={"name": "x", "seed": 1, "slo": slo or {}})
    return summarize(run).stages[0], run


def test_a_server_that_counts_a_token_an_event_has_no_marks() -> None:
    assert metric_flags(records(), None).not_valid == {}
    assert stage_of(Probe(hidden_tokens=0, tokens_per_event=1.0))[0].not_valid == {}


def test_without_usage_what_is_counted_by_events_says_so_and_prompt_tokens_are_not_known() -> None:
    stage, _ = stage_of(None, token_source="events", prompt_tokens=None)
    assert set(stage.not_valid) == {
        *("output_tokens_per_s", "per_user_tokens_per_s", "e2e_tokens_per_s", "tpot_ms", "prompt_tokens"),
    }
    assert all("the server sends no usage" in why for why in stage.not_valid.values())
    assert isinstance(stage.tokens, msgspec.Struct)
    assert (stage.tokens.prompt, stage.tokens.output, stage.tokens.source) == (None, 120, "events")


def test_where_some_answers_have_no_usage_the_marks_say_how_many() -> None:
    mixed = [*records()[:30], *records(token_source="events")[30:]]
    assert "10 of 40 answers" in metric_flags(mixed, None).not_valid["tpot_ms"]


def test_hidden_reasoning_leaves_no_pace_and_marks_what_it_is_in() -> None:
    stage, run = stage_of(HIDING, output_tokens=30)
    assert {"ttft_ms", "service_ttft_ms", "tpot_ms", "per_user_tokens_per_s", "output_tokens_per_s"} <= set(
        stage.not_valid
    )
    assert "itl_ms" not in stage.not_valid
    assert isinstance(stage.metrics, dict)
    assert isinstance(stage.throughput, msgspec.Struct)
    assert stage.metrics["tpot_ms"].count == 0
    assert stage.metrics["tpot_ms"].percentile("p50").value is None
    assert stage.throughput.per_user_tokens_per_s is None
    assert stage.throughput.output_tokens_per_s is not None
    assert stage.metrics["ttft_ms"].count == 40
    told = stages_of(run)[0].histograms
    assert (told["tpot"].count, told["ttft"].count) == (0, 40)


def test_a_pace_that_is_not_known_is_neither_met_nor_missed() -> None:
    stage, _ = stage_of(HIDING, {"ttft_ms": 1000.0, "tpot_ms": 0.001}, output_tokens=30)
    assert stage.slo is not None
    assert (stage.slo.slo, stage.slo.share) == ({"ttft_ms": 1000.0}, 1.0)
    assert {"slo", "goodput_requests_per_s"} <= set(stage.not_valid)
    assert stage_of(HIDING, {"tpot_ms": 0.001}, output_tokens=30)[0].slo is None


def test_a_server_that_can_hide_reasoning_is_not_marked_where_it_hid_none() -> None:
    assert stage_of(HIDING)[0].not_valid == {}


def test_packed_events_make_gaps_between_events_and_tpot_a_little_short() -> None:
    found = metric_flags(records(output_tokens=10), Probe(hidden_tokens=0, tokens_per_event=3.0))
    assert set(found.not_valid) == {"itl_ms", "tpot_ms"}
    assert "3 tokens each" in found.not_valid["itl_ms"]
    assert not found.nulled


def test_without_a_probe_packed_and_hidden_are_not_told_apart_and_all_that_counts_tokens_is_marked() -> None:
    found = metric_flags(records(output_tokens=9), None)
    assert set(found.not_valid) == {
        *("itl_ms", "tpot_ms", "output_tokens_per_s", "per_user_tokens_per_s", "e2e_tokens_per_s")
    }


def test_an_end_token_that_no_event_bears_marks_nothing() -> None:
    assert metric_flags(records(output_tokens=4), None).not_valid == {}


def test_the_questions_that_a_plan_lists_are_those_that_a_probe_asks() -> None:
    chats = {question.name: question.chats for question in QUESTIONS}
    assert chats == {"max_tokens": 1, "stop": 1, "seed": 3, "parallel streams": STREAMS, "closing a stream": 3}


# --- the cache --------------------------------------------------------------------------------------------------------

ASKED = Probe(honors_seed=True, parallel_streams=4, parallel_asked=8, took_s=2.5, asked_utc="2026-11-30T08:15:00+00:00")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path))
    return tmp_path / "probes"


def served(base_url: str = "http://127.0.0.1:8080/v1", model: str = "m", **settings: Any) -> Served:
    return Served(base_url=base_url, card=ModelCard(alias="any", id=model, target="t"), settings=settings)


def test_what_a_server_was_asked_is_recalled_for_that_server_model_version_and_settings_alone(cache: Path) -> None:
    remember(served(version="x 1", slots=4), ASKED)
    assert recall(served(version="x 1", slots=4)) == ASKED
    assert recall(served(version="x 2", slots=4)) is None
    assert recall(served(version="x 1", slots=8)) is None
    assert recall(served("http://127.0.0.1:8081/v1", version="x 1", slots=4)) is None
    assert recall(served(model="other", version="x 1", slots=4)) is None


def test_of_a_probe_what_any_answer_shows_is_not_remembered(cache: Path) -> None:
    remember(served(), msgspec.structs.replace(ASKED, usage_in_stream=True, waited_ms=7.0, hidden_tokens=3))
    assert recall(served()) == ASKED


def test_a_probe_that_came_to_know_nothing_takes_nobodys_place(cache: Path) -> None:
    remember(served(), ASKED)
    remember(served(), Probe(took_s=20.0, usage_in_stream=True, notes=("stopped by the user",)))
    assert recall(served()) == ASKED


def test_a_later_probe_takes_the_place_of_the_one_before(cache: Path) -> None:
    later = msgspec.structs.replace(ASKED, honors_seed=False, asked_utc="2026-12-01T08:15:00+00:00")
    remember(served(), ASKED)
    remember(served(), later)
    assert recall(served()) == later


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace("loadgen.probe/1", "loadgen.probe/0"),
        lambda text: text.replace('"m"', '"another"'),
        lambda text: text.replace('"parallel_streams": 4', '"parallel_streams": "four"'),
    ],
    ids=["empty", "cut off", "no object", "of an older schema", "of another model", "of another type"],
)
def test_a_file_of_the_cache_that_cannot_be_read_is_as_if_it_was_not_there(
    change: Callable[[str], str], cache: Path
) -> None:
    remember(served(), ASKED)
    (path,) = cache.iterdir()
    changed = change(path.read_text(encoding="utf-8"))
    assert changed != path.read_text(encoding="utf-8")
    path.write_text(changed, encoding="utf-8")
    assert recall(served()) is None


def test_who_reads_while_others_write_reads_one_of_what_was_written(cache: Path) -> None:
    written = [msgspec.structs.replace(ASKED, parallel_streams=count) for count in range(20)]
    remember(served(), written[0])
    with ThreadPoolExecutor(8) as threads:
        writes = [threads.submit(remember, served(), probe) for probe in written]
        reads = [threads.submit(recall, served()) for _ in range(40)]
    assert [write.result() for write in writes] == [None] * len(written)
    assert all(read.result() in written for read in reads)
    assert len(list(cache.iterdir())) == 1


def test_the_address_of_a_remembered_server_has_no_password_and_no_query(cache: Path) -> None:
    remember(served("http://me:hunter2@127.0.0.1:8080/v1?token=abc"), ASKED)
    (path,) = cache.iterdir()
    assert "hunter2" not in path.read_text(encoding="utf-8")
    assert "abc" not in path.read_text(encoding="utf-8")


def test_a_cache_that_cannot_be_written_says_so_and_one_that_cannot_be_read_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError):
        remember(served(), ASKED)
    assert recall(served()) is None


# --- reports ----------------------------------------------------------------------------------------------------------


def test_what_is_not_valid_has_a_dagger_in_every_table_and_a_note_that_says_why() -> None:
    _, run = stage_of(HIDING, output_tokens=30)
    summary = summarize(run)
    table = main_table(summary)
    cells = dict(zip([column.title for column in table.columns], table.rows[0].cells, strict=True))
    assert {title for title, cell in cells.items() if cell.endswith("†")} == {
        *("TTFT p50", "TTFT p90", "TTFT slowest", "TPOT p50", "tok/s", "tok/s/user")
    }
    assert cells["tok/s/user"] == "– †"
    assert any(note.startswith("† m on t: ") and "reasoning is hidden" in note for note in table.remarks)
    document = make_document(report_data(summary, [run]))
    text = markdown(document)
    assert "| ttft † |" in text
    assert "## What this server does" in text
    assert "tpot_ms" in csv_text(summary).splitlines()[1]
    page = html(document).decode()
    assert "<h2>What this server does</h2>" in page
    assert "– †" in page


def cards_of(**probes: Probe) -> list[ServedModel]:
    return [ServedModel(alias=name, id=name, target="t", probe=probe) for name, probe in probes.items()]


def test_the_table_says_when_a_server_was_asked_and_which_was_not() -> None:
    asked = Probe(honors_seed=True, took_s=2.5, asked_utc="2026-11-30T08:15:00+00:00")
    table = server_table(cards_of(a=asked, b=Probe(role_event=True)))
    assert table is not None
    rows = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert rows["probed on"] == ("2026-11-30", NOT_ASKED)
    assert rows["the probe took"] == ("2.5 s", NOT_ASKED)
    assert rows["honors seed"] == ("yes", NOT_ASKED)
    assert rows["sends a role event"] == (UNDECIDED, "yes")


def test_where_no_server_was_asked_the_table_says_how_that_is_done() -> None:
    table = server_table(cards_of(a=Probe(role_event=True)))
    assert table is not None
    assert "honors seed" not in {row.cells[0] for row in table.rows}
    assert table.remarks == (HOW_TO_ASK,)


def test_the_table_of_what_servers_do_says_what_could_not_be_told() -> None:
    one = Probe(usage_in_stream=True, honors_seed=False, parallel_streams=8, parallel_asked=8, notes=("a note",))
    table = server_table([*cards_of(a=one, b=Probe(took_s=1.0)), ServedModel(alias="c", id="c", target="t")])
    assert table is not None
    rows = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert rows["sends usage in a stream"] == ("yes", UNDECIDED)
    assert rows["honors seed"] == ("no", UNDECIDED)
    assert rows["streams in parallel"] == ("at least 8 of 8 requested at once", UNDECIDED)
    assert [column.title for column in table.columns] == ["", "a on t", "b on t"]
    assert table.remarks == ("a on t: a note",)


def test_without_a_probe_or_with_one_that_cannot_be_read_there_is_no_table() -> None:
    told = msgspec.to_builtins(manifest([]))
    told["models"] = [{"alias": name, "id": name, "target": "t"} for name in ("a", "b", "c")]
    told["models"][1]["probe"] = {"scaling": "x"}
    told["models"][2]["probe"] = "x"
    cards = manifest_from(msgspec.json.encode(told)).models
    assert [card.alias for card in cards] == ["a", "b", "c"]
    assert server_table(cards) is None


def test_a_stream_that_has_its_text_as_a_completion_is_named_so() -> None:
    body = b"".join(event({"choices": [{"index": 0, "text": text}]}) for text in "ab") + b"data: [DONE]\n\n"
    assert traits(body).completion_text
    assert not traits(event({"choices": [{"index": 0, "delta": {"content": "a"}, "text": "a"}]})).completion_text
