"""When a stage of a soak ends: by a clock that also counts the time in which the machine was suspended."""

from collections.abc import Callable


class SoakDeadline:
    """The end of a soak, and the end of the stage that is played. Both are moments of a boot clock."""

    def __init__(self, boot_ns: Callable[[], int], duration_ns: int) -> None:
        """boot_ns: reads the clock. duration_ns: of the whole soak, from its first measured request on."""
        self.boot_ns = boot_ns
        self._duration_ns = duration_ns
        self._end_ns: int | None = None
        self._stage_end_ns: int | None = None

    def resume(self, left_ns: int) -> None:
        """The soak was begun by an earlier process, and has so long left."""
        self._end_ns = self.boot_ns() + left_ns

    def begin_stage(self, share_ns: int) -> int:
        """A stage begins to be measured that may take so long; returns how long it may take within the soak."""
        now_ns = self.boot_ns()
        if self._end_ns is None:
            self._end_ns = now_ns + self._duration_ns
        self._stage_end_ns = min(now_ns + share_ns, self._end_ns)
        return self._stage_end_ns - now_ns

    def end_stage(self) -> None:
        self._stage_end_ns = None

    @property
    def left_ns(self) -> int | None:
        """How long the stage that is played may still take, 0 or less if it is over; None if none is played."""
        return None if self._stage_end_ns is None else self._stage_end_ns - self.boot_ns()

    @property
    def soak_left_ns(self) -> int:
        """How long the soak may still take."""
        return self._duration_ns if self._end_ns is None else self._end_ns - self.boot_ns()
