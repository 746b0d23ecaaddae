"""Keeps the prompts of files within a limit of memory: all of them if they fit, otherwise a part. Opens no file."""

import heapq
from typing import Generic, Literal, TypeVar

from loadgen.plan import rng

T = TypeVar("T")


class PromptSample(Generic[T]):
    """Takes prompts one after another, and keeps all of them until they exceed the limit.

    Beyond the limit it keeps as many as the scenario needs, or fewer if these do not fit: the first ones in the order
    "listed", a random part in the order "shuffled". Each prompt gets a random rank, and those with the lowest ranks are
    kept, so that each prompt of the files has the same chance.
    """

    def __init__(self, order: Literal["shuffled", "listed"], *, needed: int | None, max_bytes: int, seed: int) -> None:
        """needed: how many prompts the scenario asks at most; None: not known beforehand."""
        self.count = 0
        """How many prompts were taken."""
        self.is_part = False
        """Whether the limit was exceeded, so that only a part is kept."""
        self._order = order
        self._needed = needed
        self._max_bytes = max_bytes
        self._rng = rng.generator(seed, "prompts", "sample")
        self._bytes = 0
        self._kept: list[tuple[float, int, int, T]] = []
        """(-rank, position, bytes, prompt) of each that is kept. If only a part is kept, a heap: the highest rank is
        first."""

    def take(self, prompt: T, size: int) -> None:
        """Take the next prompt. size: about how many bytes it has."""
        if self._order == "listed" and self._bytes + size > self._max_bytes:
            self.is_part = True
            return
        entry = (-float(self._rng.random()), self.count, size, prompt)
        self.count += 1
        self._bytes += size
        if self.is_part:
            heapq.heappush(self._kept, entry)
        else:
            self._kept.append(entry)
        if not self.is_part and self._bytes > self._max_bytes:
            self.is_part = True
            heapq.heapify(self._kept)
        while self.is_part and self._is_too_much():
            self._bytes -= heapq.heappop(self._kept)[2]

    def _is_too_much(self) -> bool:
        over_needed = self._needed is not None and len(self._kept) > self._needed
        return len(self._kept) > 1 and (over_needed or self._bytes > self._max_bytes)

    @property
    def is_full(self) -> bool:
        """Whether no further prompt would be kept."""
        return self._order == "listed" and self.is_part

    def prompts(self) -> list[T]:
        """The prompts that are kept: in the order of the files, or, if they are a random part, in the order of their
        ranks, which is random too."""
        if self._order == "listed":
            return [entry[3] for entry in self._kept[: self._needed if self.is_part else None]]
        if self.is_part:
            return [entry[3] for entry in sorted(self._kept, key=lambda entry: (-entry[0], entry[1]))]
        return [entry[3] for entry in self._kept]
