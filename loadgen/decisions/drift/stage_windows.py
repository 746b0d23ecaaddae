"""The windows and histograms of a soak, by model, as they were written while it went on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.histogram import used_buckets
from loadgen.stats.quantile import Ids
from loadgen.store.hlog import Interval, intervals_in, tag
from loadgen.store.windows import HISTOGRAMS, WINDOW_METRICS, WindowLine, read_windows

UsedBuckets = tuple[Ids, Ids]
"""The buckets of one window that have values, ascending, and how many each has."""


class StageWindows(Struct, frozen=True):
    """The soak of one model at its level: all of its windows, also those after the deadline."""

    model: str
    target: str
    level: str
    windows: tuple[WindowLine, ...]
    """In order."""
    counts: Mapping[str, BucketCounts]
    """The histograms of each metric of `WINDOW_METRICS` that has values, ns, with the windows numbered as in
    `windows`."""


def read_stage_windows(folder: Path) -> tuple[StageWindows, ...]:
    """The stages of a soak, in the order in which they began; none if it has no windows.

    Histograms without a window are left out: whoever wrote them was killed before the window was complete. Raises
    InputError if a file cannot be read.
    """
    of_stage: dict[tuple[str, str, str], list[WindowLine]] = {}
    for window in read_windows(folder):
        of_stage.setdefault((window.model, window.target, window.level), []).append(window)
    if not of_stage:
        return ()
    used: dict[str, dict[float, UsedBuckets]] = {}
    for interval in _intervals(folder / HISTOGRAMS):
        used.setdefault(interval.tag, {})[interval.start_s] = _used(interval)
    stages = []
    for (model, target, level), windows in of_stage.items():
        counts = {
            name: _joined([of_tag.get(_start_s(window)) for window in windows])
            for name in WINDOW_METRICS
            if (of_tag := used.get(tag(target, model, level, name)))
        }
        stages.append(StageWindows(model, target, level, tuple(windows), counts))
    return tuple(stages)


def _intervals(path: Path) -> Iterator[Interval]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            # A line without an end is still being written, or whoever wrote it was killed.
            yield from intervals_in(line for line in file if line.endswith("\n"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); fix that") from error
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error


def _used(interval: Interval) -> UsedBuckets:
    """Sparse, because a thousand dense histograms would fill the memory."""
    buckets = used_buckets(interval.histogram.counts)
    return buckets, interval.histogram.counts[buckets]


def _start_s(window: WindowLine) -> float:
    """As the log of histograms tells it, to the microsecond."""
    return float(f"{window.start_ns / 1e9:.6f}")


def _joined(used: Sequence[UsedBuckets | None]) -> BucketCounts:
    """used: of each window; None: it has no values."""
    sizes = [0 if each is None else each[0].size for each in used]
    window = np.repeat(np.arange(len(used), dtype=np.int64), sizes)
    known = [each for each in used if each is not None]
    return BucketCounts(
        len(used),
        window,
        np.concatenate([buckets for buckets, _ in known]),
        np.concatenate([count for _, count in known]),
    )
