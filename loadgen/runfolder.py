"""The run folder: what a run leaves on disk, and reading it back. Knows no sockets, no statistics and no terminal."""

import contextlib
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import orjson
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.measure.observe import StageFacts
from loadgen.measure.record import Record

MANIFEST: Final = "manifest.json"
REQUESTS: Final = "requests.jsonl"
STAGES: Final = "stages.jsonl"
SCHEMA: Final = "loadgen.manifest/1"

Line = TypeVar("Line", bound=Struct)


class PlannedStage(Struct, frozen=True):
    """One stage of one model, as the manifest says it. planned: measured requests; None when time bounds a closed loop.
    ramp_in_ns: how long after the first user of a closed loop the last one begins."""

    model: str
    target: str
    level: str
    load: dict[str, Any]
    planned: int | None
    warmup: int
    skipped: str | None = None
    problem: str | None = None
    ramp_in_ns: int = 0


class Manifest(Struct, frozen=True, kw_only=True):
    """The circumstances of a run. state: "running" until it has ended as "complete" or "interrupted"."""

    schema: str
    run_id: str
    scenario: dict[str, Any]
    started_utc: str
    ended_utc: str | None = None
    state: str = "running"
    plan_digest: str
    stages: tuple[PlannedStage, ...]
    prompts: tuple[dict[str, Any], ...]
    stamp_source: str
    clock: dict[str, Any]
    models: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str]
    host: dict[str, Any]
    git_commit: str | None = None


class Run(Struct, frozen=True):
    """A run as read back from its folder. torn: lines of the logs that were cut off and could not be read."""

    folder: Path
    manifest: Manifest
    records: tuple[Record, ...]
    facts: tuple[StageFacts, ...]
    torn: int = 0


def create(results: Path, scenario: str, started: datetime, tag: str) -> Path:
    """Make a new folder `results/<scenario>/<UTC time>-<tag>`; two runs never share one.

    Raises InputError when it cannot be made.
    """
    stem = f"{started:%Y%m%dT%H%M%SZ}-{tag}"
    parent = results / scenario
    for attempt in range(1, 1000):
        folder = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError as error:
            if not folder.is_dir():
                raise InputError(f"{parent}: cannot hold results, it is not a folder; give another --out") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{folder}: cannot be made ({reason}); give a folder you may write with --out") from error
    raise InputError(f"{parent}: a thousand runs of this second are there already; give another --out")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_whole(path, orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


class Log:
    """An append-only file of JSON lines; a line is with the system as soon as it is written, whatever becomes of us."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode

    def append(self, value: Struct) -> None:
        self._file.write(self._encode(value) + b"\n")

    def close(self) -> None:
        self._file.close()


def read(folder: Path) -> Run:
    """Read a run folder, complete or not. Raises InputError when it is none, or of another version."""
    manifest_path = folder / MANIFEST
    try:
        raw = manifest_path.read_bytes()
    except OSError as error:
        raise InputError(f"{folder}: no run folder ({MANIFEST}: {error.strerror}); give one under results/") from error
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
        if schema != SCHEMA:
            raise InputError(f"{manifest_path}: schema is {schema!r}, this loadgen reads {SCHEMA!r}; use the other one")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{manifest_path}: not a manifest ({error}); is the folder damaged?") from error
    records, torn = _read_lines(folder / REQUESTS, Record)
    facts, torn_facts = _read_lines(folder / STAGES, StageFacts)
    return Run(folder, manifest, tuple(records), tuple(facts), torn + torn_facts)


class _Schema(Struct, frozen=True):
    schema: str


def _read_lines(path: Path, kind: type[Line]) -> tuple[list[Line], int]:
    """The lines of a log, and how many could not be read: a killed run may leave a torn last one."""
    decoder = msgspec.json.Decoder(kind)
    found: list[Line] = []
    torn = 0
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    found.append(decoder.decode(line))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    torn += 1
    except FileNotFoundError:
        pass
    return found, torn
