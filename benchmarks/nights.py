"""How often `loadgen history` shows a change that is none, and how soon a true one, on nights whose truth is known.

`python benchmarks/nights.py [--quick]` simulates years of nights and prints the tables of docs/history.md; it ends with
1 when a figure is outside its line. The noise of a night is 2 %; the level steps on night 200 of 365. Every way judges
each night by the nights before it. Two other ways are beside: the last night against the mean of the 30 before it, 2
standard deviations wide; and a t-test of 12 nights against the 12 before them, beyond 7 and the largest nearby
(Perfherder's way).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Raw, Struct
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import lfilter
from scipy.stats import binom, poisson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadgen.decisions.history.history_json import history_json
from loadgen.decisions.history.verdict import HistorySettings, history_of
from loadgen.stats.change_points import STRETCH, Floats, change_points, split_range
from loadgen.store.history import NightRecord, NightStage
from loadgen.store.night_metrics import NIGHT_METRICS, NightValue

NIGHTS: Final = 365
NOISE: Final = 0.02
STEP_AT: Final = 200
NEAR: Final = 10
"""A change is the true one if its split is at most so many nights from the step."""
GIVEN_UP: Final = 60
MATTERS: Final = 0.03
SHARE_MATTERS: Final = 0.005
METRICS: Final = 8
MOST_FALSE: Final = 1.0
"""False regressions a year, over all metrics."""
QUIET: Final = ("normal", "outliers", "ar5", "heavy")
COVERED: Final = 0.95
COVERED_KINDS: Final = ("normal", "heavy")
MOST_SECONDS: Final = 2.0
YEARS: Final = 200
QUICK_YEARS: Final = 40
Seen = tuple[int, int]
"""The night that showed a change, and the first night of the new level."""


class World(Struct, frozen=True):
    """Nights of one kind, with a step or without one, and what must be so for loadgen's way."""

    kind: str
    step: float = 0.0
    most_false: float | None = None
    """False changes a year and metric."""
    within: int | None = None
    """At least 95 % of the steps are shown within so many nights."""
    median: tuple[int, int] | None = None
    """Between how many nights the median and the 90th percentile of the delays of the shown steps lie."""
    most_off: float | None = None
    """How many nights the split is off, on average."""


KINDS: Final = {
    "normal": "normal",
    "outliers": "one night in 20 is 20 % slower",
    "ar5": "a night resembles the one before, 0.5",
    "heavy": "heavy-tailed (Student, 3)",
    "pairs": "bad luck two nights at a time",
    "weekly": "weekends are 3 % slower",
}
ONE_A_YEAR: Final = 1 / METRICS
WORLDS: Final = (
    World("normal", most_false=ONE_A_YEAR),
    World("normal", 0.05, within=14, median=(3, 8), most_off=1.0),
    World("normal", 0.10, within=14, median=(3, 6), most_off=1.0),
    World("outliers", most_false=ONE_A_YEAR),
    World("outliers", 0.05),
    World("outliers", 0.10),
    World("ar5", most_false=ONE_A_YEAR),
    World("ar5", 0.05),
    World("ar5", 0.10),
    World("heavy", most_false=ONE_A_YEAR),
    World("heavy", 0.05),
    World("heavy", 0.10),
    World("pairs"),
    World("pairs", 0.10),
    World("weekly"),
    World("weekly", 0.10),
)


def year_of(kind: str, step: float, rng: np.random.Generator) -> Floats:
    """The values of a year of nights; 1 without noise and before the step."""
    nights = np.arange(NIGHTS)
    noise = rng.standard_normal(NIGHTS) * NOISE
    match kind:
        case "heavy":  # of the same interquartile range
            noise = rng.standard_t(3, NIGHTS) * NOISE * 0.88
        case "ar5":
            noise = lfilter([1], [1, -0.5], rng.standard_normal(NIGHTS + 50) * NOISE * np.sqrt(0.75))[50:]
        case "outliers":
            noise += 0.2 * (rng.random(NIGHTS) < 0.05)
        case "pairs":
            bad = rng.random(NIGHTS) < 0.02
            noise += 0.15 * (bad | np.roll(bad, 1))
        case "weekly":
            noise += 0.03 * (nights % 7 >= 5)
    values: Floats = np.exp(noise + np.log1p(step) * (nights >= STEP_AT))
    return values


def two_sigma(values: Floats) -> list[Seen]:
    logs = np.log(values)
    before = sliding_window_view(logs[:-1], 30)
    beyond = np.abs(logs[30:] - before.mean(1)) > 2 * before.std(1)
    return [(int(night), int(night)) for night in np.flatnonzero(beyond) + 30]


