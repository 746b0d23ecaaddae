"""What is imported when: a command does not wait for what only another one needs."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.slow

LIST: Final = """
def others():
    \"\"\"Top-level packages of others that are imported.\"\"\"
    import sys
    names = {name.partition(".")[0] for name in list(sys.modules)} - {*sys.stdlib_module_names, "_distutils_hack"}
    files = {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in names}
    return sorted(name for name, file in files.items() if "site-packages" in file)
"""
HELP: Final = {"annotated_doc", "shellingham", "typer"}
DATA: Final = {"asyncio_throttle", "hdrh", "pyhdrh", "msgspec", "numpy", "orjson", "psutil"}
WIRE: Final = {
    *("aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "frozenlist", "idna", "multidict", "propcache", "yarl"),
    *("typing_extensions",),
}


def python(code: str, folder: Path, *arguments: str) -> set[str]:
    """The JSON list that a piece of code prints last, run in a fresh process."""
    command = [sys.executable, "-c", LIST + code, *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.fixture
def url() -> Iterator[str]:
    """A server that lists the model "m"; nobody is to ask it anything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def test_help_imports_the_parser_alone(tmp_path: Path) -> None:
    code = """
import atexit, json, sys
from loadgen.cli.app import main
atexit.register(lambda: print(json.dumps(others())))
sys.argv = ["loadgen", "--help"]
main()
"""
    assert python(code, tmp_path) == HELP


def test_a_verb_s_help_imports_no_other_verb(tmp_path: Path) -> None:
    code = """
import atexit, json, sys
from loadgen.cli.app import VERBS, main
atexit.register(lambda: print(json.dumps([verb for verb in VERBS if f"loadgen.cli.{verb}" in sys.modules])))
sys.argv = ["loadgen", "mock", "--help"]
main()
"""
    assert python(code, tmp_path) == {"mock"}


def test_the_first_request_waits_for_no_report_no_statistics_and_no_other_target(tmp_path: Path, url: str) -> None:
    code = """
import json, os, sys
from loadgen.cli.app import main

def send(*_, **__):
    ours = [name for name in sys.modules if name.startswith("loadgen.")]
    print(json.dumps([*others(), *ours]))
    sys.stdout.flush()
    os._exit(0)

sys.argv = ["loadgen", "run", *sys.argv[1:]]
import asyncio
run = asyncio.run

def run_with_our_client(main, **settings):
    from loadgen.wire.client import Client
    Client.send = send
    return run(main, **settings)

asyncio.run = run_with_our_client
main()
"""
    imported = python(code, tmp_path, "--url", url, "--model", "m", "--requests", "1")
    ours = {name for name in imported if name.startswith("loadgen.")}
    assert not {name for name in ours if name.startswith("loadgen.report")}
    assert not ours & {"loadgen.targets.foundry", "loadgen.targets.llamacpp", "loadgen.targets.adapter.target"}
    assert imported - ours - HELP - DATA - WIRE == set()


def test_no_certificate_is_read_before_a_connection_needs_them(tmp_path: Path) -> None:
    code = """
import json, ssl
import loadgen.cli.app
loadgen.cli.app._function_of("run")
import aiohttp.connector
context = aiohttp.connector._SSL_CONTEXT_VERIFIED
before = context.cert_store_stats()["x509"]
context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
assert context.cert_store_stats() == ssl.create_default_context().cert_store_stats()
print(json.dumps([before, context.check_hostname]))
"""
    assert sorted(map(str, python(code, tmp_path))) == ["0", "True"]


def test_a_worker_imports_the_wire_alone_and_reads_no_certificate(tmp_path: Path) -> None:
    code = """
import json, os, runpy, sys
out = os.dup(1)  # what a worker prints goes to standard error
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody tells it what to do: it ends
runpy.run_module("loadgen.engine.workers", run_name="__main__")
import aiohttp.connector
certificates = aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"]
ours = [name for name in sys.modules if name.startswith("loadgen.")]
os.write(out, json.dumps([*others(), *ours, f"{certificates} certificates"]).encode())
"""
    imported = python(code, tmp_path)
    assert "loadgen.engine.workers.worker" in imported
    assert "0 certificates" in imported
    ours = {name for name in imported if name.startswith("loadgen.")}
    assert not {name for name in ours if name.split(".")[1] in {"analysis", "cli", "report", "mock", "calibrate"}}
    assert imported - ours - DATA - WIRE == {"0 certificates"}


def test_a_stage_that_may_end_early_has_its_statistics_before_it_begins(tmp_path: Path) -> None:
    code = """
import json, sys
from loadgen.analysis.stop_rule_monitor import StopRuleMonitor
from loadgen.scenario.stop_rule import stop_rule_of
before = others()
StopRuleMonitor(stop_rule_of("ttft_p50:5%"), 1, "contract", enough=lambda: None, report=print)
print(json.dumps([name for name in others() if name == "scipy" and name not in before]))
"""
    assert python(code, tmp_path) == {"scipy"}
