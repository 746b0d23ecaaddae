"""Probes of scripted servers: what each of them does is found, and what cannot be told is left untold."""

import asyncio
import hashlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.cli import app
from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.engine.stop import StopSignal
from loadgen.plan.plan import make_plan
from loadgen.plan.prompts import load_prompts
from loadgen.report.document import make_document, report_data
from loadgen.report.markdown import markdown
from loadgen.report.plan_text import plan_data
from loadgen.scenario import Closed, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.manifest import Probe
from loadgen.store.run_folder import Run
from loadgen.targets.probe.findings import asked_part
from loadgen.targets.probe.probe import FIRST_TOKENS, LONG_S, PLAIN, SUBJECTS, TOKENS, probe
from loadgen.targets.registry import serve_model
from loadgen.wire.client import Client
from tests.integration.server import (
    BEGIN,
    COMMENT,
    DONE,
    FINISH,
    LAST_CHUNK,
    ROLE,
    Hang,
    Script,
    Send,
    Served,
    Server,
    Until,
    Wait,
    chunk,
    event,
    every,
    say,
    streamed,
    token,
    usage,
    whole,
)

pytestmark = pytest.mark.asyncio
LENGTH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
GAP_S = 0.002


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _any_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The long stream takes LONG_S at any pace, and its server may take its time to be idle before it."""
    monkeypatch.setattr("loadgen.targets.probe.probe.LONG_TOKENS", (1, 1 << 20))
    monkeypatch.setattr("loadgen.targets.probe.probe.IDLE_POLLS", 2_400)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends a long stream has so much time for it that no machine is too slow."""
    monkeypatch.setattr("loadgen.targets.probe.probe.LONG_S", 60.0)
    monkeypatch.setattr("loadgen.targets.probe.probe.STOP_WITHIN_S", 30.0)


def scenario(url: str, **rest: Any) -> Scenario:
    model = Model(name="m", url=url, target="openai")
    load = Closed(concurrency=(1,), requests=2)
    short = {"sampling": Sampling(max_tokens=4), **rest}  # what a probe asks for is its own
    return Scenario(name="probed", prompts=("Say hello.",), models=(model,), load=load, **short)


async def probe_of(server: Server, *, budget_s: float = 120.0, clock: Clock = SYSTEM_CLOCK, **rest: Any) -> Probe:
    made = scenario(server.url, **rest)
    plan = make_plan(made, load_prompts(made, Path(), "the test"))
    async with Client() as client, serve_model(made.models[0], lambda *_: None) as served:
        return await probe(plan, 0, served, client, clock=clock, budget_s=budget_s)


# Servers


def answer(body: dict[str, Any]) -> list[str]:
    """Words that follow from what a request asks for: its prompt, and at a temperature its seed."""
    seed = f"{body.get('seed')}" if body["temperature"] > 0 else ""
    told = f"{body['messages'][-1]['content']}/{seed}"
    digits = hashlib.sha256(told.encode()).hexdigest() * 30
    return [f"w{number}{digits[number]} " for number in range(body["max_tokens"])]


def is_long(request: Served) -> bool:
    return request.says == PLAIN and int(msgspec.json.decode(request.body)["max_tokens"]) > TOKENS


def honest(request: Served, gap_s: float = GAP_S) -> Script:
    """Does all that it is asked for, a token every 2 ms or gap_s, with keep-alives before the first. A long stream
    goes on until the client goes."""
    body = msgspec.json.decode(request.body)
    if is_long(request):
        return (BEGIN, Wait(0.01), Send(chunk(ROLE)), *every(gap_s, say(*["w "] * 2 * FIRST_TOKENS)), Hang())
    words = answer(body)
    before = "".join(words)
    for stop in body.get("stop", []):
        before = before.partition(stop)[0]
    said = list(itertools.takewhile(lambda place: len("".join(words[:place])) < len(before), range(len(words))))
    end = LENGTH if len(said) == len(words) else FINISH
    texts = [words[place] for place in said]
    if end is FINISH and texts:
        texts[-1] = before[len("".join(texts[:-1])) :]
    begin = Send(chunk(COMMENT) + chunk(ROLE))
    close = Send(chunk(end) + chunk(usage(9, len(texts))) + chunk(DONE) + LAST_CHUNK)
    return (BEGIN, Wait(0.01), begin, *every(gap_s, say(*texts)), close)


