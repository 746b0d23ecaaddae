"""Every command in any surroundings: what it does and its exit code depend on neither its streams nor its terminal.

Played in this process, each command with streams of its own; a process is started only where what the interpreter makes
of its descriptors and variables is what is tested.
"""

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import pty
import pwd
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from rich.cells import cell_len

from loadgen.analysis.stage import StageData
from loadgen.analysis.summarize import summary_of
from loadgen.analysis.summary import Summary
from loadgen.cli import app, calibrate, mock, serve
from loadgen.decisions.candidates import runs as candidate_runs
from loadgen.decisions.compare import sides
from loadgen.mock import Account
from loadgen.report import files
from loadgen.store import calibration
from loadgen.store.calibration import SCHEMA, Budget, Calibration, Ceiling, ErrorBand, ErrorSpread, Limit, this_machine
from loadgen.store.files import write_json
from loadgen.store.manifest import ModelCard
from loadgen.store.run_folder import Run
from loadgen.targets.served import Served
from tests.command_line import without_settings
from tests.compared_runs import write_side
from tests.integration.server import Server, streamed, whole
from tests.selected_runs import SelectedModel, write_run
from tests.unit.decisions.capacity.test_play import asked, search

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors, devices and terminals of POSIX")
KEPT: Final = Path(__file__).parents[2] / "data" / "runs"
MODELS: Final = json.dumps({"data": [{"id": "m/ü 你好", "object": "model"}, {"id": "m", "object": "model"}]}).encode()

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "help": ("--help",),
    "help of a verb": ("run", "--help"),
    "version": ("--version",),
    "no verb": (),
    "plan": ("plan", "summarizer"),
    "plan as JSON": ("plan", "summarizer", "--json"),
    "scenarios": ("scenarios",),
    "scenarios as JSON": ("scenarios", "--json"),
    "init": ("init", "mine"),
    "report": ("report", "closed"),
    "report as JSON": ("report", "closed", "--json"),
    "report of a run that failed": ("report", "failures"),
    "report of repeats": ("report", "--merge", "repeats/run1", "repeats/run2", "repeats/run3"),
    "compare": ("compare", "sides/run0", "sides/run1"),
    "compare as JSON": ("compare", "sides/run0", "sides/run1", "--json"),
    "compare as Markdown": ("compare", "sides/run0", "sides/run1", "--markdown", "-"),
    "capacity": ("capacity", "--show", "searched"),
    "capacity as JSON": ("capacity", "--show", "searched", "--json"),
    "history": ("history", "repeats", "--machine", "all", "--out", "."),
    "history as JSON": ("history", "repeats", "--machine", "all", "--out", ".", "--json"),
    "recipe of a nightly soak": ("soak", "summarizer", "--print-units", "systemd"),
    "select": ("select", "chosen"),
    "select as JSON": ("select", "chosen", "--json"),
    "grade": ("grade", "chosen", "--status"),
    "grade as JSON": ("grade", "chosen", "--status", "--json"),
    "models": ("models", "--url", "URL"),
    "models as JSON": ("models", "--url", "URL", "--json"),
    "calibrate": ("calibrate", "--quick"),
    "calibrate that is shown": ("calibrate", "--show"),
    "mock": ("mock",),
    "serve": ("serve",),
    "run": ("run", "--url", "URL", "--model", "m/ü 你好", "--requests", "2", "--warmup", "0", "--no-preflight"),
    "a scenario that is not there": ("run", "nothing-of-this-name"),
    "a flag that is not there": ("run", "--no-such-flag"),
    "a server that is not there": ("models", "--url", "http://127.0.0.1:1/v1", "--ready", "0"),
}
CODES: Final = {
    "no verb": 2,
    **dict.fromkeys(("compare", "compare as JSON", "compare as Markdown", "capacity", "capacity as JSON"), 1),
    "a scenario that is not there": 2,
    "a flag that is not there": 2,
    "a server that is not there": 3,
}
TEXTS: Final = [name for name in COMMANDS if not {"JSON", "Markdown", "recipe"} & {*name.split()}]
"""Commands whose output is set for the terminal. That of the others is data, or files to be copied."""
MARKDOWN: Final = {"compare as Markdown"}
"""In which two blanks end a line."""
PROBE: Final = {"run that asks what its server does": (*COMMANDS["run"], "--probe")}
EITHER: Final = {0, 1}
"""How a run ends: 1 where the machine was too busy to believe it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are played."""
    made = tmp_path_factory.mktemp("surroundings")
    for name in ("closed", "failures", "repeats"):
        shutil.copytree(KEPT / name, made / name)
    write_side(made / "sides", (1.0, 1.2), first=0, levels=(2,), rounds=4)
    shutil.copytree(search(made / "search", asked(budget_s=40.0)).folder, made / "searched")
    write_run(made / "chosen", (SelectedModel(name="ü 你好", points=(4, 3)), SelectedModel(name="b", points=(1, 2))))
    return made


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(streamed("a", "b", "c"), get=lambda _: whole("200 OK", MODELS)) as server:
        yield server.url


