"""The order in which pytest-xdist is given the tests, so that none of its workers is busy when the others have ended.

With `--dist worksteal` the first worker gets the first part of all tests, the second one the next part, and so on; one
that has nothing left takes half of what another has left, from the end. So each part begins with tests that take long
or wait, and ends with short ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar

FIRST: Final = "test_freeze.py"
"""Waits longest, for a server that stands still."""
END_TO_END: Final = "e2e"
"""The folder of tests that take seconds each, so that all workers begin with some of them."""


class HasPath(Protocol):
    """What is to be known of a test."""

    @property
    def path(self) -> Path: ...


T = TypeVar("T", bound=HasPath)


def in_parts(long: Sequence[T], short: Sequence[T], workers: int) -> Iterator[T]:
    """All tests: for each worker some long ones, by whole modules, then as many short ones as make its part."""
    rest, left = iter(short), len(long) + len(short)
    for number, own in enumerate(_dealt(long, workers)):
        yield from own
        fill = max(0, left // (workers - number) - len(own))
        yield from islice(rest, fill)
        left -= len(own) + fill
    yield from rest


def _dealt(tests: Iterable[T], workers: int) -> list[list[T]]:
    """Whole modules, each to the worker that has the fewest tests so far."""
    modules: dict[Path, list[T]] = {}
    for test in tests:
        modules.setdefault(test.path, []).append(test)
    parts: list[list[T]] = [[] for _ in range(workers)]
    for path in sorted(modules, key=lambda path: (path.name != FIRST, END_TO_END not in path.parts)):
        min(parts, key=len).extend(modules[path])
    return parts
