"""The program of the child process that runs Foundry Local's runtime and its web service; target.py starts it.

The runtime is a native library. In a process of its own it cannot disturb our stamps, and if it crashes, the run goes
on. `python -m loadgen.targets.foundry.service` writes events as JSON lines to standard output, and reads commands
(`unload`) from standard input. It ends when its standard input is closed: at once while it downloads or loads; after
that it first unloads the model and stops the web service. So it ends with the process that started it, even if that was
killed.

Works with foundry-local-sdk 2.x and 1.x, which differ in what a configuration takes and in whether there is a `close`.
"""

import argparse
import contextlib
import http.server
import importlib.metadata
import inspect
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

import msgspec

from loadgen.clock import now_ns
from loadgen.record import JsonObject
from loadgen.targets.foundry.download import CannotServe, describe_error, download
from loadgen.targets.foundry.events import (
    CatalogListed,
    LoadingModel,
    ModelUnloaded,
    ProcessEnds,
    Send,
    ServiceEvent,
    ServingModel,
    StartFailed,
    StopFailed,
    VariantCard,
    VariantFound,
)
from loadgen.targets.licenses import license_text

APP_NAME: Final = "loadgen"
STALL_S: Final = 60.0
"""A download without progress for this long has stalled."""
TRIES: Final = 3


class EventWriter:
    """Writes events to the original standard output, to which the native library cannot write."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, event: ServiceEvent) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(msgspec.json.encode(event) + b"\n")
            self._out.flush()


class CommandReader:
    """Reads standard input. When that ends, this process ends: at once, as long as `serving` is not set."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._commands: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.serving = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in iter(self._lines.readline, ""):
            self._commands.put(line.strip())
        if not self.serving.is_set():
            os._exit(1)
        self._commands.put(None)

    def receive(self) -> str | None:
        """The next command; None if the parent process has ended."""
        return self._commands.get()


def configuration(arguments: argparse.Namespace, sdk: Any) -> Any:
    """The SDK's configuration, with the keys that its version accepts. Raises CannotServe if a catalog is requested
    that it does not accept."""
    takes = inspect.signature(sdk.Configuration.__init__).parameters
    if arguments.catalog and "catalog_urls" not in takes:
        text = f"foundry-local-sdk {sdk_version() or ''} asks the public catalog alone"
        raise CannotServe("runtime", text, "install foundry-local-sdk 2, or leave `catalog` out")
    levels = getattr(sdk, "LogLevel", None) or sdk.logging_helper.LogLevel  # 1.x does not export it
    wanted: JsonObject = {
        "app_name": APP_NAME,
        "app_data_dir": arguments.app_data,
        "model_cache_dir": arguments.cache,
        "logs_dir": arguments.logs,
        "log_level": levels.FATAL,
        "web": sdk.Configuration.WebService(urls=f"http://127.0.0.1:{arguments.port}"),
        "disable_nonessential_telemetry": True,
        "catalog_urls": [(url, None) for url in catalogs(arguments)] or None,
    }
    return sdk.Configuration(**{key: value for key, value in wanted.items() if key in takes and value is not None})


def catalogs(arguments: argparse.Namespace) -> list[str]:
    """The catalogs to use. With --no-catalog, one on loopback that answers 404: the runtime lists the models in its
    cache only if it can fetch no catalog, and a 404 is the fastest failure."""
    return [_no_catalog_url()] if arguments.no_catalog else list(arguments.catalog)


def _no_catalog_url() -> str:
    class NotFoundHandler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFoundHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/asset-gallery/v1.0/models"


def find(manager: Any, name: str, device: str | None) -> Any:
    """The variant that will serve a name: an alias, an id, or an id without its version. Raises CannotServe."""
    models = {model.alias: model for model in manager.catalog.list_models()}
    by_id = {variant.id: variant for model in models.values() for variant in variants_of(model)}
    stems = {identifier.partition(":")[0]: by_id[identifier] for identifier in sorted(by_id, key=_version)}
    named = by_id.get(name) or stems.get(name)
    if named is not None:
        return _on_device([named], name, device)[0]
    if name not in models:
        known = ", ".join(sorted(models)) or "nothing: is there a network, or a model in the cache?"
        remedy = "use a model that is there (`loadgen models` lists them), or check the network"
        raise CannotServe("not_in_catalog", f"{name} is not in the catalog, which has {known}", remedy)
    model = models[name]
    if device is None:
        return model
    candidates = _on_device(variants_of(model), name, device)
    chosen = next((variant for variant in candidates if variant.is_cached), candidates[0])
    model.select_variant(chosen)
    return chosen


def _version(identifier: str) -> int:
    version = identifier.partition(":")[2]
    return int(version) if version.isdecimal() else 0


def _on_device(variants: list[Any], name: str, device: str | None) -> list[Any]:
    """The variants for a device, or all if none is requested. Raises CannotServe if there are none."""
    matching = [variant for variant in variants if device is None or device_of(variant) == device.upper()]
    if not matching:
        have = ", ".join(sorted({device_of(variant) or "?" for variant in variants}))
        remedy = f"use one of {have}, or leave `device` out"
        raise CannotServe("no_device", f"{name} has no variant for {str(device).upper()}, only for {have}", remedy)
    return matching


def variants_of(model: Any) -> list[Any]:
    """A model's variants; the model itself if it has no others."""
    return list(model.variants) or [model]


