"""Headers of a person's own: how a flag writes one, what is wrong with one, and its value.

A value from the environment is a secret: it is sent, and blotted out wherever else it turns up.
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
"""What the connection, the body and its framing need: they are sent as they must be."""
_REFERENCE: Final = re.compile(r"([^$]*)\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SHOWN: Final = "--header 'Name: value', or 'Name: $VARIABLE' for a secret"
_SHORTEST_CHARS: Final = 8
"""Shorter values of variables are found by chance."""


def parse_header(text: str, variables: Mapping[str, str]) -> tuple[str, str | RawTable]:
    """Name and value of `Name: value`, as a scenario writes them. `$VARIABLE`, or a value that a variable of the
    environment has (the shell may have put it there), is the variable's. Raises InputError that repeats no value."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not _NAME.fullmatch(name):
        raise InputError(f"--header: no name and no colon in it that could be a header's; write {_SHOWN}")
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
    """What is wrong with headers as a scenario has them. A literal secret is not repeated."""
    lower = [name.lower() for name in headers]
    for name, value in headers.items():
        where = key_path(path, name)
        if not _NAME.fullmatch(name):
            yield Problem(path, f'"{name}" cannot name a header', 'write e.g. { "x-tenant" = "a" }')
        elif name.lower() in _OURS:
            yield Problem(where, "every request has this header already, as it must be", "leave it out")
        elif lower.count(name.lower()) > 1:
            yield Problem(where, "the same header stands there twice", "leave one out")
        text = value.prefix if isinstance(value, HeaderFromEnvironment) else value
        if not re.fullmatch(r"[\x20-\x7e]*", text):
            message = "a header's value has no line breaks, no control characters and nothing beyond ASCII"
            yield Problem(where, message, "write it without", is_secret=True)
        elif isinstance(value, str) and value and (is_secret_name(name) or looks_secret(value)):
            hint = "put it into a variable of the environment and write { env = \"NAME\" }, or --header 'Name: $NAME'"
            yield Problem(where, "a key in a scenario ends up in files", hint, is_secret=True)


def header_values(headers: Headers, variables: Mapping[str, str]) -> dict[str, str]:
    """Headers ready to be sent. Raises InputError, which names the variable, where the environment lacks one."""
    return {
        name: value if isinstance(value, str) else f"{value.prefix}{_value_of(name, value.env, variables)}"
        for name, value in headers.items()
    }


def protect_headers(headers: Headers) -> None:
    """From now on, blot out what these headers take from the environment."""
    for value in headers.values():
        if isinstance(value, HeaderFromEnvironment):
            protect_variable(value.env)


def _value_of(name: str, variable: str, variables: Mapping[str, str]) -> str:
    protect_variable(variable)
    value = variables.get(variable, "").strip()
    if not value:
        raise InputError(f"{variable}: not set, and the header {name} takes its value from it; set it")
    if not re.fullmatch(r"[\x20-\x7e]+", value):
        message = "it has a line break, a control character or a sign beyond ASCII in it, which no header has"
        raise InputError(f"{variable}: {message}; set the value alone")
    return value


def merge_headers(base: Headers, more: Headers) -> Headers:
    """The headers of both; of two with one name, in whatever case, that of `more`."""
    replaced = {name.lower() for name in more}
    return {**{name: value for name, value in base.items() if name.lower() not in replaced}, **more}
