"""Records, runs and run folders made by hand, for tests of what is computed from them. Measures nothing itself."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from loadgen.plan.plan import StageLoad
from loadgen.record import Record, StageFacts
from loadgen.scenario import Scenario
from loadgen.store import files, run_folder
from loadgen.store.manifest import SCHEMA, Manifest, PlannedStage, PromptFacts, ServedModel
from loadgen.store.run_folder import Log, Run
from loadgen.telemetry.host import ClockFacts, Host

MS = 1_000_000
S = 1_000 * MS


def record(**changes: Any) -> Record:
    """One answered request of model m, level c1: due at 100 ms, dispatched at 101, sent at 102, written at 110, tokens
    at 200, 250 and 300, ended at 310, its last byte at 320."""
    return msgspec.structs.replace(
        Record(
            outcome="ok",
            status=200,
            dispatched_ns=101 * MS,
            sent_ns=102 * MS,
            written_ns=110 * MS,
            end_ns=310 * MS,
            last_byte_ns=320 * MS,
            first_visible_ns=200 * MS,
            stamps_ns=(200 * MS, 250 * MS, 300 * MS),
            stamp_source="kernel",
            prompt_tokens=10,
            output_tokens=3,
            token_source="usage",
            finish_reason="stop",
            model="m",
            target="t",
            level="c1",
            index=0,
            phase="measured",
            prompt_id="p1",
            intended_ns=100 * MS,
        ),
        **changes,
    )


def turn(index: int, *, every_ns: int = 1 * S, **changes: Any) -> Record:
    """The `record` of one user's turn number index: everything `index * every_ns` later."""
    shift = index * every_ns

    def later(moment_ns: int | None) -> int | None:
        return None if moment_ns is None else moment_ns + shift

    base = record(**changes)
    moments = ("dispatched_ns", "sent_ns", "written_ns", "end_ns", "last_byte_ns", "first_visible_ns", "intended_ns")
    return msgspec.structs.replace(
        base,
        index=index,
        stamps_ns=tuple(stamp + shift for stamp in base.stamps_ns),
        **{name: later(getattr(base, name)) for name in moments},
    )


def unsent(outcome: str, index: int = 0, **changes: Any) -> Record:
    """A request that never left: shed, or cancelled before its turn."""
    blank = Record(
        outcome=outcome,  # type: ignore[arg-type]
        model="m",
        target="t",
        level="c1",
        index=index,
        phase="measured",
        prompt_id="p1",
        intended_ns=100 * MS,
    )
    return msgspec.structs.replace(blank, **changes)


def facts(**changes: Any) -> StageFacts:
    """What was seen of a harness that did not get in the way."""
    blank = StageFacts(
        models=("m",),
        targets=("t",),
        level="c1",
        start_ns=0,
        end_ns=100 * S,
        complete=True,
        cpu_share=0.08,
        loop_lag_p50_ns=100_000,
        loop_lag_p99_ns=1 * MS,
        loop_lag_max_ns=2 * MS,
        stamp_lag_p50_ns=50_000,
        stamp_lag_p99_ns=200_000,
        stamp_lag_max_ns=300_000,
        stamped_reads=300,
    )
    return msgspec.structs.replace(blank, **changes)


def planned(count: int | None, **changes: Any) -> PlannedStage:
    """One user's stage of model m."""
    blank = PlannedStage("m", "t", "c1", StageLoad("closed", 1), planned=count, warmup=0)
    if "load" in changes:
        changes["load"] = msgspec.convert(changes["load"], StageLoad)
    return msgspec.structs.replace(blank, **changes)


def manifest(stages: Sequence[PlannedStage], **changes: Any) -> Manifest:
    """A complete run's manifest. Its users think between an answer and the next question, as those of `turn` do.

    changes: of its fields; scenario, models, prompts, host and clock as JSON has them. Of a scenario only what is of
    interest: its load is closed, with think time, unless it says otherwise.
    """
    blank = Manifest(
        schema=SCHEMA,
        run_id="20260102T030405Z-0123abcd",
        scenario=scenario_of({}),
        started_utc="2026-01-02T03:04:05+00:00",
        ended_utc="2026-01-02T03:05:05+00:00",
        state="complete",
        plan_digest="0123abcd" * 8,
        stages=tuple(stages),
        prompts=(PromptFacts("p1", 10),),
        stamp_source="kernel",
        clock=ClockFacts(implementation="clock_gettime(CLOCK_MONOTONIC)", resolution_ns=1.0),
        versions={"python": "3.11.7", "loadgen": "0.1.0"},
        host=Host(cpu="a CPU", cores=2, cores_usable=2, memory_mib=4096, system="Linux", kernel="6.18"),
    )
    kinds = {"models": tuple[ServedModel, ...], "prompts": tuple[PromptFacts, ...], "host": Host, "clock": ClockFacts}
    typed: dict[str, Any] = {
        name: msgspec.convert(changes[name], kind) for name, kind in kinds.items() if name in changes
    }
    if "scenario" in changes:
        typed["scenario"] = scenario_of(changes["scenario"])
    return msgspec.structs.replace(blank, **(changes | typed))


def scenario_of(keys: dict[str, Any]) -> Scenario:
    """A scenario of these keys; the others are of no interest, but for users who think."""
    load = {"mode": "closed", "think_time": {"mean_s": 0.68}}
    known = {"name": "x", "prompts": "p", "load": load} | keys
    # The name as it is: what is not one cannot be played, and reports show it all the same.
    return msgspec.structs.replace(msgspec.convert(known | {"name": "x"}, Scenario), name=known["name"])


def run_of(
    records: Iterable[Record],
    stages: Sequence[PlannedStage] | None = None,
    *,
    seen: Sequence[StageFacts] | None = None,
    **changes: Any,
) -> Run:
    """A run of these records: of one stage that planned just so many, unless told otherwise."""
    kept = tuple(records)
    stages = [planned(sum(r.phase == "measured" for r in kept))] if stages is None else stages
    return Run(Path("run"), manifest(stages, **changes), kept, tuple([facts()] if seen is None else seen))


def write(folder: Path, run: Run) -> Path:
    """Put a run on disk as a run that was played would be; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / run_folder.MANIFEST, run.manifest)
    for name, lines in ((run_folder.REQUESTS, run.records), (run_folder.STAGES, run.facts)):
        log = Log(folder / name)
        for line in lines:
            log.append(line)
        log.close()
    return folder
