"""What share of requests must meet a limit: `ttft_p95=2s`, `ok=99%`, `goodput=95%` as data. Knows no request."""

import re
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from loadgen.scenario.problem import suggestion, toml_text
from loadgen.scenario.types import Slo

ObjectiveMetric = Literal["ttft", "ttfc", "tpot", "itl", "e2e", "ok", "goodput"]

LATENCIES: Final = ("ttft", "ttfc", "tpot", "itl", "e2e")
SHARES: Final = ("ok", "goodput")
STREAMED_LATENCIES: Final = ("ttft", "ttfc", "tpot", "itl")
"""Answers that come whole have none of these."""
EXAMPLE: Final = "ttft_p95=2s"
ITL_SHARE: Final = 0.95
"""`itl_p99=80ms` asks that so many requests keep the 99th percentile of their own gaps within 80 ms."""
DEFAULT_ATTAINMENT: Final = 0.9
"""The share that must meet the limits of `[slo]` where it asks for none."""
_MS_PER_UNIT: Final = {"ms": 1.0, "s": 1e3, "m": 60e3, "min": 60e3}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"


class Objective(Struct, frozen=True):
    """A share of the requests that must meet a limit in the long run. A percentile is one: at least 95 % within 2 s."""

    text: str
    """As a person wrote it, without blanks: "ttft_p95=2s"."""
    metric: ObjectiveMetric
    limit_ms: float | None
    """What a request must stay within; None for `ok` and `goodput`."""
    share: float
    """Of the planned requests, above 0.5 and below 1."""
    gap_percentile: float | None = None
    """Of `itl` alone: which percentile of its own gaps a request must keep within the limit."""


def objective_of(text: str) -> Objective:
    """What METRIC_pNN=TIME, ok=PERCENT% or goodput=PERCENT% says. ValueError where `mismatch_of_objective` has
    something to say."""
    wrong = mismatch_of_objective(text)
    if wrong is not None:
        raise ValueError("; ".join(wrong))
    name, _, value = _without_blanks(text).partition("=")
    if name in SHARES:
        return Objective(_without_blanks(text), name, None, round(float(value.rstrip("%")) / 100, 6))  # type: ignore[arg-type]
    metric, _, percentile = name.rpartition("_p")
    is_of_gaps = metric == "itl"
    return Objective(
        text=_without_blanks(text),
        metric=metric,  # type: ignore[arg-type]
        limit_ms=_milliseconds(value),
        share=ITL_SHARE if is_of_gaps else round(float(percentile) / 100, 6),
        gap_percentile=float(percentile) if is_of_gaps else None,
    )


def mismatch_of_objective(text: str) -> tuple[str, str] | None:
    """What is wrong with an objective and how to fix it, in words; None where it is right."""
    name, equals, value = _without_blanks(text).partition("=")
    if not _without_blanks(text):
        return "is empty", "write e.g. ttft_p95=2s or ok=99%"
    if name in SHARES:
        return _mismatch_of_share(name, value)
    match = re.fullmatch(rf"([A-Za-z0-9_]+?)_p({_NUMBER})", name)
    metric = match[1] if match else name
    if metric not in LATENCIES:
        guess = _probable_name(name)
        known = f"the metrics are {', '.join(f'{latency}_pNN' for latency in LATENCIES)}, ok and goodput"
        hint = f"did you mean {guess}? {known}" if guess else known
        return f"{toml_text(text)}: unknown metric {toml_text(metric)}", hint
    if match is None or not equals:
        return f"{toml_text(text)} is not METRIC_pNN=TIME", f"write e.g. {metric}_p95=2s"
    if not 50 < float(match[2]) < 100:
        return f"{toml_text(text)}: p{match[2]} is not between p50 and p100", f"write e.g. {metric}_p95=2s"
    if re.fullmatch(_NUMBER, value):
        return f"{toml_text(text)}: the time has no unit", f"write {name}={value}s or {name}={value}ms"
    milliseconds = _milliseconds(value)
    if not milliseconds:
        return f"{toml_text(text)}: {toml_text(value)} is no time above 0", f"write e.g. {name}=2s or {name}=500ms"
    return None


def _probable_name(name: str) -> str | None:
    """The name that was probably meant, as it is written: `ttft_p90` for `ttft_90`, `ttf_p90` or `TTFT90`."""
    match = re.fullmatch(rf"([a-z0-9]+?)[_-]?p?({_NUMBER})", name.lower())
    metric = suggestion(match[1] if match else name, (*LATENCIES, *SHARES))
    if match is None or metric not in LATENCIES or not 50 < float(match[2]) < 100:
        return metric
    return f"{metric}_p{match[2]}"


def first_repeated(objectives: Sequence[Objective]) -> Objective | None:
    """The first objective that asks again for the share of a metric that an earlier one asks for."""
    asked = [(objective.metric, objective.share) for objective in objectives]
    return next((objective for i, objective in enumerate(objectives) if asked[i] in asked[:i]), None)


def limits_ms(slo: Slo) -> dict[str, float]:
    """The limits on each request that `[slo]` has, in ms, by metric."""
    limits = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2e": slo.e2e_ms}
    return {metric: limit for metric, limit in limits.items() if limit is not None}


def longest_limit_ms(slo: Slo) -> float:
    """The longest time that a limit or an objective of `[slo]` names; 0 if there is none."""
    limits = [objective.limit_ms or 0.0 for objective in map(objective_of, slo.objectives)]
    return max([*limits, *limits_ms(slo).values()], default=0.0)


def _mismatch_of_share(name: str, value: str) -> tuple[str, str] | None:
    if not re.fullmatch(rf"{_NUMBER}%", value):
        return f"{toml_text(f'{name}={value}')} is not {name}=PERCENT%", f"write e.g. {name}=99%"
    percent = float(value.rstrip("%"))
    if percent == 100:
        return f"{name}=100% can be missed but never shown", f"use {name}=99%"
    if not 50 < percent < 100:
        return f"{name}={value} is not above 50 % and below 100 %", f"write e.g. {name}=99%"
    return None


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _milliseconds(text: str) -> float | None:
    match = re.fullmatch(rf"({_NUMBER})({'|'.join(_MS_PER_UNIT)})", text)
    return float(match[1]) * _MS_PER_UNIT[match[2]] if match else None
