"""What is wrong with something that a person wrote, as one line: where, which key, what is wrong, what would be right.

Knows no format: what is wrong with a scenario is found by `loadgen.scenario.validate` and `loadgen.scenario.file`.
"""

import difflib
import re
from collections.abc import Sequence

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import escape_control, redact_url


class Source(Struct, frozen=True):
    """Where values were written."""

    file: str
    """As a person knows it."""
    flags: dict[str, str] = {}
    """By dotted key, the flag that set it."""


class Problem(Struct, frozen=True):
    """What is wrong with one key."""

    key: str
    """Dotted and indexed, as in `models[1].url`; empty for the file as a whole."""
    message: str
    hint: str
    """What would be right."""
    is_secret: bool = False
    """What was written there is not repeated."""


def input_error(source: Source, problem: Problem) -> InputError:
    """The complaint as an error: `<file or flag>: <key>: <what>; <mend>`. What an address may hide is masked."""
    place = _place(source, problem.key)
    place = re.sub(r"(--set [^=]*)=.*", r"\1", place, flags=re.DOTALL) if problem.is_secret else place
    words = [place, problem.key, f"{problem.message}; {problem.hint}"]
    return InputError(escape_control(redact_url(": ".join(word for word in words if word))))


def toml_text(value: object) -> str:
    """A value as TOML writes it, shortened; a table or a list by its kind alone."""
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
    """The dotted key of `key` in the table at `path`; quoted where TOML would have to."""
    name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
    return f"{path}.{name}" if path else name


def _place(source: Source, key: str) -> str:
    """The flag that set the key or a table around it; else the file."""
    prefix = key
    while prefix:
        if prefix in source.flags:
            return source.flags[prefix]
        prefix = prefix[: max(prefix.rfind("."), prefix.rfind("["), 0)]
    if key.startswith("load."):  # missing, or out of place, since a flag changed the kind of load
        return source.flags.get("load.mode", source.file)
    return source.file