def t_test(values: Floats) -> list[Seen]:
    twelve = sliding_window_view(np.log(values), 12)
    before, after = twelve[:-12], twelve[12:]
    difference = np.abs(after.mean(1) - before.mean(1))
    t = np.concatenate([np.zeros(12), difference / np.sqrt((before.var(1, ddof=1) + after.var(1, ddof=1)) / 12)])
    splits = [int(k) for k in np.flatnonzero(t > 7) if t[k] == t[max(0, k - 6) : k + 7].max()]
    return [(min(values.size - 1, split + 11), split) for split in splits]


def ours(values: Floats) -> list[Seen]:
    return [(change.shown, change.split) for change in change_points(values, MATTERS)]


WAYS: Final[dict[str, Callable[[Floats], list[Seen]]]] = {
    "2 σ of 30": two_sigma,
    "12 + 12, t > 7": t_test,
    "loadgen": ours,
}


class Figures(Struct, frozen=True):
    """What came of one way in one world."""

    false: int
    years: float
    """How many years without a change were watched."""
    delays: tuple[int, ...] = ()
    """Of each step that was shown: the nights from the step to the one that showed it, which counts."""
    off: float = 0.0
    steps: int = 0

    def share_within(self, nights: int) -> float:
        return sum(delay <= nights for delay in self.delays) / self.steps

    @property
    def text(self) -> str:
        if not self.steps:
            return f"{self.false / self.years:.2f} a year"
        if not self.delays:
            return "0 %"
        middle, late = np.percentile(self.delays, (50, 90))
        return f"{self.share_within(GIVEN_UP):.0%} after {middle:.0f} ({late:.0f}), {self.off:.1f} off"


def figures_of(way: Callable[[Floats], list[Seen]], world: World, years: int, seed: int) -> Figures:
    rng = np.random.default_rng([1, seed])
    false, delays, off = 0, [], []
    for _ in range(years):
        seen = way(year_of(world.kind, world.step, rng))
        false += sum(not world.step or night < STEP_AT for night, _ in seen)
        right = [(n, s) for n, s in seen if STEP_AT <= n < STEP_AT + GIVEN_UP and abs(s - STEP_AT) <= NEAR]
        if world.step and right:
            delays.append(right[0][0] - STEP_AT + 1)
            off.append(abs(right[0][1] - STEP_AT))
    if not world.step:
        return Figures(false, years)
    return Figures(false, years * STEP_AT / NIGHTS, tuple(delays), float(np.mean(off)) if off else 0.0, years)


def is_within(world: World, figures: Figures) -> bool:
    """Whether the figures keep the world's lines, with what chance alone does in 1 of 1,000 simulations."""
    checks = [True]
    if world.most_false is not None:
        checks.append(figures.false <= poisson.ppf(0.999, world.most_false * figures.years))
    if world.within is not None:
        checks.append(figures.share_within(world.within) >= binom.ppf(0.001, figures.steps, 0.95) / figures.steps)
    if world.median is not None and figures.delays:
        middle, late = np.percentile(figures.delays, (50, 90))
        low, high = world.median
        checks.append(bool(low <= middle <= high and late <= high + 2))
    if world.most_off is not None:
        checks.append(figures.off <= world.most_off)
    return all(checks)


def table_of_ways(years: int) -> Iterator[tuple[str, bool]]:
    yield f"| nights | step | {' | '.join(WAYS)} |", True
    yield f"|:---|---:|{'---:|' * len(WAYS)}", True
    for seed, world in enumerate(WORLDS):
        figures = {name: figures_of(way, world, years, seed) for name, way in WAYS.items()}
        step = f"+{world.step:.0%}" if world.step else "none: false"
        cells = " | ".join(result.text for result in figures.values())
        yield f"| {KINDS[world.kind]} | {step} | {cells} |", is_within(world, figures["loadgen"])


def regressions_of(kind: str, rng: np.random.Generator) -> int:
    """The false changes for the worse of a quiet year, over eight metrics: six of one kind, a share and a memory."""
    false = 0
    for number in range(METRICS - 2):
        better = -1 if number == 0 else 1  # of the throughput, less is worse
        changes = change_points(year_of(kind, 0.0, rng), MATTERS)
        false += sum(better * (change.change or 0.0) > 0 for change in changes)
    failed = rng.binomial(1000, np.where(rng.random(NIGHTS) < 0.05, 0.02, 0.0005)) / 1000
    false += sum(change.after > change.before for change in change_points(failed, SHARE_MATTERS, "difference"))
    memory = np.round(480 * np.exp(rng.standard_normal(NIGHTS) * 0.002), 1)
    return false + sum(change.after > change.before for change in change_points(memory, MATTERS))


