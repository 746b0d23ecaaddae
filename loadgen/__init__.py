"""loadgen: load-testing for language models on local and edge devices.

scenario = loadgen.load_scenario("scenarios/summarizer.toml")
run = asyncio.run(loadgen.run(scenario))
print(loadgen.console(loadgen.summarize(run)))
"""

from loadgen.api import plan_of, run
from loadgen.errors import ExitCode, InputError, LoadgenError, TargetError
from loadgen.fold import summarize
from loadgen.plan import Plan, digest
from loadgen.report.console import console
from loadgen.report.files import write_reports
from loadgen.runfolder import Run
from loadgen.runfolder import read as read_run
from loadgen.scenario import Scenario
from loadgen.scenario.file import LoadedScenario, load_scenario
from loadgen.scenario.overrides import Overrides
from loadgen.summary import Summary

__all__ = [
    "ExitCode",
    "InputError",
    "LoadedScenario",
    "LoadgenError",
    "Overrides",
    "Plan",
    "Run",
    "Scenario",
    "Summary",
    "TargetError",
    "console",
    "digest",
    "load_scenario",
    "plan_of",
    "read_run",
    "run",
    "summarize",
    "write_reports",
]
