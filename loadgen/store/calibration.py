"""What this machine's own measurements can be trusted with: the result of `loadgen calibrate`, where it is kept, and
what a plan is warned of. Plays nothing.
"""

import math
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan.plan import Plan, Stage
from loadgen.scenario import PYTHON_PREFIX
from loadgen.store.files import write_json
from loadgen.store.paths import user_cache_folder
from loadgen.telemetry import host

SCHEMA: Final = "loadgen.calibration/1"
FILE: Final = "calibration.json"
AGAIN: Final = "run `loadgen calibrate` again"


class ErrorSpread(Struct, frozen=True):
    """Sizes of errors: nearest-rank percentiles and the largest, µs."""

    p50_us: float
    p99_us: float
    max_us: float


class Step(Struct, frozen=True, kw_only=True):
    """One load that was played, and what was seen of ourselves in it.

    series: whether streams or token rates were growing. pace: whether the streams' tokens came at moments of their own
        or all at once. itl_ms: of each stream. answers: that were asked for; wrong: of them, not as they were sent.
    events: token events that were compared. events_per_s: in the middle half of them.
    kernel, user: arrival stamps against the moment just before the server's send; kernel is None without such stamps.
    service_ttft, itl: as a run would report them, ITL only between tokens that had a read of their own.
    shared_share: of the tokens that were sent half a gap or more after the one before, how many we read together.
    cpu_us_per_event: CPU time of this process, all told. cpu_share: of one core, at events_per_s.
    loop_lag_p99_ms: as in a run; None when nothing was seen. stretch: how long the streams took by the server's
        schedule, as a multiple of it (median): above 1, the server was late, which is no error of ours.
    """

    series: Literal["streams", "rates"]
    streams: int
    pace: Literal["staggered", "together"]
    itl_ms: float
    answers: int
    wrong: int
    events: int
    events_per_s: float
    kernel: ErrorSpread | None
    user: ErrorSpread | None
    service_ttft: ErrorSpread | None
    itl: ErrorSpread | None
    shared_share: float
    cpu_us_per_event: float
    cpu_share: float
    loop_lag_p99_ms: float | None
    stretch: float

    @property
    def stamp(self) -> ErrorSpread | None:
        """The error of the stamps that a run would report."""
        return self.kernel or self.user


class ErrorBand(Struct, frozen=True):
    """The stamp error at its worst over the steps within the budget; None where no step was, or without such stamps."""

    kernel: ErrorSpread | None
    user: ErrorSpread | None


class Limit(Struct, frozen=True):
    """The most that was reached. at_least: something else gave out first, or nothing did: there may be more."""

    value: float
    at_least: bool


class Ceiling(Struct, frozen=True):
    """What one process of ours can receive at all."""

    events_per_s: Limit
    streams: Limit


class Budget(Struct, frozen=True):
    """What one process of ours can receive within the lines of a valid stage. 0: not even the least load was."""

    events_per_s: float
    streams: int


class Machine(Struct, frozen=True, kw_only=True):
    """What a calibration holds for. Any other machine, system or version needs one of its own."""

    cpu: str | None
    cores_usable: int | None
    machine: str
    kernel: str
    python: str
    loadgen: str | None
    aiohttp: str | None


class Calibration(Struct, frozen=True, kw_only=True):
    """The whole result.

    cpu_us_per_event: of the busiest step within the budget; None where no step was. busy_share: of all cores, what
    others used just before: a machine that was not quiet can do more than is said here.
    """

    schema: str
    made_utc: str
    machine: Machine
    band: ErrorBand
    ceiling: Ceiling
    budget: Budget
    cpu_us_per_event: float | None
    busy_share: float
    steps: tuple[Step, ...]


class CalibrationQuote(Struct, frozen=True, kw_only=True):
    """What a manifest says of a calibration: all but the machine, which it has already, and the single steps."""

    schema: str
    made_utc: str
    band: ErrorBand
    ceiling: Ceiling
    budget: Budget
    cpu_us_per_event: float | None
    busy_share: float


class Stored(Struct, frozen=True):
    """What was found where calibrations are kept. note: why it cannot be used, and how to fix that."""

    calibration: Calibration | None = None
    note: str | None = None


def this_machine() -> Machine:
    """The machine, system and versions that we run on."""
    here, versions = host.host(), host.versions()
    return Machine(
        cpu=here.cpu,
        cores_usable=here.cores_usable,
        machine=here.machine or "",
        kernel=here.kernel or "",
        python=versions["python"],
        loadgen=versions.get("loadgen"),
        aiohttp=versions.get("aiohttp"),
    )


def usual_place() -> Path:
    """Where this user's calibration is kept."""
    return user_cache_folder() / FILE


