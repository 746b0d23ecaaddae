"""The process that runs Foundry Local, on stand-ins shaped as its SDK 2.x and 1.x are."""

import argparse
import enum
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from loadgen.targets.foundry.download import CannotServe, describe_error, download
from loadgen.targets.foundry.events import ServiceEvent
from loadgen.targets.foundry.service import (
    argument_parser,
    card_of_variant,
    catalogs,
    configuration,
    device_of,
    find,
    load,
    start,
    stop,
)


class Level(enum.Enum):
    FATAL = 5


class Web:
    def __init__(self, urls: str | None = None, external_url: str | None = None) -> None:
        self.urls = urls


class Configuration2:
    WebService = Web

    def __init__(
        self,
        app_name: str,
        app_data_dir: str | None = None,
        model_cache_dir: str | None = None,
        logs_dir: str | None = None,
        log_level: Level | None = None,
        web: Web | None = None,
        catalog_urls: list[tuple[str, str | None]] | None = None,
        disable_nonessential_telemetry: bool = False,
    ) -> None:
        self.given = {key: value for key, value in locals().items() if key not in ("self", "web")}
        self.web = web


class Configuration1:
    WebService = Web

    def __init__(
        self,
        app_name: str,
        app_data_dir: str | None = None,
        model_cache_dir: str | None = None,
        logs_dir: str | None = None,
        log_level: Level | None = None,
        web: Web | None = None,
    ) -> None:
        self.given = {key: value for key, value in locals().items() if key not in ("self", "web")}
        self.web = web


def flags(*more: str) -> argparse.Namespace:
    return argument_parser().parse_args(["--app-data", "app", "--logs", "logs", *more])


def sdk_of(made: type, manager: Any = None) -> Any:
    """An SDK module, with a manager that is there once it was initialized."""

    class FoundryLocalManager:
        instance: Any = None

        @staticmethod
        def initialize(given: Any) -> None:
            if manager is None:
                raise RuntimeError("manager.cc:12 fl::Manager::Manager(Configuration) no  such\nfolder")
            manager.configuration = given
            FoundryLocalManager.instance = manager

    shown = {"LogLevel": Level} if made is Configuration2 else {"logging_helper": SimpleNamespace(LogLevel=Level)}
    return SimpleNamespace(Configuration=made, FoundryLocalManager=FoundryLocalManager, **shown)


class Variant:
    """A model for one device, as both SDKs show it. fetch: what `download` does with its progress callback."""

    def __init__(self, identifier: str, device: str | None = "CPU", *, cached: bool = False, **more: Any) -> None:
        self.id, self.alias = identifier, more.get("alias", "tiny")
        runtime = SimpleNamespace(
            device_type=None if device is None else SimpleNamespace(value=device), execution_provider=f"{device}EP"
        )
        self.info = SimpleNamespace(
            runtime=runtime,
            file_size_mb=more.get("size_mb", 3),
            license="mit",
            task="chat-completion",
            publisher="Nobody",
            capabilities=None,
        )
        self.context_length = 2048
        self.is_cached, self.is_loaded = cached, False
        self.done: list[str] = []
        self.fails = more.get("fails")
        self.fetch: Callable[[Callable[[float], None]], None] = more.get("fetch", lambda _: None)
        self.variants: list[Variant] = [self]

    def download(self, progress_callback: Callable[[float], None], cancel_event: threading.Event | None = None) -> None:
        self.cancel = cancel_event
        self.fetch(progress_callback)

    def load(self) -> None:
        if self.fails is not None:
            raise RuntimeError(self.fails)
        self.is_loaded = True

    def unload(self) -> None:
        self.done.append("unload")
        self.is_loaded = False


class OldVariant(Variant):
    """One whose download cannot be cancelled."""

    def download(self, progress_callback: Callable[[float], None]) -> None:  # type: ignore[override]
        self.fetch(progress_callback)


class Model:
    def __init__(self, alias: str, *variants: Variant) -> None:
        self.alias, self.variants, self.selected = alias, list(variants), variants[0]

    def select_variant(self, variant: Variant) -> None:
        assert variant in self.variants
        self.selected = variant

    def __getattr__(self, name: str) -> Any:
        return getattr(self.selected, name)


class Manager1:
    """What 1.x has: no close."""

    def __init__(self, *models: Any) -> None:
        self.catalog = SimpleNamespace(list_models=lambda: list(models))
        self.urls: list[str] | None = None
        self.done: list[str] = []

    def start_web_service(self) -> None:
        self.urls = ["http://127.0.0.1:4321/"]
        self.done.append("start")

    def stop_web_service(self) -> None:
        self.done.append("stop")


