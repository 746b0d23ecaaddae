"""Reads the nights of a scenario and answers what changed: from the name of a scenario to an answer."""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from loadgen.decisions.history.verdict import HistoryAnswer, HistorySettings, history_of
from loadgen.errors import InputError
from loadgen.scenario.file import find_scenario, parse_toml, read_text
from loadgen.store.history import History, NightRecord, NightStage, read_history
from loadgen.store.night_metrics import NIGHT_METRICS, NightMetric, parse_metric, unknown_metric
from loadgen.telemetry.host import host

HERE: Final = "here"
ALL: Final = "all"


class HistoryRequest(Struct, frozen=True, kw_only=True):
    """What is asked, in the words of the command line."""

    metrics: tuple[str, ...] = ()
    """Names or paths; empty: `NIGHT_METRICS`."""
    machine: str = HERE
    """`here`, `all`, or the id of a machine."""
    model: str | None = None
    level: str | None = None
    matters: float = 0.03
    since: datetime | None = None
    """What was first shown by a night from this moment on is new; None: by the newest night."""


class ReadHistory(Struct, frozen=True):
    """The answer, and what was passed over on the way to it."""

    answer: HistoryAnswer
    remarks: tuple[str, ...]
    folder: Path


def read_answer(scenario: str | Path, request: HistoryRequest, results: Path) -> ReadHistory:
    """What changed over the nights of a scenario. scenario: see `scenario_folder`.

    Raises InputError if there is no such folder, no night in it, or no night of what is asked for.
    """
    folder = scenario_folder(scenario, results)
    metrics = tuple(dict.fromkeys(map(parse_metric, request.metrics))) or NIGHT_METRICS
    read = read_history(folder, metrics)
    _check(read, metrics, request)
    settings = HistorySettings(
        scenario=folder.resolve().name,
        metrics=metrics,
        matters=request.matters,
        machine=_machine_of(read.nights, request.machine),
        model=request.model,
        level=request.level,
        since=request.since,
    )
    return ReadHistory(history_of(read.nights, settings), read.remarks, folder)


def scenario_folder(scenario: str | Path, results: Path) -> Path:
    """The folder with the runs of a scenario.

    scenario: the name of a folder in `results`, or the path of one; else a scenario's file or name, whose `name` is
    that of the folder. Raises InputError.
    """
    text = str(scenario)
    own = results / text
    for folder in (own, Path(text)):
        if text.strip() and _is_folder(folder):
            return folder
    try:
        file = find_scenario(scenario)
        name = parse_toml(read_text(file), str(file)).get("name")
    except InputError as error:
        hint = f"name a folder in {results}, or give another --out"
        raise InputError(f"{text}: no runs in {own}, and {_reason(error, text)}; {hint}") from error
    folder = results / str(name)
    if _is_folder(folder):
        return folder
    raise InputError(f"{text}: no runs in {folder}; play it with `loadgen soak {text}`, or give another --out")


def _reason(error: InputError, text: str) -> str:
    return str(error).removeprefix(f"{text}: ").partition(";")[0]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _check(read: History, metrics: Iterable[NightMetric], request: HistoryRequest) -> None:
    """Raises InputError if no night has what is asked for."""
    if not read.nights:
        remarks = f" ({'; '.join(read.remarks)})" if read.remarks else ""
        raise InputError(f"{read.folder}: no night in it{remarks}; play one with `loadgen soak` or `loadgen run`")
    known = {metric.name for metric in NIGHT_METRICS} | set(read.metrics)
    for metric, text in zip(metrics, request.metrics, strict=False):
        if metric.name not in known:
            raise unknown_metric(text, read.metrics)
    stages = [stage for night in read.nights for stage in night.stages]
    _check_name("--model", request.model, stages, lambda stage: stage.model)
    _check_name("--level", request.level, stages, lambda stage: stage.level)


def _check_name(
    flag: str, asked: str | None, stages: Iterable[NightStage], name_of: Callable[[NightStage], str]
) -> None:
    names = dict.fromkeys(map(name_of, stages))
    if asked is not None and asked not in names:
        raise InputError(f"{flag} {asked}: in no night; there are {', '.join(names)}")


def _machine_of(nights: Iterable[NightRecord], asked: str) -> str | None:
    """The machine whose series are asked for; None: all. Raises InputError if there is no night of it."""
    if asked == ALL:
        return None
    machines = {night.machine: night.machine_name for night in nights}
    machine = host().machine_id if asked == HERE else asked
    if machine in machines:
        return machine
    there_are = ", ".join(f"{name} ({words})" for name, words in machines.items())
    which = f"this machine ({machine})" if asked == HERE else asked
    raise InputError(f"--machine {asked}: no night of {which}; there are {there_are}; give one of them, or all")
