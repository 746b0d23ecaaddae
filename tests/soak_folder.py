"""Run folders of soaks that nobody played: a manifest, windows, histograms and events of a scripted night."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.plan.plan import StageLoad
from loadgen.plan.rng import generator
from loadgen.stats.histogram import Histogram
from loadgen.store import files
from loadgen.store.events import EVENTS, Event, EventKind
from loadgen.store.hlog import Interval, tag
from loadgen.store.manifest import PlannedStage, SoakFacts
from loadgen.store.run_folder import MANIFEST
from loadgen.store.windows import WindowLine, WindowLog
from tests import records
from tests.records import MS

STARTED: Final = datetime(2026, 11, 29, 22, 0, tzinfo=UTC)
TARGET: Final = "llamacpp"
LEVEL: Final = "c2"
TOKENS: Final = 40
MIB: Final = 2**20


class ScriptedNight(Struct, frozen=True, kw_only=True):
    """What a device did during a soak of one model. Windows are counted from 0."""

    model: str = "m"
    windows: int = 120
    window_s: float = 60.0
    requests: int = 20
    """How many end in each window."""
    change: float = 0.0
    """By what share TTFT and ITL grow over the night."""
    wander: float = 0.03
    """How far the pace wanders: the deviation of its logarithm, which is 0.6 alike from window to window."""
    warm_up: int = 0
    """So many windows at the start are slower by half."""
    leak_mib_per_h: float = 0.0
    memory_mib: float = 500.0
    failed: int = 0
    """How many requests of each window end as a timeout."""
    gaps: dict[int, float] = {}
    """For how many seconds nothing was measured in a window."""
    invalid: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    """Windows in which nothing was answered."""
    restarts: tuple[int, ...] = ()
    """Windows at whose start the server's process is another one."""
    draining: int = 0
    """How many windows come after the deadline."""
    slo_met: int | None = None
    temperature: bool = False
    seed: int = 1


def _utc(seconds: float) -> str:
    return (STARTED + timedelta(seconds=seconds)).isoformat()


def event(kind: EventKind, window: int, *, window_s: float = 60.0, for_s: float | None = None, **more: Any) -> Event:
    """Something that happened at the start of a window."""
    at_s = window * window_s
    return Event(kind, round(at_s * 1e9), _utc(at_s), for_s, **more)


QUIET: Final = ScriptedNight(warm_up=3)
DRIFTING: Final = ScriptedNight(change=0.3, warm_up=3)
LEAKING: Final = ScriptedNight(leak_mib_per_h=120.0, restarts=(20,))
INTERRUPTED: Final = ScriptedNight(gaps={40: 60.0, 41: 31.0}, silent=(70, 71, 72), invalid=(90,), restarts=(73,))
INTERRUPTIONS: Final = (
    event("suspended", 40, for_s=91.0, detail="the machine was suspended"),
    event("server_gone", 70, model="m", detail="connection refused"),
    event("server_restarted", 73, model="m", detail="it ended with exit code -9, and was started again"),
    event("server_back", 73, for_s=180.0, model="m", detail="answered again"),
)


def write_soak(
    folder: Path,
    nights: Sequence[ScriptedNight] = (QUIET,),
    events: Sequence[Event] = (),
    *,
    disk_bytes: int = 2**31,
    **manifest: Any,
) -> Path:
    """Write the run folder of a soak; returns it. manifest: changes to the manifest, as `records.manifest` has them."""
    folder.mkdir(parents=True, exist_ok=True)
    first = nights[0]
    soak = SoakFacts(
        duration_s=first.windows * first.window_s,
        window_s=first.window_s,
        disk_bytes=disk_bytes,
        matters=0.05,
        give_up_s=1800.0,
        epoch_utc=_utc(0.0),
        scenario_folder=".",
    )
    stages = [PlannedStage(night.model, TARGET, LEVEL, StageLoad("closed", 2), None, 2) for night in nights]
    changes = {"run_id": "20261129T220000Z-0123abcd", "started_utc": _utc(0.0), "soak": soak} | manifest
    files.write_json(folder / MANIFEST, records.manifest(stages, **changes))
    log = WindowLog(folder, STARTED.timestamp())
    for of_window in zip(*(_windows(night) for night in nights), strict=True):
        log.append([line for line, _ in of_window], [each for _, intervals in of_window for each in intervals])
    log.close()
    (folder / EVENTS).write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in events))
    return folder


