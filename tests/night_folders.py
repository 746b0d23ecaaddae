"""Run folders of nights: a manifest and a summary each, as `loadgen soak` or `loadgen run` leaves them. No records."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.store import files
from loadgen.store.manifest import ServedModel
from tests import records

FIRST: Final = datetime(2025, 11, 14, 23, 0, 11, tzinfo=UTC)
"""When the first night began."""
MACHINE: Final = "3fa1c09e"
USUAL: Final[Mapping[str, float]] = {
    "ttft_p50": 212.0,
    "ttft_p95": 412.0,
    "itl_p50": 49.8,
    "itl_p95": 71.0,
    "e2e_p95": 6410.0,
    "output_tokens_per_s": 38.4,
    "server_memory": 611.0,
}
"""The level of each metric on a quiet night."""


class Night(Struct, frozen=True, kw_only=True):
    """What differs from a quiet night of a soak of model m at 2 users."""

    factors: Mapping[str, float] = {}
    """By metric, how many times its usual level it is. `*` stands for all latencies."""
    failed: int = 0
    ok: int = 960
    verdict: str = "valid"
    state: str = "complete"
    unbounded: Sequence[str] = ()
    """Percentiles that the night could not bound: the summary has only what they are at least."""
    models: Sequence[str] = ("m",)
    level: str = "c2"
    target: str = "llamacpp"
    skipped: Sequence[str] = ()
    """Models that could not be served."""
    label: str | None = None
    server: str | None = "b10711"
    weights: str | None = None
    host: Mapping[str, Any] = {}
    machine: str | None = MACHINE
    scenario: Mapping[str, Any] = {}
    """Keys of the scenario that are not as usual."""
    manifest: Mapping[str, Any] = {}
    """Keys of the manifest that are not as usual."""
    plan: str = "0123abcd"
    """What the digest of the plan begins with."""
    is_soak: bool = True
    hours: float = 8.0
    at: timedelta = timedelta(0)
    """How much later than usual it began."""


QUIET: Final = Night()


def night_id(number: int, night: Night = QUIET) -> str:
    """The id of the run of a night."""
    return f"{FIRST + timedelta(days=number) + night.at:%Y%m%dT%H%M%SZ}-{night.plan[:8]}"


def write_night(folder: Path, number: int, night: Night = QUIET, *, noise: float = 0.02) -> Path:
    """The run folder of a night, in the scenario's folder; returns it. number: of the night, from 0, which makes its
    date, its id and its noise. noise: the relative deviation of each metric."""
    place = folder / night_id(number, night)
    place.mkdir(parents=True)
    (place / "manifest.json").write_bytes(files.json_document(_manifest(folder.name, number, night)))
    (place / "summary.json").write_bytes(files.json_document(_summary(folder.name, number, night, noise)))
    return place


def write_nights(folder: Path, nights: Iterable[Night | None], *, noise: float = 0.02) -> list[Path]:
    """A run folder for each night; None: the device was off."""
    return [write_night(folder, number, night, noise=noise) for number, night in enumerate(nights) if night is not None]


def _manifest(name: str, number: int, night: Night) -> dict[str, Any]:
    stages = [
        records.planned(None, model=model, target=night.target, level=night.level, load=_load(night))
        for model in night.models
    ]
    users = {"mode": "closed", "concurrency": [int(night.level[1:])], "duration_s": night.hours * 3600}
    scenario = {
        "name": name,
        "models": [{"name": model, "target": "llamacpp"} for model in night.models],
        "load": users,
    }
    host = {
        "cpu": "a CPU",
        "cores": 4,
        "cores_usable": 4,
        "memory_mib": 16_000,
        "system": "Linux",
        "kernel": "6.12.5",
        "power": "mains",
        "machine_id": night.machine,
    }
    manifest: dict[str, Any] = msgspec.to_builtins(
        records.manifest(
            stages,
            run_id=night_id(number, night),
            started_utc=(FIRST + timedelta(days=number) + night.at).isoformat(),
            state=night.state,
            plan_digest=(night.plan * 8)[:64],
            scenario=scenario | dict(night.scenario),
        )
    )
    manifest["models"] = [_card(model, night) for model in night.models if model not in night.skipped]
    manifest["host"] = host | dict(night.host)
    manifest["build"] = {"label": night.label, "server": night.server, "model": night.weights, "loadgen": "0.1.0"}
    if night.is_soak:
        manifest["soak"] = {"duration_s": night.hours * 3600, "window_s": 60.0, "disk_bytes": 2 << 30}
    return manifest | dict(night.manifest)


def _load(night: Night) -> dict[str, Any]:
    return {"mode": "closed", "concurrency": int(night.level[1:])}


def _card(model: str, night: Night) -> dict[str, Any]:
    card = ServedModel(alias=model, id=model, target=night.target)
    versions = {"server_version": night.server, "weights": night.weights}
    built: dict[str, Any] = msgspec.to_builtins(card)
    return built | {name: value for name, value in versions.items() if value is not None}


def _summary(name: str, number: int, night: Night, noise: float) -> dict[str, Any]:
    rng = np.random.default_rng([number, 12])
    return {
        "schema": "loadgen.summary/1",
        "scenario": name,
        "run_id": night_id(number, night),
        "started_utc": (FIRST + timedelta(days=number) + night.at).isoformat(),
        "incomplete": night.state != "complete",
        "stages": [_stage(model, night, noise, rng) for model in night.models],
        "plan_digest": (night.plan * 8)[:64],
    }


def _stage(model: str, night: Night, noise: float, rng: np.random.Generator) -> dict[str, Any]:
    factors = rng.normal(
        1.0, noise, len(USUAL)
    ).tolist()  # drawn also for a model that is skipped: the others stay the same
    stage = {"model": model, "target": night.target, "level": night.level, "load": _load(night)}
    if model in night.skipped:
        return stage | {"status": "skipped", "reason": "no such file"}
    values = {
        metric: usual
        * factor
        * night.factors.get(metric, night.factors.get("*", 1.0) if metric[-2:].isdigit() else 1.0)
        for (metric, usual), factor in zip(USUAL.items(), factors, strict=True)
    }
    metrics: dict[str, dict[str, Any]] = {}
    for metric in ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "e2e_p95"):
        latency, percentile = metric.split("_")
        table = metrics.setdefault(f"{latency}_ms", {"count": night.ok, "exact": False})
        value = round(values[metric], 4)
        if metric in night.unbounded:
            table |= {percentile: None, f"{percentile}_at_least": value}
        else:
            table |= {percentile: value, f"{percentile}_ci": [round(0.97 * value, 4), round(1.04 * value, 4)]}
    outcomes = {"ok": night.ok} | ({"timeout": night.failed} if night.failed else {})
    return stage | {
        "status": "played",
        "incomplete": night.state != "complete",
        "requests": {
            "planned": night.ok + night.failed,
            "ok": night.ok,
            "failed": night.failed,
            "by_outcome": outcomes,
        },
        "window_s": night.hours * 3600,
        "metrics": metrics,
        "throughput": {
            "output_tokens_per_s": round(values["output_tokens_per_s"], 4),
            "requests_per_s": round(values["output_tokens_per_s"] / 128, 4),
            "per_user_tokens_per_s": None,
            "goodput_requests_per_s": None,
        },
        "server": {"rss_start_mib": 400.0, "rss_peak_mib": round(values["server_memory"], 4)},
        "validity": {"verdict": night.verdict, "reasons": [], "stamp_source": "kernel", "self": {}},
    }


def _is_latency(metric: str) -> bool:
    return metric[-2:].isdigit()