class Manager2(Manager1):
    def close(self) -> None:
        self.done.append("close")


class Heard:
    """A voice that only remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, event: ServiceEvent) -> None:
        self.events.append(msgspec.to_builtins(event))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


# What is asked of the SDK


def test_an_sdk_2_is_told_of_catalogs_and_asked_for_no_telemetry() -> None:
    made = configuration(
        flags("--catalog", "http://a", "--catalog", "http://b", "--cache", "c"), sdk_of(Configuration2)
    )
    assert made.given["catalog_urls"] == [("http://a", None), ("http://b", None)]
    assert made.given["disable_nonessential_telemetry"] is True
    assert made.given["model_cache_dir"] == "c"
    assert made.web.urls == "http://127.0.0.1:0"


def test_an_sdk_1_is_given_only_what_it_takes() -> None:
    made = configuration(flags("--port", "5273"), sdk_of(Configuration1))
    assert set(made.given) == {
        "app_name",
        "app_data_dir",
        "model_cache_dir",
        "logs_dir",
        "log_level",
    }
    assert made.given["app_data_dir"] == "app"
    assert made.given["log_level"] is Level.FATAL
    assert made.given["model_cache_dir"] is None, "the runtime's own"
    assert made.web.urls == "http://127.0.0.1:5273"


def test_an_sdk_1_does_not_quietly_ask_the_public_catalog_instead_of_another() -> None:
    with pytest.raises(CannotServe, match="the public catalog alone") as raised:
        start(flags("--catalog", "http://a"), sdk_of(Configuration1, Manager1()), Heard().send)
    assert "leave `catalog` out" in raised.value.remedy


def test_without_catalogs_the_public_one_is_left_to_the_sdk() -> None:
    assert catalogs(flags()) == []
    assert configuration(flags(), sdk_of(Configuration2)).given["catalog_urls"] is None


# Which variant a name means


@pytest.fixture
def manager() -> Manager2:
    tiny = Model(
        "tiny",
        Variant("tiny-gpu:2", "GPU"),
        Variant("tiny-cpu:9", cached=False),
        Variant("tiny-cpu:10", cached=True),
    )
    return Manager2(tiny, Model("odd", Variant("odd-any:1", None, alias="odd")))


def test_an_alias_is_what_the_runtime_prefers(manager: Manager2) -> None:
    assert find(manager, "tiny", None).id == "tiny-gpu:2"


def test_a_full_id_is_that_variant(manager: Manager2) -> None:
    assert find(manager, "tiny-cpu:9", None).id == "tiny-cpu:9"


def test_an_id_without_its_version_is_the_newest(manager: Manager2) -> None:
    assert find(manager, "tiny-cpu", None).id == "tiny-cpu:10"


def test_a_device_picks_its_variant_and_rather_one_that_is_cached(manager: Manager2) -> None:
    chosen = find(manager, "tiny", "cpu")
    assert chosen.id == "tiny-cpu:10"
    assert manager.catalog.list_models()[0].selected is chosen


@pytest.mark.parametrize("name", ["tiny", "tiny-cpu:9", "tiny-cpu"])
def test_a_device_that_there_is_no_variant_for_is_said(manager: Manager2, name: str) -> None:
    with pytest.raises(CannotServe, match="has no variant for NPU, only for CPU") as raised:
        find(manager, name, "npu")
    assert raised.value.kind == "no_device"
    assert "leave `device` out" in raised.value.remedy


def test_a_name_that_is_not_there_is_told_what_is(manager: Manager2) -> None:
    with pytest.raises(CannotServe, match="nope is not in the catalog, which has odd, tiny") as raised:
        find(manager, "nope", None)
    assert raised.value.kind == "not_in_catalog"


def test_an_empty_catalog_asks_for_the_network() -> None:
    with pytest.raises(CannotServe, match="is there a network"):
        find(Manager2(), "tiny", None)


def test_a_model_that_lists_no_variants_is_its_own() -> None:
    lone = Variant("lone:1", alias="lone")
    lone.variants = []
    assert find(Manager1(lone), "lone:1", "cpu") is lone


def test_a_card_has_nothing_where_the_catalog_has_nothing() -> None:
    unknown = Variant("odd-any:1", None, size_mb=None)
    assert device_of(unknown) is None
    assert card_of_variant(unknown).size_bytes is None
    unknown.info.runtime = None
    assert device_of(unknown) is None
    assert card_of_variant(unknown).execution_provider is None
    assert card_of_variant(Variant("tiny-cpu:1")).size_bytes == 3 * 2**20


def test_a_card_of_an_sdk_that_knows_less_is_shorter() -> None:
    early = Variant("tiny-cpu:1")
    del early.context_length, early.info.capabilities
    assert (card_of_variant(early).context_tokens, card_of_variant(early).capabilities) == (None, None)


def test_a_license_that_the_catalog_calls_other_is_the_one_that_it_links_to() -> None:
    variant = Variant("tiny-cpu:1")
    assert card_of_variant(variant).license == "mit"
    variant.info.license = "other"
    assert card_of_variant(variant).license == "other"
    address = "https://mistral.ai/licenses/MRL-0.1.md"
    variant.info.license_description = f"This model is provided under the terms at <{address}>."
    assert card_of_variant(variant).license == address


def test_a_model_that_can_call_tools_has_that_capability() -> None:
    variant = Variant("tiny-cpu:1")
    variant.info.supports_tool_calling = True
    assert card_of_variant(variant).capabilities == "tools"
    variant.info.capabilities = "chat,completion"
    assert card_of_variant(variant).capabilities == "chat,completion,tools"
    variant.info.capabilities = "chat,tool-calling"
    assert card_of_variant(variant).capabilities == "chat,tool-calling"


# Downloading


def fetch_in_turn(*turns: Exception | tuple[float, ...]) -> Callable[[Callable[[float], None]], None]:
    """A download that goes differently each time: it fails, or tells how far it is."""
    left: Iterator[Exception | tuple[float, ...]] = iter(turns)

    def fetch(progress: Callable[[float], None]) -> None:
        turn = next(left)
        if isinstance(turn, Exception):
            raise turn
        for percent in turn:
            progress(percent)

    return fetch


def fetched(variant: Variant, *, stall_s: float = 5.0, tries: int = 3) -> Heard:
    heard = Heard()
    download(variant, heard.send, stall_s=stall_s, tries=tries, pause_s=0.0)
    return heard


def test_what_is_cached_is_not_downloaded() -> None:
    assert fetched(Variant("tiny:1", cached=True, fetch=fetch_in_turn(RuntimeError("asked")))).events == []


@pytest.mark.parametrize("kind", [Variant, OldVariant])
def test_a_download_tells_how_far_it_is_and_never_goes_back(kind: type[Variant]) -> None:
    heard = fetched(kind("tiny:1", fetch=fetch_in_turn((0.0, 12.5, 12.52, 50.0, 37.5, 100.0))))
    assert [event["percent"] for event in heard.named("download")] == [0.0, 12.5, 50.0, 100.0]
    assert heard.named("retry") == []


def test_a_download_that_fails_is_tried_again() -> None:
    heard = fetched(Variant("tiny:1", fetch=fetch_in_turn(OSError("reset"), OSError("reset"), (100.0,))))
    assert [(event["number"], event["tries"], event["problem"]) for event in heard.named("retry")] == [
        (1, 3, "reset"),
        (2, 3, "reset"),
    ]


def test_after_its_last_try_a_download_is_given_up_with_a_remedy() -> None:
    variant = Variant("tiny:1", fetch=fetch_in_turn(OSError("one"), OSError("two")))
    with pytest.raises(CannotServe, match="tiny:1 could not be downloaded: two") as raised:
        fetched(variant, tries=2)
    assert raised.value.kind == "not_downloaded"
    assert "network" in raised.value.remedy


@pytest.mark.parametrize("kind", [Variant, OldVariant])
def test_a_download_that_hangs_is_given_up_though_it_never_returns(kind: type[Variant]) -> None:
    over = threading.Event()

    def hang(progress: Callable[[float], None]) -> None:
        progress(33.0)
        over.wait(10)

    variant = kind("tiny:1", fetch=hang)
    try:
        with pytest.raises(CannotServe, match=r"nothing arrived for 0\.005 s$"):
            fetched(variant, stall_s=0.005, tries=2)
        assert kind is OldVariant or (variant.cancel is not None and variant.cancel.is_set())
    finally:
        over.set()


def test_a_runtime_that_only_says_that_it_waits_has_stalled() -> None:
    """It says 0 % every so often while another process has the model's folder locked."""
    over = threading.Event()

    def wait(progress: Callable[[float], None]) -> None:
        for _ in range(1000):
            if over.wait(0.001):
                return
            progress(0.0)

    try:
        with pytest.raises(CannotServe, match="is another program downloading it"):
            fetched(Variant("tiny:1", fetch=wait), stall_s=0.05, tries=1)
    finally:
        over.set()


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("no such   host\n", "no such host"),
        ("a.cc:7 int fl::F(const std::function<int(float)>&, int) const the (only) reason", "the (only) reason"),
        ("a.cc:7 void fl::D::R(const M&)::<lambda()> no room", "no room"),
        ("model.bin:3 is not (yet) there", "model.bin:3 is not (yet) there"),
        ("a.cc:7 fl::F(unclosed", "fl::F(unclosed"),
    ],
)
def test_an_error_is_told_without_where_in_the_runtime_it_was_raised(told: str, left: str) -> None:
    assert describe_error(RuntimeError(told)) == left


