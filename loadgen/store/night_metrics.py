"""The metrics of a night: where a summary has each, its unit, and which direction is better. Pure."""

import re
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.record import JsonObject

LATENCIES: Final = ("ttft", "service_ttft", "itl", "tpot", "e2e", "queue", "connect")
"""The latencies that a summary may have, without their unit."""
_PERCENTILE: Final = r"p[0-9]{1,2}(?:\.[0-9]{1,3})?"
_LATENCY: Final = re.compile(rf"(?:metrics\.)?({'|'.join(LATENCIES)})(?:_ms)?[._]({_PERCENTILE})")
_LARGEST: Final = 1e15
_RATE: Final = re.compile(r"(?:throughput\.)?([a-z0-9_]+_per_s)")


class NightValue(Struct, frozen=True):
    """The value of a metric in a night. low, high: its 95 % interval; None if the summary has none."""

    value: float
    low: float | None = None
    high: float | None = None


class NightMetric(Struct, frozen=True):
    """A metric by which nights are compared."""

    name: str
    path: tuple[str, ...]
    """The keys that lead to it in a stage of `summary.json`."""
    unit: str
    """ "ms", "MiB", "/s", "J", or "" for a share of one."""
    better: Literal["low", "high"]


def _latency(name: str, percentile: str) -> NightMetric:
    return NightMetric(f"{name}_{percentile}", ("metrics", f"{name}_ms", percentile), "ms", "low")


def _rate(name: str) -> NightMetric:
    return NightMetric(name, ("throughput", name), "/s", "high")


FAILED_SHARE: Final = NightMetric("failed_share", ("requests", "failed"), "", "low")
SERVER_MEMORY: Final = NightMetric("server_memory", ("server", "rss_peak_mib"), "MiB", "low")
JOULES: Final = NightMetric("joules_per_token", ("energy", "joules_per_output_token"), "J", "low")
NIGHT_METRICS: Final = (
    _latency("ttft", "p50"),
    _latency("ttft", "p95"),
    _latency("itl", "p50"),
    _latency("itl", "p95"),
    _latency("e2e", "p95"),
    _rate("output_tokens_per_s"),
    FAILED_SHARE,
    SERVER_MEMORY,
)
"""The metrics of a history unless others are asked for."""


def parse_metric(text: str, known: tuple[str, ...] = ()) -> NightMetric:
    """The metric of a name (`ttft_p99`) or of a path in the summary (`metrics.ttft_ms.p99`,
    `throughput.requests_per_s`).

    known: the metrics that the nights have, for the message. Raises InputError for any other text.
    """
    named = {metric.name: metric for metric in (*NIGHT_METRICS, JOULES)}
    if text in named:
        return named[text]
    if match := _LATENCY.fullmatch(text):
        return _latency(match[1], match[2])
    if match := _RATE.fullmatch(text):
        return _rate(match[1])
    raise unknown_metric(text, known)


def unknown_metric(text: str, known: tuple[str, ...]) -> InputError:
    """The error of a metric that no night has, with those that there are."""
    names = dict.fromkeys((*(metric.name for metric in NIGHT_METRICS), *known))
    return InputError(f"--metric {text}: no such metric; there are {', '.join(names)}")


def value_in(stage: JsonObject, metric: NightMetric) -> NightValue | None:
    """The value of a metric in a stage of a summary; None if it is not known there."""
    if metric.path == FAILED_SHARE.path:
        return _failed_share(stage)
    table: object = stage
    for key in metric.path[:-1]:
        table = table.get(key) if isinstance(table, dict) else None
    if not isinstance(table, dict) or (value := number_of(table.get(metric.path[-1]))) is None:
        return None
    interval = table.get(f"{metric.path[-1]}_ci")
    if isinstance(interval, list) and len(interval) == 2:
        return NightValue(value, *map(number_of, interval))
    return NightValue(value)


def _failed_share(stage: JsonObject) -> NightValue | None:
    requests = stage.get("requests")
    if not isinstance(requests, dict):
        return None
    failed, planned = number_of(requests.get("failed")), number_of(requests.get("planned"))
    if failed is None or planned is None or planned < 1 or failed > planned:
        return None
    return NightValue(failed / planned)


def number_of(value: object) -> float | None:
    """A measured value; None if it is none: no number, below zero, or so large that someone wrote it by hand."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        return None
    return float(value)


def metric_names_in(stage: JsonObject) -> Iterator[str]:
    """The names of the metrics that a stage of a summary has, known or not."""
    metrics, rates = stage.get("metrics"), stage.get("throughput")
    for latency, table in metrics.items() if isinstance(metrics, dict) else ():
        for key in table if isinstance(table, dict) else ():
            if re.fullmatch(_PERCENTILE, key):
                yield f"{latency.removesuffix('_ms')}_{key}"
    for key in rates if isinstance(rates, dict) else ():
        if key.endswith("_per_s"):
            yield key
    if isinstance(stage.get("energy"), dict):
        yield JOULES.name
