"""Runs made by hand, for what reads a run folder: any load, any outcome, no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from loadgen.plan.plan import StageLoad
from loadgen.record import Outcome, Record, ServerFacts, StageFacts
from loadgen.scenario import Scenario, Slo
from loadgen.store.manifest import SCHEMA, Manifest, PlannedStage, ServedModel
from loadgen.store.run_folder import Run
from loadgen.telemetry.host import ClockFacts, Host

MS = 1_000_000
OPEN: dict[str, Any] = {"mode": "poisson", "rate_per_s": 2.0}
SLO = {"ttft_ms": 500.0, "tpot_ms": 40.0}


def closed(users: int) -> dict[str, Any]:
    return {"mode": "closed", "concurrency": users}


def record(
    index: int,
    start_ns: int,
    *,
    level: str,
    model: str = "tiny",
    outcome: Outcome = "ok",
    wait_ns: int = 100 * MS,
    gap_ns: int = 10 * MS,
    tokens: int = 6,
    detail: str | None = None,
) -> Record:
    """A request that was sent when it was due; one that failed has no token, and ends when its first was awaited."""
    first_ns = start_ns + wait_ns
    stamps = tuple(first_ns + gap_ns * i for i in range(tokens)) if outcome == "ok" else ()
    sent = None if outcome == "shed" else start_ns
    return Record(
        outcome=outcome,
        status=200 if outcome == "ok" else None,
        detail=detail,
        dispatched_ns=sent,
        sent_ns=sent,
        written_ns=sent,
        end_ns=None if outcome == "shed" else (stamps[-1] if stamps else first_ns),
        first_visible_ns=stamps[0] if stamps else None,
        stamps_ns=stamps,
        stamp_source="kernel",
        prompt_tokens=20,
        output_tokens=len(stamps) if stamps else None,
        token_source="usage",
        model=model,
        target="url",
        level=level,
        index=index,
        phase="measured",
        prompt_id=f"p{index}",
        intended_ns=start_ns,
    )


def loop(users: int, rounds: int, *, model: str = "tiny", level: str | None = None, **of_each: Any) -> list[Record]:
    """A closed loop: each user asks again as soon as its answer has ended; the i-th takes i ms longer to wait."""
    found: list[Record] = []
    for user in range(users):
        at = user * MS
        for turn in range(rounds):
            index = turn * users + user
            wait = of_each.get("wait_ns", 100 * MS) + index * MS
            found.append(record(index, at, model=model, level=level or f"c{users}", **(of_each | {"wait_ns": wait})))
            at = (found[-1].end_ns or at) + MS
    return found


def stage(
    level: str, load: dict[str, Any], planned: int, *, model: str = "tiny", skipped: str | None = None
) -> PlannedStage:
    return PlannedStage(model, "url", level, msgspec.convert(load, StageLoad), planned, warmup=0, skipped=skipped)


def facts(level: str, *, model: str = "tiny", cpu_share: float = 0.02, server: bool = True) -> StageFacts:
    process = ServerFacts(pid=1, cpu_share=1.5, rss_start_bytes=100 * 2**20, rss_peak_bytes=128 * 2**20)
    return StageFacts(
        models=(model,),
        targets=("url",),
        level=level,
        start_ns=0,
        end_ns=10**10,
        complete=True,
        cpu_share=cpu_share,
        servers=(process,) if server else (),
    )


def run(
    stages: Sequence[PlannedStage],
    records: Sequence[Record] = (),
    seen: Sequence[StageFacts] = (),
    *,
    name: str = "made",
    slo: dict[str, float] | None = None,
    cards: Sequence[dict[str, Any]] = (),
) -> Run:
    manifest = Manifest(
        schema=SCHEMA,
        run_id="20260102T030405Z-abc",
        scenario=Scenario(name=name, prompts="p", slo=Slo(**(SLO if slo is None else slo))),
        started_utc="2026-01-02T03:04:05+00:00",
        state="complete",
        plan_digest="d" * 64,
        stages=tuple(stages),
        prompts=(),
        stamp_source="kernel",
        clock=ClockFacts(implementation="made"),
        models=msgspec.convert(cards, tuple[ServedModel, ...]),
        versions={"loadgen": "0"},
        host=Host(cpu="made", cores=2, cores_usable=2, memory_mib=1, system="S", kernel="1", machine="m"),
    )
    return Run(Path("made"), manifest, tuple(records), tuple(seen))


def everything() -> Run:
    """Two models, five closed levels and an open one, with failures, a skipped model, an empty and an invalid stage."""
    hostile = "</script><img src=x onerror=alert(1)>"
    records = [
        *loop(1, 40),
        *loop(2, 20, wait_ns=150 * MS),
        *loop(4, 3, wait_ns=600 * MS),
        *loop(1, 12, model="other", wait_ns=50 * MS),
        *loop(2, 12, model="other", wait_ns=90 * MS),
        record(90, 10, level="c4", outcome="http_error", detail=hostile),
        record(91, 20, level="c4", outcome="timeout", wait_ns=900 * MS),
        *(record(i, i * 300 * MS, level="r2", wait_ns=(200 + 9 * i) * MS, tokens=20) for i in range(40)),
        *(record(40 + i, i * 900 * MS, level="r2", outcome="shed") for i in range(5)),
        *(record(i, i * MS, level="c8", outcome="connect_error", detail="refused") for i in range(8)),
    ]
    stages = [
        stage("c1", closed(1), 40),
        stage("c2", closed(2), 40),
        stage("c4", closed(4), 14),
        stage("c8", closed(8), 8),
        stage("r2", OPEN, 45),
        stage("c1", closed(1), 12, model="other"),
        stage("c2", closed(2), 24, model="other"),
        stage("c1", closed(1), 4, model="gone", skipped=f"no such model {hostile}"),
    ]
    seen = [facts(level) for level in ("c1", "c4", "c8", "r2")]
    seen += [facts("c2", cpu_share=0.95), facts("c1", model="other"), facts("c2", model="other")]
    cards = [{"alias": f"tiny {hostile}", "id": "tiny", "target": "url", "license": "MIT", "size_bytes": 10**9}]
    return run(stages, records, seen, name=f"everything {hostile}", cards=cards)
