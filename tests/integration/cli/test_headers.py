"""Headers of a person's own, on the wire: to whom they go, and that their secrets are nowhere else."""

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.command_line import run_command, without_settings
from tests.integration.server import Script, Served, Server, streamed, whole

KEY = "gateway-s3cret-0123"
FLAGS = ("--requests", "2", "--warmup", "0", "--out", "out")
AT = ("--url", "http://h/v1", "--model", "m")
LISTED = whole("200 OK", b'{"data": [{"id": "m"}]}')


@pytest.fixture(autouse=True)
def _with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GATEWAY_KEY", KEY)


def outcomes() -> list[str]:
    logs = [log.read_text(encoding="utf-8") for log in Path("out").rglob("requests.jsonl")]
    return [json.loads(line)["outcome"] for log in logs for line in log.splitlines()]


def holding(secret: str, ended: CompletedProcess[str]) -> list[str]:
    """Where a secret is that should be nowhere."""
    places = [str(path) for path in Path().rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    return places + [name for name in ("stdout", "stderr") if secret in getattr(ended, name)]


def gateway(request: Served) -> Script:
    """Streams to who knows the key, and repeats it to everybody."""
    if request.headers.get("api-key") == KEY:
        return streamed("a ", f"your key is {KEY} ", "b")
    return whole("401 Unauthorized", json.dumps({"error": f"not {request.headers.get('api-key')}"}).encode())


@pytest.mark.parametrize("header", ["api-key: $GATEWAY_KEY", f"api-key: {KEY}"], ids=["by name", "by the shell"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_secret_of_a_header_is_sent_and_never_written(header: str, workers: str) -> None:
    with Server(gateway, get=lambda _: LISTED) as server:
        more = ("--header", header, "--header", "x-tenant: team-a", "--set", "keep_text=true", "--workers", workers)
        ended = run_command("run", "--url", server.url, "--model", "m", "--concurrency", "2", *FLAGS, *more)
    assert outcomes() == ["ok", "ok"], ended.stderr
    assert {request.headers.get("api-key") for request in server.served} == {KEY}
    assert {request.headers.get("x-tenant") for request in server.served} == {"team-a"}
    assert holding(KEY, ended) == []
    (manifest,) = Path("out").rglob("manifest.json")
    assert json.loads(manifest.read_text("utf-8"))["scenario"]["headers"]["api-key"]["env"] == "GATEWAY_KEY"


def test_a_scenario_names_the_variable_of_a_secret(tmp_path: Path) -> None:
    with Server(streamed("a"), get=lambda _: LISTED) as server:
        (tmp_path / "x.toml").write_text(
            f"""
name = "x"
prompts = ["Say hello."]
headers = {{ "x-a" = "1", "x-b" = "1" }}
[[models]]
name = "m"
url = "{server.url}"
headers = {{ "X-B" = "2", Authorization = {{ env = "GATEWAY_KEY", prefix = "Bearer " }} }}
""",
            encoding="utf-8",
        )
        os.environ["LOADGEN_API_KEY"] = "another-key-0123456789"
        try:
            ended = run_command("run", "x.toml", *FLAGS)
        finally:
            del os.environ["LOADGEN_API_KEY"]
    assert outcomes() == ["ok", "ok"], ended.stderr
    sent = {tuple(request.headers.get(name) for name in ("x-a", "x-b", "authorization")) for request in server.served}
    assert sent == {("1", "2", f"Bearer {KEY}")}
    assert holding(KEY, ended) == []


def test_a_person_s_headers_do_not_go_where_a_server_points() -> None:
    with Server(streamed("a"), get=lambda _: LISTED) as other, Server(streamed("a")) as named:

        def elsewhere(request: Served) -> Script:
            return whole("307 Temporary Redirect", b"", f"Location: {other.url}{request.path.removeprefix('/v1')}")

        named._choose = named._get = elsewhere
        run_command("run", "--url", named.url, "--model", "m", *FLAGS, "--header", "api-key: $GATEWAY_KEY")
        run_command("models", "--url", named.url, "--header", "api-key: $GATEWAY_KEY")
    assert {request.headers.get("api-key") for request in named.served} == {KEY}
    assert {request.method for request in other.served} == {"GET", "POST"}
    assert {request.headers.get("api-key") for request in other.served} == {None}


def test_models_are_listed_and_probed_with_headers() -> None:
    with Server(
        gateway, get=lambda request: LISTED if request.headers.get("api-key") == KEY else gateway(request)
    ) as server:
        without = run_command("models", "--url", server.url)
        listed = run_command("models", "--url", server.url, "--header", "api-key: $GATEWAY_KEY")
        probed = run_command("models", "--url", server.url, "--probe", "--header", "api-key: $GATEWAY_KEY")
    assert (without.returncode, listed.returncode, probed.returncode) == (3, 0, 0)
    assert "set LOADGEN_API_KEY to a key for this server, or send the header" in without.stderr


def test_a_key_that_was_sent_and_refused_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "wrong-s3cret-0123")
    with Server(gateway, get=lambda _: LISTED) as server:
        ended = run_command("run", "--url", server.url, "--model", "m", *FLAGS, "--header", "api-key: $GATEWAY_KEY")
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 3
    assert "the server refused the key; check that it is the right one for this server" in said
    assert "set LOADGEN_API_KEY" not in said
    assert holding("wrong-s3cret-0123", ended) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("run", "--url", "http://h/v1", "--model", "m", "--header", "api-key: sk-1"),
            "--header api-key: headers.api-key:",
        ),
        (("run", "--url", "http://h/v1", "--model", "m", "--header", "Host: a"), "loadgen sets this header itself"),
        (("run", "--url", "http://h/v1", "--model", "m", "--header", "x: $NO_SUCH_THING"), "NO_SUCH_THING: not set"),
        (("run", "smoke", "--header", "x-a: b"), "no model has a url"),
        (("models", "--header", "x-a: b"), "only endpoints get headers"),
        (("models", "--url", "http://h/v1", "--header", "api-key: sk-1"), "--header: a secret in a scenario"),
        (("plan", *AT, "--header", "nonsense"), "--header: not of the form NAME: VALUE"),
    ],
)
def test_a_header_that_cannot_be_meant_is_one_line(words: tuple[str, ...], says: str) -> None:
    ended = run_command(*words)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "sk-1" not in ended.stderr
