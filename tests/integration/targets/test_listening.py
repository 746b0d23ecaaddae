"""Which process serves a URL of this machine."""

import socket
import subprocess
import sys

from loadgen.targets.openai import listening_pid
from tests.integration.server import ServerProcess, Ticking


def test_the_process_behind_a_local_url_is_found_and_looked_at() -> None:
    with ServerProcess(Ticking(tokens=1, first_s=0, gap_s=0)) as server:
        assert listening_pid(server.url) == server.pid


def test_neither_a_server_elsewhere_nor_we_ourselves_nor_nobody_is_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        assert listening_pid(f"http://127.0.0.1:{port}/v1") is None
        assert listening_pid(f"http://192.0.2.1:{port}/v1") is None
    assert listening_pid(f"http://127.0.0.1:{port}/v1") is None


def test_who_only_passes_bytes_on_is_not_the_server() -> None:
    listen = (
        "import socket, ctypes; ctypes.CDLL(None).prctl(15, b'docker-proxy');"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    if sys.platform != "linux":
        return
    with subprocess.Popen([sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert listening_pid(f"http://127.0.0.1:{int(other.stdout.readline())}/v1") is None
        other.communicate(b"\n")