def stubborn(request: Served) -> Script:
    """Sends twenty words, whatever it is asked for, never the same, and counts nothing."""
    texts = [f"{request.number} ", *(f"word{place} " for place in range(20))]
    return (BEGIN, *every(GAP_S, say(*texts)), Send(chunk(FINISH) + chunk(DONE) + LAST_CHUNK))


class Watched(Server):
    """A server that tells at `/slots` how many chats it works on. turns: one chat at a time; else the streams of many
    subjects wait for each other after their first token. obeys: a client that goes ends its long stream at once; else
    it goes on until LONG_S after the next chat came."""

    def __init__(self, choose: Callable[[Served], Script], *, obeys: bool, turns: bool, tells: bool) -> None:
        super().__init__(choose)
        self._obeys, self._tells = obeys, tells
        self._turn: asyncio.Lock | None = asyncio.Lock() if turns else None
        self._at_work = 0
        self._many, self._all_begun = 0, asyncio.Event()

    async def _play(self, script: Script, request: Served, peer: Any) -> bool:
        if request.method == "GET":
            slots = [{"id": place, "is_processing": place < self._at_work} for place in range(16)]
            if self._tells and request.path == "/slots":
                script = whole("200 OK", msgspec.json.encode(slots))
            return await super()._play(script, request, peer)
        self._at_work += 1
        try:
            if self._turn is None:
                return await self._work(script, request, peer)
            async with self._turn:
                return await self._work(script, request, peer)
        finally:
            self._at_work -= 1

    async def _work(self, script: Script, request: Served, peer: Any) -> bool:
        if self._turn is None and request.says.startswith("Tell"):
            first = next(place for place, step in enumerate(script) if isinstance(step, Send) and step.token) + 1
            script = (*script[:first], Until(self._begin_together), *script[first:])
        try:
            return await super()._play(script, request, peer)
        finally:
            if is_long(request) and not self._obeys:
                await self._go_on(request)

    async def _begin_together(self) -> None:
        self._many += 1
        if self._many % len(SUBJECTS) == 0:
            self._all_begun.set()
        await self._all_begun.wait()

    async def _go_on(self, request: Served) -> None:
        while self.chats[-1] is request:  # noqa: ASYNC110  what is served is a list
            await asyncio.sleep(0.005)
        await asyncio.sleep(LONG_S)


# What is found


def slow(request: Served) -> Script:
    """Honest, a token every 10 ms: so slow that what else runs on the machine counts little."""
    return honest(request, 0.01)


@pytest.mark.usefixtures("_patient")
async def test_of_a_server_that_does_what_it_is_asked_for_all_is_found() -> None:
    with Watched(slow, obeys=True, turns=False, tells=True) as server:
        found = await probe_of(server)
    assert found.notes == ()
    assert (found.usage_in_stream, found.role_event, found.keep_alives) == (True, True, 1)
    assert (found.tokens_per_event, found.hidden_tokens, found.reasoning_in_stream) == (1.0, 0, False)
    assert (found.honors_max_tokens, found.honors_stop, found.honors_seed) == (True, True, True)
    assert (found.parallel_streams, found.parallel_asked) == (len(SUBJECTS), len(SUBJECTS))
    assert found.scaling is not None
    assert found.scaling > 1, "a script is not slowed by another"
    assert (found.stops_on_close, found.stops_on_close_by) == (True, "/slots")
    assert found.stopped_after_ms is not None


async def test_of_a_server_that_does_as_it_likes_that_is_found() -> None:
    with Server(stubborn) as server:
        found = await probe_of(server)
    assert (found.usage_in_stream, found.role_event, found.keep_alives) == (False, False, 0)
    assert (found.tokens_per_event, found.hidden_tokens) == (None, None)
    assert (found.honors_max_tokens, found.honors_stop, found.honors_seed) == (False, False, False)
    assert found.stops_on_close is None


