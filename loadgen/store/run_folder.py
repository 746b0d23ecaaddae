"""The run folder: what a run leaves on disk, and reading it back. Knows no sockets, no statistics and no terminal."""

import contextlib
import errno
import heapq
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec
from msgspec import Struct

from loadgen.errors import FolderError, InputError, SinkError
from loadgen.record import Record, StageFacts
from loadgen.redact import redact_key_bytes
from loadgen.store.files import write_whole
from loadgen.store.manifest import SCHEMA, Manifest, manifest_from
from loadgen.store.segments import DAMAGED, EndedLine, logs_in, open_files

MANIFEST: Final = "manifest.json"
REQUESTS: Final = "requests.jsonl"
STAGES: Final = "stages.jsonl"
PROMPTS: Final = "prompts.jsonl"
SEARCH_PREFIX: Final = "capacity-"
"""The prefix of the name of a search's folder."""
PARTS: Final = "requests.w*.jsonl"
"""The logs of workers during a run; they are joined at its end."""

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

Line = TypeVar("Line", bound=Struct)


class SentPrompt(Struct, frozen=True):
    """A prompt with its text: a line of `prompts.jsonl`, which a run has if its answers are kept."""

    id: str
    text: str
    """As it was sent; of a recorded chat, all messages that have text."""
    key_points: tuple[str, ...] = ()
    """The points that a good answer mentions."""


class Run(Struct, frozen=True):
    """A run as read back from its folder. torn: lines of the logs that were cut off and could not be read."""

    folder: Path
    manifest: Manifest
    records: tuple[Record, ...]
    facts: tuple[StageFacts, ...]
    torn: int = 0
    prompts: tuple[SentPrompt, ...] = ()
    """Empty if the run did not keep them."""


def create(results: Path, scenario: str, started: datetime, tag: str, prefix: str = "") -> Path:
    """Make a new folder `results/<scenario>/<prefix><UTC time>-<tag>`; two runs never share a folder.

    Raises InputError if the folder cannot be made.
    """
    stem = f"{prefix}{started:%Y%m%dT%H%M%SZ}-{tag}"
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
    raise InputError(f"{parent}: there are already a thousand runs of this second; give another --out")


def no_longer_written(folder: Path, error: OSError) -> FolderError:
    """The error of a run that can no longer write to its folder, in one line that says how to fix it."""
    if error.errno in _GONE:
        why = "is gone: it was removed or moved while the run was on; run again, and leave it there until the end"
        return FolderError(f"{folder}: {why}", folder)
    saved = "what was measured until then is kept"
    if error.errno in NO_SPACE:
        return FolderError(f"{folder}: no space left on the device; {saved}; free some space and run again", folder)
    reason = error.strerror or error
    return FolderError(f"{folder}: cannot be written any more ({reason}); {saved}; fix that and run again", folder)


@contextlib.contextmanager
def ungroup_errors() -> Iterator[None]:
    """Raise a FolderError or a SinkError by itself and not in a group, even if several tasks of a group raised one."""
    try:
        yield
    except BaseExceptionGroup as group:
        met, others = group.split((FolderError, SinkError))
        if met is None or others is not None:
            raise
        first: BaseException = met
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__  # and not from the group


class Log:
    """An append-only file of lines. Each line is handed to the system at once, so it survives if we are killed.

    Raises FolderError if the file cannot be opened or written: a full disk, or a folder that is gone.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._encode = msgspec.json.Encoder().encode
        self.size = 0
        """How many bytes this object has written."""
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise no_longer_written(self._folder, error) from error

    def append(self, *values: Struct) -> None:
        """Write a line for each value, all of them at once."""
        self.write(b"".join(redact_key_bytes(self._encode(value)) + b"\n" for value in values))

    def write(self, lines: bytes) -> None:
        """Write lines that are encoded already."""
        rest = memoryview(lines)
        try:
            while rest:  # a disk that is almost full accepts a part, and refuses only the rest
                rest = rest[self._file.write(rest) :]
            if os.fstat(self._file.fileno()).st_nlink == 0:  # a removed file accepts bytes that nobody can read
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            raise no_longer_written(self._folder, error) from error
        self.size += len(lines)

    def close(self) -> None:
        self._file.close()


class RequestLog:
    """The sink that writes a run's records, one line per attempt. It comes first, so that other sinks get a record only
    after it is on disk."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path)

    @property
    def size(self) -> int:
        """How many bytes have been written; they end with a complete line."""
        return self._log.size

    def start(self, stage: object) -> None:
        """Does nothing, because each record names its stage."""

    def record(self, record: Record) -> None:
        self._log.append(record)

    def retry(self, record: Record) -> None:
        self._log.append(record)

    def stop(self, facts: StageFacts) -> None:
        """Does nothing, because facts have their own log."""

    def close(self) -> None:
        self._log.close()


