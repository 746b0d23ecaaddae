"""Whether a server that was gone is back, asked over loopback; and which process serves."""

import socket

import pytest

from loadgen.child import Child
from loadgen.scenario import FoundryLocal, LlamaCpp, Model
from loadgen.store.manifest import ModelCard
from loadgen.targets import registry
from loadgen.targets.ready import is_answering
from loadgen.targets.served import Served as ServedModel
from loadgen.telemetry.processes import is_running
from tests.integration.server import Fin, Rst, Script, Server, ServerProcess, Ticking, whole

pytestmark = pytest.mark.asyncio

CARD = ModelCard(alias="m", id="m", target="t")


def served_at(url: str) -> ServedModel:
    return ServedModel(base_url=url, card=CARD)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (whole("200 OK", b'{"data": []}'), True),
        (whole("404 Not Found", b"no such page"), True),
        (whole("401 Unauthorized", b"a key, please"), True),
        (whole("500 Internal Server Error", b"oops"), True),
        (whole("503 Service Unavailable", b'{"error": {"message": "Loading model"}}'), False),
        (whole("502 Bad Gateway", b"nobody behind it"), False),
        ((Fin(),), False),
        ((Rst(),), False),
    ],
)
async def test_a_server_is_back_when_it_answers_anything_but_that_it_does_not_serve(
    answer: Script, expected: bool
) -> None:
    with Server((), get=lambda _: answer) as server:
        assert await is_answering(served_at(server.url)) is expected


async def test_a_port_where_nobody_listens_is_not_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not await is_answering(served_at(f"http://127.0.0.1:{port}/v1"))


async def test_a_probe_has_the_headers_of_the_requests() -> None:
    with Server(()) as server:
        served = ServedModel(base_url=server.url, card=CARD, headers={"Authorization": "Bearer key"})
        assert await is_answering(served)
    assert server.served[0].headers["authorization"] == "Bearer key"


async def test_the_process_that_serves_a_url_is_the_one_that_listens_now() -> None:
    model = Model(name="m", url="http://127.0.0.1:1/v1")
    with ServerProcess(Ticking(tokens=1, first_s=0.0, gap_s=0.0)) as server:
        assert await registry.serving_pid(model, served_at(server.url)) == server.pid
        assert is_running(server.pid)
        server.kill()
        assert not is_running(server.pid)
        assert await registry.serving_pid(model, served_at(server.url)) is None


async def test_a_server_that_we_did_not_start_is_not_started_again() -> None:
    model = Model(name="m", url="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="served by a process that we did not start"):
        registry.serve_model_again(model, served_at("http://127.0.0.1:1/v1"), lambda *_: None)


@pytest.mark.parametrize("model", [Model(name="m", target="foundry"), Model(name="m", llamacpp=LlamaCpp(slots=2))])
async def test_a_server_of_ours_is_started_again_at_the_same_port(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Model, int | None]] = []
    monkeypatch.setattr(
        "loadgen.targets.foundry.target.serve_foundry",
        lambda again, *_: started.append((again, (again.foundry or FoundryLocal()).port)),
    )
    monkeypatch.setattr(
        "loadgen.targets.llamacpp.target.serve_llamacpp", lambda again, port: started.append((again, port))
    )
    served = ServedModel(base_url="http://127.0.0.1:4711/v1", card=CARD, child=Child.__new__(Child))
    registry.serve_model_again(model, served, lambda *_: None)
    ((again, port),) = started
    assert port == 4711
    assert (again.name, again.target, again.llamacpp) == (model.name, model.target, model.llamacpp)


async def test_only_a_service_of_somebody_else_is_asked_to_load_a_model_again() -> None:
    url = "http://127.0.0.1:1/v1"
    assert await registry.load_again(Model(name="m", url=url), served_at(url)) is None
    assert await registry.load_again(Model(name="m"), served_at(url)) is None
