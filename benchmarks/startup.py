"""What it costs to begin: CPU, user and system together, of cold processes, beside that of `import aiohttp` alone.

    python benchmarks/startup.py [--times 9] [--show]

Four things in turn, so that what else the machine does meets all of them alike: `python -c "import aiohttp"`,
`loadgen --help`, `loadgen run` until a server on loopback reads its first request, and that run to its end with its
reports. The lines that it holds them to are for the machine it was built on; the ratios are for any. Exit code 1 when a
median is over its line.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

LINES = {"loadgen --help": 0.25, "run, to its first request": 0.6, "run of one request, with reports": 0.8}
"""Seconds of CPU, at most."""
BARE = "import aiohttp"
ROOT = Path(__file__).parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
EVENTS: tuple[dict[str, object], ...] = (
    {"role": "assistant", "content": "A"},
    {"content": " word"},
    {"content": "."},
)


def answer() -> bytes:
    """One streamed answer, as a server sends it."""
    chunks = [
        {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        for choice in (
            *({"index": 0, "delta": delta, "finish_reason": None} for delta in EVENTS),
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        )
    ]
    return "".join(f"data: {text}\n\n" for text in (*map(json.dumps, chunks), "[DONE]")).encode()


class Server:
    """Answers on loopback, and notes the CPU of a process when its first chat has arrived."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.pid: int | None = None
        self.cpu_s: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def watch(self, pid: int) -> None:
        """Note in `cpu_s` what this process has spent when its first chat arrives."""
        self.pid, self.cpu_s = pid, None

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        models, chat = b'{"object":"list","data":[{"id":"m","object":"model"}]}', answer()
        with connection, connection.makefile("rb") as file:
            while (line := file.readline()) not in (b"", b"\r\n"):
                length = 0
                while (header := file.readline()) not in (b"", b"\r\n"):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                file.read(length)
                is_chat = line.startswith(b"POST")
                if is_chat and self.cpu_s is None and self.pid is not None:
                    self.cpu_s = cpu_of(self.pid)
                kind, body = ("text/event-stream", chat) if is_chat else ("application/json", models)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has taken so far, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def spent(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU of a process, and of those that it waited for, at its end."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def start(folder: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else ours alone would be compiled anew each time
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def one_round(server: Server, folder: str) -> Iterator[tuple[str, float]]:
    first, full = list(LINES)[1:]
    yield BARE, spent(start(folder, "-c", "import aiohttp"))
    yield "loadgen --help", spent(start(folder, "-m", "loadgen", "--help"))
    flags = ("--url", server.url, "--model", "m", "--requests", "1", "--warmup", "0", "--set", "probe=false")
    process = start(folder, "-m", "loadgen", "run", *flags)
    server.watch(process.pid)
    total_s = spent(process)
    if server.cpu_s is None:
        sys.exit("the run sent nothing")
    yield first, server.cpu_s
    yield full, total_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=9, help="cold processes of each")
    parser.add_argument("--show", action="store_true", help="print, and hold nothing to its line")
    options = parser.parse_args()
    server = Server()
    costs: dict[str, list[float]] = {name: [] for name in (BARE, *LINES)}
    with tempfile.TemporaryDirectory() as folder:
        for round_index in range(options.times + 1):
            for name, cost_s in one_round(server, folder):
                if round_index:  # the first one writes byte code, and warms the disk
                    costs[name].append(cost_s)
    bare_s = statistics.median(costs[BARE])
    print(f"{'CPU, s':<34}{'median':>8}{'least':>8}{'line':>8}{'/ aiohttp':>11}")
    over = False
    for name, values in costs.items():
        median_s, line_s = statistics.median(values), LINES.get(name)
        over = over or (line_s is not None and median_s > line_s)
        line = "" if line_s is None else f"{line_s:.2f}"
        print(f"{name:<34}{median_s:>8.3f}{min(values):>8.3f}{line:>8}{median_s / bare_s:>11.2f}")
    sys.exit(1 if over and not options.show else 0)


if __name__ == "__main__":
    main()
