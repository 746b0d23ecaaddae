"""What a run reports of its progress. Knows no terminal."""

from typing import Protocol

from loadgen.live.sink import NullSink, Sink


class Progress(Sink, Protocol):
    """A sink that is also called for what happens between stages. Its methods must not block."""

    def announce(self, text: str) -> None:
        """One line about what begins now, or what went wrong."""

    def begin_run(self, title: str) -> None:
        """One of several runs begins, such as "run 2 of 3"; what follows belongs to it."""

    def warn(self, text: str) -> None:
        """One line that the user must see at once, on a terminal or not."""

    def work(self, title: str, share: float | None) -> None:
        """Work before a stage that takes a while. share: how much of it is done, from 0 to 1; None if not known."""

    def begin(self, title: str, completed: int, total: int | None) -> None:
        """Work with a count begins, of which `completed` is done already. For a stage `start` is called instead."""

    def known(self, text: str) -> None:
        """How precisely the percentile of the stage's stop rule is known, in words."""


class Silence(NullSink):
    """A progress that shows nothing."""

    def announce(self, text: str) -> None: ...

    def begin_run(self, title: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def work(self, title: str, share: float | None) -> None: ...

    def begin(self, title: str, completed: int, total: int | None) -> None: ...

    def known(self, text: str) -> None: ...
