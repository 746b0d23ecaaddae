"""Reads the API keys of the environment, and masks them in every text. Knows no request and no run.

A key comes from a variable, or from a file that a variable names; never from a scenario, a flag or a run folder.
"""

import contextlib
import html
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

from loadgen.errors import InputError

VARIABLE: Final = "LOADGEN_API_KEY"
FILE_VARIABLE: Final = "LOADGEN_API_KEY_FILE"
OTHER_VARIABLE: Final = "OPENAI_API_KEY"
SHORTEST_CHARS: Final = 16
"""Shorter keys are not masked. They are placeholders ("none", "ollama"), and any answer may contain such words."""
SHORTEST_PROTECTED_CHARS: Final = 6
"""The shortest value that is masked if the user named its variable as a secret. Shorter ones occur in any text."""
MAX_BYTES: Final = 8192
BLOT: Final = "***"
_protected: Final[set[str]] = set()
_OPAQUE: Final = re.compile(r"(?=[A-Za-z+/=]*[0-9])(?=[0-9+/=]*[A-Za-z])[A-Za-z0-9+/=]{20,}")
_SECRET_NAME: Final = re.compile(
    r"(?:.*[_-])?(?:(?:api|access|subscription)?-?key|authorization|auth|bearer|cookie|password|passwd|pwd|secret|"
    r"token|sig|signature|code|credentials?|sas)",
    re.IGNORECASE,
)


def api_key(variables: Mapping[str, str]) -> str | None:
    """The key to send: from LOADGEN_API_KEY, from the file that LOADGEN_API_KEY_FILE names, or from OPENAI_API_KEY.

    Surrounding white space is removed, and an empty variable counts as not set. Raises InputError, which names the
    variable or the file but never the key, if the file cannot be read, both variables are set, or a header cannot carry
    the key.
    """
    own, file = (variables.get(name, "").strip() for name in (VARIABLE, FILE_VARIABLE))
    if own and file:
        raise InputError(f"{VARIABLE} and {FILE_VARIABLE} are both set; unset one of them")
    if file:
        return _fit(_in_file(Path(file)), f"{FILE_VARIABLE}={file}")
    for name in (VARIABLE, OTHER_VARIABLE):
        if key := variables.get(name, "").strip():
            return _fit(key, name)
    return None


def is_secret_name(name: str) -> bool:
    """Whether the name of a header or a parameter suggests a secret: `api-key`, `Cookie`, `sig`."""
    return _SECRET_NAME.fullmatch(name) is not None


def looks_secret(value: str) -> bool:
    """Whether a value looks like a key, under any name: a long run of letters and digits, or credentials."""
    return _OPAQUE.search(value) is not None or re.match(r"(?:bearer|basic)\s+\S", value, re.IGNORECASE) is not None


def protect_variable(name: str) -> None:
    """From now on, mask the value of an environment variable as an API key is masked."""
    _protected.add(name)


def redact_keys(text: str) -> str:
    """A text with the keys of the environment masked, in any case, and also in the forms of JSON, HTML and URLs."""
    if len(text) < SHORTEST_PROTECTED_CHARS:
        return text
    wanted = _search()
    # Few texts contain a key, so a fast check comes before the regular expression.
    if wanted is None or not any(form in text.lower() for form in wanted[0]):
        return text
    return wanted[1].sub(BLOT, text)


def redact_key_bytes(data: bytes) -> bytes:
    """As `redact_keys`, for bytes in an encoding that extends ASCII."""
    wanted = _search()
    if wanted is None or not any(form.encode() in data.lower() for form in wanted[0]):
        return data
    return wanted[1].sub(BLOT, data.decode("latin-1")).encode("latin-1")


def guard_tracebacks() -> None:
    """Mask keys in the traceback of every uncaught exception, also in threads and tasks. For processes of our own."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not SystemExit:
            sys.stderr.write(redact_keys("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
    threading.excepthook = lambda failure: show(failure.exc_type, failure.exc_value, failure.exc_traceback)
    if logging.lastResort is not None:  # asyncio reports the exception of a task there
        logging.lastResort.setFormatter(_WithoutKeys())


class _WithoutKeys(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact_keys(super().format(record))


def _in_file(path: Path) -> str:
    hint = "write the key into it, and nothing else"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path"
        raise InputError(f"{FILE_VARIABLE}={path}: cannot be read ({reason}); name a file that holds the key") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{FILE_VARIABLE}={path}: more than {MAX_BYTES} bytes, so not a key; {hint}")
    text = data.decode("utf-8-sig", "replace").strip()
    if not text:
        raise InputError(f"{FILE_VARIABLE}={path}: empty; {hint}")
    return text


def _fit(key: str, where: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        message = "a key may not have spaces, line breaks or non-ASCII characters"
        raise InputError(f"{where}: {message}; set the key alone")
    return key


def _search() -> tuple[tuple[str, ...], re.Pattern[str]] | None:
    """The lower-case forms of all keys that are set, and one pattern for all of them; None if no key is set."""
    values = tuple(os.environ.get(name, "") for name in (VARIABLE, FILE_VARIABLE, OTHER_VARIABLE))
    return _search_for(values, tuple(os.environ.get(name, "").strip() for name in sorted(_protected)))


@lru_cache(maxsize=8)
def _search_for(values: tuple[str, ...], protected: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str]] | None:
    own, file, other = (value.strip() for value in values)
    keys = [own, other]
    if file:
        with contextlib.suppress(InputError):  # a key that cannot be read is never sent
            keys.append(_in_file(Path(file)))
    keys = [key for key in keys if len(key) >= SHORTEST_CHARS]
    keys += [key for key in protected if len(key) >= SHORTEST_PROTECTED_CHARS]
    forms = {form for key in keys for form in _forms(key)}
    if not forms:
        return None
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    pattern = re.compile("|".join(re.escape(form) for form in longest_first), re.IGNORECASE)
    return tuple({form.lower() for form in longest_first}), pattern


def _forms(key: str) -> set[str]:
    in_json = key.replace("\\", "\\\\").replace('"', '\\"')
    return {key, in_json, html.escape(key), quote(key, safe="")}


def printable(text: str) -> str:
    """Text with keys masked and control characters replaced, including those that change the direction of writing, so
    that text from a server cannot control the terminal or disguise itself."""
    safe = redact_keys(text)
    return safe if safe.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in safe)


def redact_url(text: str) -> str:
    """The text without the user, password and query of any address in it, even one without `http://`."""
    text = re.sub(r"://\S*@", "://…@", text)
    text = re.sub(r"(?<=-url )(?!\w+://)\S*@", "…@", text)
    text = re.sub(r"(?<![^\s\"'=])[^\s\"'=@]*:(?!//)[^\s\"'@]*@", "…@", text)
    return re.sub(r"(://[^\s?]*|(?<![^\s\"'=])[^\s?\"']*[:/][^\s?\"']*)\?[^\s\"]*[^\s\":;]", r"\1?…", text)


def escape_control(text: str) -> str:
    """The text with its control characters, line breaks and lone surrogates as escapes: safe on any terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
