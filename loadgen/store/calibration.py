"""The result of `loadgen calibrate`: how far this machine's measurements can be trusted, where the result is stored,
and the warnings for a plan that exceeds it. Plays nothing.
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
    """The distribution of absolute errors: nearest-rank percentiles and the largest, µs."""

    p50_us: float
    p99_us: float
    max_us: float


class Step(Struct, frozen=True, kw_only=True):
    """One load that was played, and our measurements of ourselves in it.

    series: whether the number of streams or the token rate was growing. pace: whether each stream had its own token
        times, or all streams the same. itl_ms: the ITL of each stream. answers: how many were requested; wrong: how
        many of them were not received as they were sent.
    events: how many token events were compared. events_per_s: their rate in the middle half.
    kernel, user: the errors of the arrival stamps, relative to the moment just before the server's send; kernel is None
        if there are no kernel stamps.
    service_ttft, itl: the errors of these metrics as a run reports them; ITL only between tokens with their own read.
    shared_share: the share of tokens that we read together with the token before, although they were sent half a gap or
        more after it.
    cpu_us_per_event: the total CPU time of this process per event. cpu_share: its share of one core at events_per_s.
    loop_lag_p99_ms: as in a run; None if it was not measured. stretch: the time that the streams took, as a multiple of
        the server's schedule (median). Above 1, the server was late, which is not an error of ours.
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
    """The worst stamp errors over the steps within the budget; None if there is no such step, or no such stamps."""

    kernel: ErrorSpread | None
    user: ErrorSpread | None


class Limit(Struct, frozen=True):
    """The highest value that was reached. at_least: the true limit may be higher, because it was not our process that
    reached its limit first."""

    value: float
    at_least: bool


class Ceiling(Struct, frozen=True):
    """The highest load that one of our processes can receive at all."""

    events_per_s: Limit
    streams: Limit


class Budget(Struct, frozen=True):
    """The highest load that one of our processes can receive within the limits of a valid stage. 0: even the lowest
    load exceeded a limit."""

    events_per_s: float
    streams: int


class Machine(Struct, frozen=True, kw_only=True):
    """The machine, system and versions for which a calibration is valid."""

    cpu: str | None
    cores_usable: int | None
    machine: str
    kernel: str
    python: str
    loadgen: str | None
    aiohttp: str | None


class Calibration(Struct, frozen=True, kw_only=True):
    """The complete result.

    cpu_us_per_event: that of the busiest step within the budget; None if there is none. busy_share: the share of all
    cores that other programs used just before; on a quiet machine, higher loads may be possible.
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
    """The part of a calibration that a manifest has: all but the single steps, and the machine, which it has anyway."""

    schema: str
    made_utc: str
    band: ErrorBand
    ceiling: Ceiling
    budget: Budget
    cpu_us_per_event: float | None
    busy_share: float


class Stored(Struct, frozen=True):
    """The stored calibration, if it can be used. remark: why it cannot be used, and how to fix that."""

    calibration: Calibration | None = None
    remark: str | None = None


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
    """The path at which this user's calibration is stored."""
    return user_cache_folder() / FILE


def keep(calibration: Calibration, path: Path) -> None:
    """Store a calibration, completely or not at all. Raises InputError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, calibration)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: the calibration cannot be stored there ({reason}); set LOADGEN_CACHE_DIR to a folder that can be "
            "written"
        ) from error


def stored(path: Path | None = None, machine: Machine | None = None) -> Stored:
    """The calibration that is valid here, or none and the reason; no reason if none was ever stored. Never raises.

    path: by default the usual place. machine: the machine that it must be valid for, by default this one.
    """
    try:
        path = path or usual_place()
    except InputError:  # a user without a home folder cannot have stored one
        return Stored()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Stored()
    except OSError as error:
        return Stored(remark=f"{path}: cannot be read ({error.strerror}); {AGAIN}")
    try:
        calibration = msgspec.json.decode(raw, type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Stored(remark=f"{path}: damaged, or of another version; {AGAIN}")
    if calibration.schema != SCHEMA:
        return Stored(remark=f"{path}: its schema is {calibration.schema!r}, not {SCHEMA!r}; {AGAIN}")
    here = msgspec.structs.asdict(machine or this_machine())
    for name, was in msgspec.structs.asdict(calibration.machine).items():
        if was != here[name]:
            part = name.replace("_", " ")
            return Stored(remark=f"{path}: calibrated with another {part} ({was}, now {here[name]}); {AGAIN}")
    return Stored(calibration=calibration)


def quote_of(calibration: Calibration) -> CalibrationQuote:
    """The part of a calibration that a manifest has."""
    return msgspec.convert(calibration, CalibrationQuote, from_attributes=True)


def warnings_for(plan: Plan, calibration: Calibration | None, workers: int) -> list[str]:
    """One line for each quantity in which a plan exceeds the calibration of this machine.

    workers: how many processes will play the plan. The number of token events is known beforehand only for an open loop
    whose answers are streamed: at most rate × max_tokens. There are no warnings without a calibration, or for models
    that answer in this process.
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
        hint = _hint("concurrency or max_in_flight", streams, budget.streams, workers, cores)
        warnings.append(f"{streams:,} streams at once; {by} calibrated for {budget.streams * workers:,}: {hint}")
    if events > budget.events_per_s * workers:
        hint = _hint("the rate or max_tokens", events, budget.events_per_s, workers, cores)
        of = f"{budget.events_per_s * workers:,.0f}"
        warnings.append(f"up to {events:,.0f} token events a second; {by} calibrated for {of}: {hint}")
    return warnings


def peak_rate_per_s(stage: Stage) -> float:
    """The highest rate of an open-loop stage, in requests per second; for a trace, that of its busiest second. 0 for a
    closed loop, because the server decides its rate."""
    level = stage.level
    stated = [rate for rate in (level.rate_per_s, level.from_per_s, level.to_per_s) if rate is not None]
    if stated or stage.due_ns is None:
        return max(stated, default=0.0)
    due = np.sort(stage.due_ns)
    return float((np.searchsorted(due, due + 1_000_000_000) - np.arange(len(due))).max(initial=0))


def beyond(budget: Budget | None, events_per_s: float | None, streams: int | None, workers: int) -> str | None:
    """In words, by how much a load exceeded the calibration of this machine; None if it did not.

    events_per_s, streams: the peak values; None if not known. workers: how many processes shared the load.
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
    """each: the budget of one process."""
    enough = math.ceil(asked / each) if each else 0
    if workers < enough <= cores:
        return f"lower {quantity}, divide the load with --workers {enough}, or calibrate again"
    return f"lower {quantity}, or calibrate again"
