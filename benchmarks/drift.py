"""How often `loadgen soak` calls a quiet night drifting, and a drifting night so, on nights whose truth is known
(`benchmarks/soak_nights.py`). Beside Mann-Kendall, Mann-Kendall as Hamed and Rao correct it, and an AR(1) of ranks.

`python benchmarks/drift.py [--quick] [--nights N]` simulates and prints the tables of docs/soak.md; it ends with 1 when
a figure is outside its line by more than chance explains. The verdicts are the program's (`drifts_of`).
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct
from scipy.special import bdtr, bdtrc, ndtr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.soak_nights import MEMORY, NOISE, WINDOWS, Floats, Truth, night_of
from loadgen.analysis.soak_types import DRIFT_METRICS, Drift, DriftMetricName, DriftVerdict
from loadgen.decisions.drift.memory import memory_measure
from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.decisions.drift.verdict import FALSE_ALARMS, drifts_of, verdict_of, word_of
from loadgen.stats.drift import theil_sen
from loadgen.stats.steady import rank_shares, trend

MATTERS: Final = 0.05
NIGHTS: Final = 200
QUICK_NIGHTS: Final = 24
CHANCE: Final = 0.01
"""How rarely a figure is called outside of its line by chance."""
FALSE_EXITS: Final = 0.05
FOUND: Final = 0.8
COVERED: Final = (0.93, 0.98)
STABLE: Final = 0.85
LEAKS_FOUND: Final = 0.85
SECONDS: Final = 3.0
FAMILY: Final = len(DRIFT_METRICS)
USUAL: Final = "AR(1), 0.6 a minute"
SURE_LEAK: Final = "a leak of 16 MiB/h beside 5 MiB of noise"
POWER: Final = tuple(
    Truth(noise, float(np.log1p(drift)), step_at)
    for noise in (USUAL, "AR(1), 0.9 a minute")
    for drift, step_at in ((0.05, None), (0.1, None), (0.2, None), (0.1, 0.5), (0.1, 0.8))
    if noise == USUAL or step_at is None
)


class Sight(Struct, frozen=True):
    """What was said of one night."""

    drift: Drift
    others: tuple[bool, ...]
    """Whether each of the other methods calls the TTFT of the night drifting, at 5 %."""
    covered: tuple[bool, ...]
    """Whether the 95 % interval of each series that follows the pace has the truth."""


FOLLOW_THE_PACE: Final[dict[DriftMetricName, int]] = {
    "ttft_p50": 1,
    "ttft_tail": 1,
    "itl_p50": 1,
    "itl_tail": 1,
    "stream_tokens_per_s": -1,
}
"""The series of which the truth is known, and in which direction they go."""
OTHERS: Final = ("Mann-Kendall", "Hamed-Rao", "AR(1) of ranks")


def sight_of(truth: Truth, seed: int) -> Sight:
    night = night_of(truth, np.random.default_rng([7, seed]))
    drift = drifts_of([night], MATTERS)[0]
    covered = []
    for name, direction in FOLLOW_THE_PACE.items():
        metric = drift.metrics.get(name)
        if metric is not None and metric.change_ci is not None and truth.step_at is None:
            part = ((metric.to_ns or 0) - (metric.from_ns or 0)) / 60e9 / WINDOWS
            low, high = metric.change_ci
            covered.append(low <= np.expm1(direction * truth.drift * part) <= high)
    return Sight(drift, others_of(night), tuple(covered))


def others_of(night: StageWindows) -> tuple[bool, ...]:
    """The other methods, with the first 20 windows cut off: Mann-Kendall on the means of five windows."""
    minutes = np.array([window.ttft_p50_ms for window in night.windows[20:]], dtype=np.float64)
    fives = minutes[: minutes.size // 5 * 5].reshape(-1, 5).mean(axis=1)
    return mann_kendall(fives) < 0.05, hamed_rao(fives) < 0.05, trend(minutes).beyond(0.025)


def mann_kendall(values: Floats, inflation: float = 1.0) -> float:
    """Two-sided p of Mann and Kendall's test. inflation: of the variance."""
    n = values.size
    s = float(np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)].sum())
    deviate = (s - np.sign(s)) / np.sqrt(n * (n - 1) * (2 * n + 5) / 18 * inflation)
    return 2 * float(ndtr(-abs(deviate)))


