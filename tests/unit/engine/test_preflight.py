"""Before anything is timed: what a server refuses, and whether it is ready."""

import asyncio
import socket
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.engine.preflight import LEAST_RETRIES
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Silence
from loadgen.scenario import Closed, Model, Retries, Sampling, Scenario, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store.manifest import Build
from loadgen.store.run_folder import Run
from loadgen.targets.ready import ReadyWait, wait_until_answered, why_not_ready
from loadgen.targets.served import Served
from loadgen.telemetry.host import git_commit, host, versions
from loadgen.wire.exchange import Deadlines, Failure
from tests.integration.server import Script, Server, whole
from tests.virtual import START_NS, run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, no_connection, refuse, stream

KEYS = {"max_tokens", "max_completion_tokens", "temperature", "seed", "stream_options"}


class Notes(Silence):
    """Holds the lines for the person."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def announce(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


def scenario_of(folder: Path, **scenario: Any) -> LoadedScenario:
    """One model, with a warm-up request and three others."""
    keys: dict[str, Any] = {
        "models": (Model(name="m", url="http://m.invalid/v1", target="openai"),),
        "load": Closed(requests=3, ramp_in_s=0.0),
        "sampling": Sampling(max_tokens=48),
        **scenario,
    }
    return LoadedScenario(Scenario(name="preflight", prompts=("Say hello.",), **keys), None, folder, "the test")


def play(client: ScriptedClient, folder: Path, **scenario: Any) -> tuple[Run, list[str]]:
    """A run in virtual time, and what was said."""
    loaded, progress = scenario_of(folder, **scenario), Notes()
    return run(api.run(loaded, results=folder, clock=CLOCK, client=client, progress=progress)), progress.lines


# --- keys that a server refuses ---------------------------------------------------------------------------------------


def unknown(key: str) -> Answer:
    return refuse(422, {"detail": [{"loc": ["body", key], "msg": "Extra inputs are not permitted"}]})


def param(key: str, message: str = "no") -> Answer:
    return refuse(400, {"error": {"message": message, "param": key}})


def refusing(*keys: str, answer: Callable[[str], Answer] = unknown) -> ScriptedClient:
    """A server that refuses a body with one of these keys, one at a time."""
    return ScriptedClient(
        lambda body, _: next((answer(key) for key in keys if key in body), stream("Hello", " there.", usage=2))
    )


def test_a_key_that_the_server_refuses_is_left_out_of_every_request(tmp_path: Path) -> None:
    client = refusing("seed", "stream_options")
    played, notes = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert [sorted(KEYS & {*body}) for body in client.bodies[:3]] == [
        ["max_tokens", "seed", "stream_options", "temperature"],
        ["max_tokens", "stream_options", "temperature"],
        ["max_tokens", "temperature"],
    ]
    assert all(not {"seed", "stream_options"} & {*body} for body in client.bodies[3:])
    (card,) = played.manifest.models
    assert card.refused_keys == {"seed": None, "stream_options": None}
    assert [note for note in notes if "refuses" in note] == [
        "m on m.invalid refuses seed, which is left out",
        "m on m.invalid refuses stream_options, which is left out",
    ]


def test_max_tokens_is_sent_under_the_name_that_the_server_wants(tmp_path: Path) -> None:
    client = refusing("max_tokens", answer=lambda key: param(key, "use max_completion_tokens instead"))
    played, notes = play(client, tmp_path)
    assert all(body["max_completion_tokens"] == 48 and "max_tokens" not in body for body in client.bodies[2:])
    assert played.manifest.models[0].refused_keys == {"max_tokens": "max_completion_tokens"}
    assert "m on m.invalid refuses max_tokens, which is sent as max_completion_tokens" in notes


def test_a_limit_that_is_refused_under_both_names_is_left_out(tmp_path: Path) -> None:
    client = refusing(
        "max_tokens", "max_completion_tokens", answer=lambda key: param(key, f"{key}; see max_completion_tokens")
    )
    played, _ = play(client, tmp_path)
    assert played.manifest.models[0].refused_keys == {"max_tokens": None}
    assert all(not {"max_tokens", "max_completion_tokens"} & {*body} for body in client.bodies[3:])


def test_keys_that_a_sentence_lists_as_allowed_are_sent_again(tmp_path: Path) -> None:
    text = "Supported: max_tokens, temperature. Not supported: seed"
    client = refusing("seed", answer=lambda _: refuse(400, text.encode()))
    played, _ = play(client, tmp_path)
    assert played.manifest.models[0].refused_keys == {"seed": None}
    assert KEYS & {*client.bodies[-1]} == {"max_tokens", "temperature", "stream_options"}


@pytest.mark.parametrize(
    "answer",
    [
        param("model", "no such model; see max_tokens"),
        param("messages"),
        refuse(400, {"error": {"message": "no"}}),
        refuse(401, {"error": {"message": "seed", "param": "seed"}}),
        refuse(500, {"error": {"message": "seed", "param": "seed"}}),
    ],
)
def test_what_names_no_key_that_can_be_left_out_is_asked_once(tmp_path: Path, answer: Answer) -> None:
    client = ScriptedClient(lambda _body, _number: answer)
    played, _ = play(client, tmp_path)
    assert len(client.bodies) == 1
    assert played.manifest.stages[0].skipped is not None


@pytest.mark.parametrize(
    "answer",
    [
        Answer((b'data: {"error": {"message": "no", "param": "seed"}}\n\ndata: [DONE]\n\n',)),
        Answer((b'event: error\ndata: {"message": "unknown field: seed"}\n\n',)),
        Answer((b'{"error": {"message": "Unsupported parameter: seed"}}',)),
    ],
)
def test_a_refusal_that_comes_with_status_200_counts_as_one(tmp_path: Path, answer: Answer) -> None:
    client = refusing("seed", answer=lambda _: answer)
    played, _ = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert played.manifest.models[0].refused_keys == {"seed": None}


def test_an_error_behind_a_token_refuses_no_key(tmp_path: Path) -> None:
    token = b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n'
    answer = Answer((token, b'data: {"error": {"message": "no", "param": "seed"}}\n\n'))
    client = refusing("seed", answer=lambda _: answer)
    play(client, tmp_path)
    assert ["seed" in body for body in client.bodies] == [True] * (1 + LEAST_RETRIES)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (param("max_tokens", "max_tokens is too large: 48"), "the server accepts max_tokens, but not this value"),
        (param("stream", "'stream' is not supported"), "--set sampling.stream=false"),
        (Answer((b'{"choices": [{"message": {"content": "hi"}}]}',)), "--set sampling.stream=false"),
        (refuse(500, {"error": "got an unexpected keyword argument 'seed'"}), "--set 'sampling.omit=[\"seed\"]'"),
        (refuse(429, {"error": "Rate limit reached"}), '[retries] with on = ["http_429"]'),
        (refuse(400, {"error": "Bad Request"}), "sampling.omit leaves out keys that the server refuses"),
        (refuse(400, {"error": {"message": 'model "m" not found'}}), "use a model that the server lists"),
        (param("model", "Invalid model identifier"), "use a model that the server lists"),
    ],
)
def test_what_cannot_be_sent_is_said_with_what_to_change(tmp_path: Path, answer: Answer, remedy: str) -> None:
    client = ScriptedClient(lambda _body, _number: answer)
    played, _ = play(client, tmp_path)
    assert remedy in (played.manifest.stages[0].skipped or "")
    assert len(client.bodies) == 1


def test_the_manifest_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def with_version(served: Served) -> Served:
        return msgspec.structs.replace(served, server_version="b10711", weights="7 bytes")

    assert play(refusing(), tmp_path)[0].manifest.build == Build(
        loadgen=versions()["loadgen"], git=git_commit(Path(__file__).parent)
    )
    monkeypatch.setattr("loadgen.engine.preflight.with_version", with_version)
    manifest = play(refusing(), tmp_path, build="rc1")[0].manifest
    assert manifest.build is not None
    assert (manifest.build.label, manifest.build.server, manifest.build.model) == ("rc1", "b10711", "7 bytes")
    assert (manifest.models[0].server_version, manifest.models[0].weights) == ("b10711", "7 bytes")
    assert manifest.host.machine_id == host().machine_id


def test_without_a_test_chat_no_server_is_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Served] = []

    async def with_version(served: Served) -> Served:
        asked.append(served)
        return served

    monkeypatch.setattr("loadgen.engine.preflight.with_version", with_version)
    play(refusing(), tmp_path, preflight=False)
    assert asked == []
    play(refusing(), tmp_path)
    assert [served.card.alias for served in asked] == ["m"]


def test_a_key_of_the_scenarios_own_is_not_taken_out(tmp_path: Path) -> None:
    client = refusing("top_k")
    played, _ = play(client, tmp_path, sampling=Sampling(extra={"top_k": 4}))
    assert len(client.bodies) == 1
    assert "top_k" in (played.manifest.stages[0].skipped or "")


def test_runs_that_went_without_the_same_keys_have_one_digest_and_others_another(tmp_path: Path) -> None:
    plain, without, again, other = (
        play(client, tmp_path)[0].manifest.plan_digest
        for client in (refusing(), refusing("seed"), refusing("seed"), refusing("temperature"))
    )
    assert without == again
    assert len({plain, without, other}) == 3


def test_tokens_are_counted_by_events_and_marked_so_where_usage_is_not_asked_for(tmp_path: Path) -> None:
    client = ScriptedClient(
        lambda body, _: unknown("stream_options") if "stream_options" in body else stream("Hello", " there.")
    )
    played, _ = play(client, tmp_path)
    (stage,) = summarize(played).stages
    assert stage.tokens != UNSET and stage.tokens.source == "events"
    assert "counted by events" in stage.not_valid["output_tokens_per_s"]


# --- the test chat is as the scenario's own ---------------------------------------------------------------------------


def thinking(body: dict[str, Any], _: int) -> Answer:
    """A model that thinks for 60 tokens that nobody sees."""
    shown = max(0, body["max_tokens"] - 60)
    words = ("word ",) * min(shown, 20)
    return stream(*words, finish="stop" if shown > 20 else "length", usage=min(body["max_tokens"], 80))


@pytest.mark.parametrize(("limit", "outcome"), [(128, "ok"), (8, "empty")])
def test_a_model_that_thinks_first_is_asked_with_the_scenarios_limit(tmp_path: Path, limit: int, outcome: str) -> None:
    client = ScriptedClient(thinking)
    played, _ = play(client, tmp_path, sampling=Sampling(max_tokens=limit))
    assert [body["max_tokens"] for body in client.bodies] == [limit] * 5
    assert [record.outcome for record in played.records] == [outcome] * 4


def test_the_test_chat_has_the_scenarios_sampling(tmp_path: Path) -> None:
    client = refusing()
    play(client, tmp_path, sampling=Sampling(max_tokens=3, temperature=0.5, top_p=0.9, seed=7))
    first, warmup = client.bodies[:2]
    assert first | {"messages": None} == warmup | {"messages": None}


def test_the_test_chat_has_the_scenarios_deadline(tmp_path: Path) -> None:
    slow = stream(*["word "] * 10, gap_ns=20_000 * MS)
    # The others are fast: a stage is watched every 20 ms, of virtual time as well.
    client = ScriptedClient(lambda _, number: stream("word") if number else slow)
    timeouts = Timeouts(request_s=250.0, first_token_s=1.0)
    played, _ = play(client, tmp_path, timeouts=timeouts)
    assert played.manifest.stages[0].skipped is None
    assert client.requests[0].deadlines == Deadlines(request_ns=250_000 * MS)


@pytest.mark.parametrize(("attempts", "used"), [(5, True), (4, False)])
def test_the_test_chat_is_asked_again_as_the_scenarios_requests_are(tmp_path: Path, attempts: int, used: bool) -> None:
    client = ScriptedClient(lambda _, number: refuse(500, b"busy") if number < 5 else stream("Hello"))
    retries = Retries(attempts=attempts, on=("http_5xx",), backoff_s=3.0, jitter=0.0)
    played, _ = play(client, tmp_path, retries=retries)
    assert (played.manifest.stages[0].skipped is None) is used
    assert client.sent_at_ns[1] - client.sent_at_ns[0] == 3_010 * MS


RESET = Answer(failure=Failure("truncated", "Connection reset by peer"))
FLAKY: dict[str, Answer] = {
    "500": refuse(500, {"error": {"message": "the model has failed"}}),
    "507": refuse(507, b""),
    "reset": RESET,
    "garbage": Answer(failure=Failure("malformed", "Bad status line")),
    "error event": Answer((b'data: {"error": {"message": "the model has failed"}}\n\n',)),
}


@pytest.mark.parametrize("failed", FLAKY.values(), ids=FLAKY)
def test_a_server_that_fails_some_chats_is_measured_though_the_scenario_retries_nothing(
    tmp_path: Path, failed: Answer
) -> None:
    client = ScriptedClient(lambda _, number: failed if number < LEAST_RETRIES else stream("Hello"))
    played, _ = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    waits = [later - sooner for sooner, later in pairwise(client.sent_at_ns[: 1 + LEAST_RETRIES])]
    assert all(500 * MS * 2**at <= wait <= 620 * MS * 2**at for at, wait in enumerate(waits)), "as requests are retried"


@pytest.mark.parametrize("failed", FLAKY.values(), ids=FLAKY)
def test_a_server_that_fails_every_chat_is_skipped(tmp_path: Path, failed: Answer) -> None:
    client = ScriptedClient(lambda _body, _number: failed)
    played, _ = play(client, tmp_path)
    assert len(client.requests) == 1 + LEAST_RETRIES
    assert (played.manifest.stages[0].skipped or "").startswith("it does not answer the test chat")


# --- ready or not -----------------------------------------------------------------------------------------------------


def loading_until(moment_s: float, status: int = 503, message: str = "Loading model") -> ScriptedClient:
    """A server that loads its model for so many seconds."""
    return ScriptedClient(
        lambda _body, _number: (
            refuse(status, {"error": {"message": message}})
            if CLOCK.now_ns() - START_NS < moment_s * 1e9
            else stream("Hello")
        )
    )


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_still_loading_is_waited_for_and_it_is_said(tmp_path: Path, status: int) -> None:
    client = loading_until(30.0, status)
    played, notes = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert notes[1:] == [
        f"m on m.invalid: the server is still loading (status {status}); waiting up to 60 s",
        "m on m.invalid is ready, after 31.9 s",
    ]
    assert len(client.requests) < 30, "it is not asked without a pause"


LOADING: list[Answer] = [
    refuse(404, {"error": {"message": "model is loading"}}),
    refuse(404, b"The model is still loading, please wait."),
    refuse(500, {"error": "Request failed: Error code: 503 - {'error': {'message': 'Loading model'}}"}),
    refuse(429, {"message": "Model is currently being loaded"}),
    refuse(400, {"detail": [{"msg": "Model m is not ready yet"}]}),
    Answer((b'{"status": "loading"}',)),
    Answer((b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',)),
    Answer((b'data: {"error":{"message":"Loading model","type":"unavailable_error","code":503}}\n\n',)),
    Answer((b"Model is loading",)),
]


@pytest.mark.parametrize("stream_it", [True, False])
@pytest.mark.parametrize("loading", LOADING)
def test_a_server_that_says_so_in_words_is_waited_for_whatever_its_status_is(
    tmp_path: Path, loading: Answer, stream_it: bool
) -> None:
    whole = Answer((b'{"choices": [{"message": {"content": "The model is loading."}}]}',))
    client = ScriptedClient(lambda _, number: loading if number < 3 else stream("Hello") if stream_it else whole)
    played, notes = play(client, tmp_path, sampling=Sampling(stream=stream_it))
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert notes[1] == f"m on m.invalid: the server is still loading (status {loading.status}); waiting up to 60 s"


def test_a_server_that_restarts_before_the_test_chat_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listens_after_20_s(_url: str, _headers: dict[str, str]) -> str | None:
        return None if CLOCK.now_ns() - START_NS > 20e9 else "nobody listens there yet"

    monkeypatch.setattr("loadgen.engine.preflight.why_not_ready", listens_after_20_s)
    client = ScriptedClient(lambda _body, number: no_connection() if number < 5 else stream("Hello"))
    played, notes = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 4
    assert notes[1] == "m on m.invalid: nobody listens there yet; waiting up to 60 s"


def test_a_chat_without_a_connection_is_final_if_the_server_answers_otherwise(tmp_path: Path) -> None:
    client = ScriptedClient(lambda _body, _number: no_connection())
    played, _ = play(client, tmp_path)
    assert len(client.requests) == 1
    assert played.manifest.stages[0].skipped


def test_a_server_that_was_waited_for_in_vain_is_not_waited_for_again() -> None:
    clock = JumpingClock()
    wait = ready_wait(clock, [])
    wait.in_vain = True
    assert asyncio.run(wait.pause("the server is still loading")) is False
    assert clock.now_ns() == 0


def test_what_says_that_it_loads_until_the_end_is_skipped_as_that(tmp_path: Path) -> None:
    played, _ = play(ScriptedClient(lambda _body, _number: LOADING[0]), tmp_path)
    skipped = played.manifest.stages[0].skipped or ""
    assert skipped.endswith(
        "the server is still loading (status 404); wait longer (--ready), or look at the server's log"
    )


@pytest.mark.parametrize(("ready_s", "chats"), [(0.0, 1), (5.0, 6)])
def test_a_server_that_does_not_get_ready_in_time_is_skipped(tmp_path: Path, ready_s: float, chats: int) -> None:
    client = loading_until(1e9)
    played, notes = play(client, tmp_path, timeouts=Timeouts(ready_s=ready_s))
    reason = played.manifest.stages[0].skipped or ""
    assert reason.startswith("it does not answer the test chat: http_error 503: ")
    assert "Loading model" in reason
    assert len(client.requests) == chats
    assert any("still loading" in note for note in notes[1:-1]) is bool(ready_s)


@pytest.mark.parametrize(
    ("status", "chats"), [(400, 1), (401, 1), (404, 1), (422, 1), (429, 1), (500, 1 + LEAST_RETRIES)]
)
def test_other_refusals_are_not_waited_for(tmp_path: Path, status: int, chats: int) -> None:
    client = loading_until(30.0, status, "No")
    played, _ = play(client, tmp_path)
    assert len(client.requests) == chats
    assert played.manifest.stages[0].skipped


def test_a_server_is_not_asked_before_it_says(tmp_path: Path) -> None:
    client = ScriptedClient(lambda _, number: stream("Hello") if number else refuse(503, b"", retry_after="20"))
    play(client, tmp_path)
    assert client.sent_at_ns[1] - client.sent_at_ns[0] == 20_010 * MS


def test_without_a_preflight_the_first_chat_is_a_stages(tmp_path: Path) -> None:
    client = loading_until(0.005)
    played, notes = play(client, tmp_path, preflight=False)
    assert [record.outcome for record in played.records] == ["http_error", "ok", "ok", "ok"]
    assert len(notes) == 1
    assert played.manifest.models[0].cold_start_ms is None


def test_a_wait_ends_at_once_when_the_person_asks_for_an_end(tmp_path: Path) -> None:
    stop = StopSignal()

    async def interrupted() -> Run:
        asyncio.get_running_loop().call_later(7.0, stop.escalate)
        return await api.run(scenario_of(tmp_path), results=tmp_path, clock=CLOCK, client=loading_until(1e9), stop=stop)

    async def timed() -> tuple[Run, int]:
        played = await interrupted()
        return played, CLOCK.now_ns() - START_NS

    played, ended_ns = run(timed())
    assert (played.manifest.state, played.records) == ("interrupted", ())
    assert ended_ns == pytest.approx(7_000 * MS, abs=20 * MS)


class JumpingClock:
    """Sleeps in no time, for servers on real sockets."""

    def __init__(self, slept: Callable[[], None] = lambda: None) -> None:
        self._now_ns = 0
        self._slept = slept

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        self._now_ns = deadline_ns
        self._slept()


def ready_wait(clock: JumpingClock, notes: list[str]) -> ReadyWait:
    return ReadyWait(clock, 60.0, "m on h", notes.append)


def test_where_nobody_listens_yet_it_is_waited_until_somebody_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    servers: list[socket.socket] = []

    def listen() -> None:
        server = socket.create_server(("127.0.0.1", port))
        servers.append(server)
        threading.Thread(target=answer_once, args=(server,), daemon=True).start()

    def answer_once(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    notes: list[str] = []
    wait = ready_wait(JumpingClock(listen), notes)
    asyncio.run(wait_until_answered(f"http://127.0.0.1:{port}/v1", {}, wait))
    servers[0].close()
    assert notes == ["m on h: nobody listens there yet; waiting up to 60 s"]
    assert (len(servers), wait.in_vain) == (1, False)


def test_where_nobody_ever_listens_it_is_given_up_after_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    notes: list[str] = []
    clock = JumpingClock()
    wait = ready_wait(clock, notes)
    asyncio.run(wait_until_answered(f"http://127.0.0.1:{port}/v1", {}, wait))
    assert (len(notes), wait.in_vain, clock.now_ns()) == (1, True, 60_000 * MS)


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        (whole("404 Not Found", b'{"error": "model is loading"}'), True),
        (whole("200 OK", b'{"status": "loading"}'), True),
        (whole("200 OK", b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'), True),
        (whole("200 OK", b'{"object": "list", "data": [], "status": "loading"}'), True),
        (whole("200 OK", b'{"data": [{"id": "m", "status": "loading"}]}'), False),
        (whole("404 Not Found", b'{"error": "Not Found"}'), False),
        (whole("200 OK", b"<title>Loading model</title>", type="text/html"), False),
        (whole("503 Service Unavailable", b""), True),
    ],
)
def test_a_list_of_models_that_says_so_is_waited_for_and_a_plain_404_is_not(answer: Script, waits: bool) -> None:
    with Server(whole("200 OK", b"{}"), get=lambda _: answer) as server:
        assert (asyncio.run(why_not_ready(server.url, {})) is not None) is waits


def test_what_does_not_mend_itself_is_not_waited_for() -> None:
    for url in ("http://nowhere.invalid/v1", "http://[::1:/v1"):
        assert asyncio.run(why_not_ready(url, {})) is None
