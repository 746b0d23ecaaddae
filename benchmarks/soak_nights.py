"""Nights of a soak whose truth is known, as `read_stage_windows` would read them: windows and histograms of one model.

A night is 480 windows of a minute with 20 requests each, in a closed loop, so that a slower server is asked less. The
pace of the server wanders by 3 % or so, in one of eight ways, and slows down if it is told to. Failures, memory and
temperature wander by themselves. Times, like those of a small model on an edge device: a TTFT of 200 ms, gaps of 50 ms.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.histogram import buckets_of
from loadgen.store.windows import WindowLine

WINDOWS: Final = 480
PER_WINDOW: Final = 20
GAPS: Final = 8
"""How many gaps of a request are in the histograms."""
_MINUTE_NS: Final = 60 * 10**9

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Chance = np.random.Generator
T: Final = np.arange(WINDOWS, dtype=np.float64)


def ar(chance: Chance, phi: float, deviation: float) -> Floats:
    """An autoregressive series of order 1, one value a window, in its long run."""
    value, series = float(chance.normal()) * deviation, []
    for shock in (chance.normal(size=WINDOWS) * deviation * np.sqrt(1 - phi * phi)).tolist():
        value = phi * value + shock
        series.append(value)
    return np.array(series)


def _throttled(chance: Chance) -> Floats:
    return ar(chance, 0.3, 0.02) + 0.1 * (np.cumsum(chance.random(WINDOWS) < 1 / 20) % 2)


def _hourly(chance: Chance) -> Floats:
    return ar(chance, 0.6, 0.02) + 0.25 * ((T + chance.integers(60)) % 60 < 5)


NOISE: Final[dict[str, Callable[[Chance], Floats]]] = {
    "none from minute to minute": lambda c: c.normal(size=WINDOWS) * 0.03,
    "AR(1), 0.6 a minute": lambda c: ar(c, 0.6, 0.03),
    "AR(1), 0.9 a minute": lambda c: ar(c, 0.9, 0.03),
    "AR(1), 0.97 a minute (33 min)": lambda c: ar(c, 0.97, 0.03),
    "throttled and not, 20 min each": _throttled,
    "five slow minutes every hour": _hourly,
    "slow first minutes": lambda c: ar(c, 0.6, 0.03) + 0.3 * np.exp(-T / 8),
    "single minutes three times slower": lambda c: ar(c, 0.6, 0.03) + np.log(3) * (c.random(WINDOWS) < 0.01),
}
"""How the pace of the server wanders over a quiet night, as a logarithm by minute."""


def _steps(chance: Chance) -> Floats:
    ups = np.cumsum(chance.choice([-1.0, 0.0, 1.0], WINDOWS, p=[0.01, 0.98, 0.01]))
    steps: Floats = np.minimum(np.maximum(ups, -2.0), 2.0)
    return steps


def _sawtooth(chance: Chance) -> Floats:
    return 100 * ((T + chance.integers(90)) % 90) / 90 + ar(chance, 0.8, 4)


MEMORY: Final[dict[str, Callable[[Chance], Floats]]] = {
    "noise of 5 MiB": lambda c: 500 + ar(c, 0.95, 5),
    "a cache that fills in 40 min": lambda c: 500 + ar(c, 0.95, 5) + 200 * (1 - np.exp(-T / 40)),
    "a cache that fills in 2 h": lambda c: 500 + ar(c, 0.95, 5) + 200 * (1 - np.exp(-T / 120)),
    "steps of 30 MiB, up and down": lambda c: 500 + 3 * c.normal(size=WINDOWS) + 30 * _steps(c),
    "the sawtooth of a collector, 100 MiB": lambda c: 500 + _sawtooth(c),
    "a leak of 8 MiB/h beside 5 MiB of noise": lambda c: 500 + ar(c, 0.95, 5) + 8 * T / 60,
    "a leak of 16 MiB/h beside 5 MiB of noise": lambda c: 500 + ar(c, 0.95, 5) + 16 * T / 60,
    "a leak of 16 MiB/h in the sawtooth": lambda c: 500 + _sawtooth(c) + 16 * T / 60,
}
"""The memory of the server by minute, MiB. Those with a leak are named so."""


class Truth(Struct, frozen=True):
    """What a night is like."""

    noise: str
    """How its pace wanders: a key of `NOISE`."""
    drift: float = 0.0
    """By how much it slows down, as a logarithm."""
    step_at: float | None = None
    """At which part of the night it slows down in a step. None: in equal parts all night."""
    memory: str | None = None
    """A key of `MEMORY`. None: a cache that fills in 25 min, beside 4 MiB of noise."""
    failed_share: float = 0.01
    failed_wander: float = 1.0
    """The deviation of the logarithm of the share of failures: AR(1), 0.9 a minute."""


def night_of(truth: Truth, chance: Chance, gaps: int = GAPS) -> StageWindows:
    """gaps: how many of each request's gaps are in the histograms."""
    part = T / WINDOWS
    slowing = part - 0.5 if truth.step_at is None else (part >= truth.step_at).astype(np.float64)
    pace = NOISE[truth.noise](chance) + truth.drift * slowing
    ok = chance.poisson(PER_WINDOW * np.exp(-pace))
    minute = np.repeat(np.arange(WINDOWS), ok)
    slow = np.exp(pace[minute] + 0.1 * chance.normal(size=minute.size))
    ttft = (2e8 * np.exp(pace[minute] + 0.4 * chance.normal(size=minute.size))).astype(np.int64)
    between = 5e7 * np.repeat(slow, gaps) * np.exp(0.25 * chance.normal(size=minute.size * gaps))
    tokens = chance.poisson(40, minute.size)
    failed = chance.binomial(ok, np.minimum(0.5, truth.failed_share * np.exp(ar(chance, 0.9, truth.failed_wander))))
    memory = MEMORY[truth.memory](chance) if truth.memory else 500 + ar(chance, 0.95, 4) + 60 * (1 - np.exp(-T / 25))
    lines = _lines(
        ok.tolist(),
        failed.tolist(),
        np.bincount(minute, tokens, WINDOWS).tolist(),
        np.bincount(minute, tokens * 0.05 * slow, WINDOWS).tolist(),
        _medians(ttft, minute, ok),
        (memory * 2**20).tolist(),
        (60 + ar(chance, 0.95, 2) - 15 * np.exp(-T / 15)).tolist(),
    )
    counts = {"ttft": _counts(ttft, minute), "itl": _counts(between.astype(np.int64), np.repeat(minute, gaps))}
    return StageWindows("m", "simulated", "c2", lines, counts)