def keep(calibration: Calibration, path: Path) -> None:
    """Write it, whole or not at all. Raises InputError where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, calibration)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: the calibration cannot be kept there ({reason}); set LOADGEN_CACHE_DIR to a folder that can be "
            "written"
        ) from error


def stored(path: Path | None = None, machine: Machine | None = None) -> Stored:
    """The calibration that holds here, or none and why: no note where there never was one. Never raises.

    path: the usual place by default. machine: that it must be for, by default this one.
    """
    try:
        path = path or usual_place()
    except InputError:  # a user without a home folder has never kept one
        return Stored()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Stored()
    except OSError as error:
        return Stored(note=f"{path}: cannot be read ({error.strerror}); {AGAIN}")
    try:
        calibration = msgspec.json.decode(raw, type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Stored(note=f"{path}: damaged, or of another version; {AGAIN}")
    if calibration.schema != SCHEMA:
        return Stored(note=f"{path}: its schema is {calibration.schema!r}, not {SCHEMA!r}; {AGAIN}")
    here = msgspec.structs.asdict(machine or this_machine())
    for name, was in msgspec.structs.asdict(calibration.machine).items():
        if was != here[name]:
            part = name.replace("_", " ")
            return Stored(note=f"{path}: calibrated with another {part} ({was}, now {here[name]}); {AGAIN}")
    return Stored(calibration=calibration)


def quote_of(calibration: Calibration) -> CalibrationQuote:
    """What a manifest says of it."""
    return msgspec.convert(calibration, CalibrationQuote, from_attributes=True)


def warnings_for(plan: Plan, calibration: Calibration | None, workers: int) -> list[str]:
    """What a person should know before a plan goes beyond what this machine was calibrated for: one line each.

    workers: processes that will play it. Token events are known beforehand of an open loop whose answers stream: at
    most rate × max_tokens. Without a calibration nothing is said, nor of models that answer in this process.
    """
    inside = all((model.target or "").startswith(PYTHON_PREFIX) for model in plan.models)
    if calibration is None or inside:
        return []
    streams = max((stage.streams or 0 for stage in plan.stages), default=0)
    events = 0.0
    if plan.scenario.sampling.stream:
        rate_per_s = max((peak_rate_per_s(stage) for stage in plan.stages), default=0)
        events = rate_per_s * (plan.scenario.sampling.token_limit or 0)
    budget, cores = calibration.budget, calibration.machine.cores_usable or 1
    by = f"{workers} processes of this machine were" if workers > 1 else "this machine was"
    warnings = []
    if streams > budget.streams * workers:
        mend = _hint("concurrency or max_in_flight", streams, budget.streams, workers, cores)
        warnings.append(f"{streams:,} streams at once; {by} calibrated for {budget.streams * workers:,}: {mend}")
    if events > budget.events_per_s * workers:
        mend = _hint("the rate or max_tokens", events, budget.events_per_s, workers, cores)
        of = f"{budget.events_per_s * workers:,.0f}"
        warnings.append(f"up to {events:,.0f} token events a second; {by} calibrated for {of}: {mend}")
    return warnings


def peak_rate_per_s(stage: Stage) -> float:
    """The requests a second of an open-loop stage, where they are most; of a trace, in its busiest second. 0 for a
    closed loop, whose rate is the server's."""
    level = stage.level
    stated = [rate for rate in (level.rate_per_s, level.from_per_s, level.to_per_s) if rate is not None]
    if stated or stage.due_ns is None:
        return max(stated, default=0.0)
    due = np.sort(stage.due_ns)
    return float((np.searchsorted(due, due + 1_000_000_000) - np.arange(len(due))).max(initial=0))


def beyond(budget: Budget | None, events_per_s: float | None, streams: int | None, workers: int) -> str | None:
    """By how much what was received was more than this machine was calibrated for, in words; None when it was not.

    events_per_s, streams: at their peak; None is not known. workers: processes that shared them.
    """
    if budget is None:
        return None
    excesses = []
    if events_per_s is not None and events_per_s > budget.events_per_s * workers:
        calibrated = f"{budget.events_per_s * workers:,.0f}"
        excesses.append(f"{events_per_s:,.0f} token events a second (calibrated for {calibrated})")
    if streams is not None and streams > budget.streams * workers:
        excesses.append(f"{streams:,} streams at once (calibrated for {budget.streams * workers:,})")
    return " and ".join(excesses) or None


def _hint(quantity: str, asked: float, each: float, workers: int, cores: int) -> str:
    """each: what one process is good for."""
    enough = math.ceil(asked / each) if each else 0
    if workers < enough <= cores:
        return f"lower {quantity}, share it out with --workers {enough}, or calibrate again"
    return f"lower {quantity}, or calibrate again"