def a_calibration() -> Calibration:
    band = ErrorBand(kernel=ErrorSpread(2.0, 10.0, 90.0), user=ErrorSpread(50.0, 2_000.0, 5_000.0))
    return Calibration(
        schema=SCHEMA,
        made_utc="2026-11-24T00:00:00+00:00",
        machine=this_machine(),
        band=band,
        ceiling=Ceiling(events_per_s=Limit(40_000.0, at_least=True), streams=Limit(512.0, at_least=False)),
        budget=Budget(events_per_s=20_000.0, streams=256),
        cpu_us_per_event=20.0,
        busy_share=0.5,
        steps=(),
    )


@contextlib.asynccontextmanager
async def serve_for_a_moment(*_: object, **__: object) -> AsyncIterator[Served]:
    """In place of the embedded server: one that is stopped as soon as it serves."""
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    yield Served(base_url="http://127.0.0.1:1/v1", card=ModelCard(alias="m", id="m", target="llamacpp"))


def serve_script_for_a_moment(*_: object, on_start: Callable[[str], None], **__: object) -> Account:
    on_start("http://127.0.0.1:1/v1")
    return Account()


def take_the_place_of_servers(put: Callable[[object, str, Any], None]) -> None:
    """So that the commands that serve end by themselves, and a calibration takes no minute."""
    put(calibrate, "calibrate_machine", lambda *_: a_calibration())
    put(mock, "serve", serve_script_for_a_moment)
    put(serve, "serve_llamacpp", serve_for_a_moment)


def words_of(command: str, url: str) -> list[str]:
    """A command as somebody types it, who has not typed it before."""
    Path("mine.toml").unlink(missing_ok=True)
    return [word.replace("URL", url) for word in (COMMANDS | PROBE)[command]]


@pytest.fixture(scope="module", autouse=True)
def _summaries() -> Iterator[None]:
    """The commands read the same few runs again and again, and what is said of a run is computed once."""
    made: dict[Any, Summary] = {}

    def once(runs: Sequence[Run], stages: Sequence[Sequence[StageData]]) -> Summary:
        key = (
            tuple((run.folder.resolve(), run.manifest.run_id, len(run.records)) for run in runs),
            tuple(stage.floor for of_run in stages for stage in of_run),
        )
        if key not in made:
            made[key] = summary_of(runs, stages)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (files, candidate_runs, sides):
            patch.setattr(module, "summary_of", once)
        yield


@pytest.fixture(autouse=True)
def _surroundings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(folder / "cache"))
    (folder / "cache").mkdir(exist_ok=True)
    write_json(folder / "cache" / calibration.FILE, a_calibration())
    take_the_place_of_servers(monkeypatch.setattr)


class Played(msgspec.Struct, frozen=True):
    """What became of a command."""

    code: int
    out: bytes = b""
    err: bytes = b""


class Sink:
    """A descriptor to write to, and what was written."""

    def __init__(self, descriptor: int, read: Callable[[], bytes] = bytes) -> None:
        self.descriptor = descriptor
        self.read = read


@contextlib.contextmanager
def a_file() -> Iterator[Sink]:
    with tempfile.TemporaryFile(buffering=0) as file:

        def read() -> bytes:
            file.seek(0)
            return file.read()

        yield Sink(file.fileno(), read)


@contextlib.contextmanager
def a_full_disk() -> Iterator[Sink]:
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield Sink(file.fileno())


@contextlib.contextmanager
def a_pipe_that_nobody_reads() -> Iterator[Sink]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0):
        yield Sink(writer)


@contextlib.contextmanager
def a_pipe_of_which_a_line_is_read() -> Iterator[Sink]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, getattr(fcntl, "F_SETPIPE_SZ", 1031), 4096)

    def head() -> None:
        with os.fdopen(reader, "rb") as file:
            file.readline()

    thread = threading.Thread(target=head, daemon=True)
    thread.start()
    with os.fdopen(writer, "wb", buffering=0):
        yield Sink(writer)
    thread.join()