def test_an_error_without_words_is_told_by_its_kind() -> None:
    assert describe_error(ZeroDivisionError()) == "ZeroDivisionError"


# Loading, serving, stopping


@pytest.mark.parametrize("told", ["CUDA error 2: out of Memory", "std::bad_alloc"])
def test_a_load_for_which_there_is_no_memory_says_so(told: str) -> None:
    with pytest.raises(CannotServe) as raised:
        load(Variant("tiny:1", fails=told))
    assert raised.value.kind == "out_of_memory"
    assert "smaller" in raised.value.remedy


def test_a_load_that_fails_otherwise_blames_what_was_downloaded() -> None:
    with pytest.raises(CannotServe, match=r"^bad graph$") as raised:
        load(Variant("tiny:1", fails="load.cc:3 fl::Load(int) bad graph"))
    assert raised.value.kind == "load_failed"


@pytest.mark.parametrize(("made", "kind"), [(Configuration2, Manager2), (Configuration1, Manager1)])
def test_a_model_is_found_fetched_loaded_and_served_in_this_order(made: type, kind: type[Manager1]) -> None:
    heard = Heard()
    variant = Variant("tiny-cpu:1", fetch=fetch_in_turn((100.0,)))
    there = kind(Model("tiny", variant))
    _, served = start(flags("--model", "tiny"), sdk_of(made, there), heard.send)
    assert [event["event"] for event in heard.events] == ["found", "download", "loading", "serving"]
    assert heard.events[-1]["url"] == "http://127.0.0.1:4321"
    assert heard.events[-1]["card"]["id"] == served.id == "tiny-cpu:1"
    assert variant.is_loaded


