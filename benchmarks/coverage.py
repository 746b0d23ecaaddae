"""How often our intervals hold the true percentile, by simulation; each cell's truth is known, its data are made up.

    python benchmarks/coverage.py [--quick]

A row is an estimator, a way of making data, how much of it, and a percentile: how often an interval was shown, how
often the shown ones held the truth (± two Monte-Carlo standard errors), and how often the bounds that stand alone did.
A row is wrong, "<<", and the exit code 1, when

- an interval is shown in half of the trials or more, and the shown ones cover less than 93 % or more than 97 %,
- it is shown in fewer, and more than 5 % of all trials show one that misses: a withheld interval is the rule there, and
  the few shown ones are those that were lucky,
- bounds alone hold in less than 97.5 % (95 % of clusters, whose bounds are approximate),

each beyond 2.6 standard errors. Values in coarse steps may cover more than 97 %: no interval can do less there.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtri

from loadgen.plan.rng import generator
from loadgen.stats.quantile import (
    STOPPED_CONFIDENCE,
    Quantile,
    estimate,
    estimate_clustered,
    floor_of,
    moments_of,
)
from loadgen.stats.repeats import Repeated, estimate_repeated
from loadgen.stats.settled import is_settled

Rng = np.random.Generator
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PS: Final = (50.0, 90.0, 95.0, 99.0)
ERRORS: Final = 2.6
LOOK_GROWTH: Final = 1.25


class Row(Struct):
    """A cell of the table. trials: of them, `shown` had an interval, of which `missed`; `bounds` a bound alone."""

    name: str
    size: str
    p: float
    coarse: bool = False
    bound_level: float = 0.975
    trials: int = 0
    shown: int = 0
    missed: int = 0
    bounds: int = 0
    bounds_missed: int = 0

    def add(self, estimated: Quantile | Repeated, truth: float) -> None:
        self.trials += 1
        above = estimated.low is not None and estimated.low > truth
        if estimated.high is not None:
            self.shown += 1
            self.missed += above or estimated.high < truth
        elif estimated.low is not None:
            self.bounds += 1
            self.bounds_missed += above

    @property
    def coverage(self) -> float:
        return 1 - self.missed / self.shown if self.shown else math.nan

    @property
    def wrong(self) -> bool:
        def least(level: float, n: int) -> float:
            return level - ERRORS * math.sqrt(level * (1 - level) / n) if n else -math.inf

        held = 1 - self.bounds_missed / self.bounds if self.bounds else 1.0
        if held < least(self.bound_level, self.bounds):
            return True
        if 2 * self.shown < self.trials:
            return 1 - self.missed / self.trials < least(0.95, self.trials)
        too_much = not self.coarse and self.missed / self.shown < least(0.03, self.shown)
        return self.coverage < least(0.93, self.shown) or too_much

    def text(self) -> str:
        line = f"{self.name:<38} {self.size:>8} {'p' + format(self.p, 'g'):>5} {self.shown / self.trials:>6.0%}"
        error = 2 * math.sqrt(0.05 * 0.95 / self.shown) if self.shown else 0
        line += f" {self.coverage:>6.1%} ± {error:.1%}" if 2 * self.shown >= self.trials else f" {'withheld':>13}"
        if self.bounds:
            line += f" {1 - self.bounds_missed / self.bounds:>7.1%} of {self.bounds}"
        return line + ("  <<" if self.wrong else "")


class Law(Struct, frozen=True):
    """Independent values: how to draw n, and the percentile at a share."""

    draw: Callable[[Rng, int], Floats]
    quantile: Callable[[float], float]
    coarse: bool = False


def _mixture(rng: Rng, n: int) -> Floats:
    return np.exp(0.2 * rng.normal(size=n)) * np.where(rng.random(n) < 0.03, 4.0, 1.0)


_MIXED: Final = np.sort(_mixture(generator(1, "truth"), 2_000_000))

LAWS: Final = {
    "lognormal": Law(lambda rng, n: np.exp(0.5 * rng.normal(size=n)), lambda s: math.exp(0.5 * ndtri(s))),
    "uniform": Law(lambda rng, n: rng.random(n), lambda s: s),
    "pareto 1.1": Law(lambda rng, n: 1 + rng.pareto(1.1, size=n), lambda s: (1 - s) ** (-1 / 1.1)),
    "3 % four times slower": Law(_mixture, lambda s: float(_MIXED[math.ceil(s * _MIXED.size) - 1])),
    "coarse steps": Law(
        lambda rng, n: np.ceil(8 * np.exp(0.5 * rng.normal(size=n))),
        lambda s: float(math.ceil(8 * math.exp(0.5 * ndtri(s)))),
        coarse=True,
    ),
}


class Gaps(Struct, frozen=True):
    """Gaps of requests: the values, the request of each, and when it ended where requests share a server."""

    values: Floats
    requests: Ints
    arrived: Floats | None = None


class Answers(Struct, frozen=True):
    """A way of making gaps of m requests of 5 to `longest` tokens.

    level: standard deviation of the logarithm between requests; noise: within, with autocorrelation phi. stall: chance
    of a token to wait several times longer, in a share `prone` of the requests. pareto: tail index of the gaps, in
    place of noise. zeros: share of gaps that are 0, tokens of one read. slope: longer answers are slower. users: so
    many share a server whose steps they all feel, with steps that stall, and drift with autocorrelation 0.9.
    """

    level: float = 0.0
    noise: float = 0.3
    phi: float = 0.0
    stall: float = 0.0
    prone: float = 1.0
    pareto: float = 0.0
    zeros: float = 0.0
    slope: float = 0.0
    longest: int = 200
    users: int = 0
    step_stall: float = 0.0
    step_drift: float = 0.0

    def draw(self, rng: Rng, m: int) -> Gaps:
        lengths = rng.integers(5, self.longest + 1, size=m)
        requests = np.repeat(np.arange(m), lengths)
        n = requests.size
        scale = np.exp(self.level * rng.normal(size=m) + self.slope * np.log(lengths / 80))[requests]
        values = scale * (1 + rng.pareto(self.pareto, size=n) if self.pareto else np.exp(self._noise(rng, lengths)))
        hit = (rng.random(n) < self.stall) & (rng.random(m) < self.prone)[requests]
        values += hit * (3 + 3 * rng.pareto(2, size=n))
        values *= rng.random(n) >= self.zeros
        if not self.users:
            return Gaps(values, requests)
        step = _steps(rng, lengths, self.users)
        count = int(step.max()) + 1
        lasts = np.exp(self.step_drift * lfilter([math.sqrt(1 - 0.81)], [1, -0.9], rng.normal(size=count)))
        lasts += (rng.random(count) < self.step_stall) * (3 + 3 * rng.pareto(2, size=count))
        return Gaps(values * lasts[step], requests, np.cumsum(lasts)[step])

    def _noise(self, rng: Rng, lengths: Ints) -> Floats:
        drawn = rng.normal(size=(lengths.size, int(lengths.max())))
        drawn[:, 1:] *= math.sqrt(1 - self.phi**2)
        inside = np.arange(drawn.shape[1]) < lengths[:, np.newaxis]
        noise: Floats = self.noise * lfilter([1], [1, -self.phi], drawn, axis=1)[inside]
        return noise


def _steps(rng: Rng, lengths: Ints, users: int) -> Ints:
    """The server's step that each gap is, when `users` send one request after the other."""
    free = rng.integers(0, 50, size=users)
    starts = np.empty_like(lengths)
    for index, length in enumerate(lengths):
        user = int(free.argmin())
        starts[index] = free[user]
        free[user] += length + 3
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    steps: Ints = np.repeat(starts, lengths) + np.arange(int(lengths.sum())) - first
    return steps