async def test_a_server_that_goes_on_behind_a_closed_stream_is_found_by_its_own_account() -> None:
    with Watched(honest, obeys=False, turns=False, tells=True) as server:
        found = await probe_of(server)
    assert (found.stops_on_close, found.stops_on_close_by, found.stopped_after_ms) == (False, "/slots", None)


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_server_that_takes_turns_and_tells_nothing_is_found_by_the_clock(
    obeys: bool, request: pytest.FixtureRequest
) -> None:
    if obeys:
        request.getfixturevalue("_patient")
    with Watched(honest, obeys=obeys, turns=True, tells=False) as server:
        found = await probe_of(server)
    assert found.parallel_streams == 1
    assert found.scaling is None
    assert found.stops_on_close is obeys
    assert "ms alone" in str(found.stops_on_close_by)


async def test_where_company_does_not_slow_a_server_that_tells_nothing_closing_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever else runs may slow an answer, though not so much; how much it must is tested with numbers of its own.
    monkeypatch.setattr("loadgen.targets.probe.findings.SLOWED", 1_000)
    with Server(slow) as server:
        found = await probe_of(server)
    assert found.stops_on_close is None
    assert "beside an open stream" in str(found.stops_on_close_by)


async def test_tokens_that_are_never_shown_are_found_and_nothing_is_made_up_of_them() -> None:
    end = Send(chunk(LENGTH) + chunk(usage(9, TOKENS)) + chunk(DONE) + LAST_CHUNK)
    with Server((BEGIN, Send(chunk(ROLE)), Wait(0.02), end)) as server:
        found = await probe_of(server)
        assert len(server.chats) == 1
    assert (found.usage_in_stream, found.hidden_tokens, found.tokens_per_event) == (True, TOKENS, None)
    assert (found.honors_seed, found.parallel_streams, found.stops_on_close) == (None, None, None)
    assert found.notes == (f"no token was shown within max_tokens = {TOKENS}",)


async def test_several_tokens_an_event_are_counted() -> None:
    texts = [token("four tokens here, maybe ")] * 4
    end = Send(chunk(LENGTH) + chunk(usage(9, TOKENS)) + chunk(DONE) + LAST_CHUNK)
    with Server((BEGIN, *every(GAP_S, tuple(Send(chunk(text), token=True) for text in texts)), end)) as server:
        found = await probe_of(server)
    assert (found.tokens_per_event, found.hidden_tokens) == (4.0, 0)


async def test_a_request_of_a_probe_has_the_scenarios_extra_keys_and_not_its_stop() -> None:
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        await probe_of(server, sampling=Sampling(max_tokens=500, stop=("w",), stream=False, extra={"top_k": 5}))
    bodies = [msgspec.json.decode(request.body) for request in server.chats]
    assert {body["top_k"] for body in bodies} == {5}
    assert all(body["stream"] and body.get("stop") != ["w"] for body in bodies)
    assert sum(body["max_tokens"] != TOKENS for body in bodies) == 1, "but for the one that is closed"


# What goes wrong


@pytest.mark.parametrize(
    "script",
    [(Hang(),), (BEGIN, Hang()), (BEGIN, *say("a", "b"), Hang())],
    ids=["no headers", "no token", "no end"],
)
async def test_a_server_that_hangs_does_not_hang_a_probe(script: Script) -> None:
    with Server(script) as server:
        found = await asyncio.wait_for(probe_of(server, budget_s=0.3), timeout=60)
    assert found.usage_in_stream is None
    assert "timeout" in found.notes[0]
    assert found.took_s is not None
    assert found.took_s < 15


class Ahead:
    """A clock that leaps to where little is left of a probe's time."""

    _ahead_ns = 0

    def now_ns(self) -> int:
        return SYSTEM_CLOCK.now_ns() + self._ahead_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        await SYSTEM_CLOCK.sleep_until_ns(deadline_ns - self._ahead_ns)

    async def leave_a_second_of_60(self) -> None:
        self._ahead_ns = 59_000_000_000


async def test_on_a_server_too_slow_for_the_time_questions_are_left_out_and_noted() -> None:
    clock = Ahead()
    *most, end = streamed(*("a ",) * 16, gap_s=0.02)
    with Server((*most, Until(clock.leave_a_second_of_60), end)) as server:
        found = await probe_of(server, budget_s=60.0, clock=clock)
        assert len(server.chats) == 1
    assert found.honors_max_tokens is True
    assert [note.partition(":")[0] for note in found.notes] == ["stop and seed", "parallel streams", "closing a stream"]