def table_of_quiet_years(years: int) -> Iterator[tuple[str, bool]]:
    """All eight metrics together."""
    yield "| quiet nights | false regressions a year, over all 8 metrics |", True
    yield "|:---|---:|", True
    for seed, kind in enumerate(KINDS):
        rng = np.random.default_rng([2, seed])
        false = sum(regressions_of(kind, rng) for _ in range(years))
        is_kept = kind not in QUIET or false <= poisson.ppf(0.999, years * MOST_FALSE)
        yield f"| {KINDS[kind]} | {false / years:.2f} |", bool(is_kept)


def table_of_ranges(years: int) -> Iterator[tuple[str, bool]]:
    """Where a step was shown: how often the range of nights has its true first night."""
    yield (
        "| nights | step | the range has the true night | nights in it when shown | in the end (90 %) |",
        True,
    )
    yield "|:---|---:|---:|---:|---:|", True
    for seed, world in enumerate(world for world in WORLDS if world.step):
        rng = np.random.default_rng([3, seed])
        steps = [ranges for _ in range(years) if (ranges := ranges_of(year_of(world.kind, world.step, rng)))]
        held = sum(low <= STEP_AT <= high for ranges in steps for low, high in ranges) / 2
        line = binom.ppf(0.001, len(steps), COVERED) if world.kind in COVERED_KINDS else 0
        widths = np.array([[high - low + 1 for low, high in ranges] for ranges in steps])
        cells = [f"{middle:.0f} ({late:.0f})" for middle, late in np.percentile(widths, (50, 90), axis=0).T]
        share = f"{held / len(steps):.0%}"
        yield f"| {KINDS[world.kind]} | +{world.step:.0%} | {share} | {' | '.join(cells)} |", bool(held >= line)


def ranges_of(values: Floats) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The range of the step of a year, on the night that showed it and at the end; None if it was not shown."""
    changes = change_points(values, MATTERS)
    begins = [0, *(change.split for change in changes)]
    ends = [*(change.split for change in changes[1:]), values.size]
    for begin, change, end in zip(begins, changes, ends, strict=False):
        if abs(change.split - STEP_AT) <= NEAR and change.shown >= STEP_AT:
            begin = max(begin, change.split - STRETCH)
            first, last = (split_range(values[begin:until], change.split - begin) for until in (change.shown + 1, end))
            return (begin + first[0], begin + first[1]), (begin + last[0], begin + last[1])
    return None


def seconds_of_history() -> float:
    """CPU time of what `loadgen history` computes from 400 nights of two models with eight metrics, without reading."""
    rng = np.random.default_rng([4])
    names = [metric.name for metric in NIGHT_METRICS]
    levels = np.exp(rng.standard_normal((2, len(names), 400)) * NOISE + 0.1 * (np.arange(400) >= STEP_AT))
    nights = [
        _night(day, {model: dict(zip(names, levels[at, :, day], strict=True)) for at, model in enumerate("ab")})
        for day in range(400)
    ]
    began = time.process_time()
    answer = history_of(nights, HistorySettings(scenario="nights"))
    assert len(history_json(answer).series) == 2 * len(names)
    return time.process_time() - began


def _night(day: int, models: dict[str, dict[str, float]]) -> NightRecord:
    started = datetime(2026, 1, 1, 23, tzinfo=UTC) + timedelta(days=day)
    stages = tuple(
        NightStage(
            model=model,
            target="llamacpp",
            level="c2",
            played=True,
            verdict="valid",
            ok=100,
            values={name: NightValue(float(value)) for name, value in values.items()},
            build=f"b{day // 30}",
            traits={},
        )
        for model, values in models.items()
    )
    return NightRecord(
        folder=Path(f"{day}"),
        run_id=f"{started:%Y%m%d}",
        started_utc=started.isoformat(),
        date=started.date().isoformat(),
        kind="soak",
        incomplete=False,
        digest="d",
        scenario=Raw(b"{}"),
        prompts=None,
        machine="3fa1c09e",
        machine_name="a machine",
        traits={"kernel": f"6.{day // 60}", "memory": "32 GiB", "governor": "performance"},
        stages=stages,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under half a minute")
    size.add_argument("--years", type=int, default=YEARS, help=f"years of each row (default: {YEARS})")
    arguments = parser.parse_args()
    years = QUICK_YEARS if arguments.quick else arguments.years
    print(f"{years} years of {NIGHTS} nights in each row. Steps: how many were shown, after how many nights (median,")
    print("90th percentile), and how many nights the first night of the new level is off.\n")
    failed = []
    for table in (table_of_ways, table_of_quiet_years, table_of_ranges):
        for line, is_kept in table(years):
            print(line, flush=True)
            if not is_kept:
                failed.append(line)
        print(flush=True)
    seconds = seconds_of_history()
    line = f"400 nights of 2 models with 8 metrics: {seconds:.2f} s of CPU time"
    print(f"{line}, without reading them; {time.process_time():.0f} s for all of this\n")
    if seconds > MOST_SECONDS:
        failed.append(line)
    for line in failed:
        print(f"outside its line: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
