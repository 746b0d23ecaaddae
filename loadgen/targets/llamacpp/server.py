"""The embedded llama.cpp server, as a process of its own: `python -m loadgen.targets.llamacpp.server`.

Prints one line of JSON when it serves (`{"url": …, "pid": …}`) or when it cannot (`{"error": …}`), and ends when its
standard input is closed: so it outlives nobody who started it, not even one that was killed. Binds to loopback.
"""

import argparse
import json
import os
import sys
from typing import Any

HTTP_THREADS = 128
"""llama.cpp's default of 8 is starved by as many idle keep-alive connections."""


def common_params(arguments: argparse.Namespace, engine: Any) -> Any:
    """llama.cpp's own parameters for a server that is to be measured."""
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
    params.cache_ram_mib = 0  # a host prompt cache grows without end, and would answer from memory what we measure
    params.verbosity = 1  # errors: they go to standard error, where the parent finds why it cannot serve
    return params


def main() -> int:
    parser = argparse.ArgumentParser(prog="llamacpp_server", description="llama.cpp's HTTP server on loopback.")
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

        server = xllamacpp.Server(common_params(arguments, xllamacpp))
    except Exception as error:  # noqa: BLE001  whatever it is, the parent must get it as one line
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)  # noqa: T201
        return 1
    print(json.dumps({"url": server.listening_address, "pid": os.getpid()}), flush=True)  # noqa: T201
    while sys.stdin.buffer.read(1):
        pass
    # The engine's own threads may take seconds to wind down; nothing of them is worth waiting for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