async def test_where_some_of_many_streams_are_refused_the_others_count() -> None:
    refused = whole("429 Too Many Requests", b"{}")

    def choose(request: Served) -> Script:
        return refused if request.says.startswith("Tell") and request.number % 2 else honest(request)

    with Server(choose) as server:
        found = await probe_of(server)
    assert found.parallel_asked == len(SUBJECTS)
    assert any(f" of {len(SUBJECTS)} parallel streams failed: " in note for note in found.notes)


# In a run


SHOWN = {
    "usage_in_stream": True,
    "role_event": True,
    "keep_alives": 1,
    "tokens_per_event": 1.0,
    "reasoning_in_stream": False,
    "characters_per_event": 4.0,
    "hidden_tokens": 0,
}
"""What every answer of the honest server shows."""


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_the_stages_own_answers_show_is_stored_and_costs_no_request(workers: int, tmp_path: Path) -> None:
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        loaded = LoadedScenario(scenario(server.url), None, tmp_path, "the test")
        run = await api.run(loaded, results=tmp_path, workers=workers)
        says = [request.says for request in server.chats]
    assert says == ["Say hello."] * 4, "a preflight, a warm-up, and two measured"
    card = msgspec.to_builtins(run.manifest.models[0].probe)
    assert {key: card[key] for key in SHOWN} == SHOWN
    assert card["waited_ms"] > 0
    asked = ("honors_max_tokens", "honors_stop", "honors_seed", "parallel_streams", "stops_on_close", "took_s")
    assert {card[key] for key in asked} == {None}


async def run_of(server: Server, folder: Path, **rest: Any) -> Run:
    return await api.run(LoadedScenario(scenario(server.url, **rest), None, folder, "the test"), results=folder)


async def test_a_run_that_is_to_ask_does_so_behind_its_stages(tmp_path: Path) -> None:
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        run = await run_of(server, tmp_path, probe=True)
        says = [request.says for request in server.chats]
    assert says[:4] == ["Say hello."] * 4, "a preflight, a warm-up, and two measured"
    assert len(says[4:]) == 14
    found = run.manifest.models[0].known_probe
    assert found is not None
    assert (found.usage_in_stream, found.honors_seed, found.stops_on_close_by) == (True, True, "/slots")
    assert {record.outcome for record in run.records} == {"ok"}


def planned_chats(url: str, **rest: Any) -> dict[str, int]:
    """How many chats a plan says that a run sends, by when."""
    made = scenario(url, **rest)
    data = plan_data(make_plan(made, load_prompts(made, Path(), "the test")))
    chats = {"in stages": sum(len(stage["planned"]) + stage["warmup"] for stage in data["stages"])}
    for extra in data["extra_chats"]:
        chats[extra["when"]] = chats.get(extra["when"], 0) + extra["chats"]
    return chats


@pytest.mark.parametrize("probe", [False, True])
async def test_a_run_sends_exactly_as_many_chats_as_its_plan_says(probe: bool, tmp_path: Path) -> None:
    with Server(slow) as server:
        planned = planned_chats(server.url, probe=probe)
        run = await run_of(server, tmp_path, probe=probe)
        sent = len(server.chats)
    assert planned == {"in stages": 3, "before its stages": 1, **({"after its stages": 16} if probe else {})}
    assert sent == sum(planned.values())
    assert len(run.records) == planned["in stages"]


async def test_a_later_run_quotes_what_was_asked_with_its_date_and_sends_nothing_for_it(tmp_path: Path) -> None:
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        first = await run_of(server, tmp_path, probe=True)
        before = len(server.chats)
        later = await run_of(server, tmp_path)
        assert len(server.chats) - before == sum(planned_chats(server.url).values()) == 4
    asked, quoted = (run.manifest.models[0].known_probe or Probe() for run in (first, later))
    assert asked.asked_utc is not None
    assert asked_part(quoted) == asked_part(asked)
    assert {key: getattr(quoted, key) for key in SHOWN} == SHOWN, "these are the later run's own"
    report = markdown(make_document(report_data(summarize(later), [later])))
    assert f"| probed on | {asked.asked_utc[:10]} |" in report