@contextlib.contextmanager
def a_terminal(columns: int) -> Iterator[Sink]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    chunks: list[bytes] = []

    def read_all() -> None:
        with contextlib.suppress(OSError):  # the end, as terminals have it
            while chunk := os.read(leader, 65536):
                chunks.append(chunk)

    thread = threading.Thread(target=read_all, daemon=True)
    thread.start()

    def read() -> bytes:
        os.close(follower)
        thread.join()
        os.close(leader)
        return b"".join(chunks).replace(b"\r\n", b"\n")

    yield Sink(follower, read)


SINKS: Final[dict[str, Callable[[], contextlib.AbstractContextManager[Sink]]]] = {
    "file": a_file,
    "full": a_full_disk,
    "left": a_pipe_that_nobody_reads,
    "head": a_pipe_of_which_a_line_is_read,
}


def play(command: str, url: str, out: str | int = "file", err: str | int = "file", encoding: str = "utf-8") -> Played:
    """Play a command. out, err: the kind of its streams, or the columns of a terminal."""
    with contextlib.ExitStack() as stack:
        sinks = [
            stack.enter_context(a_terminal(kind) if isinstance(kind, int) else SINKS[kind]()) for kind in (out, err)
        ]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", ["loadgen", *words_of(command, url)])
        for name, sink in zip(("stdout", "stderr"), sinks, strict=True):
            stream = os.fdopen(os.dup(sink.descriptor), "w", encoding=encoding, errors="strict", newline="\n")
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)  # where the size of the terminal is looked up
        with pytest.raises(SystemExit) as ended:
            app.main()
        code = ended.value.code
        sys.stdout.close()
        sys.stderr.close()
        patch.undo()
        assert isinstance(code, int)
        return Played(int(code), *(sink.read() for sink in sinks))


def assert_usual(command: str, played: Played, *, full: bool = False) -> None:
    """The exit code is that of the command, and nothing of the program's inside was shown."""
    for text in (played.out, played.err):
        assert b"Traceback" not in text
        assert b"Exception ignored" not in text
    usual = CODES.get(command, 0)
    expected = {2 if full and code == 0 else code for code in (EITHER if command.startswith("run") else {usual})}
    assert played.code in expected, (command, played)
    if command == "run":
        newest = max(Path("results").glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
        assert json.loads(newest.read_text("utf-8"))["state"] == "complete"
        assert (newest.parent / "report.html").is_file()


def test_every_verb_is_played() -> None:
    assert {words[0] for words in COMMANDS.values() if words and not words[0].startswith("-")} == {*app.VERBS}


def can_write(sign: str, encoding: str) -> bool:
    try:
        return bool(sign.encode(encoding))
    except UnicodeEncodeError:
        return False


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "ascii", "shift_jis"])
def test_in_every_encoding_each_command_does_the_same(encoding: str, url: str) -> None:
    for command in COMMANDS:
        played = play(command, url, encoding=encoding)
        assert_usual(command, played)
        out, err = played.out.decode(encoding), played.err.decode(encoding)
        assert command in MARKDOWN or [line for line in out.splitlines() if line != line.rstrip()] == [], command
        assert not re.search(r"\\u(?!4f60|597d)", out + err) or "JSON" in command, (
            command,
            "a sign of ours is spelled",
        )
        if "JSON" in command:
            assert json.loads(out)
        if command == "report":
            assert ("TTFT ≤ 60 ms" if can_write("≤", encoding) else "TTFT <= 60 ms") in out


# --- streams ----------------------------------------------------------------------------------------------------------

SILENT: Final = {"a scenario that is not there", "a flag that is not there", "a server that is not there"}
"""Commands that print nothing on standard output."""


@pytest.mark.parametrize(
    ("out", "err"),
    [("full", "file"), ("file", "full"), ("left", "left"), ("head", "file")],
)
def test_streams_that_take_nothing_change_nothing(out: str, err: str, url: str) -> None:
    if "full" in (out, err) and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    for command in COMMANDS.keys() - {"compare as JSON", "compare as Markdown", "capacity as JSON"}:
        played = play(command, url, out, err)
        prints = command not in SILENT
        assert_usual(command, played, full=out == "full" and prints)
        if (out, err) == ("full", "file"):
            assert (b"the output is incomplete (No space left on device)" in played.err) == prints, command
        if out == "file" and prints:
            assert played.out, command


