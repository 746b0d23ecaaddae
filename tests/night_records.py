"""Synthetic nights: what `loadgen.store.history` reads from run folders, without the folders."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Raw

from loadgen.decisions.history.series import NightSeries, series_of, stage_series_of
from loadgen.store.history import NightKind, NightRecord, NightStage
from loadgen.store.night_metrics import NIGHT_METRICS, NightValue

FIRST: Final = datetime(2026, 1, 1, 23, 0, tzinfo=UTC)
METRIC: Final = "ttft_p95"
QUIET: Final[Mapping[str, float]] = {
    "ttft_p50": 200.0,
    "ttft_p95": 400.0,
    "itl_p50": 50.0,
    "itl_p95": 80.0,
    "e2e_p95": 6400.0,
    "output_tokens_per_s": 30.0,
    "failed_share": 0.0,
    "server_memory": 480.0,
}


def stage(
    values: Mapping[str, float | None] | float | None = None,
    *,
    model: str = "m",
    target: str = "llamacpp",
    level: str = "c2",
    played: bool = True,
    verdict: str | None = "valid",
    ok: int = 100,
    build: str | None = None,
    traits: Mapping[str, str] | None = None,
) -> NightStage:
    """A stage of a night. values: by metric, or that of `METRIC` alone; None: not measured."""
    table = values if isinstance(values, Mapping) else {METRIC: values}
    return NightStage(
        model=model,
        target=target,
        level=level,
        played=played,
        verdict=verdict,
        ok=ok,
        values={name: NightValue(float(value)) for name, value in table.items() if value is not None},
        build=build,
        traits=dict(traits or {}),
    )


def night(
    day: float,
    *stages: NightStage,
    run: str = "",
    kind: NightKind = "soak",
    incomplete: bool = False,
    digest: str = "d1",
    scenario: Mapping[str, Any] | None = None,
    machine: str = "3fa1c09e",
    traits: Mapping[str, str] | None = None,
) -> NightRecord:
    """The night that began so many days after the first one."""
    started = FIRST + timedelta(days=day)
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{run or digest}"
    return NightRecord(
        folder=Path("results/summarizer") / run_id,
        run_id=run_id,
        started_utc=started.isoformat(),
        date=started.date().isoformat(),
        kind=kind,
        incomplete=incomplete,
        digest=digest,
        scenario=Raw(msgspec.json.encode({"name": "summarizer", "load": {"concurrency": 2}} | dict(scenario or {}))),
        prompts=None,
        machine=machine,
        machine_name=f"Processor of {machine}",
        traits=dict(traits or {}),
        stages=stages,
    )


def nights_of(values: Sequence[float | None], builds: Sequence[str | None] | None = None) -> list[NightRecord]:
    """A night a day, of one metric of one model."""
    names = builds or [None] * len(values)
    return [night(day, stage(value, build=name)) for day, (value, name) in enumerate(zip(values, names, strict=True))]


def only_series(nights: Sequence[NightRecord]) -> NightSeries:
    """The only series of nights of one metric."""
    (series,) = (each for played in stage_series_of(nights) for each in series_of(played, NIGHT_METRICS))
    return series


def wobble(count: int, seed: int = 1, noise: float = 0.02) -> list[float]:
    """Factors around 1: the noise of so many nights."""
    values: list[float] = np.exp(np.random.default_rng([3, seed]).standard_normal(count) * noise).tolist()
    return values


def step(before: int, after: int, factor: float, level: float = 400.0, seed: int = 1) -> list[float | None]:
    """Nights of a level, and nights of another one."""
    factors = [1.0] * before + [factor] * after
    return [level * each * noise for each, noise in zip(factors, wobble(before + after, seed), strict=True)]
