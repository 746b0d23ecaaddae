"""The run-to-run noise, for comparisons with too few runs to measure it. Reads summaries."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from msgspec import UNSET, Struct

from loadgen.decisions.compare.differences import machine_of
from loadgen.decisions.compare.figures import FigureKey, FigureTable, log_odds, value_of
from loadgen.decisions.compare.paired_models import PairedModel
from loadgen.decisions.compare.sides import ComparedRun, Sides, read_summarized
from loadgen.errors import InputError
from loadgen.stats.permutation import Figures, spread_in_blocks
from loadgen.store import run_folder

ASSUMED_SD: Final = 0.05
"""Six runs of the embedded server differed by 2.1 to 3.4 % in median latencies, by 5.2 % in tokens a second."""
MIN_DEGREES: Final = 2
"""With fewer degrees of freedom, the noise is not learned."""
LEAST_OF_MEAN: Final = 0.5
"""The noise of a figure is at least this part of the mean of all figures, because a few runs may be equal by luck."""
MIN_EARLIER: Final = 3
MAX_EARLIER: Final = 20
"""How many earlier runs are read, the newest first."""


class Noise(Struct, frozen=True):
    """How far the figures of one run differ from those of the next."""

    sd: float | None
    """Root mean square over all figures except shares, as a share (0.03: 3 %); None if there are only shares."""
    source: Literal["given", "repeats", "earlier", "assumed"]
    """Where it comes from: `--noise`; the compared runs; these and earlier runs of the same work; an assumption."""
    degrees: int | None
    """Degrees of freedom; None if it is not learned."""


class RunSpread(Struct, frozen=True):
    """The noise of each figure, on the scale of `FigureTable.scaled`."""

    sd: Figures
    degrees: float
    """Degrees of freedom; infinite if the noise is not learned."""
    noise: Noise


def run_spread(
    table: FigureTable, sides: Sides, models: Sequence[PairedModel], given: float | None, results: Path
) -> RunSpread:
    """The noise of each figure: as given, or learned, or assumed. results: the folder with earlier runs."""
    if given is not None:
        return RunSpread(_same_for_all(table, given), math.inf, Noise(given, "given", None))
    base = len(sides.base)
    groups = [table.scaled[:base], table.scaled[base:]]
    degrees = len(sides.runs) - 2
    if degrees >= MIN_DEGREES:
        return _learned(table, groups, "repeats")
    earlier = np.array(list(_earlier_runs(table, sides, models, results)))
    if len(earlier) >= MIN_EARLIER:
        return _learned(table, [*groups, earlier], "earlier")
    return RunSpread(_same_for_all(table, ASSUMED_SD), math.inf, Noise(ASSUMED_SD, "assumed", None))


def noise_of_runs(table: FigureTable, base: int) -> Noise:
    """The noise that the repeats of both sides show. base: the number of BASE's runs."""
    return _learned(table, [table.scaled[:base], table.scaled[base:]], "repeats").noise


def noise_of_blocks(table: FigureTable, base: int) -> Noise:
    """The noise within blocks, which does not include drift from block to block. base: as in
    `loadgen.decisions.compare.verdict.evidence_of_blocks`."""
    spread = spread_in_blocks(table.scaled[base:] - table.scaled[:base])
    return Noise(_mean_of_relative(table, spread), "repeats", base - 1)


def _learned(table: FigureTable, groups: Sequence[Figures], source: Literal["repeats", "earlier"]) -> RunSpread:
    squares = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups)
    degrees = sum(len(group) - 1 for group in groups)
    sd: Figures = np.sqrt(squares / degrees)
    mean = _mean_of_relative(table, sd)
    least = np.where(table.is_share, 0.0, LEAST_OF_MEAN * (mean or 0.0))
    return RunSpread(np.maximum(sd, least), degrees, Noise(mean, source, degrees))


def _mean_of_relative(table: FigureTable, sd: Figures) -> float | None:
    """Root mean square over all figures except shares."""
    relative = sd[~table.is_share]
    return float(np.sqrt((relative**2).mean())) if relative.size else None


def _same_for_all(table: FigureTable, noise: float) -> Figures:
    """The same noise for all figures; for a share, it means points instead of percent, converted to log odds."""
    sd = np.full(len(table.keys), noise)
    for i, key in enumerate(table.keys):
        if key.unit == "share":
            requests = max(float(table.requests[:, i].mean()), 1.0)
            share = (float(table.values[:, i].mean()) * requests + 0.5) / (requests + 1)
            sd[i] = noise / (share * (1 - share))
    return sd


def _earlier_runs(
    table: FigureTable, sides: Sides, models: Sequence[PairedModel], results: Path
) -> Iterator[list[float]]:
    """The figures of earlier runs with BASE's work, machine and targets, if a run shows all figures."""
    first = sides.base[0]
    compared = {run.run_id for run in sides.runs}
    folders = run_folder.runs_of(results / first.manifest.scenario.name)
    for folder in folders[::-1][:MAX_EARLIER]:
        with contextlib.suppress(InputError):
            run = read_summarized(folder)
            if run.run_id not in compared and _is_repeat(run, first):
                figures = [_figure(run, key, models, table, i) for i, key in enumerate(table.keys) if key.level]
                if all(figure is not None for figure in figures):
                    yield _with_means(table, [figure for figure in figures if figure is not None])


def _is_repeat(run: ComparedRun, first: ComparedRun) -> bool:
    work, other = run.manifest.workload, first.manifest.workload
    alike = work is not None and other is not None and work.digest == other.digest
    alike = alike and run.manifest.measurement_epoch == first.manifest.measurement_epoch
    is_valid = all(stage.validity is UNSET or stage.validity.verdict != "invalid" for stage in run.played)
    return alike and is_valid and not run.summary.incomplete and machine_of(run) == machine_of(first)


def _figure(
    run: ComparedRun, key: FigureKey, models: Sequence[PairedModel], table: FigureTable, place: int
) -> float | None:
    assert key.level is not None
    stage = run.stage(models[key.model].key(0, key.level))
    value = None if stage is None else value_of(stage, key.metric)
    if value is None or (value <= 0 and key.unit != "share"):
        return None
    if key.unit == "share":
        return key.sign * float(log_odds(np.array(value), float(table.requests[:, place].mean())))
    return key.sign * math.log(value)


def _with_means(table: FigureTable, figures: Sequence[float]) -> list[float]:
    """Figures at levels, with their means over levels if the table has them."""
    rest = iter(figures)
    by_metric: dict[tuple[int, str], list[float]] = {}
    row = []
    for key in table.keys:
        own = by_metric.setdefault((key.model, key.metric), [])
        if key.level is not None:
            own.append(next(rest))
        row.append(own[-1] if key.level is not None else sum(own) / len(own))
    return row
