"""A fork is what a new interpreter would have been, for whoever starts it and for the program."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import are_forks_made, new_interpreters_only
from tests.integration.engine.test_session import SCENARIO
from tests.integration.engine.test_workers import workers_of
from tests.integration.server import Server, whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="without Linux every process is a new interpreter")
SETTLED = {**os.environ, "LOADGEN_API_KEY": "sk-1", "LOADGEN_CACHE_DIR": "/dev/null/none", "TZ": "Asia/Tokyo"}
COMMANDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "what it prints": (["--version"], {}),
    "how it fails": (["run", "nowhere"], {}),
    "what is in its folder": (["plan", "ours.toml"], {}),
    "what its variables say": (["models", "--url", "URL", "--json"], {"env": SETTLED}),
    "one file for both": (["report", "nowhere"], {"stderr": subprocess.STDOUT}),
}
MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
CODES = {"how it fails": 2, "one file for both": 2}


def ended(*words: str, **options: Any) -> tuple[int, bytes, bytes | None]:
    # Without `env`, a new interpreter also gets the variables that the library readline sets behind Python's back.
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": dict(os.environ), **options}
    done = subprocess.run([sys.executable, "-m", "loadgen", *words], check=False, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_ends_and_prints_as_a_new_interpreter_does(case: str, tmp_path: Path) -> None:
    words, options = COMMANDS[case]
    (tmp_path / "ours.toml").write_text(SCENARIO.format(url="http://127.0.0.1:1/v1"), "utf-8")
    with Server((), get=lambda _: whole("200 OK", MODELS)) as server:
        words = [word.replace("URL", server.url) for word in words]
        forked = ended(*words, cwd=tmp_path, **options)
        with new_interpreters_only():
            assert ended(*words, cwd=tmp_path, **options) == forked
    assert forked[0] == CODES.get(case, 0), forked
    keys = [request.headers.get("authorization") for request in server.served]
    assert keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    assert keys == [] or keys[0] == "Bearer sk-1"


@contextlib.contextmanager
def a_process(module: str = "loadgen.engine.workers", **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_worker_is_a_child_of_who_starts_it_and_ends_with_its_input() -> None:
    with a_process() as process:
        assert process.pid in {worker.pid for worker in workers_of(os.getpid())}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_a_signal_ends_says_so(number: signal.Signals) -> None:
    with a_process("loadgen.mock", stderr=subprocess.DEVNULL) as process:
        process.send_signal(number)
        assert process.wait(60) == -number


def test_it_is_in_the_session_that_was_asked_for() -> None:
    with a_process() as same, a_process(start_new_session=True) as other:
        assert os.getsid(same.pid) == os.getsid(0)
        assert (os.getsid(other.pid), os.getpgid(other.pid)) == (other.pid, other.pid)


def test_it_has_the_limits_of_who_starts_it() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, before[1]))
    try:
        with a_process() as process:
            assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE)[0] == 1 << 30
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def is_fork(process: "subprocess.Popen[bytes]") -> bool:
    words: list[str] = psutil.Process(process.pid).cmdline()
    return words[1:3] == ["-m", "tests.fork_server"]


OTHERS: dict[str, dict[str, Any]] = {
    "a variable of Python": {"env": {**os.environ, "PYTHONUTF8": "1"}},
    "a locale": {"env": {**os.environ, "LC_ALL": "C"}},
    "a file that is passed on": {"pass_fds": [2]},
}


@pytest.mark.skipif(not are_forks_made(), reason="every process is a new interpreter here")
@pytest.mark.parametrize("other", OTHERS)
def test_what_a_fork_cannot_be_is_a_new_interpreter(other: str) -> None:
    with a_process() as usual, a_process(**OTHERS[other]) as process:
        assert is_fork(usual)
        assert not is_fork(process)