PLAY: Final = """
import json, sys
from tests.integration.cli import test_surroundings as surroundings
folder, url = sys.argv[1:]
surroundings.take_the_place_of_servers(setattr)
codes = {}
for name in surroundings.COMMANDS:
    sys.argv = ["loadgen", *surroundings.words_of(name, url)]
    try:
        surroundings.app.main()
    except SystemExit as end:
        codes[name] = int(end.code)
with open(f"{folder}/codes.json", "w", encoding="ascii") as file:
    json.dump(codes, file)
"""
PROCESSES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "no standard streams": ('exec "$@" <&- >&- 2>&-', {}),
    "a locale without an encoding": (
        'exec "$@"',
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    ),
}


@pytest.mark.parametrize("state", PROCESSES)
def test_whatever_the_interpreter_makes_of_its_streams_each_command_does_the_same(
    state: str, url: str, folder: Path, tmp_path: Path
) -> None:
    shell, variables = PROCESSES[state]
    words = ["sh", "-c", shell, "sh", sys.executable, "-c", PLAY, str(tmp_path), url]
    environment = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[3])}
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        subprocess.run(words, cwd=folder, env=environment, timeout=120, check=True, stdout=out, stderr=err)
    codes = json.loads((tmp_path / "codes.json").read_text("ascii"))
    played = {name: Played(code) for name, code in codes.items()}
    assert played.keys() == set(COMMANDS)
    for name, each in played.items():
        assert_usual(name, each)
    texts = b"".join((tmp_path / name).read_bytes() for name in ("out", "err"))
    assert b"Traceback" not in texts and b"Exception ignored" not in texts


# --- terminals --------------------------------------------------------------------------------------------------------

TERMINALS: Final[dict[str, tuple[int, dict[str, str]]]] = {
    "no terminal, but a width": (0, {"TERM": "dumb", "COLUMNS": "40"}),
    "40, color": (40, {"TERM": "xterm-256color"}),
    "40, no color": (40, {"TERM": "xterm-256color", "NO_COLOR": "1"}),
    "60, dumb": (60, {"TERM": "dumb"}),
    "80, no TERM": (80, {}),
    "120, color": (120, {"TERM": "screen"}),
    "200, no color": (200, {"TERM": "linux", "NO_COLOR": "1"}),
}
PLACES: Final = ("report: ", "selection: ", "comparison: ", "stored in ", "wrote ", "http://")
"""What lines begin with that name a file, an address or a command: they are for copying, and so never wrapped."""
_CODE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NUMBER: Final = re.compile(r"\d[\d.,]*\d|\d")
_ALWAYS_OTHERS: Final = {"plan", "run", "mock", "serve"}
"""Commands whose numbers are others each time, or long enough to be broken (a digest)."""


@functools.cache
def text_in_a_file(command: str, url: str) -> str:
    """What a command prints where lines may be as long as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        return play(command, url).out.decode()


@pytest.mark.parametrize("terminal", TERMINALS)
def test_on_a_terminal_no_line_is_wider_than_it_is_and_no_number_is_cut(
    terminal: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, variables = TERMINALS[terminal]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for command in TEXTS:
        played = play(command, url, columns or "file", columns or "file")
        assert_usual(command, played)
        text = played.out.decode()
        assert "\x1b" not in text or ("NO_COLOR" not in variables and variables.get("TERM") != "dumb"), command
        lines = [line for line in _CODE.sub("", text).splitlines() if not line.startswith(PLACES)]
        assert [line for line in lines if cell_len(line) > (columns or 40)] == [], command
        if command not in _ALWAYS_OTHERS:
            assert {*_NUMBER.findall("\n".join(lines))} <= {*_NUMBER.findall(text_in_a_file(command, url))}, command


# --- homes ------------------------------------------------------------------------------------------------------------


def nobody(_: int) -> None:
    raise KeyError("getpwuid(): uid not found")


@pytest.mark.parametrize("home", ["none", "/nonexistent", "read-only cache"])
def test_without_a_home_or_a_cache_each_command_goes_on(home: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("LOADGEN_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home == "read-only cache":
        monkeypatch.setenv("LOADGEN_CACHE_DIR", "/dev/null/loadgen")
    elif home != "none":
        monkeypatch.setenv("HOME", "/dev/null/home")
    for command in (*TEXTS, "run that asks what its server does"):
        played = play(command, url)
        if not command.startswith("calibrate"):
            assert_usual(command, played)
            continue
        assert (played.code, played.err.count(b"\n")) == (2, 1), played
        assert played.err.startswith(b"loadgen: ")
        assert (b"streams" in played.out) == (command == "calibrate"), "what was measured is printed"