ANSWERS: Final = {
    "requests alike": Answers(),
    "levels 20 %": Answers(level=0.2),
    "levels 50 %": Answers(level=0.5, noise=0.2),
    "autocorrelated": Answers(level=0.15, phi=0.7),
    "stalls": Answers(level=0.1, noise=0.2, stall=0.008),
    "stalls of few requests": Answers(level=0.1, noise=0.2, stall=0.06, prone=0.2),
    "heavy tail": Answers(level=0.2, pareto=1.5),
    "30 % shared reads": Answers(level=0.2, zeros=0.3),
    "long answers slower": Answers(level=0.15, noise=0.2, slope=0.3),
    "short answers": Answers(level=0.2, longest=20),
    "server stalls": Answers(level=0.1, noise=0.2, users=8, step_stall=0.012),
    "server drifts": Answers(level=0.1, noise=0.2, users=8, step_drift=0.2),
}
QUICK: Final = ("levels 20 %", "stalls", "server stalls")


def independent(quick: bool) -> Iterator[list[Row]]:
    """At the floor of each percentile, below it, and above."""
    trials = 800 if quick else 3_000
    for name in ("lognormal", "coarse steps") if quick else LAWS:
        law, rng = LAWS[name], generator(1, "independent", name)
        for p in PS:
            floor = floor_of(p)
            for n in (floor // 2, floor, floor * 3 // 2, 4 * floor):
                row = Row(f"one a request: {name}", str(n), p, coarse=law.coarse)
                for _ in range(trials):
                    row.add(estimate(np.sort(law.draw(rng, n)), (p,))[0], law.quantile(p / 100))
                yield [row]


def clustered(quick: bool) -> Iterator[list[Row]]:
    """Gaps of few and of many requests."""
    for name in QUICK if quick else ANSWERS:
        answers, rng = ANSWERS[name], generator(1, "clustered", name)
        truth = _true_percentiles(answers, 5_000 if quick else 10_000)
        for m, trials in ((16, 300), (64, 200)) if quick else ((8, 500), (16, 700), (32, 600), (64, 500), (400, 200)):
            rows = [Row(f"gaps: {name}", f"{m} req", p, bound_level=0.95) for p in PS]
            for _ in range(trials):
                gaps = answers.draw(rng, m)
                moments = None if gaps.arrived is None else moments_of(gaps.arrived, gaps.values)
                estimates = estimate_clustered(gaps.values, gaps.requests, PS, moments=moments)
                for row, quantile, true in zip(rows, estimates, truth, strict=True):
                    row.add(quantile, true)
            yield rows


def _true_percentiles(answers: Answers, requests: int) -> list[float]:
    rng = generator(1, "truth of gaps")
    ordered = np.sort(np.concatenate([answers.draw(rng, requests).values for _ in range(4)]))
    return [float(ordered[math.ceil(p / 100 * ordered.size) - 1]) for p in PS]


def repeated(quick: bool) -> Iterator[list[Row]]:
    """N runs whose levels differ; the truth is the percentile of a run of the middling level."""
    trials = 400 if quick else 1_500
    for name, between in (
        (("lognormal", 0.1),) if quick else (("lognormal", 0.05), ("lognormal", 0.3), ("pareto 1.1", 0.1))
    ):
        law, rng = LAWS[name], generator(1, "repeated", name, str(between))
        for runs in (3, 10) if quick else (2, 3, 5, 10):
            for p in (50.0, 95.0) if quick else (50.0, 90.0, 99.0):
                n = max(20, floor_of(p))
                row = Row(f"repeated runs: {name}, ±{between:.0%}", f"{runs} × {n}", p)
                ids = np.repeat(np.arange(runs), n)
                for _ in range(trials):
                    levels = np.exp(between * rng.normal(size=runs))
                    values = law.draw(rng, runs * n) * levels[ids]
                    row.add(estimate_repeated(values, ids, (p,))[0], law.quantile(p / 100))
                yield [row]


def stopped(quick: bool) -> Iterator[list[Row]]:
    """Estimates from growing n until the interval is narrow, and then that interval: what `is_settled` is for."""
    trials, most = (200, 6_000) if quick else (1_000, 12_000)
    wanted = (("lognormal", 50.0, 0.1), ("lognormal", 95.0, 0.1))
    others = (("lognormal", 99.0, 0.2), ("pareto 1.1", 50.0, 0.2), ("pareto 1.1", 95.0, 0.3))
    mixed = (
        ("3 % four times slower", 50.0, 0.05),
        ("3 % four times slower", 95.0, 0.1),
        ("3 % four times slower", 99.0, 0.2),
    )
    for name, p, within in wanted if quick else wanted + others + mixed:
        law, rng = LAWS[name], generator(1, "stopped", name, str(p))
        row = Row(f"until narrow: ±{within:.0%}, {name}", f"≤ {most}", p)
        for _ in range(trials):
            row.add(_estimate_until(law.draw(rng, most), p, within), law.quantile(p / 100))
        yield [row]


def _estimate_until(values: Floats, p: float, within: float) -> Quantile:
    estimates: list[Quantile] = []
    n = max(30, 2 * floor_of(p))
    while n <= values.size and not is_settled(estimates, within):
        estimates += estimate(np.sort(values[:n]), (p,), confidence=STOPPED_CONFIDENCE)
        n = math.ceil(n * LOOK_GROWTH)
    return estimates[-1]


def in_short(rows: Sequence[Row]) -> Iterator[str]:
    """By estimator and percentile: over the cells that are shown, how often the intervals hold."""
    yield "estimate          p  cells  shown  cover, all trials  cell by cell"
    for name, p in dict.fromkeys((row.name.partition(":")[0], row.p) for row in rows if not row.coarse):
        cells = [row for row in rows if row.name.startswith(f"{name}:") and row.p == p and not row.coarse]
        shown = [row for row in cells if 2 * row.shown >= row.trials]
        line = f"{name:<14} {'p' + format(p, 'g'):>4} {len(cells):>6} {len(shown):>6}"
        if shown:
            share = 1 - sum(row.missed for row in shown) / sum(row.shown for row in shown)
            each = [row.coverage for row in shown]
            line += f" {share:>18.1%}  {min(each):.1%} to {max(each):.1%}"
        yield line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How often our intervals hold the true percentile.")
    parser.add_argument("--quick", action="store_true", help="fewer cells and trials, in 20 seconds")
    quick = parser.parse_args(arguments).quick
    print(f"{'estimate: data':<38} {'size':>8} {'':>5} {'shown':>6} {'shown ones cover':>16} {'bounds alone hold':>17}")
    rows = []
    for part in (independent, clustered, repeated, stopped):
        for cells in part(quick):
            rows += cells
            print("\n".join(row.text() for row in cells), flush=True)
    print("\n" + "\n".join(in_short(rows)))
    wrong = [row for row in rows if row.wrong]
    print(f"{len(rows)} cells, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
