"""Ctrl-C, SIGTERM and SIGHUP during a run."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from loadgen.cli.options import Output
from loadgen.cli.signals import handled_by, hang_ups
from loadgen.cli.streams import tell
from loadgen.engine.stop import StopSignal


@contextlib.contextmanager
def interruptible(stop: StopSignal, output: Output, others: tuple[signal.Signals, ...] | None = None) -> Iterator[None]:
    """While the context lasts, Ctrl-C (and `others`: by default SIGTERM and SIGHUP) ends the run.

    After the first, no request is sent, and the run waits for those in flight. The second gives them up, and restores
    Python's own handler, so that a third raises KeyboardInterrupt.
    """
    loop = asyncio.get_running_loop()

    def ask() -> None:
        second = stop.escalate() == "cancel"
        if output == "text":
            next_step = (
                "giving up the requests in flight"
                if second
                else "waiting for the requests in flight; press Ctrl-C again to give them up"
            )
            tell(f"loadgen: stopping: {next_step}")
        if second:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_signal(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(ask)

    with handled_by(on_signal, (signal.SIGINT, *(hang_ups() if others is None else others))):
        yield
