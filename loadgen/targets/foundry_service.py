"""Foundry Local's runtime and its web service, as a process of its own: `python -m loadgen.targets.foundry_service`.

The runtime is a native library: here it cannot disturb our stamps, and when it dies it does not take a run along.
Speaks JSON lines: on standard output what happened (`event`), on standard input what to do (`unload`). Ends when its
standard input is closed, and then unloads, stops the web service and lets the runtime go: so nothing outlives whoever
started it, not even one that was killed.

Works with foundry-local-sdk 2.x and 1.x, which differ in what a configuration takes and in whether there is a `close`.
"""

import argparse
import contextlib
import http.server
import importlib.metadata
import inspect
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

from loadgen.clock import now_ns

APP_NAME: Final = "loadgen"
STALL_S: Final = 60.0
"""A download that has not moved for so long has stalled."""
TRIES: Final = 3


class CannotServe(Exception):  # noqa: N818  it names a finding, not a fault of ours
    """Why a model cannot be used: kind is one of a closed set, remedy what a person can do."""

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.kind, self.remedy = kind, remedy


class Voice:
    """Standard output as it was before the native library could write to it."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, event: str, **told: Any) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(json.dumps({"event": event, **told}) + "\n")
            self._out.flush()


def configuration(arguments: argparse.Namespace, sdk: Any) -> Any:
    """The SDK's configuration, with what this version of it takes."""
    wanted: dict[str, Any] = {
        "app_name": APP_NAME,
        "app_data_dir": arguments.app_data,
        "model_cache_dir": arguments.cache,
        "logs_dir": arguments.logs,
        "log_level": sdk.LogLevel.FATAL,
        "web": sdk.Configuration.WebService(urls=f"http://127.0.0.1:{arguments.port}"),
        "disable_nonessential_telemetry": True,
        "catalog_urls": [(url, None) for url in catalogs(arguments)] or None,
    }
    takes = inspect.signature(sdk.Configuration.__init__).parameters
    return sdk.Configuration(**{key: value for key, value in wanted.items() if key in takes and value is not None})


def catalogs(arguments: argparse.Namespace) -> list[str]:
    """The catalogs to ask. With --no-catalog one on loopback that has nothing: models laid out in a cache are listed
    only where no catalog can be fetched, and a 404 is the quickest no."""
    return [_no_catalog_url()] if arguments.no_catalog else list(arguments.catalog)


def _no_catalog_url() -> str:
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/asset-gallery/v1.0/models"


def find(manager: Any, name: str, device: str | None) -> Any:
    """The variant that will serve a name, which is an alias or a full id. Raises CannotServe."""
    models = {model.alias: model for model in manager.catalog.list_models()}
    variants = [variant for model in models.values() for variant in (model.variants or [model])]
    by_id = {variant.id: variant for variant in variants}
    if name in by_id:
        return by_id[name]
    stems = {identifier.partition(":")[0]: variant for identifier, variant in by_id.items()}
    if name in stems:
        return stems[name]
    if name not in models:
        known = ", ".join(sorted(models)) or "nothing: is there a network, or a model in the cache?"
        remedy = "ask for one that is there (`loadgen models` lists them), or check the network"
        raise CannotServe("not_in_catalog", f"{name} is not in the catalog, which has {known}", remedy)
    model = models[name]
    if device is None:
        return model
    mine = [variant for variant in (model.variants or [model]) if device_of(variant) == device.upper()]
    if not mine:
        have = ", ".join(sorted({device_of(variant) or "?" for variant in (model.variants or [model])}))
        remedy = f"ask for one of {have}, or leave `device` out"
        raise CannotServe("no_device", f"{name} has no variant for {device.upper()}, only for {have}", remedy)
    cached = [variant for variant in mine if variant.is_cached]
    model.select_variant((cached or mine)[0])
    return (cached or mine)[0]


def device_of(variant: Any) -> str | None:
    """CPU, GPU or NPU; None where the catalog does not say."""
    runtime = variant.info.runtime
    return None if runtime is None or runtime.device_type is None else str(runtime.device_type.value)


def card(variant: Any) -> dict[str, Any]:
    """What the catalog says of a variant, in plain values."""
    info = variant.info
    runtime = info.runtime
    return {
        "alias": variant.alias,
        "id": variant.id,
        "size_bytes": None if not info.file_size_mb else info.file_size_mb * 2**20,
        "licence": info.license,
        "task": info.task,
        "device": device_of(variant),
        "execution_provider": None if runtime is None else runtime.execution_provider,
        "context_tokens": variant.context_length or None,
        "publisher": info.publisher,
        "cached": bool(variant.is_cached),
        "capabilities": info.capabilities,
    }


def download(variant: Any, voice: Voice, *, stall_s: float, tries: int) -> None:
    """Have a variant in the cache: with progress, a few tries, and a clear end when nothing moves any more."""
    if variant.is_cached:
        return
    for attempt in range(1, tries + 1):
        problem = _download_once(variant, voice, stall_s)
        if problem is None:
            return
        voice.say("retry", attempt=attempt, of=tries, problem=problem)
        if attempt < tries:
            threading.Event().wait(min(8.0, 2.0 ** (attempt - 1)))
    remedy = "check the network and the disk, then run again: a download goes on where it stopped"
    raise CannotServe("not_downloaded", f"{variant.id} could not be downloaded: {problem}", remedy)


