"""The user's own headers: parses the flag, checks headers, and looks up their values.

A value from the environment is a secret: loadgen sends it, and masks it everywhere else.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from loadgen.errors import InputError
from loadgen.redact import is_secret_name, looks_secret, protect_variable
from loadgen.scenario.header_types import HeaderFromEnvironment, Headers
from loadgen.scenario.problem import Problem, key_path
from loadgen.scenario.types import RawTable

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS: Final = frozenset(
    (
        *("host", "content-length", "content-type", "content-encoding", "accept", "accept-encoding"),
        *("transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"),
        *("proxy-authorization", "proxy-connection"),
    )
)
"""The headers that the connection, the body and its framing need; loadgen sets them itself."""
_REFERENCE: Final = re.compile(r"([^$]*)\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SHOWN: Final = "--header 'Name: value', or 'Name: $VARIABLE' for a secret"
_SHORTEST_CHARS: Final = 8
"""Shorter values of variables would match by chance."""


def parse_header(text: str, variables: Mapping[str, str]) -> tuple[str, str | RawTable]:
    """Name and value of `Name: value`, as a scenario writes them. The value refers to a variable if it is `$VARIABLE`,
    or if it equals the value of one, because the shell may already have replaced the variable. Raises InputError that
    repeats no value."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not _NAME.fullmatch(name):
        raise InputError(f"--header: not of the form NAME: VALUE; write {_SHOWN}")
    if reference := _REFERENCE.fullmatch(value):
        prefix = {"prefix": reference[1]} if reference[1] else {}
        return name, {"env": reference[2] or reference[3], **prefix}
    scheme, blank, secret = value.rpartition(" ")
    if is_secret_name(name) or looks_secret(value):
        for whole, prefix_text in ((value, ""), (secret, f"{scheme}{blank}")):
            variable = _variable_of(whole, variables)
            if variable is not None:
                return name, {"env": variable, **({"prefix": prefix_text} if prefix_text else {})}
    return name, value


def _variable_of(value: str, variables: Mapping[str, str]) -> str | None:
    if len(value) < _SHORTEST_CHARS:
        return None
    return next((name for name in sorted(variables) if variables[name].strip() == value), None)


def conflicts_of_headers(headers: Headers, path: str) -> Iterator[Problem]:
    """Everything wrong with a scenario's headers. No message repeats a literal secret."""
    lower = [name.lower() for name in headers]
    for name, value in headers.items():
        where = key_path(path, name)
        if not _NAME.fullmatch(name):
            yield Problem(path, f'"{name}" is not a valid header name', 'write e.g. { "x-tenant" = "a" }')
        elif name.lower() in _OURS:
            yield Problem(where, "loadgen sets this header itself", "leave it out")
        elif lower.count(name.lower()) > 1:
            yield Problem(where, "the same header is given twice", "leave one out")
        text = value.prefix if isinstance(value, HeaderFromEnvironment) else value
        if not re.fullmatch(r"[\x20-\x7e]*", text):
            message = "a header's value may not have line breaks, control characters or non-ASCII characters"
            yield Problem(where, message, "leave them out", is_secret=True)
        elif isinstance(value, str) and value and (is_secret_name(name) or looks_secret(value)):
            hint = "put it into a variable of the environment and write { env = \"NAME\" }, or --header 'Name: $NAME'"
            yield Problem(where, "a secret in a scenario would be written to files", hint, is_secret=True)


def header_values(headers: Headers, variables: Mapping[str, str]) -> dict[str, str]:
    """The headers ready to be sent. Raises InputError, which names the variable, if a variable is not set."""
    return {
        name: value if isinstance(value, str) else f"{value.prefix}{_value_of(name, value.env, variables)}"
        for name, value in headers.items()
    }


def protect_headers(headers: Headers) -> None:
    """From now on, mask the values that these headers take from the environment."""
    for value in headers.values():
        if isinstance(value, HeaderFromEnvironment):
            protect_variable(value.env)


def _value_of(name: str, variable: str, variables: Mapping[str, str]) -> str:
    protect_variable(variable)
    value = variables.get(variable, "").strip()
    if not value:
        raise InputError(f"{variable}: not set, and the header {name} takes its value from it; set it")
    if not re.fullmatch(r"[\x20-\x7e]+", value):
        message = "a header may not have line breaks, control characters or non-ASCII characters"
        raise InputError(f"{variable}: {message}; set the value alone")
    return value


def merge_headers(base: Headers, more: Headers) -> Headers:
    """The headers of both; if two have the same name, in any case, the one of `more`."""
    replaced = {name.lower() for name in more}
    return {**{name: value for name, value in base.items() if name.lower() not in replaced}, **more}
