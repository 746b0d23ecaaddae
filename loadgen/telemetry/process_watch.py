"""Our measurements of ourselves during each window of a long stage, from what the stage's observer measures all the
time."""

from collections.abc import Iterable, Sequence

import numpy as np
import psutil
from numpy.typing import NDArray

from loadgen.record import LAG_PERCENTILES, ProcessFacts
from loadgen.stats.histogram import Histogram
from loadgen.telemetry.observer import TIMER_SLACK_NS, Observer


class ProcessWatch:
    """Gives the facts of one window after the other; each call of `facts` ends one."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._process = psutil.Process()
        self._loop_lags = _Growth()
        self._stamp_lags = _Growth()
        self._since = self._moment()

    def _moment(self) -> tuple[int, int, int]:
        """The time, our CPU time and how often the wall clock was stepped, so far."""
        return self._observer.clock.now_ns(), self._observer.own_cpu_ns(), self._observer.clock_steps[0]

    def facts(self, collector_ns: int) -> ProcessFacts:
        """The facts since the last call, or since the beginning. collector_ns: how long the garbage collection took
        that came before."""
        (now_ns, cpu_ns, steps), (since_ns, cpu_since_ns, steps_since) = self._moment(), self._since
        self._since = now_ns, cpu_ns, steps
        loop_lags = self._loop_lags.of(self._observer.loop_lags)
        stamp_lags = self._stamp_lags.of(self._observer.stamp_lags)
        return ProcessFacts(
            cpu_share=(cpu_ns - cpu_since_ns) / max(1, now_ns - since_ns),
            ticks=loop_lags.count,
            loop_lags_ns=_at_percentiles(loop_lags),
            stamped_reads=stamp_lags.count,
            stamp_lags_ns=_at_percentiles(stamp_lags),
            clock_steps=steps - steps_since,
            clock_step_max_ns=self._observer.clock_steps[1],
            collector_ns=collector_ns,
            rss_bytes=self.rss_bytes(),
            timer_slack_ns=TIMER_SLACK_NS,
        )

    def rss_bytes(self) -> int | None:
        """The resident memory of this process now; None if the system does not say."""
        try:
            return int(self._process.memory_info().rss)
        except psutil.Error:
            return None


class _Growth:
    """What is new in a histogram that only grows."""

    def __init__(self) -> None:
        self._before: NDArray[np.int64] | None = None

    def of(self, histogram: Histogram) -> Histogram:
        """The values since the last call, as a histogram."""
        counts = histogram.counts.copy()
        new = counts if self._before is None else counts - self._before
        self._before = counts
        used = np.flatnonzero(new)
        return Histogram.of_buckets(dict(zip(used.tolist(), new[used].tolist(), strict=True)))


def _at_percentiles(histogram: Histogram) -> tuple[int, ...]:
    return histogram.quantiles_ns(LAG_PERCENTILES) if histogram.count else ()


def worst_of(processes: Sequence[ProcessFacts]) -> ProcessFacts | None:
    """The facts of several processes as if they were one, each the worst of any: a process that is late spoils its part
    of the window, however punctual the others are. Reads and memory add up. None without any process."""
    if not processes:
        return None
    known_rss = [facts.rss_bytes for facts in processes if facts.rss_bytes is not None]
    return ProcessFacts(
        cpu_share=max(facts.cpu_share for facts in processes),
        ticks=min(facts.ticks for facts in processes),
        loop_lags_ns=_worst_at_each(facts.loop_lags_ns for facts in processes),
        stamped_reads=sum(facts.stamped_reads for facts in processes),
        stamp_lags_ns=_worst_at_each(facts.stamp_lags_ns for facts in processes),
        clock_steps=max(facts.clock_steps for facts in processes),
        clock_step_max_ns=max((ns for f in processes if (ns := f.clock_step_max_ns) is not None), default=None),
        collector_ns=max(facts.collector_ns for facts in processes),
        rss_bytes=sum(known_rss) if known_rss else None,
        timer_slack_ns=TIMER_SLACK_NS,
    )


def _worst_at_each(lags_ns: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*(lags for lags in lags_ns if lags), strict=True)))