def hamed_rao(values: Floats) -> float:
    """With the variance of Hamed & Rao, Journal of Hydrology 204 (1998), 182-196."""
    n, at = values.size, np.arange(values.size, dtype=np.float64)
    ranks = rank_shares(values - theil_sen(values, at) * at) - 0.5
    full = np.correlate(ranks, ranks, "full")[n - 1 :]
    r, lag = full[1:] / full[0], np.arange(1, n)
    r = np.where(np.abs(r) > 1.96 / np.sqrt(n), r, 0.0)
    inflation = 1 + 2 / (n * (n - 1) * (n - 2)) * float(np.sum((n - lag) * (n - lag - 1) * (n - lag - 2) * r))
    return mann_kendall(values, max(inflation, 1e-9))


class Figures:
    """Collects the figures that are outside their lines."""

    def __init__(self) -> None:
        self.outside: list[str] = []

    def at_most(self, name: str, hits: int, nights: int, line: float) -> str:
        if hits and float(bdtrc(hits - 1, nights, line)) < CHANCE:
            self.outside.append(f"{name}: {hits} of {nights}, at most {line:.0%}")
        return percent(hits, nights)

    def at_least(self, name: str, hits: int, nights: int, line: float) -> str:
        if float(bdtr(hits, nights, line)) < CHANCE:
            self.outside.append(f"{name}: {hits} of {nights}, at least {line:.0%}")
        return percent(hits, nights)


def percent(hits: int, nights: int) -> str:
    return f"{100 * hits / nights:.1f}" if nights else "–"


def sights_of(pool: Pool, truth: Truth, nights: int) -> list[Sight]:
    return pool.map(partial(sight_of, truth), range(nights), chunksize=4)


QUIET_HEAD: Final = (
    f"| how the pace wanders | {' | '.join(OTHERS)} | **TTFT p50** | **TTFT tail** | any of eight, Holm | **exit 1** "
    "| intervals cover | stable | stable, failures aside | TTFT p50 within |\n|:---|" + "---:|" * 10
)


def quiet_row(noise: str, sights: Sequence[Sight], figures: Figures) -> tuple[str, int]:
    """How quiet nights are called, in %; and how many are called stable, failures aside."""
    nights = len(sights)
    metrics = [sight.drift.metrics for sight in sights]
    covered = [share for sight in sights for share in sight.covered]
    words = [sight.drift.verdict for sight in sights]
    aside = [verdict_of({k: v for k, v in of_night.items() if k != "failed_share"}) for of_night in metrics]
    stable = aside.count("stable")
    within = [each["ttft_p50"].within for each in metrics if each["ttft_p50"].within is not None]
    share = float(np.mean(covered))
    for line, is_low in ((COVERED[0], True), (COVERED[1], False)):
        hits = round(share * nights)
        if float(bdtr(hits, nights, line) if is_low else bdtrc(hits - 1, nights, line)) < CHANCE:
            figures.outside.append(f"{noise}: intervals cover {share:.1%}, not 93 to 98 %")
    cells = [
        *(percent(sum(sight.others[place] for sight in sights), nights) for place in range(len(OTHERS))),
        *(percent(sum((each[name].p or 0) < 0.05 for each in metrics), nights) for name in ("ttft_p50", "ttft_tail")),
        percent(sum(any((m.p_adjusted or 0) <= FALSE_ALARMS for m in each.values()) for each in metrics), nights),
        figures.at_most(f"{noise}: false exit 1", words.count("degrading"), nights, FALSE_EXITS),
        f"{100 * share:.1f}",
        percent(words.count("stable"), nights),
        percent(stable, nights),
        f"± {100 * float(np.median(within)):.1f} %" if within else "–",
    ]
    return f"| {noise} | {' | '.join(cells)} |", stable


POWER_HEAD: Final = (
    "| how the pace wanders | slowing | exit 1 | TTFT p50 | TTFT tail | ITL p50 | tokens/s | TTFT p50 changed by "
    "(median) | intervals cover |\n|:---|" + "---:|" * 8
)


