"""The memory of the server over a soak: by life of its process, and what leaks by hour, by request and by token."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.drift.series import Measure, is_fit, middles_of, of_ratios
from loadgen.stats.drift import FLOORS, MIN_POINTS, DriftEstimate, Floats, change_of, floors_of, level_test, theil_sen
from loadgen.stats.median import median
from loadgen.stats.steady import mser_cut
from loadgen.store.windows import WindowLine

LEAST_MIB: Final = 32.0
"""Memory that grows by less over the soak is no leak."""
GOES_ON: Final = 2 / 3
"""A leak's second half grows at this share of the slope of the whole or more; a cache that fills levels off."""
_MIB: Final = float(1 << 20)
_BATCH: Final = 2
"""How many floors are one value of MSER."""


class MemoryMeasure(Measure, frozen=True, kw_only=True):
    """How the memory of the server moved, in its longest life."""

    life: int
    goes_on: bool
    """Whether it moved by as much as a leak, and did not level off."""
    mib_per_h: float
    mib_per_request: float | None
    mib_per_1000_tokens: float | None
    full_in_h: float | None
    """Hours from the end until it fills the machine; None if it does not grow, or the machine's memory is not known."""


class _Floors(Struct, frozen=True):
    """The lowest memory of each part of a life, MiB, after the warm-up."""

    values: Floats
    at: Floats
    """s since the run began."""
    lines: tuple[WindowLine, ...]
    """The windows that are tested, from the first part to the last."""


def memory_measure(windows: Sequence[WindowLine], matters: float, machine_bytes: int | None) -> Iterator[MemoryMeasure]:
    """The memory of the longest life of the server's process; nothing if it is too short or not known.

    windows: all of the soak, because memory has a warm-up of its own, and leaks by the requests of all windows, also
    of those that are not tested. machine_bytes: of the machine that serves; None if that is another one, or not
    known."""
    known = tuple(window for window in windows if is_fit(window) and window.server_memory_bytes is not None)
    if not known:
        return
    life, _ = max(Counter(window.server_life for window in known).items(), key=lambda item: (item[1], -item[0]))
    floors = _floors_of(tuple(window for window in known if window.server_life == life))
    if floors.values.size < MIN_POINTS:
        return
    change = change_of(level_test(floors.values, floors.at))
    goes_on = _goes_on(change, floors, matters)
    per_h = change.estimate / float(np.ptp(floors.at)) * 3600
    first, last = floors.lines[0].window, floors.lines[-1].window
    meanwhile = [window for window in windows if first <= window.window <= last]
    hours = (floors.lines[-1].end_ns - floors.lines[0].start_ns) / 3600e9
    requests_per_h = sum(window.ok for window in meanwhile) / hours
    tokens_per_h = sum(window.output_tokens for window in meanwhile) / hours
    free = None if machine_bytes is None else max(0.0, machine_bytes / _MIB - change.end)
    yield MemoryMeasure(
        name="server_memory",
        unit="MiB",
        worse=1,
        matters=matters,
        movement=of_ratios(change),
        values=floors.values,
        at=floors.at,
        life=life,
        goes_on=goes_on,
        mib_per_h=per_h,
        mib_per_request=per_h / requests_per_h if requests_per_h else None,
        mib_per_1000_tokens=1000 * per_h / tokens_per_h if tokens_per_h else None,
        full_in_h=free / per_h if free is not None and goes_on and per_h > 0 else None,
    )


def _floors_of(lines: tuple[WindowLine, ...]) -> _Floors:
    """The floors of one life without its warm-up, which is that of memory: what is loaded for the first requests."""
    values = np.array([(window.server_memory_bytes or 0) / _MIB for window in lines])
    size = max(1, len(lines) // FLOORS)
    lowest, at = floors_of(values, middles_of(lines), size)
    cut = mser_cut(lowest, _BATCH)
    return _Floors(lowest[cut:], at[cut:], lines[cut * size : lowest.size * size])


def _goes_on(change: DriftEstimate, floors: _Floors, matters: float) -> bool:
    """Whether the memory moved by as much as a leak, and did so in the second half too."""
    half = floors.values.size // 2
    later = theil_sen(floors.values[half:], floors.at[half:]) * float(np.ptp(floors.at))
    is_much = abs(change.estimate) >= max(LEAST_MIB, matters * median(floors.values))
    return bool(is_much and later * np.sign(change.estimate) >= GOES_ON * abs(change.estimate))
