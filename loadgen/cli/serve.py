"""The verb `serve`: starts the embedded server for other programs."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from loadgen.cli.interrupt import interruptible
from loadgen.cli.streams import print_text, tell
from loadgen.engine.stop import StopSignal
from loadgen.scenario import Model
from loadgen.scenario.resolve import resolve_model
from loadgen.targets.llamacpp.target import serve_llamacpp


def serve(
    model: Annotated[str, typer.Option("--model", help="Name that the server gives its model.")] = "smollm2-135m",
    gguf: Annotated[Path | None, typer.Option("--gguf", help="A model file (default: SmolLM2-135M).")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Parallel streams.")] = 4,
) -> None:
    """Start the embedded server, print its URL, stop on Ctrl-C."""
    asyncio.run(_serve(resolve_model(model, gguf, slots), port))


async def _serve(model: Model, port: int) -> None:
    stop = StopSignal()
    with interruptible(stop, "nothing"):
        async with serve_llamacpp(model, port=port) as served:
            print_text(f"{served.base_url}\n")
            sys.stdout.flush()
            tell(f"{served.card.alias}; Ctrl-C stops it")
            await stop.wait()
