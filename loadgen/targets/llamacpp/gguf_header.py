"""What a GGUF file says of itself: the single values of its header. Reads no weights, and needs no package for it.

The format is that of ggml's `docs/gguf.md`, versions 2 and 3: little-endian; magic, version, tensor count, then so
many (key, type, value); an array is (type, count, values).
"""

import hashlib
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

Header = dict[str, Any]

_MAGIC: Final = b"GGUF"
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES: Final = 1 << 20
_DIGEST_BYTES: Final = 1 << 20
"""How much of a model file enters its digest: the header and the first weights. All of it would take seconds."""
_DIGEST_DIGITS: Final = 16


def read_header(path: Path) -> Header:
    """Keys and their single values; arrays are skipped. Empty for a file that is no GGUF, or is cut off."""
    try:
        with path.open("rb") as file:
            return _header(file)
    except (OSError, ValueError, struct.error, UnicodeDecodeError, KeyError, RecursionError):
        return {}


def weights_of_file(path: Path) -> str | None:
    """What tells a model file apart from others: its size, and the SHA-256 of its first MiB; None if it cannot be
    read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_DIGEST_BYTES)).hexdigest()[:_DIGEST_DIGITS]
        return f"{path.stat().st_size} bytes, sha256 of the first MiB {digest}"
    except OSError:
        return None


def _header(file: BinaryIO) -> Header:
    if file.read(4) != _MAGIC:
        return {}
    _, _, count = struct.unpack("<IQQ", file.read(20))
    header: Header = {}
    for _ in range(count):
        key = _string(file)
        kind = _scalar(file, "<I")
        if kind == _ARRAY:
            _skip_array(file)
        else:
            header[key] = _string(file) if kind == _STRING else _scalar(file, _SCALARS[kind])
    return header


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    length = _scalar(file, "<Q")
    if length > _MAX_STRING_BYTES:
        raise ValueError("a string of a header is never so long")
    return file.read(length).decode("utf-8")


def _skip_array(file: BinaryIO) -> None:
    kind, count = _scalar(file, "<I"), _scalar(file, "<Q")
    if kind == _STRING:
        for _ in range(count):
            file.seek(_scalar(file, "<Q"), 1)
    elif kind == _ARRAY:
        for _ in range(count):
            _skip_array(file)
    else:
        file.seek(count * struct.calcsize(_SCALARS[kind]), 1)