def _lines(*columns: list[float]) -> tuple[WindowLine, ...]:
    return tuple(
        WindowLine(
            window=index,
            start_ns=index * _MINUTE_NS,
            end_ns=(index + 1) * _MINUTE_NS,
            start_utc=f"2026-11-11T{index // 60 % 24:02}:{index % 60:02}:00+00:00",
            model="m",
            target="simulated",
            level="c2",
            ok=int(ok),
            by_outcome={"ok": int(ok), "timeout": int(failed)},
            output_tokens=int(tokens),
            prompt_tokens=0,
            stream_s=stream_s,
            slo_met=None,
            ttft_p50_ms=ttft,
            itl_p50_ms=None,
            e2e_p50_ms=None,
            extremes_ns={},
            server_memory_bytes=int(memory),
            server_rss_bytes=None,
            own_rss_bytes=None,
            server_life=0,
            temperature_c=temperature,
            throttled=None,
            loop_lag_p99_ms=None,
            dispatch_slip_p99_ms=None,
            collector_ms=0.0,
            gap_s=0.0,
            draining=False,
            valid=True,
            reasons=(),
        )
        for index, (ok, failed, tokens, stream_s, ttft, memory, temperature) in enumerate(zip(*columns, strict=True))
    )


def _medians(values: Ids, minute: Ids, sizes: Ids) -> list[float]:
    """The median of each minute, ms; a minute without a value has that of its neighbor."""
    ordered = values[np.lexsort((values, minute))]
    places = np.minimum(np.cumsum(sizes) - sizes + sizes // 2, values.size - 1)
    medians: list[float] = (ordered[places] / 1e6).tolist()
    return medians


def _counts(values: Ids, minute: Ids) -> BucketCounts:
    keys, count = np.unique((minute << 20) + buckets_of(values), return_counts=True)
    return BucketCounts(WINDOWS, keys >> 20, keys & ((1 << 20) - 1), count)