def _windows(night: ScriptedNight) -> Iterator[tuple[WindowLine, list[Interval]]]:
    """Each window with its histograms."""
    rng = generator(night.seed, "soak", night.model)
    count = night.windows + night.draining
    pace = _pace(night, rng, count)
    for window in range(count):
        ok = 0 if window in night.silent or window in night.gaps else night.requests
        own = np.exp(pace[window] + 0.4 * rng.normal(size=ok))
        gaps = np.exp(pace[window] + 0.1 * rng.normal(size=(ok, TOKENS - 1)))
        ttft, itl = 200 * MS * own, 50 * MS * gaps
        values = {"ttft": ttft, "tpot": itl.mean(axis=1), "itl": itl.reshape(-1), "e2e": ttft + itl.sum(axis=1)}
        yield _window(night, window, {name: each.astype(np.int64) for name, each in values.items()})


def _pace(night: ScriptedNight, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """The logarithm of how slow the server is, by window."""
    noise = rng.normal(size=count) * night.wander * np.sqrt(1 - 0.6**2)
    pace = np.empty(count)
    last = 0.0
    for window in range(count):
        pace[window] = last = 0.6 * last + noise[window]
    pace += np.log1p(night.change) * (np.arange(count) / max(1, count - 1) - 0.5)
    pace[: night.warm_up] += np.log(1.5)
    return pace


def _window(
    night: ScriptedNight, window: int, values: dict[str, NDArray[np.int64]]
) -> tuple[WindowLine, list[Interval]]:
    start_s, ok = window * night.window_s, values["ttft"].size
    life = sum(restart <= window for restart in night.restarts)
    begun = max((restart for restart in night.restarts if restart <= window), default=0)
    memory = night.memory_mib + night.leak_mib_per_h * (window - begun) * night.window_s / 3600 + _noise(night, window)
    histograms = {name: Histogram() for name in values}
    for name, histogram in histograms.items():
        histogram.record(values[name])
    line = WindowLine(
        window=window,
        start_ns=round(start_s * 1e9),
        end_ns=round((start_s + night.window_s) * 1e9),
        start_utc=_utc(start_s),
        model=night.model,
        target=TARGET,
        level=LEVEL,
        ok=ok,
        by_outcome={name: n for name, n in (("ok", ok), ("timeout", night.failed)) if n},  # type: ignore[misc]
        output_tokens=ok * TOKENS,
        prompt_tokens=ok * 100,
        stream_s=float((values["e2e"] - values["ttft"]).sum() / 1e9),
        slo_met=None if night.slo_met is None else min(ok, night.slo_met),
        ttft_p50_ms=_median_ms(histograms["ttft"]),
        itl_p50_ms=_median_ms(histograms["itl"]),
        e2e_p50_ms=_median_ms(histograms["e2e"]),
        extremes_ns={name: (int(each.min()), int(each.max())) for name, each in values.items() if each.size},
        server_memory_bytes=round(memory * MIB),
        server_memory_kind="private",
        server_rss_bytes=round((memory + 100) * MIB),
        own_rss_bytes=round((90 + 5 * (1 - 0.9**window)) * MIB),
        server_life=life,
        temperature_c=60 + 8 * (1 - 0.95**window) if night.temperature else None,
        throttled=None,
        loop_lag_p99_ms=0.4,
        dispatch_slip_p99_ms=0.2,
        collector_ms=0.8,
        gap_s=night.gaps.get(window, 0.0),
        draining=window >= night.windows,
        valid=window not in night.invalid,
        reasons=("busy_machine",) if window in night.invalid else (),
    )
    intervals = [
        Interval(tag(TARGET, night.model, LEVEL, name), start_s, night.window_s, histogram)
        for name, histogram in histograms.items()
        if histogram.count
    ]
    return line, intervals


def _noise(night: ScriptedNight, window: int) -> float:
    """The memory that is in use beside what stays, MiB."""
    return 5 * abs(float(generator(night.seed, "memory", window).normal()))


def _median_ms(histogram: Histogram) -> float | None:
    return histogram.quantile_ns(50.0) / 1e6 if histogram.count else None