def power_row(truth: Truth, sights: Sequence[Sight], figures: Figures) -> str:
    """How drifting nights are called, in %: `degrading`."""
    nights, metrics = len(sights), [sight.drift.metrics for sight in sights]
    names: tuple[DriftMetricName, ...] = ("ttft_p50", "ttft_tail", "itl_p50", "stream_tokens_per_s")
    called = {name: sum(each[name].verdict == "degrading" for each in metrics) for name in names}
    covered = [share for sight in sights for share in sight.covered]
    if truth.noise == USUAL and truth.step_at is None and abs(truth.drift - np.log1p(0.1)) < 1e-9:
        figures.at_least("+10 % found in TTFT p50", called["ttft_p50"], nights, FOUND)
    when = "all night" if truth.step_at is None else f"in a step at {truth.step_at:.0%}"
    cells = [
        f"{np.expm1(truth.drift):+.0%} {when}",
        percent(sum(sight.drift.verdict == "degrading" for sight in sights), nights),
        *(percent(called[name], nights) for name in names),
        f"{float(np.median([each['ttft_p50'].change or 0 for each in metrics])):+.1%}",
        f"{100 * float(np.mean(covered)):.1f}" if covered else "–",
    ]
    return f"| {truth.noise} | {' | '.join(cells)} |"


def memory_of(name: str, seed: int) -> tuple[DriftVerdict, float]:
    """The word of the memory of one night, if seven other metrics show nothing, and by how much it grows, MiB/h."""
    night = night_of(Truth(USUAL, memory=name), np.random.default_rng([8, seed]), gaps=1)
    measure = next(memory_measure(night.windows, MATTERS, None))
    return word_of(measure, min(1.0, FAMILY * measure.movement.p)), measure.mib_per_h


def memory_row(name: str, nights: Sequence[tuple[DriftVerdict, float]], figures: Figures) -> str:
    words = [word for word, _ in nights]
    called = words.count("degrading")
    if name == SURE_LEAK:
        figures.at_least(name, called, len(nights), LEAKS_FOUND)
    if "leak" not in name:
        figures.at_most(name, called, len(nights), FALSE_EXITS)
    per_h = float(np.median([growth for _, growth in nights]))
    stable = percent(words.count("stable"), len(nights))
    return f"| {name} | {percent(called, len(nights))} | {stable} | {per_h:.1f} |"


def verdict_seconds(nights: int = 5) -> float:
    """CPU seconds of one verdict on 480 windows with 40 gaps a request: the best of some."""
    seconds = []
    for seed in range(nights):
        night = night_of(Truth(USUAL), np.random.default_rng([9, seed]), gaps=40)
        begin = time.process_time()
        drifts_of([night], MATTERS)
        seconds.append(time.process_time() - begin)
    return min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_NIGHTS} nights of each kind")
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    nights = QUICK_NIGHTS if arguments.quick else arguments.nights
    figures = Figures()
    with get_context("spawn").Pool(arguments.processes) as pool:
        print(f"{nights} nights a row; figures in %\n\n{QUIET_HEAD}")
        stable = 0
        for noise in NOISE:
            row, of_noise = quiet_row(noise, sights_of(pool, Truth(noise), nights), figures)
            stable += of_noise
            print(row, flush=True)
        share = figures.at_least("quiet nights called stable", stable, nights * len(NOISE), STABLE)
        print(f"\nstable, all quiet nights together: {share}")
        print(f"\n{POWER_HEAD}")
        for truth in POWER[:2] if arguments.quick else POWER:
            print(power_row(truth, sights_of(pool, truth, max(QUICK_NIGHTS, nights // 2)), figures), flush=True)
        print("\n| memory | called a leak | stable | MiB/h (median) |\n|:---|---:|---:|---:|")
        for name in MEMORY:
            measures = pool.map(partial(memory_of, name), range(nights), chunksize=4)
            print(memory_row(name, measures, figures), flush=True)
    seconds = verdict_seconds()
    print(f"\nA verdict on {WINDOWS} windows and 8 series: {seconds:.2f} s of CPU time (line: {SECONDS:g} s)")
    if seconds > SECONDS:
        figures.outside.append(f"a verdict takes {seconds:.2f} s")
    for line in figures.outside:
        print(f"outside its line: {line}", file=sys.stderr)
    return 1 if figures.outside else 0


if __name__ == "__main__":
    raise SystemExit(main())
