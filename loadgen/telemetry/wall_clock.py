"""Notices steps of the wall clock, by which stamps of the kernel become moments of the run."""

from typing import Final

from loadgen.clock import BootClock, wall_offset_ns

STEP_NS: Final = 1_000_000
"""If the wall clock moved against the monotonic one by more than this, it was stepped."""
STEP_AFTER_SUSPEND_NS: Final = 100_000_000
"""The same, if the machine was suspended meanwhile: some clocks that count that time count in ticks."""


class WallClock:
    """The offset of the wall clock from the monotonic one, and how often and how far the wall clock was stepped."""

    def __init__(self, boot: BootClock | None) -> None:
        """boot: as for `Observer`."""
        self._boot = boot
        self._suspended_ns = self._suspended()
        self.offset_ns = wall_offset_ns()
        self.steps = 0
        self.step_max_ns: int | None = None

    def start(self) -> None:
        """Begin to notice steps."""
        self._suspended_ns, self.offset_ns = self._suspended(), wall_offset_ns()

    def check(self) -> None:
        """Look whether the wall clock was stepped since it was last looked at."""
        offset_ns = wall_offset_ns()
        ahead_ns = offset_ns - self.offset_ns
        if abs(ahead_ns) <= STEP_NS:
            return
        # The monotonic clock stands still while the machine is suspended, and nobody has set the wall clock then.
        suspended_ns = self._suspended() - self._suspended_ns
        is_suspended = suspended_ns > STEP_AFTER_SUSPEND_NS
        step_ns = abs(ahead_ns - suspended_ns) if is_suspended else abs(ahead_ns)
        if step_ns > (STEP_AFTER_SUSPEND_NS if is_suspended else STEP_NS):
            self.steps += 1
            self.step_max_ns = max(step_ns, self.step_max_ns or 0)
        self._suspended_ns, self.offset_ns = self._suspended_ns + suspended_ns, offset_ns

    def _suspended(self) -> int:
        """How long the machine was suspended since some moment, ns; 0 if nobody tells."""
        return 0 if self._boot is None else self._boot.suspended_ns()
