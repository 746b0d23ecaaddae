"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import orjson

from loadgen.redact import redact_key_bytes


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file, at once or in pieces, so that it appears whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([redact_key_bytes(data)] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def write_all(folder: Path, contents: Mapping[str, Callable[[], bytes]]) -> tuple[tuple[str, ...], str]:
    """Write files by name, and skip those that cannot be written. Returns their names, and why the last of them was not
    written."""
    unwritten, reason = [], ""
    for name, content in contents.items():
        try:
            write_whole(folder / name, content())
        except OSError as error:
            unwritten.append(name)
            reason = error.strerror or str(error)
    return tuple(unwritten), reason


def write_to(path: Path, data: bytes) -> None:
    """Write to a place that a person named: a file, or what a link leads to, whole or not at all; a device or a
    pipe as it is, since it must not be replaced by a file."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(redact_key_bytes(data))
    else:
        write_whole(Path(os.path.realpath(path)), data)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_whole(path, json_document(value))


def json_document(value: object) -> bytes:
    """A value as indented JSON, in the form that our files have."""
    built_in = msgspec.to_builtins(value)
    return orjson.dumps(built_in, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
