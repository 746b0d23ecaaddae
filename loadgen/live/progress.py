"""What a run tells of its progress, and to whom. Knows no terminal."""

from typing import Protocol

from loadgen.live.sink import NullSink, Sink


class Progress(Sink, Protocol):
    """A sink that hears as well what happens between stages. Must not block."""

    def note(self, text: str) -> None:
        """One line about what is done now, or what has gone wrong."""

    def warn(self, text: str) -> None:
        """One line that a person is to read before the run goes on, on a terminal or not."""

    def work(self, title: str, share: float | None) -> None:
        """Something that takes a while before a stage. share: done so far, 0 to 1; None where it is not known."""

    def begin(self, title: str, completed: int, total: int | None) -> None:
        """Something that is counted begins, and so much of it is done already. A stage does so by `start`."""

    def known(self, text: str) -> None:
        """How precisely the percentile is known that the stage waits for, in words."""


class Silence(NullSink):
    """A progress that tells nobody."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def work(self, title: str, share: float | None) -> None: ...

    def begin(self, title: str, completed: int, total: int | None) -> None: ...

    def known(self, text: str) -> None: ...
