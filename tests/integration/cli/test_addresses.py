"""Servers whose API is not where it usually is, and lists of models that do not say all: what is played, and what is
said where nothing can be."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.command_line import run_command as loadgen
from tests.command_line import without_settings
from tests.integration.server import Choice, Script, Send, Served, Server, head, streamed, whole

NOT_FOUND = whole("404 Not Found", b'{"error": {"message": "Not Found"}}')
ROUTES = whole(
    "404 Not Found", b'{"error": {"message": "no such route; there are /x/v1/models and /x/v1/chat/completions"}}'
)
PAGE = whole("200 OK", b"<!doctype html><title>Hello</title>", type="text/html")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))


Ended = CompletedProcess[str]


def play(url: str, model: str = "m") -> Ended:
    """`loadgen run` against a server: two requests, no warm-up, no probe."""
    flags = ("--requests", "2", "--warmup", "0", "--set", "probe=false", "--out", "out")
    return loadgen("run", "--url", url, "--model", model, *flags)


def outcomes() -> list[str]:
    logs = [log.read_text(encoding="utf-8") for log in Path("out").rglob("requests.jsonl")]
    return [json.loads(line)["outcome"] for log in logs for line in log.splitlines()]


def listing(*names: str) -> Script:
    return whole("200 OK", json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())


def serving(base: str, *names: str, query: str = "") -> Server:
    """A server whose API is below one path, and which knows nothing else."""

    def choose(request: Served) -> Script:
        return streamed("a", "b") if request.path == f"{base}/chat/completions{query}" else NOT_FOUND

    def get(request: Served) -> Script:
        return listing(*(names or ("m",))) if request.path == f"{base}/models{query}" else NOT_FOUND

    return Server(choose, get=get)


def at(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def text(ended: Ended) -> str:
    """All that was printed, on one line, however it was wrapped."""
    return " ".join((ended.stdout + ended.stderr).split())


def played(ended: Ended) -> bool:
    """Whether all was answered; on a busy machine the stage may be invalid all the same."""
    return ended.returncode in {0, 1} and outcomes() == ["ok", "ok"]


# --- where the API is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "query", "address"),
    [
        ("/v3", "", "/v3"),
        ("/v3", "", "/v3/chat/completions"),
        ("/team/llm/v1", "", "/team/llm/v1/models"),
        ("/v1", "", ""),
        ("/v1", "", "/openai/status"),
        ("", "", "/chat/completions"),
        ("/my%20models/v1", "", "/my models/v1"),
        ("/deployments/m", "?api-version=2024-06-01", "/deployments/m?api-version=2024-06-01"),
    ],
)
def test_an_api_is_played_wherever_it_is(base: str, query: str, address: str) -> None:
    with serving(base, query=query) as server:
        ended = play(at(server, address))
        assert played(ended), ended.stderr
    assert {request.path for request in server.chats} == {f"{base}/chat/completions{query}"}


def test_a_port_alone_is_enough() -> None:
    with serving("/v1") as server:
        assert played(play(str(server.port)))


def test_the_port_that_foundry_local_prints_is_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("/v1", "m:1") as server:
        monkeypatch.setenv("FOUNDRY_LOCAL_ENDPOINT", f"127.0.0.1:{server.port}/openai/status")
        flags = ("--requests", "2", "--warmup", "0", "--set", "probe=false", "--out", "out")
        ended = loadgen("run", "--model", "m", *flags)
    assert played(ended), ended.stderr


def test_one_model_at_two_bases_of_one_server_has_two_names() -> None:
    choose = streamed("a")
    with Server(choose) as server:
        both = ("--url", at(server, "/a/v1"), "--url", at(server, "/b/v1"), "--model", "m")
        flags = ("--requests", "2", "--warmup", "0", "--set", "probe=false", "--json")
        ended = loadgen("run", *both, *flags)
    stages = json.loads(ended.stdout)["stages"]
    assert [stage["target"] for stage in stages] == [f"127.0.0.1:{server.port}/{name}/v1" for name in "ab"]
    assert [stage["requests"]["ok"] for stage in stages] == [2, 2]


@pytest.mark.parametrize("everywhere", [NOT_FOUND, ROUTES, PAGE], ids=["404", "a 404 that lists routes", "a web page"])
def test_where_no_route_is_one_the_path_is_called_wrong(everywhere: Script) -> None:
    with Server(everywhere, get=lambda _: everywhere) as server:
        for ended in (play(at(server, "/v1")), loadgen("models", "--url", at(server, "/v1"))):
            assert ended.returncode == 3
            said = text(ended)
            assert "the path is wrong" in said
            assert f"write the server's base path, such as {at(server, '/v3')}" in said
            assert "ask for a model" not in said
            assert "curl" not in said


def test_where_the_api_is_elsewhere_the_right_base_is_named() -> None:
    with serving("/v3") as server:
        for ended in (play(at(server, "/v1")), loadgen("models", "--url", at(server, ""))):
            assert ended.returncode == 3
            assert f"write {at(server, '/v3')}, which is the API of this server" in text(ended)


def test_where_the_api_is_at_the_root_the_address_that_is_named_is_usable() -> None:
    with serving("") as server:
        ended = play(at(server, ""))
        address = at(server, "/chat/completions")
        assert ended.returncode == 3
        assert f"write {address}, which is the API of this server" in text(ended)
        assert played(play(address))


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "308 Permanent Redirect"])
def test_where_a_server_redirects_elsewhere_that_address_is_to_be_written(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "sk-0123456789abcdef0123456789")
    unknown = whole("401 Unauthorized", b"who?")

    def with_key(script: Script) -> Choice:
        return lambda request: script if "authorization" in request.headers else unknown

    with Server(with_key(streamed("a")), get=with_key(listing("m"))) as other:

        def away(request: Served) -> Script:
            return whole(status, b"", f"Location: {at(other, request.path)}")

        with Server(away, get=away) as server:
            for ended in (play(server.url), loadgen("models", "--url", server.url)):
                assert ended.returncode == 3
                assert f"{server.url} redirects to {other.url}, and a chat loses its body or its key" in text(ended)
                assert f"write {other.url}" in text(ended)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_chats_are_sent_where_the_server_redirects_the_test_chat_to(status: str) -> None:
    moved = whole(status, b"", "Location: /v1/chat/completions/")
    with Server(
        lambda request: streamed("a") if request.path.endswith("/") else moved, get=lambda _: listing("m")
    ) as server:
        ended = play(server.url)
        assert played(ended), ended.stderr
    assert [request.path for request in server.chats] == [
        "/v1/chat/completions",
        *["/v1/chat/completions/"] * 3,
    ]
    assert f"redirects chats to {server.url}/chat/completions/, where they are sent from now on" in text(ended)


def test_a_redirect_that_may_be_of_one_chat_alone_is_followed_each_time_and_said() -> None:
    moved = whole("307 Temporary Redirect", b"", "Location: /v1/chat/completions?session=1")
    with Server(
        lambda request: streamed("a") if "session" in request.path else moved, get=lambda _: listing("m")
    ) as server:
        ended = play(server.url)
        assert played(ended), ended.stderr
    assert len(server.chats) == 6
    assert "that takes a round trip, which is in every TTFT" in text(ended)


def test_a_redirect_to_another_server_is_said() -> None:
    with Server(streamed("a")) as other:
        moved = whole("307 Temporary Redirect", b"", f"Location: {other.url}/chat/completions")
        with Server(moved, get=lambda _: listing("m")) as server:
            ended = play(server.url)
            assert played(ended), ended.stderr
    assert f"redirects chats to {other.url}/chat/completions: that takes a round trip" in text(ended)


def test_where_a_server_redirects_to_a_login_that_is_not_advised() -> None:
    login = whole("302 Found", b"", "Location: /login?next=%2Fv1%2Fmodels")

    def get(request: Served) -> Script:
        return PAGE if request.path.startswith("/login") else login

    with Server(whole("401 Unauthorized", b"who?"), get=get) as server:
        ended = play(server.url)
    assert ended.returncode == 3
    assert "that is no API; write the API's address behind the login or the proxy" in text(ended)


def test_a_404_that_speaks_of_the_model_is_not_of_the_path() -> None:
    missing = whole("404 Not Found", b'{"error": {"message": "The model `m` does not exist."}}')
    with Server(missing, get=lambda _: NOT_FOUND) as server:
        said = text(play(server.url))
    assert "the path is wrong" not in said
    assert "The model `m` does not exist" in said


# --- lists of models --------------------------------------------------------------------------------------------------


def test_a_name_that_a_wildcard_covers_is_played_without_a_word() -> None:
    with serving("/v1", "openai/*", "local/phi") as server:
        ended = play(server.url, model="openai/gpt-4o-mini")
    assert played(ended), ended.stderr
    (report,) = Path("out").rglob("report.md")
    assert "listed by its server" not in report.read_text(encoding="utf-8")


def test_where_the_list_and_the_chat_disagree_the_chat_decides() -> None:
    with serving("/v1", "other") as server:
        ended = play(server.url)
    assert played(ended), ended.stderr
    (report,) = Path("out").rglob("report.md")
    assert "listed by its server" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("m", "n"), "the server lists it, but does not serve it; load it there first, or use another: n"),
        (("m",), "the server lists it, but does not serve it; load it there first"),
        (("n", "o"), "use one of the models that the server lists: n, o"),
    ],
)
def test_a_model_that_does_not_answer_is_not_played_and_not_advised(names: tuple[str, ...], says: str) -> None:
    missing = whole("404 Not Found", b'{"error": "m is not loaded, model missing"}')
    with Server(missing, get=lambda _: listing(*names)) as server:
        ended = play(server.url)
    assert ended.returncode == 3
    assert says in text(ended)
    assert f"{says}, or" not in text(ended)


def test_an_answer_of_another_model_is_not_taken_for_the_one_that_was_asked_for() -> None:
    event = b'data: {"model":"other","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    body = event + b"data: [DONE]\n\n"
    with Server((Send(head(length=len(body)) + body),), get=lambda _: listing("other")) as server:
        ended = play(server.url)
    assert ended.returncode == 3
    assert outcomes() == []
    assert "and other answered in its place; ask for one of them: other" in text(ended)


@pytest.mark.parametrize(
    ("get", "says"),
    [
        (lambda _: listing(), "does not list any model: its list of models is empty; load a model there first"),
        (lambda _: whole("200 OK", b'{"a": 1}'), "does not list any model: it answers with JSON that is no list"),
        (lambda _: whole("200 OK", b"hello", type="text/plain"), "does not list any model: it answers with no JSON"),
        (lambda _: whole("200 OK", b"[" * 5_000 + b"]" * 5_000), "does not list any model: it answers with no JSON"),
        (lambda _: whole("200 OK", b"[" * 900 + b"]" * 900), "does not list any model: it answers with no JSON"),
        (lambda _: whole("200 OK", b" " * (4 << 20) + b"[]"), "it answers with 4 MiB or more, which is not read"),
        (lambda _: whole("404 Not Found", b'{"error": "model is loading"}'), "wait longer (--ready), or look at"),
        (lambda _: whole("401 Unauthorized", b"who?"), "status 401: who?; set LOADGEN_API_KEY to a key"),
        (lambda _: whole("503 Service Unavailable", b""), "does not list any model: status 503; look at the server's"),
    ],
)
def test_why_a_server_lists_no_model_is_said(get: Choice, says: str) -> None:
    with Server(NOT_FOUND, get=get) as server:
        ended = loadgen("models", "--url", server.url, "--ready", "0")
    assert ended.returncode == 3
    assert f"{server.url}/models" in ended.stderr
    assert says in text(ended)


def test_a_plain_list_is_a_list_of_models() -> None:
    with Server(NOT_FOUND, get=lambda _: whole("200 OK", b'[{"id": "a"}, {"id": "b/c"}]')) as server:
        ended = loadgen("models", "--url", server.url)
    assert ended.returncode == 0
    assert "b/c" in ended.stdout


def test_where_nothing_listens_it_is_said() -> None:
    with Server(NOT_FOUND) as server:
        url = server.url
    for words in (("models", "--url", url), ("models", "--url", url, "--probe")):
        ended = loadgen(*words, "--ready", "0")
        assert ended.returncode == 3
        assert f"nothing listens at 127.0.0.1:{server.port}" in ended.stderr
        assert "list any model" not in ended.stderr


def test_a_probe_of_an_address_asks_its_only_model() -> None:
    with serving("/v3", "only") as server:
        ended = loadgen("models", "--url", at(server, "/v3"), "--probe", "--json")
    assert ended.returncode == 0, ended.stderr
    assert [card["id"] for card in json.loads(ended.stdout)] == ["only"]


def test_a_probe_of_an_address_waits_until_its_server_is_ready() -> None:
    answers = iter([whole("503 Service Unavailable", b"Loading model")])
    with Server(streamed("a", "b"), get=lambda _: next(answers, listing("only"))) as server:
        ended = loadgen("models", "--url", server.url, "--probe", "--json")
    assert ended.returncode == 0, ended.stderr
    assert "the server is still loading (status 503); waiting up to 60 s" in ended.stderr


def test_a_probe_of_an_address_with_several_models_asks_which() -> None:
    with serving("/v1", "a", "b") as server:
        ended = loadgen("models", "--url", server.url, "--probe")
    assert (ended.returncode, server.chats) == (2, [])
    assert (
        ended.stderr
        == f"loadgen: models --probe --url {server.url}: several models are listed; add --model NAME: a, b\n"
    )
