"""The figures of a comparison as arrays: runs × figures, in which higher is worse. Pure.

A figure is a metric of a model at one level, or its mean over all levels. Times, rates and memory are logarithms, so
that a difference is a ratio. Shares are log odds of (count + ½), counted at the mean number of requests of all runs, so
that a run with fewer requests does not have lower odds.
"""

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from loadgen.analysis.metrics import FROM_SEND
from loadgen.analysis.samples import PERCENTILES
from loadgen.analysis.summary import METRICS, StageSummary
from loadgen.decisions.compare.paired_models import PairedModel
from loadgen.decisions.compare.sides import Sides
from loadgen.errors import InputError
from loadgen.stats.permutation import Figures

Unit = Literal["ms", "/s", "share", "MiB"]

RATE: Final = "output_tokens_per_s"
GOODPUT: Final = "goodput"
OK: Final = "ok"
MEMORY: Final = "rss"
SHARES: Final = (GOODPUT, OK)
DEFAULT_METRICS: Final = (
    *("ttft_p50", "ttft_p90", "ttft_from_send_p50", "tpot_p50", "tpot_p90", "itl_p99", "e2e_p50", "e2e_p90"),
    *(RATE, GOODPUT, OK, MEMORY),
)
_LATENCY: Final = re.compile(rf"({'|'.join((*METRICS, *FROM_SEND, 'ttfc'))})_(p\d+(?:\.\d+)?)")
_PERCENTILE_NAMES: Final = tuple(f"p{p:g}" for p in PERCENTILES)


class FigureKey(Struct, frozen=True):
    """Identifies a figure."""

    model: int
    """The index into the paired models."""
    level: str | None
    """None: over all levels."""
    metric: str

    @property
    def unit(self) -> Unit:
        match self.metric:
            case "goodput" | "ok":
                return "share"
            case "output_tokens_per_s":
                return "/s"
            case "rss":
                return "MiB"
            case _:
                return "ms"

    @property
    def sign(self) -> int:
        """1 if more is worse, −1 if less is worse."""
        return -1 if self.unit in ("/s", "share") else 1


class FigureTable(Struct, frozen=True):
    """The figures of all runs."""

    keys: tuple[FigureKey, ...]
    values: Figures
    """Runs × figures, in their units; NaN for a figure over all levels."""
    scaled: Figures
    """Runs × figures, on the scale on which differences are judged; higher is worse."""
    requests: Figures
    """Runs × figures: the number of planned requests of a share; 0 for all other figures."""

    @property
    def is_share(self) -> NDArray[np.bool_]:
        return np.array([key.unit == "share" for key in self.keys])


def parse_metrics(text: str) -> tuple[str, ...]:
    """The metrics of "ttft_p50,rss". Raises InputError for an unknown name."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        latency = _LATENCY.fullmatch(name)
        if name not in DEFAULT_METRICS and (latency is None or latency[2] not in _PERCENTILE_NAMES):
            known = f"ttft, itl, tpot or e2e with _{', _'.join(_PERCENTILE_NAMES)}, {RATE}, {GOODPUT}, {OK}, {MEMORY}"
            raise InputError(f"--metrics {text}: {name!r} is not a metric; the metrics are {known}")
    return tuple(dict.fromkeys(names))


def table_of(sides: Sides, models: Sequence[PairedModel], metrics: Sequence[str]) -> FigureTable:
    """Each metric that every run shows, at each level of each model, and then over all levels.

    Raises InputError if no metric is shown by every run.
    """
    keys, columns, counts = [], [], []
    for place, model in enumerate(models):
        for metric in metrics:
            for level in model.levels:
                key = FigureKey(place, level, metric)
                stages = [run.stage(model.key(i, level)) for i, run in enumerate(sides.runs)]
                values = [None if stage is None else value_of(stage, metric) for stage in stages]
                known = [value for value in values if value is not None]
                if len(known) == len(values) and (key.unit == "share" or min(known) > 0):
                    keys.append(key)
                    columns.append(known)
                    counts.append([_planned(stage) if key.unit == "share" else 0.0 for stage in stages])
    if not keys:
        raise InputError(f"not every run shows one of {', '.join(metrics)}; name others with --metrics")
    values_array, requests = np.array(columns).T, np.array(counts).T
    return _with_means(keys, values_array, _scaled(keys, values_array, requests), requests)


def value_of(stage: StageSummary, metric: str) -> float | None:
    """The value of a metric in a stage: ms, tokens per second, a share or MiB; None if the stage does not show it."""
    match metric:
        case "output_tokens_per_s":
            return None if stage.throughput is UNSET else stage.throughput.output_tokens_per_s
        case "goodput":
            return None if stage.slo is None or stage.slo.share is None else stage.slo.share
        case "ok":
            return None if stage.requests is UNSET else stage.requests.ok / max(stage.requests.planned, 1)
        case "rss":
            return stage.peak_mib
    name, _, percentile = metric.rpartition("_")
    latency = stage.metric(f"{name}_ms")
    return None if latency is None else latency.percentile(percentile).value


def _planned(stage: StageSummary | None) -> float:
    return 0.0 if stage is None or stage.requests is UNSET else float(stage.requests.planned)


def log_odds(shares: Figures, requests: float) -> Figures:
    """The log odds of a share of `requests` requests, with half a request added on both sides."""
    odds: Figures = np.log((shares * requests + 0.5) / ((1 - shares) * requests + 0.5))
    return odds


def _scaled(keys: Sequence[FigureKey], values: Figures, requests: Figures) -> Figures:
    scaled = np.empty_like(values)
    for i, key in enumerate(keys):
        column = values[:, i]
        scale = log_odds(column, float(requests[:, i].mean())) if key.unit == "share" else np.log(column)
        scaled[:, i] = key.sign * scale
    return scaled


def _with_means(keys: list[FigureKey], values: Figures, scaled: Figures, requests: Figures) -> FigureTable:
    """The figures, and after each metric with several levels its mean over them."""
    places: dict[tuple[int, str], list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault((key.model, key.metric), []).append(i)
    all_keys: list[FigureKey] = []
    columns: list[tuple[Figures, Figures, Figures]] = []
    for (model, metric), own in places.items():
        all_keys += [keys[i] for i in own]
        columns += [(values[:, i], scaled[:, i], requests[:, i]) for i in own]
        if len(own) > 1:
            all_keys.append(FigureKey(model, None, metric))
            shown = values[:, own].mean(1) if metric in SHARES else np.full(len(values), math.nan)
            columns.append((shown, scaled[:, own].mean(1), requests[:, own].mean(1)))
    stacked = [np.column_stack(each) for each in zip(*columns, strict=True)]
    return FigureTable(tuple(all_keys), *stacked)
