"""Foundry Local where it runs already: a 1.x and a 2.x service on loopback, attached to and left as they were."""

from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec
import pytest

from loadgen import api
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Closed, FoundryLocal, Model, Scenario, Timeouts
from loadgen.scenario.devices import parse_devices
from loadgen.scenario.file import LoadedScenario, load_scenario
from loadgen.scenario.overrides import Overrides
from loadgen.store.manifest import ModelCard
from loadgen.store.run_folder import Run
from loadgen.targets.foundry.target import ENDPOINT_VARIABLE, list_foundry_cards
from loadgen.targets.registry import load_again
from loadgen.targets.served import Served as ServedModel
from tests.integration.server import LAST_CHUNK, Script, Send, Served, Server, chunk, head, streamed, whole

pytestmark = pytest.mark.asyncio

SSE = (Path(__file__).parents[2] / "data" / "foundry_v1.sse").read_bytes()
TINY = "tiny-1b-instruct-generic-cpu:1"
MISSING = whole("404 Not Found", b"not found", type="text/plain")


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)


def scenario(
    folder: Path, options: FoundryLocal | None = None, name: str = "tiny-1b", timeouts: Timeouts | None = None
) -> LoadedScenario:
    made = Scenario(
        name="attached",
        prompts=("What is the capital of France?",),
        models=(Model(name=name, target="foundry", foundry=options),),
        load=Closed(concurrency=(2,), requests=4, ramp_in_s=0.0),
        warmup_requests=1,
        probe=False,
        keep_text=True,
        timeouts=timeouts or Timeouts(),
    )
    return LoadedScenario(made, None, folder, "the test")


def measured(run: Run) -> list[Record]:
    return [record for record in run.records if record.phase == "measured"]


def skipped(run: Run) -> str:
    """Why nothing was played."""
    assert run.records == ()
    (stage,) = write_reports(run.folder).stages
    assert stage.status == "skipped"
    return str(stage.reason)


def json_whole(value: object, status: str = "200 OK") -> Script:
    return whole(status, msgspec.json.encode(value))


class Service:
    """What a Foundry Local service says besides chats. loaded: ids; None has no such route, as in 1.x.

    goes_by: the names that load and unload a model, and the id that this is. fails: what a load is answered with.
    """

    def __init__(
        self,
        ids: tuple[str, ...],
        loaded: list[str] | None = None,
        goes_by: dict[str, str] | None = None,
        fails: Script | None = None,
    ) -> None:
        self.ids, self.loaded, self.goes_by, self.fails = ids, loaded, goes_by or {}, fails

    def __call__(self, request: Served) -> Script:
        if request.path == "/v1/models":
            data = [{"id": identifier, "object": "model", "owned_by": "Nobody"} for identifier in self.ids]
            return json_whole({"object": "list", "data": data})
        if self.loaded is None:
            return MISSING
        if request.path == "/models/loaded":
            return json_whole(self.loaded)
        verb, name = request.path.removeprefix("/models/").split("/", 1)
        identifier = self.goes_by.get(unquote(name))
        if identifier is None:
            return json_whole({"error": {"message": f"Model not found: {name}"}}, "404 Not Found")
        if verb == "load":
            if self.fails is not None:
                return self.fails
            self.loaded += [] if identifier in self.loaded else [identifier]
        else:
            self.loaded.remove(identifier)
        return json_whole({"status": f"{verb}ed"})


def asked(server: Server, word: str) -> list[str]:
    return [unquote(request.path) for request in server.served if f"/models/{word}/" in request.path]


async def test_a_service_1_is_played_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (Send(head()), Send(chunk(SSE), token=True), Send(LAST_CHUNK))
    with Server(script, get=Service((TINY,))) as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        run = await api.run(scenario(tmp_path), results=tmp_path)
    assert {request.model for request in server.chats} == {TINY}, "the alias became the id with its version"
    assert len(server.chats) == 1 + 1 + 4, "the preflight, the warm-up, and what is measured"
    assert all(request.path == "/v1/chat/completions" for request in server.chats)
    for record in measured(run):
        assert record.outcome == "ok"
        assert record.text == "The capital of France is Paris."
        assert record.output_tokens == 7, "each counted once, though `delta` and `message` have it"
        assert record.prompt_tokens == 37
        assert record.token_source == "usage"
        assert len(record.stamps_ns) == 7
    card = run.manifest.models[0]
    assert card.id == TINY
    assert card.alias == "tiny-1b"
    assert card.load_s is None
    assert asked(server, "load") == asked(server, "unload") == []


