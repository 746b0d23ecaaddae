"""SIGHUP during a soak: close the segment of the log and begin the next one, as log rotation expects."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def calling_on_hang_up(split: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, SIGHUP calls `split` in the event loop. Does nothing where there is no such signal, and
    outside the main thread, to which signals come.

    So a soak also outlives the terminal in which it was started, which sends SIGHUP when it is closed.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.signal(hang_up, lambda *_: loop.call_soon_threadsafe(split))
    try:
        yield
    finally:
        signal.signal(hang_up, before)
