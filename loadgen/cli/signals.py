"""Which signals ask a command to end, and who hears of them."""

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


def hang_ups() -> tuple[signal.Signals, ...]:
    """The signals that end a command from outside: SIGTERM, and SIGHUP, which says that the terminal is gone, where the
    system has it and nobody has it ignored, as `nohup` does."""
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, hang_up)


@contextlib.contextmanager
def handled_by(handler: Handler, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """While the context lasts, the signals call the handler. For the main thread alone."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
