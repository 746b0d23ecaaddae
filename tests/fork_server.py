"""Processes of `python -m loadgen…` that tests start as forks of one that has imported what they need.

An interpreter takes half a second of CPU time to import aiohttp and numpy, and the tests start hundreds. A fork server
imports them once. Each process is then a fork of it, with the arguments, variables, folder, limits and files that a new
interpreter would have had, and a child of whoever starts it, who need not know: `forking` takes the place of the
function with which `subprocess.Popen` starts a program. Other programs are started as they are, and so is an
interpreter with other flags, or with other variables that it reads as it starts. In `tests/e2e`, under coverage, and
where there is no Linux, every process is a new interpreter.
"""

import array
import atexit
import contextlib
import ctypes
import functools
import importlib
import inspect
import io
import itertools
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.cli.app import VERBS

MODULES: Final = {
    "loadgen": (*(f"loadgen.cli.{verb}" for verb in VERBS), "loadgen.report.files", "loadgen.report.page_template"),
    "loadgen.engine.workers": ("loadgen.engine.workers.worker",),
    "loadgen.mock": ("loadgen.mock.process",),
    "tests.integration.server": (),
}
"""Each program that may be a fork, as `python -m` names it, and what the fork server imports for it."""
STARTS_OTHERS: Final = "loadgen"
"""The program that starts such programs itself."""
READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "MALLOC_")
"""How the variables begin that an interpreter reads as it starts. A fork cannot have others."""
TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The signals that a terminal or a test sends to a whole process group. A fork server ignores them."""
LIMITS: Final = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
EXECUTE_CHILD: Final = "_execute_child"
"""The method with which `subprocess.Popen` starts a program."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_BYTES: Final = 1 << 20


class Start(Struct, frozen=True):
    """What a fork is to be. Its three standard files are sent with it."""

    module: str
    arguments: list[str]
    variables: dict[str, str]
    folder: str
    limits: list[tuple[int, int]]
    new_session: bool


# --- in the process that starts others --------------------------------------------------------------------------------


class ForkServer:
    """The way to a fork server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def start(self, start: Start, files: list[int]) -> int:
        """Have a process started, as a child of this one. Returns its id. Raises OSError."""
        descriptors = array.array("i", files).tobytes()
        with self._lock:
            _adopt(True)  # only now: whoever loses its parent later is adopted by the system, as always
            try:
                self._connection.sendmsg(
                    [msgspec.json.encode(start)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
                )
                process_id = self._connection.recv(64)
            finally:
                _adopt(False)
        if not process_id:
            raise ConnectionResetError("the fork server has ended")
        return int(process_id)


def _adopt(yes: bool) -> None:
    """Whether this process adopts those among its descendants that lose their parent."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """A fork server of this process."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(its.fileno())],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
            )
        yield ForkServer(ours)
    process.wait()


@contextlib.contextmanager
def forking(server: ForkServer) -> Iterator[None]:
    """Start the programs of `MODULES` as forks."""
    execute = getattr(subprocess.Popen, EXECUTE_CHILD)
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def fork_or_execute(process: Any, *arguments: Any) -> None:
        given = signature.bind(process, *arguments).arguments
        start = _start_of(given)
        if start is None or not _fork(server, start, process, given):
            execute(process, *arguments)

    setattr(subprocess.Popen, EXECUTE_CHILD, fork_or_execute)
    try:
        yield
    finally:
        setattr(subprocess.Popen, EXECUTE_CHILD, execute)


