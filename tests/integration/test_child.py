"""A child process that fails: what it had said and how it ended become one line; and no child outlives its parent."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from loadgen import child as module
from loadgen.child import Child
from loadgen.engine.workers.pool import WorkerPool
from loadgen.errors import TargetError
from loadgen.mock import MockProcess, Script
from tests.integration.engine.test_session import eventually
from tests.integration.engine.test_workers import alive, with_crew

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX"),
]
HELLO = "print('{\"pid\": %d}' % os.getpid(), flush=True)\n"
HELLO_DECODER = msgspec.json.Decoder(dict[str, int])
SERVE = "sys.stdin.buffer.read()\n"


async def started(folder: Path, body: str) -> Child:
    (folder / "made_server.py").write_text(f"import os, signal, sys\n{body}", encoding="utf-8")
    return await Child.start("the server", "made_server", {}, {"PYTHONPATH": str(folder)})


@pytest.mark.parametrize(
    ("body", "said", "problem"),
    [
        ("raise SystemExit(3)", "the server ended during its start (exit code 3)", "runtime"),
        (
            "raise ImportError('no such thing')",
            "the server ended during its start (exit code 1: ImportError: no such thing)",
            "load_failed",
        ),
        (
            "sys.stderr.write('  what():  std::bad_alloc\\n')\nsys.stderr.flush()\n"
            "os.kill(os.getpid(), signal.SIGABRT)",
            "the server ended during its start (ended by SIGABRT: std::bad_alloc)",
            "out_of_memory",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the server ended during its start (ended by SIGKILL)", "runtime"),
        ("print('not json', flush=True)", "the server ended during its start (exit code 0)", "runtime"),
    ],
)
async def test_one_that_ends_as_it_starts_is_named_with_the_reason(
    tmp_path: Path, body: str, said: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_oom_kills", lambda: 0)
    child = await started(tmp_path, body)
    try:
        with pytest.raises(TargetError) as caught:
            await child.receive(HELLO_DECODER, 60.0)
    finally:
        await child.stop()
    assert (str(caught.value), caught.value.problem) == (said, problem)


async def test_one_that_lives_has_not_died(tmp_path: Path) -> None:
    child = await started(tmp_path, HELLO + SERVE)
    try:
        await child.receive(HELLO_DECODER, 60.0)
        assert await child.crash() is None
    finally:
        await child.stop()


@pytest.mark.parametrize(
    ("log", "number", "said"),
    [
        ("", signal.SIGKILL, "the server has died (ended by SIGKILL, as the system does when memory runs out)"),
        ("", signal.SIGSEGV, "the server has died (ended by SIGSEGV)"),
        (
            "0.01.000.1 E ggml_abort: something is wrong\\n",
            signal.SIGABRT,
            "the server has died (ended by SIGABRT: something is wrong)",
        ),
        (
            "0.01.000.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 12.00 MB)\\n",
            signal.SIGABRT,
            "the server ran out of memory (ended by SIGABRT: insufficient memory (attempted to allocate 12.00 MB))",
        ),
    ],
)
async def test_one_that_dies_while_it_serves_is_named(
    tmp_path: Path, log: str, number: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_oom_kills", lambda: 0)  # others on this machine may run out of it
    child = await started(tmp_path, f"sys.stderr.write('{log}')\nsys.stderr.flush()\n" + HELLO + SERVE)
    try:
        hello = await child.receive(HELLO_DECODER, 60.0)
        os.kill(hello["pid"], number)
        await child._process.wait()
        summary = f"{child.name} {await child.crash()}"
    finally:
        await child.stop()
    assert summary == said


async def test_where_the_system_ended_it_for_want_of_memory_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter((4, 5))
    monkeypatch.setattr(module, "_oom_kills", lambda: next(counted))
    child = await started(tmp_path, HELLO + SERVE)
    try:
        hello = await child.receive(HELLO_DECODER, 60.0)
        os.kill(hello["pid"], signal.SIGKILL)
        await child._process.wait()
        summary = f"{child.name} {await child.crash()}"
    finally:
        await child.stop()
    assert summary == "the server ran out of memory (the system ended it)"


async def test_one_that_the_system_ends_as_it_starts_ran_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter((4, 5))
    monkeypatch.setattr(module, "_oom_kills", lambda: next(counted))
    child = await started(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    try:
        with pytest.raises(TargetError, match="ended by SIGKILL: the system had no memory left") as caught:
            await child.receive(HELLO_DECODER, 60.0)
    finally:
        await child.stop()
    assert caught.value.problem == "out_of_memory"


async def test_one_that_talks_without_end_is_read_and_not_kept(tmp_path: Path) -> None:
    """Its standard error must not fill up, or it would wait for us for ever."""
    chatter = "for _ in range(4096): sys.stderr.write('x' * 1023 + '\\n')\nsys.stderr.write('ValueError: the end\\n')\n"
    child = await started(tmp_path, chatter + "sys.exit(1)")
    try:
        with pytest.raises(TargetError, match="ValueError: the end"):
            await child.receive(HELLO_DECODER, 60.0)
        assert len(child._log) <= module.LOG_BYTES
    finally:
        await child.stop()


# Either side is killed


async def with_server(folder: Path, then: Callable[[int], Awaitable[None]]) -> str:
    child = await started(folder, HELLO + SERVE)
    try:
        await child.receive(HELLO_DECODER, 60.0)
        await then(child.pid)
        await child.exit_code(60.0)
        return f"{child.name} {await child.crash()}"
    finally:
        await child.stop()


async def with_mock(_: Path, then: Callable[[int], Awaitable[None]]) -> str:
    try:
        with MockProcess(Script()) as server:
            await then(server.pid)
    except RuntimeError as error:
        return str(error)
    return ""


async def with_worker(folder: Path, then: Callable[[int], Awaitable[None]]) -> str:
    async def then_to_first(crew: WorkerPool) -> None:
        await then(crew.pids[0])

    (facts,) = await with_crew(folder, then_to_first, silent_s=60.0)
    return f"the worker {facts.workers[0].lost}"


CHILDREN = {"the server": with_server, "the scripted server": with_mock, "the worker": with_worker}


@pytest.mark.parametrize("name", CHILDREN)
async def test_of_a_child_that_is_killed_the_parent_says_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_oom_kills", lambda: 0)

    async def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    said = await CHILDREN[name](tmp_path, kill)
    assert said == f"{name} has died (ended by SIGKILL, as the system does when memory runs out)"


async def print_and_wait(pid: int) -> None:
    print(pid, flush=True)
    await asyncio.Event().wait()


@pytest.mark.parametrize("name", CHILDREN)
async def test_when_its_parent_is_killed_a_child_ends(name: str, tmp_path: Path) -> None:
    wait = f"CHILDREN[{name!r}](Path({str(tmp_path)!r}), print_and_wait)"
    program = f"from tests.integration.test_child import *\nasyncio.run({wait})"
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        child = psutil.Process(int(await parent.stdout.readline()))
        assert alive(child)
    finally:
        parent.kill()
        await parent.wait()
    try:
        await eventually(lambda: not alive(child), within_s=60.0)
    finally:
        if alive(child):
            child.kill()