async def test_a_model_that_is_loaded_there_is_left_loaded(tmp_path: Path) -> None:
    service = Service((TINY,), loaded=[TINY], goes_by={"tiny-1b": TINY})
    with Server(streamed("a", "b"), get=service) as server:
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=server.url)), results=tmp_path)
    assert len(measured(run)) == 4
    assert asked(server, "load") == asked(server, "unload") == []
    assert service.loaded == [TINY]


async def test_a_model_that_the_service_has_unloaded_meanwhile_is_loaded_again() -> None:
    service = Service((TINY,), loaded=[], goes_by={"tiny-1b": TINY})
    with Server((), get=service) as server:
        model = Model(name="tiny-1b", target="foundry", foundry=FoundryLocal(endpoint=server.url))
        served = ServedModel(base_url=server.url, card=ModelCard(alias="tiny-1b", id=TINY, target="foundry"))
        load_s = await load_again(model, served)
        assert load_s is not None
        assert load_s > 0
        assert await load_again(model, served) is None  # it is loaded now
        service.loaded = None  # a service of 1.x, which does not say
        assert await load_again(model, served) is None
    assert asked(server, "load") == ["/models/load/tiny-1b"]


async def test_a_service_2_loads_by_the_alias_and_unloads_again(tmp_path: Path) -> None:
    service = Service((TINY,), loaded=["other:1"], goes_by={"tiny-1b": TINY})
    with Server(streamed("a", "b"), get=service) as server:
        root = server.url.removesuffix("/v1")  # an endpoint without /v1 will do
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=root)), results=tmp_path)
    assert {request.model for request in server.chats} == {TINY}
    assert asked(server, "load") == ["/models/load/tiny-1b"]
    assert asked(server, "unload") == ["/models/unload/tiny-1b"]
    assert service.loaded == ["other:1"], "what was there before is there still"
    card = run.manifest.models[0]
    assert card.load_s is not None
    assert card.load_s > 0
    assert isinstance(card.unload_s, float)
    assert card.unload_s > 0


async def test_a_service_that_goes_by_ids_is_asked_by_the_id(tmp_path: Path) -> None:
    service = Service((TINY,), loaded=[], goes_by={TINY: TINY})
    with Server(streamed("a"), get=service) as server:
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=server.url)), results=tmp_path)
    assert len(measured(run)) == 4
    assert asked(server, "load") == ["/models/load/tiny-1b", f"/models/load/{TINY}"]
    assert asked(server, "unload") == [f"/models/unload/{TINY}"]
    assert service.loaded == []


async def test_the_variant_that_the_service_took_for_an_alias_is_the_one_that_is_asked(tmp_path: Path) -> None:
    gpu = TINY.replace("cpu", "gpu")
    with Server(streamed("a"), get=Service((TINY, gpu), loaded=[], goes_by={"tiny-1b": gpu})) as server:
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=server.url)), results=tmp_path)
    assert {request.model for request in server.chats} == {gpu}
    assert run.manifest.models[0].id == gpu


async def test_a_variant_that_was_loaded_before_and_is_taken_for_the_alias_is_left_loaded(tmp_path: Path) -> None:
    gpu = TINY.replace("cpu", "gpu")
    service = Service((TINY, gpu), loaded=[gpu], goes_by={"tiny-1b": gpu})
    with Server(streamed("a"), get=service) as server:
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=server.url)), results=tmp_path)
    assert run.manifest.models[0].id == gpu
    assert asked(server, "unload") == []
    assert gpu in (service.loaded or [])


async def test_a_load_that_fails_there_is_told_with_what_the_service_said_and_a_remedy(tmp_path: Path) -> None:
    fails = json_whole({"error": {"message": "bad allocation"}}, "500 Internal Server Error")
    service = Service((TINY,), loaded=[], goes_by={"tiny-1b": TINY}, fails=fails)
    with Server(streamed("a"), get=service) as server:
        run = await api.run(scenario(tmp_path, FoundryLocal(endpoint=server.url)), results=tmp_path)
    reason = skipped(run)
    assert "tiny-1b cannot be loaded" in reason
    assert "bad allocation" in reason
    assert "foundry model load tiny-1b" in reason
    assert server.chats == []
    assert asked(server, "unload") == []