class StageLog:
    """The sink that writes the facts of a run's stages, one line per stage."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path)

    def start(self, stage: object) -> None:
        """Does nothing, because there are no facts yet."""

    def record(self, record: Record) -> None:
        """Does nothing, because records have their own log."""

    def retry(self, record: Record) -> None:
        """Does nothing, as `record`."""

    def stop(self, facts: StageFacts) -> None:
        self._log.append(facts)

    def close(self) -> None:
        self._log.close()


def write_prompts(folder: Path, prompts: Iterable[SentPrompt]) -> None:
    """Write the prompts of a run, which are then data as its records are. Raises FolderError."""
    log = Log(folder / PROMPTS)
    with contextlib.closing(log):
        for prompt in prompts:
            log.append(prompt)


def part_name(serial: int) -> str:
    """The name of a worker's log. serial: the number of the worker among all that the run started, so that no two
    workers share a log."""
    return f"requests.w{serial}.jsonl"


def join_parts(folder: Path) -> None:
    """Join the logs of a run's workers into its log of requests, in the order in which requests ended. If it is
    interrupted, either all parts remain or the joined log exists; any remaining parts are then duplicates."""
    parts = sorted(folder.glob(PARTS))
    if not parts and (folder / REQUESTS).exists():
        return
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        write_whole(
            folder / REQUESTS, (line for _, line in heapq.merge(*map(_timed, files), key=lambda timed: timed[0]))
        )
    for part in parts:
        part.unlink()


def logs_of(folder: Path) -> list[Path]:
    """The logs with the records of a run: its log, or those of its workers if they have not been joined. Each may have
    been split into segments (`loadgen.store.segments`)."""
    logs = logs_in(folder)
    return [folder / REQUESTS] if folder / REQUESTS in logs else logs


def _timed(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of one log, each with the time at which its request ended, or was due if it was never sent."""
    decoder = msgspec.json.Decoder(EndedLine)
    moment_ns = 0
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a torn line is kept, to be counted
            moment_ns = decoder.decode(line).at_ns
        yield moment_ns, line if line.endswith(b"\n") else line + b"\n"


def runs_of(folder: Path) -> list[Path]:
    """The run folders in a scenario's folder, oldest first."""
    try:
        folders = [path for path in folder.iterdir() if (path / MANIFEST).is_file()]
        # The name of a search has a word before its time.
        return sorted(folders, key=lambda path: (path.name.removeprefix(SEARCH_PREFIX), path.name))
    except OSError:
        return []


def run_folder_at(path: Path) -> Path:
    """The run folder that a path names: itself, or the newest of a scenario. Raises InputError if there is none."""
    try:
        if (path / MANIFEST).is_file():
            return path
    except OSError as error:  # a folder of somebody else
        raise _unreadable(path, error) from error
    newest = runs_of(path)
    if newest:
        return newest[-1]
    raise InputError(f"{path}: not a run folder; give a folder with a {MANIFEST}, such as those under results/")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run folder. Raises InputError if it is not a run folder, or is of another version."""
    manifest_path = folder / MANIFEST
    try:
        raw = manifest_path.read_bytes()
    except OSError as error:
        message = f"not a run folder ({MANIFEST}: {error.strerror})"
        raise InputError(f"{folder}: {message}; give one under results/") from error
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
        if schema != SCHEMA:
            raise InputError(
                f"{manifest_path}: schema is {schema!r}, this loadgen reads {SCHEMA!r}; use the other version"
            )
        return manifest_from(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{manifest_path}: not a manifest ({error}); is the folder damaged?") from error


def read(folder: Path) -> Run:
    """Read a run folder, complete or not. Raises InputError as `read_manifest` does."""
    manifest = read_manifest(folder)
    records, torn_records = _with_torn(records_in(folder))
    facts, torn_facts = _read_lines(folder / STAGES, StageFacts)
    torn = torn_records + torn_facts
    return Run(
        folder, manifest, tuple(records), tuple(facts), torn, tuple(_read_lines(folder / PROMPTS, SentPrompt)[0])
    )


def records_in(folder: Path) -> Iterator[Record | None]:
    """The records of a run, one at a time, each log from its oldest segment on; None for each line that cannot be read.

    A segment that was removed to save disk is passed over. Raises InputError for a file that cannot be opened.
    """
    decoder = msgspec.json.Decoder(Record)
    for log in logs_of(folder):
        try:
            for file in open_files(log):
                yield from decoded_lines(file, decoder)
        except OSError as error:
            raise _unreadable(log, error) from error


class _Schema(Struct, frozen=True):
    schema: str


def _read_lines(path: Path, kind: type[Line]) -> tuple[list[Line], int]:
    """The lines of a log, and how many could not be read, because a killed run may leave a torn last line."""
    try:
        with path.open("rb") as file:
            return _with_torn(decoded_lines(file, msgspec.json.Decoder(kind)))
    except FileNotFoundError:
        return [], 0
    except OSError as error:  # a file of somebody else, or a disk that fails
        raise _unreadable(path, error) from error


def decoded_lines(file: IO[bytes], decoder: "msgspec.json.Decoder[Line]") -> Iterator[Line | None]:
    """The lines of an open file; None for each that cannot be read."""
    try:
        for line in file:
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                yield None
    except DAMAGED:  # nothing after this place can be decompressed
        yield None


def _with_torn(lines: Iterable[Line | None]) -> tuple[list[Line], int]:
    """The lines that could be read, and how many could not."""
    readable: list[Line] = []
    torn = 0
    for line in lines:
        if line is None:
            torn += 1
        else:
            readable.append(line)
    return readable, torn


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror or error}); fix that, or name another run")
