"""Finds a scenario file by path or name, reads it, applies flags, and checks and types it; or raises one InputError.

Knows no clock and no socket. Prompts are read by `loadgen.plan.prompts`.
"""

import contextlib
import importlib.resources
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import escape_control
from loadgen.scenario import Headers, Model, Ramp, Scenario
from loadgen.scenario.check import first_conflict, is_adapter, target_of
from loadgen.scenario.headers import merge_headers
from loadgen.scenario.overrides import Overrides, apply
from loadgen.scenario.problem import Problem, Source, input_error, suggestion
from loadgen.scenario.questions import FIRST, QUESTIONS
from loadgen.scenario.types import RawTable
from loadgen.scenario.validate import convert

SCENARIOS: Final = Path("scenarios")
"""The folder, in the current one, that is searched for a scenario of a name."""

NO_SCENARIO: Final = "adhoc"
"""The name of the built-in scenario."""
BUILT_IN: Final = "the built-in scenario"
"""What messages call it. Nobody can edit it."""
_ADHOC: RawTable = {
    "name": NO_SCENARIO,
    "description": "What `loadgen run --url URL --model NAME` plays when no scenario is named.",
    "load": {"mode": "closed", "requests": 16},
    "prompts": list(FIRST),
}


class LoadedScenario(Struct, frozen=True):
    """A scenario and where it came from."""

    scenario: Scenario
    path: Path | None
    """The file; None for the built-in scenario."""
    folder: Path
    """The folder that the paths in the scenario are relative to."""
    where: str
    """The name of the scenario in a message."""
    rounds: int | None = None
    """If given, the number of requests is the number of prompts times this, and not the load's own."""


def load_scenario(path: str | Path, overrides: Overrides | None = None) -> LoadedScenario:
    """The scenario of a path or a name (see `find_scenario`), with the flags applied.

    Each model's target is filled in, and its `llamacpp.gguf` and `python_path` are absolute. Raises InputError,
    one line, if anything is wrong; nothing has been sent by then.
    """
    file = find_scenario(path)
    raw = parse_toml(read_text(file), str(file))
    # Check the file without the flags first: its mistakes must be reported as its own, and flags need a valid table.
    convert(raw, Scenario, Source(str(file)))
    return _loaded(raw, file, file.parent, str(file), overrides)


def no_file_scenario(overrides: Overrides) -> LoadedScenario:
    """The built-in scenario, short questions, with the flags applied. Paths are relative to the current folder.

    As long as there are enough questions, a stage and its warm-up ask none of them twice, because a server may answer a
    repeated question from a cache.
    """
    # Names without an address belong to Foundry Local: no other target could resolve them.
    own = {"models": [{"name": "unnamed", "target": "foundry"}]} if overrides.listed else {}
    loaded = _loaded(_ADHOC | own, None, Path(), BUILT_IN, overrides)
    if loaded.rounds is not None:  # rounds ask each question several times
        return loaded
    load, warmup = loaded.scenario.load, loaded.scenario.warmup_requests
    requests = None if isinstance(load, Ramp) or overrides.soak is not None else load.requests
    # If only time bounds a stage, the number of its requests is not known beforehand.
    count = len(QUESTIONS) if requests is None else max(len(FIRST), requests + warmup)
    questions = list(QUESTIONS[:count])
    return _loaded(_ADHOC | own | {"prompts": questions}, None, Path(), BUILT_IN, overrides)


def find_scenario(name: str | Path) -> Path:
    """The file at that path; or, for a bare name, the file in scenarios/, in the current folder, or among the scenarios
    that come with loadgen.

    Raises InputError that names the most similar name.
    """
    if not str(name).strip():
        raise InputError("the name is empty; `loadgen scenarios` lists all scenarios")
    path = Path(name)
    if is_file(path):
        return path
    known = scenario_names()
    bare = path.name.removesuffix(".toml")
    if str(path) in (bare, f"{bare}.toml"):
        # A name may end in .toml itself: the name of the file a.toml.toml is a.toml.
        for candidate in dict.fromkeys((bare, path.name)):
            here = Path(f"{candidate}.toml")
            if is_file(here) and known.get(candidate, here).parent != SCENARIOS:
                return here
            if candidate in known:
                return known[candidate]
    if is_folder(path):
        raise InputError(f"{name}: a folder, not a scenario; name a .toml file in it")
    guess = suggestion(bare, list(known))
    hint = f"did you mean {guess}? " if guess else ""
    raise InputError(f"{name}: no such scenario; {hint}`loadgen scenarios` lists all scenarios")


def scenario_names() -> dict[str, Path]:
    """Name -> file of the scenarios in the current folder's scenarios/ and of those that come with loadgen, by name."""
    package = Path(str(importlib.resources.files("loadgen")))
    files: list[Path] = []
    # In the installed package; in the checkout that it was installed from; in the current folder. The last one wins.
    for folder in (package / "bundled" / "scenarios", package.parent / "scenarios", SCENARIOS):
        # No folders, and no pipes, because reading one would block. A broken link stays: reading it reports the error.
        files += sorted(file for file in folder.glob("*.toml") if is_file(file) or not file.exists())
    return dict(sorted({file.stem: file for file in files}.items()))


class ScenarioEntry(Struct, frozen=True):
    """A scenario that can be played by its name."""

    name: str
    path: str
    description: str
    problem: str | None = None
    """One line that says why its file cannot be read."""


def list_scenarios() -> list[ScenarioEntry]:
    """All scenarios that can be played by name. A file that is not TOML has a `problem`; keys are not checked."""
    entries = []
    for name, path in scenario_names().items():
        description, problem = "", None
        try:
            description = str(parse_toml(read_text(path), str(path)).get("description", ""))
        except InputError as error:
            problem = str(error)
        entries.append(ScenarioEntry(name, str(path), description, problem))
    return entries