@pytest.mark.parametrize(("name", "device"), [("nope", None), ("tiny-1b", "npu"), ("tin", None)])
async def test_a_model_that_the_service_does_not_list_for_that_device_is_skipped(
    name: str, device: Literal["npu"] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(streamed("a"), get=Service(("tinier-1b-cpu:1", TINY))) as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        run = await api.run(scenario(tmp_path, FoundryLocal(device=device), name=name), results=tmp_path)
    reason = skipped(run)
    assert f"{name} is not among the models of {server.url}" in reason
    assert TINY in reason, "which there are is told"


GPU = TINY.replace("generic-cpu", "cuda-gpu")


def on_devices(folder: Path, url: str, devices: str) -> LoadedScenario:
    path = folder / "devices.toml"
    path.write_text(
        f"""
name = "devices"
prompts = ["What is the capital of France?"]
models = [{{ name = "tiny-1b", target = "foundry", foundry = {{ endpoint = "{url}" }} }}]
load = {{ mode = "closed", requests = 2 }}
""",
        encoding="utf-8",
    )
    return load_scenario(path, Overrides(devices=parse_devices(devices)))


async def test_a_model_is_played_once_on_each_device_and_skipped_where_it_has_no_variant(tmp_path: Path) -> None:
    service = Service((TINY, GPU), loaded=[], goes_by={"tiny-1b": GPU, TINY: TINY, GPU: GPU})
    with Server(streamed("a", "b"), get=service) as server:
        run = await api.run(on_devices(tmp_path, server.url, "cpu,gpu,npu"), results=tmp_path)
    cpu, gpu, npu = write_reports(run.folder).stages
    assert [(stage.target, stage.model, stage.status) for stage in (cpu, gpu, npu)] == [
        ("foundry/cpu", "tiny-1b", "played"),
        ("foundry/gpu", "tiny-1b", "played"),
        ("foundry/npu", "tiny-1b", "skipped"),
    ]
    assert f"tiny-1b is not among the models of {server.url} for NPU; it has {TINY}, {GPU}" in str(npu.reason)
    assert npu.problem == "no_device"
    assert [(card.target, card.device, card.id) for card in run.manifest.models] == [
        ("foundry/cpu", "CPU", TINY),
        ("foundry/gpu", "GPU", GPU),
    ]
    assert "| tiny-1b | GPU / CPU | 1 user |" in (run.folder / "report.md").read_text(encoding="utf-8")
    assert list(dict.fromkeys(request.model for request in server.chats)) == [TINY, GPU]
    assert asked(server, "load") == [f"/models/load/{TINY}", f"/models/load/{GPU}"]
    assert service.loaded == []


async def test_a_variant_for_another_device_than_the_one_asked_is_not_played(tmp_path: Path) -> None:
    service = Service((TINY, GPU), loaded=[], goes_by={"tiny-1b": GPU})  # as 2.x, it knows no ids
    with Server(streamed("a"), get=service) as server:
        run = await api.run(on_devices(tmp_path, server.url, "cpu"), results=tmp_path)
    assert f"loads {GPU}, which is not for CPU" in skipped(run)
    assert server.chats == []
    assert service.loaded == [], "what was loaded in vain is unloaded"


async def test_a_variant_for_another_device_that_was_loaded_before_stays_loaded(tmp_path: Path) -> None:
    service = Service((TINY, GPU), loaded=[GPU], goes_by={"tiny-1b": GPU})
    with Server(streamed("a"), get=service) as server:
        run = await api.run(on_devices(tmp_path, server.url, "cpu"), results=tmp_path)
    assert f"loads {GPU}, which is not for CPU" in skipped(run)
    assert service.loaded == [GPU]


@pytest.mark.parametrize("name", [GPU, "tiny-1b"])
async def test_an_id_that_is_not_for_the_device_is_not_played_under_its_name(name: str, tmp_path: Path) -> None:
    listed = GPU if name == GPU else "tiny-1b"  # an id that does not say for which device it is
    with Server(streamed("a"), get=Service((listed,))) as server:
        options = FoundryLocal(endpoint=server.url, device="cpu")
        run = await api.run(scenario(tmp_path, options, name=name), results=tmp_path)
    assert f"{name} is not among the models of {server.url} for CPU; it has {listed}" in skipped(run)


async def test_where_no_service_answers_the_run_says_how_to_look(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        url = server.url
    gone = scenario(tmp_path, FoundryLocal(endpoint=url), timeouts=Timeouts(ready_s=0.0))
    run = await api.run(gone, results=tmp_path)
    assert "nothing listens at 127.0.0.1:" in skipped(run)
    assert "foundry service status" in skipped(run)


async def test_its_models_are_listed_without_an_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(streamed("a"), get=Service((TINY, "other-2b:4"))) as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        cards = await list_foundry_cards(FoundryLocal(), lambda *_: None)
    assert [card.id for card in cards] == [TINY, "other-2b:4"]
    assert {card.publisher for card in cards} == {"Nobody"}