def _download_once(variant: Any, voice: Voice, stall_s: float) -> str | None:
    moved, cancel, done = threading.Event(), threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def progress(percent: float) -> None:
        moved.set()
        voice.say("download", percent=round(float(percent), 1))

    def work() -> None:
        try:
            takes = inspect.signature(variant.download).parameters
            more = {"cancel_event": cancel} if "cancel_event" in takes else {}
            variant.download(progress, **more)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is told
            failed.append(error)
        finally:
            done.set()
            moved.set()

    threading.Thread(target=work, daemon=True).start()
    while not done.is_set():
        if not moved.wait(stall_s):
            cancel.set()
            return f"nothing arrived for {stall_s:g} s"
        moved.clear()
    return f"{type(failed[0]).__name__}: {failed[0]}" if failed else None


def load(variant: Any) -> float:
    """Load a variant; seconds. Raises CannotServe with the likely reason."""
    began = now_ns()
    try:
        variant.load()
    except Exception as error:
        text = " ".join(str(error).split())
        if "memory" in text.lower() or "bad_alloc" in text.lower():
            raise CannotServe("out_of_memory", text, "unload other models, or take a smaller variant") from error
        raise CannotServe("load_failed", text, "remove it from the cache and download it again") from error
    return (now_ns() - began) / 1e9


def start(arguments: argparse.Namespace, sdk: Any, voice: Voice) -> tuple[Any, Any]:
    """The manager with its web service up, and the loaded variant."""
    try:
        sdk.FoundryLocalManager.initialize(configuration(arguments, sdk))
    except Exception as error:
        raise CannotServe("runtime", " ".join(str(error).split()), "see the logs folder of the runtime") from error
    manager = sdk.FoundryLocalManager.instance
    if arguments.list:
        models = manager.catalog.list_models()
        voice.say("models", models=[card(v) for model in models for v in (model.variants or [model])])
        return manager, None
    variant = find(manager, arguments.model, arguments.device)
    voice.say("found", card=card(variant))
    download(variant, voice, stall_s=arguments.stall_s, tries=arguments.tries)
    load_s = load(variant)
    try:
        manager.start_web_service()
    except Exception as error:
        told = " ".join(str(error).split())
        raise CannotServe("port", f"port {arguments.port} cannot be used: {told}", "give another port, or 0") from error
    url = manager.urls[0].rstrip("/")
    voice.say("serving", url=url, pid=os.getpid(), card=card(variant), load_s=load_s, version=sdk_version())
    return manager, variant


def sdk_version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("foundry-local-sdk")
    return None


def stop(manager: Any, variant: Any, voice: Voice) -> None:
    """Leave nothing behind, in order; a step that fails does not keep the next from being taken."""
    steps: list[Callable[[], object]] = []
    if variant is not None:
        steps += [lambda: unload(variant, voice), manager.stop_web_service]
    if hasattr(manager, "close"):
        steps.append(manager.close)
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001
            voice.say("note", text=f"{type(error).__name__}: {error}")


def unload(variant: Any, voice: Voice) -> None:
    if variant.is_loaded:
        began = now_ns()
        variant.unload()
        voice.say("unloaded", seconds=(now_ns() - began) / 1e9)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="foundry_service", description="Foundry Local's web service on loopback.")
    made.add_argument("--model", default="")
    made.add_argument("--device", choices=("cpu", "gpu", "npu"))
    made.add_argument("--port", type=int, default=0)
    made.add_argument("--cache", help="model cache folder")
    made.add_argument("--app-data", required=True)
    made.add_argument("--logs", required=True)
    made.add_argument("--catalog", action="append", default=[], help="catalog URLs instead of the public one")
    made.add_argument("--no-catalog", action="store_true", help="only what lies in the cache")
    made.add_argument("--stall-s", type=float, default=STALL_S)
    made.add_argument("--tries", type=int, default=TRIES)
    made.add_argument("--list", action="store_true", help="say which models there are, and end")
    return made


def main() -> int:
    arguments = parser().parse_args()
    voice = Voice()
    manager = variant = None
    try:
        import foundry_local_sdk as sdk

        manager, variant = start(arguments, sdk, voice)
        while not arguments.list:
            line = sys.stdin.readline()
            if not line:
                break
            if line.strip() == "unload":
                unload(variant, voice)
    except CannotServe as error:
        voice.say("error", kind=error.kind, message=str(error), remedy=error.remedy)
        return 1
    except Exception as error:  # noqa: BLE001  whatever it is, the parent must hear of it in one line
        voice.say("error", kind="runtime", message=f"{type(error).__name__}: {error}", remedy="see the runtime's logs")
        return 1
    finally:
        if manager is not None:
            stop(manager, variant, voice)
        voice.say("ended")
        # The native library's own threads may hang an orderly exit; there is nothing left to do.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