def is_file(path: Path) -> bool:
    """Whether there is such a file. A path that the system refuses (too long, a loop of links) is not a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; otherwise as `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_pipe(path: Path) -> bool:
    """Whether the path is a pipe or a redirected file (`/dev/stdin`, `<(…)` of a shell); otherwise as `is_file`."""
    try:
        return path.is_fifo() or path.is_char_device() or (path.is_file() and path.parent in _DESCRIPTORS)
    except (OSError, ValueError):
        return False


STANDARD_INPUT: Final = "-"
"""In place of a file of prompts, it means standard input."""
_DESCRIPTORS: Final = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))


def is_pipe_name(name: str) -> bool:
    """Whether a name of a file of prompts leads to standard input, or to another descriptor of this process."""
    return name == STANDARD_INPUT or Path(name).parent in _DESCRIPTORS


MAX_BYTES: Final = 128 << 20
"""The largest file that is read; a trace of ten million offsets is about as long."""
_GZIP: Final = b"\x1f\x8b"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
"""How such files begin; PowerShell writes UTF-16 when `>` redirects."""


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without a byte-order mark. Raises InputError, with the line that is not UTF-8."""
    with opened(path) as file:
        is_short = os.fstat(file.fileno()).st_size <= max_bytes
        data = file.read(max_bytes + 1) if is_short else None
    if data is None or len(data) > max_bytes:
        raise InputError(f"{path}: more than {max_bytes >> 20} MiB; split it, or name another file")
    return decode_text(data, str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file, or standard input for `STANDARD_INPUT`, to read bytes from. Raises InputError if it cannot be read."""
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input: nothing is piped in; pipe a file into it, or name one")
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with file:
        try:
            yield file
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{path}: cannot be read: {reason}; fix that, or name another file")


def decode_text(data: bytes, path: str, first_line: int = 1) -> str:
    """The text of UTF-8 bytes, without a byte-order mark. first_line: the number of their first line in the file.
    Raises InputError."""
    if data.startswith(_GZIP):
        raise InputError(f"{path}: compressed with gzip; unpack it first")
    if data.startswith(_UTF_16) and b"\0" in data:
        raise InputError(f"{path}: line 1: not UTF-8 but UTF-16; save it as UTF-8")
    if (place := data.find(b"\0")) >= 0:
        line = data[:place].count(b"\n") + first_line
        raise InputError(f"{path}: line {line}: not UTF-8 text (a byte 0x00); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + first_line
        raise InputError(f"{path}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def parse_toml(text: str, where: str) -> RawTable:
    """The raw table. Raises InputError with line and column, and the line itself."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply; use fewer brackets") from None
    except ValueError as error:  # TOMLDecodeError, and int()'s own for thousands of digits
        message, _, place = str(error).rpartition(" (at ")
        lines = text.splitlines() or [""]
        position = re.match(r"line (\d+), column (\d+)", place)
        # An error at the end of the text is past its last line: report the last line.
        row, column = (int(position[1]), f", column {position[2]}") if position else (len(lines), "")
        line = lines[min(row, len(lines)) - 1].strip()
        said = _IN_WORDS.get(message, message) if isinstance(error, tomllib.TOMLDecodeError) else "a number too long"
        raise InputError(f"{where}: line {row}{column}: not TOML: {said}; fix `{escape_control(line[:60])}`") from None


_IN_WORDS = {
    "Invalid value": "not a value (put text in double quotes)",
    "Cannot overwrite a value": "the key is given twice",
    "Invalid statement": "neither key = value nor [table]",
}


def _loaded(raw: RawTable, path: Path | None, folder: Path, where: str, overrides: Overrides | None) -> LoadedScenario:
    changed, flags = apply(raw, overrides) if overrides else (raw, {})
    source = Source(where, flags)
    scenario = convert(changed, Scenario, source)
    if problem := first_conflict(scenario):
        raise input_error(source, problem)
    models = tuple(
        _resolved(model, scenario.headers, f"models[{i}]", folder, source) for i, model in enumerate(scenario.models)
    )
    rounds = overrides.rounds if overrides else None
    return LoadedScenario(msgspec.structs.replace(scenario, models=models), path, folder, where, rounds)


def _resolved(model: Model, shared: Headers, key: str, folder: Path, source: Source) -> Model:
    """The model with its target filled in, the absolute path of its weights, and the headers of all endpoints."""
    llamacpp = model.llamacpp
    if llamacpp is not None and llamacpp.gguf is not None:
        gguf = (folder / llamacpp.gguf).absolute()
        if not is_file(gguf):
            hint = "give a .gguf file, relative to the scenario, or leave gguf out for the default weights"
            raise input_error(source, Problem(f"{key}.llamacpp.gguf", f'no file "{llamacpp.gguf}" at {gguf}', hint))
        llamacpp = msgspec.structs.replace(llamacpp, gguf=str(gguf))
    headers = {} if model.url is None else merge_headers(shared, model.headers)
    resolved = msgspec.structs.replace(model, target=target_of(model), llamacpp=llamacpp, headers=headers)
    if not is_adapter(model):
        return resolved
    place = (folder / (model.python_path or "")).absolute()
    if not is_folder(place):
        hint = "give a folder, relative to the scenario, or leave python_path out for the scenario's own"
        raise input_error(source, Problem(f"{key}.python_path", f'no folder "{model.python_path}" at {place}', hint))
    return msgspec.structs.replace(resolved, python_path=str(place))