async def test_of_another_server_nothing_is_quoted(tmp_path: Path) -> None:
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        await run_of(server, tmp_path, probe=True)
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        other = await run_of(server, tmp_path)
    assert (other.manifest.models[0].known_probe or Probe(asked_utc="?")).asked_utc is None


async def test_what_cannot_be_remembered_is_told_and_stored_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "file"))
    with Watched(honest, obeys=True, turns=False, tells=True) as server:
        run = await run_of(server, tmp_path, probe=True)
    assert run.manifest.state == "complete"
    assert (run.manifest.models[0].known_probe or Probe()).honors_seed is True


async def test_after_a_wish_to_end_no_question_follows_and_what_was_known_before_is_not_written_over(
    tmp_path: Path,
) -> None:
    loop, stop = asyncio.get_running_loop(), StopSignal()
    ending: list[str] = []

    def choose(request: Served) -> Script:
        if ending and request.says != "Say hello.":
            loop.call_soon_threadsafe(stop.escalate)
        return honest(request)

    with Watched(choose, obeys=True, turns=False, tells=True) as server:
        known = (await run_of(server, tmp_path, probe=True)).manifest.models[0].known_probe
        before = len(server.chats)
        ending.append("now")
        loaded = LoadedScenario(scenario(server.url, probe=True), None, tmp_path, "the test")
        cut_short = await api.run(loaded, results=tmp_path, stop=stop)
        assert len(server.chats) - before == 5, "a preflight, a warm-up, two measured, and one question"
        later = (await run_of(server, tmp_path)).manifest.models[0].known_probe
    assert cut_short.manifest.state == "interrupted"
    assert known is not None
    assert later is not None
    assert (later.asked_utc, later.honors_seed) == (known.asked_utc, True)


async def test_a_long_stream_that_fails_is_not_said_to_have_ended() -> None:
    refused = whole("500 Internal Server Error", b"{}")

    def choose(request: Served) -> Script:
        return refused if msgspec.json.decode(request.body)["max_tokens"] > TOKENS else honest(request)

    with Server(choose) as server:
        found = await probe_of(server)
    assert (found.stops_on_close, found.stops_on_close_by) == (None, "the long stream failed")


# Without a run


def models_probe(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    """`loadgen models --probe` in this process: its exit code, and what it printed."""
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(sys, "argv", ["loadgen", "models", "--probe", *flags])
        app.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capsys.readouterr()


async def test_models_probe_asks_without_a_run_and_remembers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Server(slow) as server:
        where = ("--url", server.url, "--model", "m")
        code, out, err = await asyncio.to_thread(models_probe, capsys, *where)
        assert len(server.chats) == 17, "the test chat, and the sixteen that the plan lists"
        assert (code, "skipped" in err) == (0, False)
        assert f"m on 127.0.0.1:{server.port}" in out
        assert [line.split()[-1] for line in out.splitlines() if line.startswith("honors")] == ["yes"] * 3
        later = await run_of(server, tmp_path)
    assert (later.manifest.models[0].known_probe or Probe()).honors_seed is True


async def test_models_probe_as_json_has_cards_with_their_probe(capsys: pytest.CaptureFixture[str]) -> None:
    with Server(stubborn) as server:
        code, out, _ = await asyncio.to_thread(models_probe, capsys, "--url", server.url, "--model", "m", "--json")
    (card,) = msgspec.json.decode(out)
    assert (code, card["alias"], card["probe"]["honors_max_tokens"]) == (0, "m", False)


async def test_models_probe_of_a_server_that_is_not_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--url", "http://127.0.0.1:1/v1", "--model", "m", "--ready", "0")
    code, out, err = await asyncio.to_thread(models_probe, capsys, *where)
    assert (code, out) == (3, "")
    assert "skipped m on 127.0.0.1:1" in err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "no target is named"),
        (("--url", "http://h/v1", "--model", "m", "--write", "x.json"), "leave one of them out"),
    ],
)
async def test_models_probe_that_cannot_be_understood_is_exit_2(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = await asyncio.to_thread(models_probe, capsys, *flags)
    assert (code, out) == (2, "")
    assert says in err
