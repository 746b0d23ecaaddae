"""Coverage-guided search for bytes that break a law. Knows no reader: a function, seeds and words.

A case that reaches a step from line to line that none before it did is kept, and later ones are made of those that were
kept. Everything is drawn from the seed: the same count of cases is the same cases.
"""

import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

from msgspec import Struct

MOST_BYTES: Final = 1000
"""The longest case that is made."""

Edge = tuple[str, int, int]


class Failure(Struct, frozen=True):
    """A case that broke the law, made as short as it could be, and the end of the traceback."""

    data: bytes
    why: str


class Found(Struct):
    """What a search came to. cases: tried. corpus: kept, in their order. edges: steps from line to line seen."""

    cases: int = 0
    corpus: list[bytes] = []
    edges: set[Edge] = set()
    failure: Failure | None = None


class Search:
    """A search, which goes on for as long as `step` is called; it ends at the first failure."""

    def __init__(
        self,
        check: Callable[[bytes], None],
        modules: tuple[ModuleType, ...],
        seeds: tuple[bytes, ...],
        words: tuple[bytes, ...],
        read: Callable[[bytes], object] | None = None,
        seed: int = 0,
    ) -> None:
        self._check, self._read = check, read
        self._files = frozenset(str(module.__file__) for module in modules)
        self._words = words
        self._random = random.Random(seed)
        self._waiting = list(seeds)
        self.found = Found(corpus=[], edges=set())

    def step(self) -> bool:
        """Try one case; returns whether the law held."""
        data = self._waiting.pop() if self._waiting else self._made()
        self.found.cases += 1
        seen: set[Edge] = set()
        try:
            with _watching(self._files, seen):
                (self._read or self._check)(data)
            if self._read is not None:
                self._check(data)
        except Exception:  # noqa: BLE001 - whatever a reader raises is what is looked for
            self.found.failure = Failure(self._shortened(data), traceback.format_exc(limit=-3))
            return False
        if not seen <= self.found.edges:
            self.found.edges |= seen
            self.found.corpus.append(data)
        return True

    def _made(self) -> bytes:
        """A new case of one that was kept, by one to five changes; now and then any bytes at all."""
        chance, corpus = self._random, self.found.corpus
        if not corpus or chance.random() < 0.02:
            return chance.randbytes(chance.randrange(80))
        data = chance.choice(corpus)
        for _ in range(chance.randint(1, 5)):
            data = chance.choice(CHANGES)(data, chance, self._words, corpus)
        return data[:MOST_BYTES]

    def _shortened(self, data: bytes) -> bytes:
        """The same failure with fewer bytes: parts of it are left out as long as the law is still broken."""
        size = max(1, len(data) // 2)
        while size:
            at = 0
            while at < len(data):
                shorter = data[:at] + data[at + size :]
                if self._breaks(shorter):
                    data = shorter
                else:
                    at += size
            size //= 2
        return data

    def _breaks(self, data: bytes) -> bool:
        try:
            self._check(data)
        except Exception:  # noqa: BLE001
            return True
        return False


@contextmanager
def _watching(files: frozenset[str], seen: set[Edge]) -> Iterator[None]:
    """Notes each step from line to line in these files. Line events alone, so it is the same on every Python."""

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        before = 0

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "line":
                seen.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    outer = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(outer)


# Changes


Change = Callable[[bytes, random.Random, tuple[bytes, ...], list[bytes]], bytes]


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 1, 2, 4, 8, 32, 128)))


def flip(data: bytes, chance: random.Random, *_: Any) -> bytes:
    at, _end = _span(data, chance)
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if at < len(data) else data


def set_byte(data: bytes, chance: random.Random, *_: Any) -> bytes:
    at, _end = _span(data, chance)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def drop(data: bytes, chance: random.Random, *_: Any) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def repeat(data: bytes, chance: random.Random, *_: Any) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 9)) + data[end:]


def put_word(data: bytes, chance: random.Random, words: tuple[bytes, ...], *_: Any) -> bytes:
    at, _end = _span(data, chance)
    return data[:at] + chance.choice(words) + data[at:]


def write_word(data: bytes, chance: random.Random, words: tuple[bytes, ...], *_: Any) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + chance.choice(words) + data[end:]


def splice(data: bytes, chance: random.Random, _words: tuple[bytes, ...], corpus: list[bytes]) -> bytes:
    other = chance.choice(corpus)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def cut(data: bytes, chance: random.Random, *_: Any) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def other_line_ends(data: bytes, chance: random.Random, *_: Any) -> bytes:
    return data.replace(b"\n", chance.choice((b"\r\n", b"\r", b"\n\n")))


CHANGES: Final[tuple[Change, ...]] = (
    flip,
    set_byte,
    drop,
    repeat,
    put_word,
    put_word,
    write_word,
    splice,
    cut,
    other_line_ends,
)
