"""A page's template is compiled once by the tests of a process, whether or not Python may store compiled files."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment


def compiled_once(compile_template: Callable[..., Any]) -> Callable[..., Any]:
    """`Environment.compile`, which gives the same code again for the same file with the same source. Templates that
    are in no file, as those of chats are, are compiled each time: their environments differ."""
    known: dict[tuple[str, str], Any] = {}

    def compile_once(
        environment: Environment, source: str, name: str | None = None, filename: str | None = None, **more: Any
    ) -> Any:
        if filename is None or more:
            return compile_template(environment, source, name, filename, **more)
        if (source, filename) not in known:
            known[source, filename] = compile_template(environment, source, name, filename)
        return known[source, filename]

    return compile_once
