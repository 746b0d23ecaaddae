"""An earlier search, to resume or to compare. Its visits count if objectives, work and model are the same."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from loadgen.decisions.capacity.answer import CapacityFile
from loadgen.decisions.capacity.files import is_search, read_capacity, runs_of_search, search_folder_at, visits_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.visit_data import VisitData
from loadgen.decisions.compare.differences import Facts, card_facts, is_same_machine_fact, machine_facts
from loadgen.errors import InputError
from loadgen.plan.plan import Plan
from loadgen.plan.workload import work_keys, workload_of
from loadgen.scenario import Scenario
from loadgen.scenario.objective import limits_ms
from loadgen.store import run_folder
from loadgen.store.manifest import MEASUREMENT_EPOCH, ServedModel
from loadgen.store.run_folder import Run
from loadgen.telemetry.host import host

_CHOSEN = ("concurrency", "rates_per_s", "requests", "duration_s", "min_requests")
"""The keys of a load whose values a search chooses itself."""


class EarlierSearch(Struct, frozen=True):
    """A search that was played, and the earlier searches that it resumed."""

    folder: Path
    capacity: CapacityFile
    runs: tuple[Run, ...]
    """The runs, oldest first; the last is the run of the search itself."""

    @property
    def run_ids(self) -> tuple[str, ...]:
        return (*self.capacity.resumed, self.capacity.run_id)

    @property
    def facts(self) -> Facts:
        """The facts that must be equal for two searches to be about the same thing."""
        manifest = self.runs[-1].manifest
        facts: Facts = {}
        for model in self.capacity.models[:1]:  # all models have the same objectives
            facts["objectives"] = ", ".join(objective.objective for objective in model.objectives)
            facts |= _facts_of_search(model.search, model.think_s)
        facts |= _facts_of_work(manifest.scenario, "" if manifest.workload is None else manifest.workload.prompts)
        facts["measurement epoch"] = str(manifest.measurement_epoch)
        return facts | machine_facts(manifest.host)

    def visits(self, model: str, target: str, settings: SearchSettings) -> list[VisitData]:
        """The visits of a model, in the order of playing."""
        return visits_of(self.runs, model, target, settings)

    def check(self, plan: Plan, settings: SearchSettings) -> None:
        """Raise InputError, one line with all differences, if the search of this plan is another search."""
        prompts = workload_of(msgspec.structs.replace(plan, stages=())).prompts
        now: Facts = {"objectives": ", ".join(objective.text for objective in settings.objectives)}
        now |= _facts_of_search(settings.search, settings.think_s) | _facts_of_work(plan.scenario, prompts)
        now["measurement epoch"] = str(MEASUREMENT_EPOCH)
        unlike = unlike_facts(self.facts, now | machine_facts(host()))
        if unlike:
            raise self._refusal("; ".join(f"{name}: {before} then, {after} now" for name, before, after in unlike))

    def check_place(self, parent: Path) -> None:
        """Raise InputError if the folder of the new search, below `parent`, would not be beside the earlier one."""
        own = self.folder.resolve().parent
        if own != parent.resolve():
            why = f"the new folder goes to {parent}, and must lie beside the earlier one, in {own}"
            raise InputError(f"--resume {self.folder}: {why}; give the same scenario and --out")

    def check_card(self, target: str, model: str, card: ServedModel | None) -> None:
        """Raise InputError if a model is not the model of the earlier search. card: the model as it is served now."""
        before = self.runs[-1].manifest.card(target, model)
        if card is None or before is None:
            return
        then, now = card_facts(before), card_facts(card)
        for name in then:
            if name in now and then[name] != now[name]:
                raise self._refusal(f"{model}'s {name}: {then[name]} then, {now[name]} now")

    def _refusal(self, reasons: str) -> InputError:
        return InputError(
            f"--resume {self.folder}: the earlier search is different: {reasons}; leave --resume out to begin a new one"
        )


def read_earlier(path: Path) -> EarlierSearch:
    """The search at a path. Raises InputError if there is none."""
    folder = search_folder_at(path)
    capacity = read_capacity(folder)
    return EarlierSearch(folder, capacity, tuple(runs_of_search(folder, capacity)))


def two_searches(base: Sequence[str | Path], new: Sequence[str | Path]) -> tuple[EarlierSearch, EarlierSearch] | None:
    """The two searches that paths name, each a search or the folder of a scenario whose newest run is one; None if they
    name other runs. Raises InputError if only one side is a search, or if a side has further runs."""
    folders = [[_run_at(path) for path in paths] for paths in (base, new)]
    searches = [path for paths in folders for path in paths if path is not None and is_search(path)]
    if not searches:
        return None
    others = [
        each
        for paths, given in zip(folders, (base, new), strict=True)
        for path, each in zip(paths, given, strict=True)
        if path is None or not is_search(path)
    ]
    if others and new:
        why = f"a search for the capacity can be compared with another search alone, and {others[0]} is none"
        raise InputError(f"{searches[0]}: {why}; give two searches, or two runs")
    if not all(folders):
        return None
    for paths in (base, new):
        if len(paths) > 1:
            raise InputError(f"{paths[0]}: a search is compared with one other search alone; leave {paths[1]} out")
    (before,), (after,) = folders
    assert before is not None
    assert after is not None
    return read_earlier(before), read_earlier(after)


def _run_at(path: str | Path) -> Path | None:
    """The run folder at a path; None if there is none, as of a baseline."""
    with contextlib.suppress(InputError):
        return run_folder.run_folder_at(Path(path))
    return None


def unlike_facts(before: Facts, after: Facts) -> list[tuple[str, str, str]]:
    """The facts that differ, each with both values."""
    names = dict.fromkeys((*before, *after))
    pairs = [(name, before.get(name, "not set"), after.get(name, "not set")) for name in names]
    return [pair for pair in pairs if not is_same_machine_fact(*pair)]


def _facts_of_search(search: str, think_s: float) -> Facts:
    return {"levels": search, **({"think time": f"{think_s:g} s"} if search == "users" else {})}


def _facts_of_work(scenario: Scenario, prompts: str) -> Facts:
    """The work that a model is asked to do: the prompts, the keys of the work, and the load without its levels."""
    load = msgspec.to_builtins(scenario.load)
    keys = {f"load.{key}": value for key, value in load.items() if key not in _CHOSEN}
    keys |= {**work_keys(scenario), "slo": limits_ms(scenario.slo)}
    named = {name: msgspec.json.encode(value, order="deterministic").decode() for name, value in keys.items()}
    return {"prompts": f"digest {prompts[:8]}", **named}
