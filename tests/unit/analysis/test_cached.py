"""What a server's cache answered: read from what it says, summed, and said beside the TTFT."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from loadgen.analysis.metrics import prefilled_tokens, server_rates
from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import StageSummary, summary_data, summary_from
from loadgen.record import Record, ServerTimings
from loadgen.report.console import console
from loadgen.report.csv import csv_text
from loadgen.wire.chat_stream import decode
from loadgen.wire.chat_whole import decode_whole
from tests.integration.server import FINISH, event, token
from tests.records import MS, run_of, turn

COUNTS = {"prompt_tokens": 40, "completion_tokens": 2}
SAID: list[tuple[dict[str, Any], int | None]] = [
    ({"usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 30}}}, 30),
    ({"usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 0}}}, 0),
    ({"usage": COUNTS | {"prompt_cache_hit_tokens": 32, "prompt_cache_miss_tokens": 8}}, 32),
    ({"usage": COUNTS | {"cached_tokens": 16}}, 16),
    ({"usage": COUNTS | {"input_tokens_details": {"cached_tokens": 24}}}, 24),
    ({"usage": COUNTS | {"cache_read_input_tokens": 20, "cache_creation_input_tokens": 4}}, 20),
    ({"usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 12.0}}}, 12),
    ({"usage": COUNTS | {"prompt_cache_hit_tokens": 12.5, "cached_tokens": 8.0}}, 8),
    ({"usage": COUNTS | {"cached_tokens": True, "cache_read_input_tokens": 1e300}}, None),
    ({"timings": {"cache_n": 7.0}}, 7),
    ({"usage": COUNTS | {"prompt_tokens_details": {}, "input_tokens_details": None, "cached_tokens": 3}}, 3),
    ({"timings": {"cache_n": 39, "prompt_n": 1, "prompt_ms": 5.0, "predicted_n": 2, "predicted_ms": 9.0}}, 39),
    ({"usage": COUNTS, "timings": {"cache_n": 39}}, 39),
    ({"usage": COUNTS | {"prompt_tokens_details": {"cached_tokens": 30}}, "timings": {"cache_n": 39}}, 30),
    ({"usage": COUNTS}, None),
    ({"usage": COUNTS | {"prompt_tokens_details": None}}, None),
    ({"usage": COUNTS | {"prompt_tokens_details": [30], "prompt_cache_hit_tokens": -1, "cached_tokens": "9"}}, None),
    ({"usage": [1], "timings": [2]}, None),
]


@pytest.mark.parametrize(("said", "cached"), SAID)
def test_a_cache_is_read_in_the_words_of_each_server(said: dict[str, Any], cached: int | None) -> None:
    stream = token("a") + FINISH + event({"choices": [], **said})
    assert decode(stream).cached_tokens == cached
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    assert decode_whole(msgspec.json.encode({"choices": [choice], **said})).cached_tokens == cached


def test_an_event_that_says_nothing_of_a_cache_takes_nothing_back() -> None:
    first, last = SAID[0][0], {"timings": {"prompt_n": 1}}
    assert decode(token("a") + event({"choices": [], **first}) + event({"choices": [], **last})).cached_tokens == 30


def turns(cached: int | None, count: int = 20, **changes: Any) -> list[Record]:
    told = {} if cached is None else {"cached_tokens": cached}
    return [turn(index, prompt_tokens=40, **told, **changes) for index in range(count)]


def stage_of(records: list[Record]) -> StageSummary:
    return summarize(run_of(records)).stages[0]


@pytest.mark.parametrize(("cached", "marked"), [(4, False), (5, True), (40, True), (0, False), (None, False)])
def test_more_than_a_tenth_from_a_cache_is_said_beside_the_ttft(cached: int | None, marked: bool) -> None:
    stage = stage_of(turns(cached))
    assert set(stage.not_valid) == ({"ttft_ms", "service_ttft_ms"} if marked else set())
    assert isinstance(stage.metrics, dict) and stage.metrics["ttft_ms"].count == 20
    assert stage.tokens is not UNSET
    assert stage.tokens.cached == (UNSET if cached is None else 20 * cached)


def test_the_note_says_how_many_of_how_many() -> None:
    summary = summarize(run_of(turns(39)))
    assert "98% of the prompt tokens came from the server's cache (780 of 800)" in " ".join(console(summary).split())
    assert "cached_tokens" in csv_text(summary).splitlines()[0]
    assert "cached_tokens" not in csv_text(summarize(run_of(turns(None)))).splitlines()[0]


def test_servers_that_mention_a_cache_only_when_it_answers_have_prompts_all_the_same() -> None:
    assert stage_of([*turns(None)[:19], *turns(40)[19:]]).not_valid == {}
    assert stage_of([*turns(None)[:17], *turns(40)[17:]]).not_valid != {}


def test_without_usage_the_server_s_timings_say_how_long_prompts_were() -> None:
    timings = ServerTimings(prompt_n=10, prompt_ms=5.0, predicted_n=3, predicted_ms=100.0)
    records = [msgspec.structs.replace(record, prompt_tokens=None) for record in turns(30, timings=timings)]
    assert "75% of the prompt tokens" in stage_of(records).not_valid["ttft_ms"]


def test_a_cache_whose_prompts_nobody_counts_is_said_without_a_share() -> None:
    records = [msgspec.structs.replace(record, prompt_tokens=None) for record in turns(30)]
    assert stage_of(records).not_valid["ttft_ms"].startswith("600 prompt tokens came from the server's cache, and it")


@pytest.mark.parametrize(("prompt", "share"), [(0, "100%"), (10, "75%"), (30, "100%")])
def test_a_server_that_counts_prompts_without_its_cache_has_no_share_above_all(prompt: int, share: str) -> None:
    records = [msgspec.structs.replace(record, prompt_tokens=prompt) for record in turns(30)]
    assert stage_of(records).not_valid["ttft_ms"].startswith(f"{share} of the prompt tokens")


def test_an_answer_that_came_whole_is_marked_as_a_whole() -> None:
    stage = stage_of(turns(40, stamps_ns=(), first_visible_ns=None))
    assert set(stage.not_valid) == {"e2e_ms", "e2e_tokens_per_s"}


def test_a_ttft_that_a_cache_made_short_is_judged_all_the_same() -> None:
    run = run_of(turns(40), scenario={"slo": {"ttft_ms": 1000.0, "attainment": 0.9}})
    slo = summarize(run).stages[0].slo
    assert slo is not None and slo.passed


def test_a_stream_that_was_cached_and_held_back_says_both() -> None:
    stage = stage_of(turns(40, stamps_ns=(200 * MS,) * 9, shared_reads=8))
    assert "held back" in stage.not_valid["ttft_ms"] and "cache" in stage.not_valid["ttft_ms"]
    assert "cache" not in stage.not_valid["tpot_ms"]


def test_merged_runs_add_up_what_they_know() -> None:
    runs = [run_of(turns(cached), run_id=f"run{at}") for at, cached in enumerate((10, None, 5))]
    tokens = merged(runs).stages[0].tokens
    assert tokens is not UNSET and tokens.cached == 20 * 15


def test_a_summary_and_a_record_know_the_cache_again_and_have_no_key_without_it() -> None:
    for cached, kept in ((7, True), (None, False)):
        summary = summarize(run_of(turns(cached)))
        raw = msgspec.json.encode(summary_data(summary))
        assert summary_from(raw) == summary
        assert (b'"cached"' in raw) is kept
        assert (b"cached_tokens" in msgspec.json.encode(turns(cached)[0])) is kept


@pytest.mark.parametrize(
    ("prompt_n", "prompt_tokens", "cached", "prefilled"),
    [(10, 40, 30, 10), (40, 40, 30, 10), (40, 40, 0, 40), (40, 40, None, 40), (10, None, 30, 10), (1, 40, 39, 1)],
)
def test_what_was_prefilled_is_without_the_cache_however_the_server_counts(
    prompt_n: int, prompt_tokens: int | None, cached: int | None, prefilled: int
) -> None:
    timings = ServerTimings(prompt_n=prompt_n, prompt_ms=5.0, predicted_n=3, predicted_ms=100.0)
    record = msgspec.structs.replace(turns(cached, 1, timings=timings)[0], prompt_tokens=prompt_tokens)
    assert prefilled_tokens(record) == prefilled
    rates = server_rates([record])
    assert rates is not None and rates.server_prefill_tokens_per_s == prefilled * 200
