"""A server is asked for its version where its kind tells it, with its headers, and never for long."""

import asyncio
from collections.abc import Mapping

import pytest

from loadgen.store.manifest import ModelCard
from loadgen.targets.served import ModelList
from loadgen.targets.served import Served as ServedModel
from loadgen.targets.version import server_version, with_version
from tests.integration import server as scripted
from tests.integration.server import Hang, Script, Served, Server, whole

NOT_FOUND = whole("404 Not Found", b'{"error": "no such route"}')


def answers(by_path: Mapping[str, bytes | Script]) -> scripted.Choice:
    def choose(request: Served) -> Script:
        answer = by_path.get(request.path, NOT_FOUND)
        return whole("200 OK", answer) if isinstance(answer, bytes) else answer

    return choose


def version_at(by_path: Mapping[str, bytes | Script], base: str = "/v1") -> tuple[str | None, list[Served]]:
    with Server((), get=answers(by_path)) as server:
        url = server.url.removesuffix("/v1") + base
        return asyncio.run(server_version(url, {"X-Key": "k"})), server.served


@pytest.mark.parametrize(
    ("path", "body", "version"),
    [
        ("/props", b'{"build_info": "b10711-1a2b3c4d", "model_path": "/home/somebody/m.gguf"}', "b10711-1a2b3c4d"),
        ("/version", b'{"version": "0.6.3.post1"}', "0.6.3.post1"),
        ("/api/version", b'{"version": " 0.5.1\\n"}', "0.5.1"),
    ],
)
def test_each_kind_of_server_tells_it_at_its_own_route(path: str, body: bytes, version: str) -> None:
    assert version_at({path: body})[0] == version


@pytest.mark.parametrize(
    "body", [b'{"build_info": 7}', b'{"build_info": ""}', b'["b1"]', b'"b1"', b"<html>", b"{", b'{"build_info": null}']
)
def test_what_is_no_version_is_unknown(body: bytes) -> None:
    assert version_at({"/props": body})[0] is None


def test_the_routes_are_beside_the_base_path_and_get_its_headers() -> None:
    version, served = version_at({"/gateway/version": b'{"version": "1"}'}, "/gateway/v1?api-version=2")
    assert version is None, "a query belongs to each route"
    assert [request.path for request in served] == [
        f"/gateway/{route}?api-version=2" for route in ("props", "version", "api/version")
    ]
    assert {request.headers.get("x-key") for request in served} == {"k"}
    assert version_at({"/version": b'{"version": "1"}'}, "")[0] == "1"


def test_no_more_routes_are_asked_than_it_takes() -> None:
    assert len(version_at({"/props": b'{"build_info": "b1"}'})[1]) == 1


def test_a_version_is_short_and_cannot_control_a_terminal() -> None:
    version, _ = version_at({"/props": b'{"build_info": "\\u001b[31m' + b"b" * 500 + b'"}'})
    assert version is not None and len(version) == 100 and version.isprintable()


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.targets.version._TIMEOUT_S", 0.05)
    assert version_at({"/props": (Hang(),)})[0] is None


def test_a_server_that_has_answered_nothing_is_not_asked() -> None:
    with Server((), get=answers({"/version": b'{"version": "1"}'})) as server:
        card = ModelCard(alias="m", id="m", target="t")
        silent = ServedModel(base_url=server.url, card=card)
        assert asyncio.run(with_version(silent)) is silent
        known = ServedModel(base_url=server.url, card=card, models=ModelList(status=404, error="no list"))
        assert asyncio.run(with_version(known)).server_version == "1"
        assert len(server.served) == 2
