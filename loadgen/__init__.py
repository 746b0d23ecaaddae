"""loadgen: load-testing for language models on local and edge devices.

scenario = loadgen.load_scenario("scenarios/summarizer.toml")
run = asyncio.run(loadgen.run(scenario))
print(loadgen.console(loadgen.summarize(run)))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.analysis.summarize import summarize
    from loadgen.analysis.summary import Summary
    from loadgen.api import capacity, compare, history, plan_of, repeat, run, select, versus
    from loadgen.decisions.capacity.files import Capacity
    from loadgen.decisions.capacity.search_comparison import SearchComparison
    from loadgen.decisions.capacity.search_request import CapacitySettings
    from loadgen.decisions.compare.comparison import Comparison
    from loadgen.decisions.drift.files import Soak
    from loadgen.decisions.history.read import HistoryRequest
    from loadgen.decisions.history.verdict import HistoryAnswer
    from loadgen.decisions.select.selection import Selection
    from loadgen.decisions.versus.play import PlayedBlocks
    from loadgen.errors import ExitCode, InputError, LoadgenError, TargetError
    from loadgen.plan.plan import Plan, digest
    from loadgen.report.console import console
    from loadgen.report.files import write_reports
    from loadgen.scenario import Scenario, SelectTable
    from loadgen.scenario.file import LoadedScenario, load_scenario
    from loadgen.scenario.overrides import Overrides
    from loadgen.store.run_folder import Run
    from loadgen.store.run_folder import read as read_run

__all__ = [
    "Capacity",
    "CapacitySettings",
    "Comparison",
    "ExitCode",
    "HistoryAnswer",
    "HistoryRequest",
    "InputError",
    "LoadedScenario",
    "LoadgenError",
    "Overrides",
    "Plan",
    "PlayedBlocks",
    "Run",
    "Scenario",
    "SearchComparison",
    "SelectTable",
    "Selection",
    "Soak",
    "Summary",
    "TargetError",
    "capacity",
    "compare",
    "console",
    "digest",
    "history",
    "load_scenario",
    "plan_of",
    "read_run",
    "repeat",
    "run",
    "select",
    "soak",
    "summarize",
    "versus",
    "write_reports",
]

# The module of each name, which is imported when the name is first used. So a process that needs one module, such as a
# process that only serves or only receives, does not wait for all of them.
_HOMES = {
    "api": ("capacity", "compare", "history", "plan_of", "repeat", "run", "select", "soak", "versus"),
    "decisions.capacity.search_comparison": ("SearchComparison",),
    "decisions.capacity.files": ("Capacity",),
    "decisions.capacity.search_request": ("CapacitySettings",),
    "decisions.compare.comparison": ("Comparison",),
    "decisions.history.read": ("HistoryRequest",),
    "decisions.history.verdict": ("HistoryAnswer",),
    "decisions.drift.files": ("Soak",),
    "decisions.select.selection": ("Selection",),
    "decisions.versus.play": ("PlayedBlocks",),
    "errors": ("ExitCode", "InputError", "LoadgenError", "TargetError"),
    "analysis.summarize": ("summarize",),
    "plan.plan": ("Plan", "digest"),
    "report.console": ("console",),
    "report.files": ("write_reports",),
    "store.run_folder": ("Run", "read"),
    "scenario": ("Scenario", "SelectTable"),
    "scenario.file": ("LoadedScenario", "load_scenario"),
    "scenario.overrides": ("Overrides",),
    "analysis.summary": ("Summary",),
}
_RENAMED = {"read": "read_run"}
_PLACES = {_RENAMED.get(name, name): (home, name) for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, there = _PLACES[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), there)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
