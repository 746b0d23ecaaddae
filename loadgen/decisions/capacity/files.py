"""The files of a search: capacity.json, which is written after each visit, and the reports.

The reports are made from the run folder alone, and the answer is computed again from the records of the visits. Three
facts are in capacity.json only: what was asked, why the search stopped, and which earlier searches it resumed.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.analysis.stage import stages_of
from loadgen.decisions.capacity.answer import SCHEMA, CapacityFile, ModelAnswer, answer_of
from loadgen.decisions.capacity.charts import VisitSpan
from loadgen.decisions.capacity.document import with_search
from loadgen.decisions.capacity.forecast import NO_FORECASTS, ForecastRequest, forecasts_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.visit_data import VisitData, visit_data_of
from loadgen.errors import InputError
from loadgen.record import StageKey
from loadgen.report.files import Reports, reports_of
from loadgen.scenario.objective import mismatch_of_objective, objective_of
from loadgen.stats.quantile import Floor
from loadgen.store import files, run_folder
from loadgen.store.run_folder import Run

CAPACITY: Final = "capacity.json"


class Capacity(Struct, frozen=True):
    """A search that was read from its folder, and the reports that could be written."""

    answer: CapacityFile
    """The content of capacity.json."""
    reports: Reports

    @property
    def folder(self) -> Path:
        return self.reports.folder


class CapacityWriter:
    """Holds capacity.json and writes it whole after each change. Raises FolderError if it cannot be written."""

    def __init__(self, folder: Path, capacity: CapacityFile) -> None:
        self._folder = folder
        self._capacity = capacity
        self._write()

    def put(self, place: int, model: ModelAnswer) -> None:
        """Write the present answer for one model. place: the place of the model in the plan."""
        models = list(self._capacity.models)
        models[place] = model
        spent_s = round(sum(each.spent_s for each in models), 3)
        self._capacity = msgspec.structs.replace(self._capacity, models=tuple(models), spent_s=spent_s)
        self._write()

    def _write(self) -> None:
        try:
            files.write_json(self._folder / CAPACITY, self._capacity)
        except OSError as error:
            raise run_folder.no_longer_written(self._folder, error) from error


def is_search(folder: Path) -> bool:
    """Whether a run folder is the folder of a search."""
    return (folder / CAPACITY).is_file()


def read_capacity(folder: Path) -> CapacityFile:
    """The capacity.json of a run folder. Raises InputError if there is none that this version can read."""
    path = folder / CAPACITY
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder}: not a search ({CAPACITY}: {error.strerror}); give one of `loadgen capacity`"
        ) from error
    try:
        capacity = msgspec.json.decode(raw, type=CapacityFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the folder damaged?") from error
    if capacity.schema != SCHEMA:
        raise InputError(f"{path}: schema is {capacity.schema!r}, this loadgen reads {SCHEMA!r}; use the other version")
    if (wrong := _wrong_value(capacity)) is not None:
        raise InputError(f"{path}: cannot be read ({wrong}); is the folder damaged?")
    return capacity


def _wrong_value(capacity: CapacityFile) -> str | None:
    """The first value that no search writes, in words; None if there is none."""
    if not capacity.models:
        return "models is empty"
    if not 0 < capacity.confidence < 1:
        return f"confidence is {capacity.confidence:g}"
    for model in capacity.models:
        if not model.objectives:
            return f"{model.model} has no objectives"
        for objective in model.objectives:
            if (wrong := mismatch_of_objective(objective.objective)) is not None:
                return wrong[0]
    return None


def search_folder_at(path: Path) -> Path:
    """The folder of the search at a path: the path itself, or the newest search in a scenario's folder. Raises
    InputError if there is none."""
    if is_search(path):
        return path
    newest = [folder for folder in run_folder.runs_of(path) if is_search(folder)]
    if newest:
        return newest[-1]
    raise InputError(f"{path}: not a search; give a folder that has a {CAPACITY}, such as results/SCENARIO/capacity-…")


def runs_of_search(folder: Path, capacity: CapacityFile) -> list[Run]:
    """The runs whose visits count, oldest first: the resumed searches and this one. Raises InputError if one is
    missing."""
    runs = []
    for run_id in capacity.resumed:
        earlier = folder.resolve().parent / run_id
        if not earlier.is_dir():
            raise InputError(f"{folder}: it resumed {run_id}, which is missing; put that folder back beside it")
        runs.append(run_folder.read(earlier))
    return [*runs, run_folder.read(folder)]


def settings_of(model: ModelAnswer, capacity: CapacityFile) -> SearchSettings:
    """The settings on which the answer for a model depends."""
    levels = [level.level for level in model.levels]
    return SearchSettings(
        objectives=tuple(objective_of(objective.objective) for objective in model.objectives),
        search=model.search,
        from_level=min(levels, default=None),
        to_level=max(levels, default=None),
        budget_s=capacity.budget_s,
        confidence=capacity.confidence,
        think_s=model.think_s,
    )


def visits_of(runs: Sequence[Run], model: str, target: str, settings: SearchSettings) -> list[VisitData]:
    """The visits of a model that have ended, in the order of playing."""
    stages = [stage for run in runs for stage in stages_of(run)]
    own = [stage for stage in stages if (stage.planned.model, stage.planned.target) == (model, target)]
    return [visit_data_of(stage, settings) for stage in own if stage.facts is not None]


def make_search_reports(folder: Path, asked: ForecastRequest = NO_FORECASTS, *, floor: Floor | None = None) -> Capacity:
    """Make capacity.json and all reports of a search again, from its folder.

    asked: what to forecast besides what was asked before. floor: as in `reports_of`. Raises InputError if the folder is
    not that of a search, or if a search that it resumed, or a visit or a request of its answer is missing.
    """
    capacity = read_capacity(folder)
    runs = runs_of_search(folder, capacity)
    _check_visits(folder, capacity, runs)
    models = tuple(_answer_again(folder, model, capacity, runs, asked) for model in capacity.models)
    capacity = msgspec.structs.replace(capacity, models=models)
    spans = [_spans(runs[-1], model) for model in models]
    reports = reports_of(runs[-1], floor=floor, opening=partial(with_search, capacity=capacity, visits=spans))
    try:
        files.write_json(folder / CAPACITY, capacity)
    except OSError as error:
        unwritten = (CAPACITY, *reports.unwritten)
        reports = msgspec.structs.replace(reports, unwritten=unwritten, reason=error.strerror or str(error))
    return Capacity(capacity, reports)


def _check_visits(folder: Path, capacity: CapacityFile, runs: Sequence[Run]) -> None:
    """Raise InputError if a visit of the answer is missing, because a poorer answer would replace it."""
    ended = {
        (key, facts.level)
        for run in runs
        for facts in run.facts
        for key in zip(facts.models, facts.targets, strict=True)
    }
    for model in capacity.models:
        visits = [visit for level in model.levels for visit in level.visits]
        lost = [visit for visit in visits if ((model.model, model.target), visit) not in ended]
        if lost:
            which = f"{', '.join(lost)} of {CAPACITY}"
            raise InputError(f"{folder}: the visits {which} are missing; is the folder damaged? Nothing was changed")


def _check_requests(folder: Path, before: ModelAnswer, after: ModelAnswer) -> None:
    """Raise InputError if fewer requests of a level are left than its answer counted, because a poorer answer would
    replace it."""
    left = {level.level: level.requests for level in after.levels}
    poorer = [level for level in before.levels if left.get(level.level, 0) < level.requests]
    if poorer:
        which = ", ".join(visit for level in poorer for visit in level.visits)
        lost = sum(level.requests - left.get(level.level, 0) for level in poorer)
        missing = f"{lost} requests of the visits {which} that {CAPACITY} counts are missing"
        raise InputError(f"{folder}: {missing}; is requests.jsonl damaged? Nothing was changed")


def _answer_again(
    folder: Path, model: ModelAnswer, capacity: CapacityFile, runs: Sequence[Run], asked: ForecastRequest
) -> ModelAnswer:
    settings = settings_of(model, capacity)
    earlier, own = (visits_of(part, model.model, model.target, settings) for part in (runs[:-1], runs[-1:]))
    visits = [*earlier, *own]
    answer = answer_of(visits, settings, model.stopped, model=model.model, target=model.target, earlier=len(earlier))
    _check_requests(folder, model, answer)  # before the forecasts, which take seconds
    return msgspec.structs.replace(answer, forecasts=forecasts_of(visits, settings, asked, model.forecasts))


def _spans(run: Run, model: ModelAnswer) -> list[VisitSpan]:
    """The times during which each visit of a model was played in a run."""
    counts: dict[StageKey, int] = {}
    for record in run.records:
        if record.phase == "measured":
            counts[record.stage_key] = counts.get(record.stage_key, 0) + 1
    spans = []
    for planned in run.manifest.stages:
        facts = next((each for each in run.facts if planned.key in each.keys), None)
        if facts is not None and (planned.model, planned.target) == (model.model, model.target):
            level = float(planned.load.concurrency or planned.load.rate_per_s or 0)
            start_s, end_s = facts.start_ns / 1e9, facts.end_ns / 1e9
            spans.append(VisitSpan(level, planned.level, start_s, end_s, counts.get(planned.key, 0)))
    return spans
