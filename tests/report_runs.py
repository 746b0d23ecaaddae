"""Runs that a report has to show: any load, any outcome, no server. Built of the records of `tests.records`."""

from collections.abc import Sequence
from typing import Any

from loadgen.record import Outcome, Record, ServerFacts, StageFacts
from loadgen.store.manifest import PlannedStage
from loadgen.store.run_folder import Run
from tests import records
from tests.records import MS, S

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
    sent_ns = None if outcome == "shed" else start_ns
    return records.record(
        outcome=outcome,
        status=200 if outcome == "ok" else None,
        detail=detail,
        dispatched_ns=sent_ns,
        sent_ns=sent_ns,
        written_ns=sent_ns,
        end_ns=None if outcome == "shed" else (stamps[-1] if stamps else first_ns),
        last_byte_ns=None,
        first_visible_ns=stamps[0] if stamps else None,
        stamps_ns=stamps,
        prompt_tokens=20,
        output_tokens=len(stamps) if stamps else None,
        finish_reason=None,
        model=model,
        target="url",
        level=level,
        index=index,
        prompt_id=f"p{index}",
        intended_ns=start_ns,
    )


def loop(users: int, rounds: int, *, model: str = "tiny", level: str | None = None, **of_each: Any) -> list[Record]:
    """A closed loop: each user asks again as soon as its answer has ended; the i-th takes i ms longer to wait."""
    asked: list[Record] = []
    for user in range(users):
        at = user * MS
        for turn in range(rounds):
            index = turn * users + user
            wait = of_each.get("wait_ns", 100 * MS) + index * MS
            asked.append(record(index, at, model=model, level=level or f"c{users}", **(of_each | {"wait_ns": wait})))
            at = (asked[-1].end_ns or at) + MS
    return asked


def stage(
    level: str, load: dict[str, Any], planned: int, *, model: str = "tiny", skipped: str | None = None
) -> PlannedStage:
    return records.planned(planned, model=model, target="url", level=level, load=load, skipped=skipped)


def facts(level: str, *, model: str = "tiny", cpu_share: float = 0.02, server: bool = True) -> StageFacts:
    process = ServerFacts(pid=1, cpu_share=1.5, rss_start_bytes=100 * 2**20, rss_peak_bytes=128 * 2**20)
    return records.facts(
        models=(model,),
        targets=("url",),
        level=level,
        end_ns=10 * S,
        cpu_share=cpu_share,
        servers=(process,) if server else (),
    )


def run(
    stages: Sequence[PlannedStage],
    requests: Sequence[Record] = (),
    stage_facts: Sequence[StageFacts] = (),
    *,
    name: str = "made",
    slo: dict[str, float] | None = None,
    cards: Sequence[dict[str, Any]] = (),
) -> Run:
    scenario = {"name": name, "slo": SLO if slo is None else slo}
    return records.run_of(requests, stages, seen=stage_facts, scenario=scenario, models=cards)


def everything() -> Run:
    """Two models, five closed levels and an open one, with failures, a skipped model, an empty and an invalid stage."""
    hostile = "</script><img src=x onerror=alert(1)>"
    requests = [
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
    stage_facts = [facts(level) for level in ("c1", "c4", "c8", "r2")]
    stage_facts += [facts("c2", cpu_share=0.95), facts("c1", model="other"), facts("c2", model="other")]
    cards = [{"alias": f"tiny {hostile}", "id": "tiny", "target": "url", "license": "MIT", "size_bytes": 10**9}]
    return run(stages, requests, stage_facts, name=f"everything {hostile}", cards=cards)
