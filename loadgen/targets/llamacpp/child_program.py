"""The program of the child process that serves a model with llama.cpp. `serve_llamacpp` in target.py starts it.

`python -m loadgen.targets.llamacpp.child_program` prints a line of JSON for each event: `{"event": "loading"}` before
it loads the model, and then `{"event": "serving"}` with `url` and `pid` when it serves, or with `error` when it cannot.
It ends when its standard input is closed, so it ends with the process that started it, even if that was killed. It
binds to loopback.
"""

import argparse
import json
import os
import sys
from typing import Any

HTTP_THREADS = 128
"""llama.cpp's default is 8 threads, which as many idle keep-alive connections occupy entirely."""


def common_params(arguments: argparse.Namespace, engine: Any) -> Any:
    """llama.cpp's parameters for a server that is measured."""
    params = engine.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.context_tokens * arguments.slots
    params.cont_batching = True
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.prefill_threads
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    params.offline = True
    params.n_threads_http = HTTP_THREADS
    params.cache_ram_mib = (
        0  # no prompt cache in host memory: it grows without bound, and would shorten what we measure
    )
    params.verbosity = 1  # errors only; they go to standard error, from which the parent reads why it cannot serve
    return params


def say(**event: str | int) -> None:
    """Print an event to the process that started this one."""
    print(json.dumps(event), flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(prog="child_program", description="llama.cpp's HTTP server on loopback.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prefill-threads", type=int, required=True)
    arguments = parser.parse_args()
    try:
        import xllamacpp

        say(event="loading")
        server = xllamacpp.Server(common_params(arguments, xllamacpp))
    except Exception as error:  # noqa: BLE001  the parent gets every error as one line
        say(event="serving", error=f"{type(error).__name__}: {error}")
        return 1
    say(event="serving", url=server.listening_address, pid=os.getpid())
    while sys.stdin.buffer.read(1):
        pass
    # llama.cpp's own threads may take seconds to end, and there is nothing in them to wait for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
