"""The embedded target: starts and stops llama.cpp's server, from the wheel `xllamacpp`, as a child process.

The child process runs child_program.py.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.child import Child, problem_of
from loadgen.clock import now_ns
from loadgen.errors import InputError, LoadgenError, TargetError
from loadgen.scenario import LlamaCpp, Model
from loadgen.store.manifest import ModelCard
from loadgen.targets.licenses import license_text
from loadgen.targets.llamacpp.gguf_header import read_header, weights_of_file
from loadgen.targets.openai import card_of, models_of
from loadgen.targets.served import Served
from loadgen.targets.small_model import verified_gguf

TARGET: Final = "llamacpp"
START_S: Final = 60.0
THREADS_SLEEP: Final = {"GOMP_SPINCOUNT": "0"}
"""Makes the server's threads sleep while they wait for each other. If they spin, any other program on one of the cores,
loadgen included, makes a prompt many times slower (docs/adr/0002-the-embedded-server.md)."""


class ServerLoading(Struct, frozen=True, tag_field="event", tag="loading"):
    """The child process is about to load the model."""


class ServerStarted(Struct, frozen=True, tag_field="event", tag="serving"):
    """The last line that the child process prints: its URL, or the exception that keeps it from serving."""

    url: str = ""
    pid: int | None = None
    error: str | None = None


ServerEvent = ServerLoading | ServerStarted
_EVENTS: Final[msgspec.json.Decoder[ServerEvent]] = msgspec.json.Decoder(ServerEvent)


def weights_path(options: LlamaCpp) -> Path:
    """The path of the model file to serve. Raises InputError, with the remedy, if there is no such file."""
    if options.gguf is not None:
        path = Path(options.gguf)
        if not path.is_file():
            raise InputError(f"{path}: no such model file; set llamacpp.gguf to a GGUF file, or leave it out")
        return path
    return verified_gguf()


def thread_counts(options: LlamaCpp) -> tuple[int, int]:
    """The numbers of threads for decoding and for prompts. Decoding leaves one core to us, prompts leave none."""
    cores = os.cpu_count() or 1
    return options.threads or max(1, cores - 1), options.prefill_threads or cores


@contextlib.asynccontextmanager
async def serve_llamacpp(model: Model, *, port: int = 0) -> AsyncIterator[Served]:
    """The embedded server, which runs as long as the context lasts and is stopped whatever ends it.

    port: 0 takes a free one. Raises TargetError if the server cannot be started, InputError if there is no model file.
    """
    options = model.llamacpp or LlamaCpp()
    if importlib.util.find_spec("xllamacpp") is None:
        raise TargetError("the embedded server is not installed; run `pip install 'loadgen[llamacpp]'`")
    path = await asyncio.to_thread(weights_path, options)
    decode, prefill = thread_counts(options)
    flags = {
        "--model": path,
        "--alias": model.name,
        "--port": port,
        "--slots": options.slots,
        "--context-tokens": options.context_tokens,
        "--threads": decode,
        "--prefill-threads": prefill,
    }
    began_ns = now_ns()
    child = await Child.start("the embedded server", "loadgen.targets.llamacpp.child_program", flags, THREADS_SLEEP)
    try:
        started, load_s = await wait_until_loaded(child)
        if started.error is not None:
            raise await _start_error(child, started.error, port)
        base_url = f"{started.url.rstrip('/')}/v1"
        yield Served(
            base_url=base_url,
            card=await _card(model, path, base_url),
            extra={
                "cache_prompt": False
            },  # else the server takes a repeated prompt from a cache, and TTFT is too short
            pid=started.pid,
            startup_s=(now_ns() - began_ns) / 1e9,
            load_s=load_s,
            child=child,
            server_version=_version(),
            weights=await asyncio.to_thread(weights_of_file, path),
            settings={"slots": options.slots, "threads": decode, "prefill_threads": prefill, "version": _version()},
        )
    finally:
        await child.stop()


async def wait_until_loaded(child: Child) -> tuple[ServerStarted, float | None]:
    """The last event of the start, and how many seconds the loading of the model took; None if it did not begin.

    Raises TargetError if the child ends, or prints nothing for `START_S`.
    """
    loading_ns: int | None = None
    while True:
        match await child.receive(_EVENTS, START_S):
            case ServerLoading():
                loading_ns = now_ns()
            case ServerStarted() as started:
                return started, None if loading_ns is None else (now_ns() - loading_ns) / 1e9


_REMEDIES: Final = {
    "out_of_memory": "unload other models, lower llamacpp.context_tokens or llamacpp.slots, or take a smaller model",
    "load_failed": "is the file whole? fetch it again, or give another with llamacpp.gguf",
}


async def _start_error(child: Child, exception: str, port: int) -> LoadgenError:
    """Why the server does not start. exception: as the child printed it; the server's log usually says more."""
    reason = await child.crash_reason()
    problem = problem_of(reason)
    if problem == "port":
        return InputError(f"--port {port}: not available on 127.0.0.1 (in use?); choose another, or 0 for a free one")
    cause = "it ran out of memory: " if problem == "out_of_memory" else ""
    text = f"the embedded server cannot serve this model: {cause}{reason or exception}"
    return TargetError(text, problem=problem, remedy=_REMEDIES.get(problem))


async def _card(model: Model, path: Path, base_url: str) -> ModelCard:
    """The card of the model file, except where the server knows better: its id, context, parameters and
    quantization."""
    entries = await models_of(base_url, {})
    from_server = card_of(model.name, TARGET, entries[0] if entries else {})
    overrides = {
        name: value
        for name in ("id", "context_tokens", "parameters", "quantization")
        if (value := getattr(from_server, name)) is not None
    }
    return msgspec.structs.replace(card_of_file(model.name, path), **overrides)


def card_of_file(alias: str, path: Path) -> ModelCard:
    """The card of a model file, from its header and its size. Its context_tokens are what the model was trained for."""
    header = read_header(path)
    architecture = header.get("general.architecture")

    def text(*keys: str) -> str | None:
        return next((value for key in keys if isinstance(value := header.get(key), str) and value), None)

    context = header.get(f"{architecture}.context_length")
    return ModelCard(
        alias=alias,
        id=alias,
        target=TARGET,
        size_bytes=path.stat().st_size,
        license=license_text(*(text(f"general.license{part}") for part in ("", ".name", ".link"))),
        publisher=text("general.organization", "general.author"),
        context_tokens=context if isinstance(context, int) else None,
        task="chat-completion" if "tokenizer.chat_template" in header else None,
        device="CPU",
        cached=True,
        source="GGUF",
    )


def _version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    return None