def _start_of(given: Mapping[str, Any]) -> Start | None:
    """What a fork is to be, by what `Popen` was given; None if this takes an interpreter of its own."""
    special = (given["preexec_fn"], given["shell"], given["executable"], *given["pass_fds"])
    if any(special) or not isinstance(given["args"], list | tuple):
        return None
    words = [os.fspath(word) for word in given["args"]]
    variables = dict(os.environ if given["env"] is None else given["env"])
    if words[:2] != [sys.executable, "-m"] or words[2] not in MODULES or _read(variables) != _read(os.environ):
        return None
    return Start(
        module=words[2],
        arguments=words[3:],
        variables=variables,
        folder=str(Path(given["cwd"] or "").absolute()),
        limits=[resource.getrlimit(limit) for limit in LIMITS],
        new_session=given["start_new_session"],
    )


def _read(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(READ_AT_START)}


def _fork(server: ForkServer, start: Start, process: Any, given: Mapping[str, Any]) -> bool:
    """Start a process as a fork; returns whether that was possible."""
    ends = [given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
    files = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
    try:
        process.pid = server.start(start, [own if file == -1 else file for own, file in enumerate(files)])
    except OSError:  # a standard file that is closed
        return False
    process._child_created = True
    process._close_pipe_fds(*ends)
    return True


# --- in the fork server and its forks ---------------------------------------------------------------------------------


class Asked(Struct, frozen=True):
    """What a fork server was asked for, in the fork."""

    start: Start
    files: list[int]
    answer: int
    """The file to write its id to, once it is what was asked for."""

    def close(self) -> None:
        for file in (*self.files, self.answer):
            os.close(file)


def _serve(connection: socket.socket) -> Asked:
    """Fork whenever that is asked for, until nobody can ask. Returns in each fork."""
    while True:
        order, control, _, _ = connection.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(3 * 4))
        if not order:
            os._exit(0)
        files = array.array("i")
        for _, _, descriptors in control:
            files.frombytes(descriptors)
        reader, writer = os.pipe()
        asked = Asked(msgspec.json.decode(order, type=Start), files.tolist(), writer)
        between = os.fork()
        if between == 0:
            # The fork loses its parent at once, and is adopted by who asked for it.
            if os.fork():
                os._exit(0)
            os.close(reader)
            return asked
        asked.close()
        os.waitpid(between, 0)
        process_id = os.read(reader, 64)
        os.close(reader)
        connection.send(process_id)


def _fork_for(connection: socket.socket) -> None:
    """Be a fork server, and in each fork its program."""
    asked = _serve(connection)
    connection.close()
    if asked.start.module != STARTS_OTHERS:
        _play(asked)
        return
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:  # the fork server of this fork
        ours.close()
        asked.close()
        _fork_for(its)
        return
    its.close()
    with forking(ForkServer(ours)):
        _play(asked)


def _play(asked: Asked) -> None:
    """Play the program, and end as it does. Only the interpreter's last step is left out, to free all modules: each
    page that it touches is copied, which takes longer than all the rest."""
    _become(asked.start, asked.files)
    os.write(asked.answer, str(os.getpid()).encode())
    asked.close()
    code = 0
    try:
        runpy.run_module(asked.start.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(start: Start, files: list[int]) -> None:
    """Have all that a new interpreter would have had."""
    if start.new_session:
        os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for limit, value in zip(LIMITS, start.limits, strict=True):
        resource.setrlimit(limit, value)
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.variables)
    time.tzset()
    sys.argv[1:] = start.arguments
    sys.path[0] = start.folder
    sys.stdin = sys.__stdin__ = _standard(0, "r", sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _standard(1, "w", sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _standard(2, "w", sys.stderr)  # type: ignore[misc]
    Path("/proc/self/comm").write_text(start.module[-15:], "ascii")


def _standard(file: int, mode: str, before: Any) -> Any:
    """A standard file as an interpreter opens it."""
    binary = open(file, f"{mode}b", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(binary, before.encoding, before.errors, line_buffering=file == 2 or os.isatty(file))


def main() -> None:
    """The program of a fork server."""
    from loadgen.wire.fast_imports import fast_imports

    with fast_imports():
        for module in itertools.chain(*MODULES.values()):
            importlib.import_module(module)
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _fork_for(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
