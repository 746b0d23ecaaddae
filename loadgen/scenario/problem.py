"""The form of an error message about input: one line with the place, the key, what is wrong, and how to fix it.

Knows no format: `loadgen.scenario.validate` and `loadgen.scenario.file` find what is wrong with a scenario.
"""

import difflib
import re
from collections.abc import Sequence

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import escape_control, redact_url


class Source(Struct, frozen=True):
    """The file and the flags that values come from."""

    file: str
    """The file's name for a message."""
    flags: dict[str, str] = {}
    """The flag that set a key, by dotted key."""


class Problem(Struct, frozen=True):
    """What is wrong with one key."""

    key: str
    """Dotted and indexed, as in `models[1].url`; empty for the file as a whole."""
    message: str
    hint: str
    """How to fix it."""
    is_secret: bool = False
    """Whether the value is a secret, which the message must not repeat."""


def input_error(source: Source, problem: Problem) -> InputError:
    """The problem as an error: `<file or flag>: <key>: <message>; <hint>`, with credentials in addresses masked."""
    place = _place(source, problem.key)
    place = re.sub(r"(--set [^=]*)=.*", r"\1", place, flags=re.DOTALL) if problem.is_secret else place
    words = [place, problem.key, f"{problem.message}; {problem.hint}"]
    return InputError(escape_control(redact_url(": ".join(word for word in words if word))))


def toml_text(value: object) -> str:
    """A value as TOML writes it, shortened; "a table" or "a list" in place of its contents."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
        case dict():
            return "a table"
        case list():
            return "a list"
    return str(value)[:60]


def any_of(words: Sequence[str]) -> str:
    """Words in double quotes, with "or" before the last."""
    quoted = [f'"{word}"' for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def suggestion(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant, or None."""
    close = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.7)
    return next((name for name in known if close and name.lower() == close[0]), None)


def key_path(path: str, key: str) -> str:
    """The dotted key of `key` in the table at `path`; quoted if TOML requires it."""
    name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
    return f"{path}.{name}" if path else name


def _place(source: Source, key: str) -> str:
    """The flag that set the key, a table that contains it or a key within it; otherwise the file."""
    prefix = key
    while prefix:
        if prefix in source.flags:
            return source.flags[prefix]
        prefix = prefix[: max(prefix.rfind("."), prefix.rfind("["), 0)]
    for flagged, flag in source.flags.items():  # the file was right before a flag set a key within this table
        if key and flagged.startswith(f"{key}."):
            return flag
    if key.startswith("load."):  # a flag that changed the mode may be why the key is missing or out of place
        return source.flags.get("load.mode", source.file)
    return source.file