def test_a_runtime_that_does_not_start_says_why_in_one_line() -> None:
    with pytest.raises(CannotServe, match=r"^no such folder$") as raised:
        start(flags("--model", "tiny"), sdk_of(Configuration2), Heard().send)
    assert raised.value.kind == "runtime"


def test_a_port_that_is_taken_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken() -> None:
        raise OSError("address in use")

    there = Manager2(Model("tiny", Variant("tiny:1", cached=True)))
    monkeypatch.setattr(there, "start_web_service", taken)
    with pytest.raises(CannotServe, match="port 5273 cannot be used: address in use") as raised:
        start(flags("--model", "tiny", "--port", "5273"), sdk_of(Configuration2, there), Heard().send)
    assert raised.value.kind == "port"


def test_a_list_has_every_variant_and_loads_none(manager: Manager2) -> None:
    heard = Heard()
    _, served = start(flags("--list"), sdk_of(Configuration2, manager), heard.send)
    assert served is None
    assert [told["id"] for told in heard.events[0]["models"]] == [
        "tiny-gpu:2",
        "tiny-cpu:9",
        "tiny-cpu:10",
        "odd-any:1",
    ]
    assert manager.done == []


@pytest.mark.parametrize(("kind", "steps"), [(Manager2, ["stop", "close"]), (Manager1, ["stop"])])
def test_it_stops_in_order_the_model_the_service_the_runtime(kind: type[Manager1], steps: list[str]) -> None:
    there, variant, heard = kind(), Variant("tiny:1"), Heard()
    variant.is_loaded, variant.done = True, there.done
    stop(there, variant, heard.send)
    assert there.done == ["unload", *steps]
    assert heard.named("unloaded")


def test_a_model_that_is_unloaded_already_is_not_unloaded_again() -> None:
    there, variant = Manager2(), Variant("tiny:1")
    stop(there, variant, Heard().send)
    assert variant.done == []


def test_a_step_of_the_end_that_fails_keeps_none_from_being_taken() -> None:
    class Broken(Manager2):
        def stop_web_service(self) -> None:
            raise RuntimeError("web.cc:1 fl::Stop() is not running")

    there, heard = Broken(), Heard()
    stop(there, Variant("tiny:1"), heard.send)
    assert there.done == ["close"]
    assert heard.named("note") == [{"event": "note", "text": "is not running"}]