def device_of(variant: Any) -> str | None:
    """CPU, GPU or NPU; None if the catalog does not say."""
    runtime = variant.info.runtime
    return None if runtime is None or runtime.device_type is None else str(runtime.device_type.value)


def card_of_variant(variant: Any) -> VariantCard:
    """The card of a variant, from the catalog."""
    info = variant.info
    runtime = info.runtime
    return VariantCard(
        alias=variant.alias,
        id=variant.id,
        size_bytes=None if not info.file_size_mb else info.file_size_mb * 2**20,
        license=license_text(info.license, link=_address_in(getattr(info, "license_description", None))),
        task=info.task,
        device=device_of(variant),
        execution_provider=None if runtime is None else runtime.execution_provider,
        context_tokens=getattr(variant, "context_length", None) or None,
        publisher=info.publisher,
        cached=bool(variant.is_cached),
        capabilities=_capabilities_of(info),
    )


def _capabilities_of(info: Any) -> str | None:
    """The catalog's words for what a model can do, with `tools` if it can call tools."""
    words = getattr(info, "capabilities", None) or ""
    if getattr(info, "supports_tool_calling", None) and "tool" not in words:
        words = f"{words},tools" if words else "tools"
    return words or None


def _address_in(text: str | None) -> str | None:
    """The first address in a text; None if there is none."""
    match = re.search(r"https?://[^\s<>\"')]+", text or "")
    return None if match is None else match[0].rstrip(".,;")


def load(variant: Any) -> float:
    """Load a variant; returns how many seconds it took. Raises CannotServe with the likely reason."""
    began = now_ns()
    try:
        variant.load()
    except Exception as error:
        text = describe_error(error)
        if "memory" in text.lower() or "bad_alloc" in text.lower():
            raise CannotServe("out_of_memory", text, "unload other models, or use a smaller variant") from error
        raise CannotServe("load_failed", text, "remove it from the cache and download it again") from error
    return (now_ns() - began) / 1e9


def start(arguments: argparse.Namespace, sdk: Any, send: Send) -> tuple[Any, Any]:
    """Start the web service and load the variant; returns the manager and the variant."""
    wanted = configuration(arguments, sdk)
    try:
        sdk.FoundryLocalManager.initialize(wanted)
    except Exception as error:
        raise CannotServe("runtime", describe_error(error), "see the logs folder of the runtime") from error
    manager = sdk.FoundryLocalManager.instance
    if arguments.list:
        models = manager.catalog.list_models()
        send(CatalogListed(tuple(card_of_variant(variant) for model in models for variant in variants_of(model))))
        return manager, None
    variant = find(manager, arguments.model, arguments.device)
    send(VariantFound(card_of_variant(variant)))
    download(variant, send, stall_s=arguments.stall_s, tries=arguments.tries)
    send(LoadingModel())
    load_s = load(variant)
    try:
        manager.start_web_service()
    except Exception as error:
        text = f"port {arguments.port} cannot be used: {describe_error(error)}"
        raise CannotServe("port", text, "give another port, or 0") from error
    url = manager.urls[0].rstrip("/")
    send(ServingModel(url, os.getpid(), card_of_variant(variant), load_s, sdk_version()))
    return manager, variant


def sdk_version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("foundry-local-sdk")
    return None


def stop(manager: Any, variant: Any, send: Send) -> None:
    """Unload the model and stop the service. If a step fails, the next ones are still taken."""
    steps: list[Callable[[], object]] = []
    if variant is not None:
        steps += [lambda: unload(variant, send), manager.stop_web_service]
    if hasattr(manager, "close"):
        steps.append(manager.close)
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001
            send(StopFailed(describe_error(error)))


def unload(variant: Any, send: Send) -> None:
    if variant.is_loaded:
        began = now_ns()
        variant.unload()
        send(ModelUnloaded((now_ns() - began) / 1e9))


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="foundry_service", description="Foundry Local's web service on loopback.")
    parser.add_argument("--model", default="")
    parser.add_argument("--device", choices=("cpu", "gpu", "npu"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cache", help="model cache folder")
    parser.add_argument("--app-data", required=True)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--catalog", action="append", default=[], help="catalog URLs instead of the public one")
    parser.add_argument("--no-catalog", action="store_true", help="only what lies in the cache")
    parser.add_argument("--stall-s", type=float, default=STALL_S)
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--list", action="store_true", help="say which models there are, and end")
    return parser


def main() -> int:
    arguments = argument_parser().parse_args()
    events, commands = EventWriter(), CommandReader(sys.stdin)
    manager = variant = None
    code = 1
    try:
        import foundry_local_sdk as sdk

        if not arguments.list:
            commands.start()
        manager, variant = start(arguments, sdk, events.send)
        commands.serving.set()
        while not arguments.list and (command := commands.receive()) is not None:
            if command == "unload":
                unload(variant, events.send)
        code = 0
    except CannotServe as error:
        events.send(StartFailed(error.kind, str(error), error.remedy))
    except Exception as error:  # noqa: BLE001  the parent process gets every error as one line
        text = f"{type(error).__name__}: {describe_error(error)}"
        events.send(StartFailed("runtime", text, "see the runtime's logs"))
    finally:
        # If the start failed, the manager is not closed, because a download that hangs would block that.
        if manager is not None:
            stop(manager, variant, events.send)
        events.send(ProcessEnds())
        # Ended at once, because threads of the native library may block an orderly exit.
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
