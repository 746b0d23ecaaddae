"""The verb `capacity`: searches the most users, or the highest rate, at which the objectives hold."""

import asyncio
import re
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from msgspec import Struct, structs

from loadgen import api
from loadgen.cli.compare import parse_percent
from loadgen.cli.interrupt import interruptible
from loadgen.cli.options import RESULTS, LeaveOut, Out, Output, OutputOptions, ScenarioOptions, expand_options
from loadgen.cli.report import tell_place
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import progress_on_terminal, screen, show_json
from loadgen.cli.usage import NUMBERS, number_text
from loadgen.decisions.capacity.answer import CapacityFile
from loadgen.decisions.capacity.document import search_text
from loadgen.decisions.capacity.files import Capacity, make_search_reports, search_folder_at
from loadgen.decisions.capacity.forecast import ForecastRequest
from loadgen.decisions.capacity.resume import EarlierSearch, read_earlier
from loadgen.decisions.capacity.search_request import CapacitySettings
from loadgen.decisions.capacity.words import format_level
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import Workers, parse_workers
from loadgen.errors import ExitCode, InputError
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.overrides import parse_duration_s

SHORTEST_BUDGET_S: Final = 30.0
CONFIDENCE: Final = (0.8, 0.999)


class SearchOptions(Struct, frozen=True):
    """The options of a search. Each flag is one field here and one line in `settings`."""

    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", metavar="OBJ", help="What must hold: ttft_p95=2s, ok=99%, goodput=95%. Repeatable."),
    ] = None
    by_users: Annotated[bool, typer.Option("--users", help="Search numbers of users: a closed loop.")] = False
    by_rate: Annotated[bool, typer.Option("--rate", help="Search requests per second: an open loop.")] = False
    think: Annotated[
        str | None, typer.Option("--think", metavar="10s", help="Mean of users' exponential think time; 0s: none.")
    ] = None
    lowest: Annotated[
        str | None, typer.Option("--from", metavar="N", help="The lowest level that may be played (default: 1 user).")
    ] = None
    highest: Annotated[
        str | None, typer.Option("--to", metavar="N", help="The highest level that may be played (default: 512 users).")
    ] = None
    budget: Annotated[str, typer.Option("--budget", metavar="10m", help="The most time played, for each model.")] = (
        "10m"
    )
    confidence: Annotated[
        str, typer.Option("--confidence", metavar="P%", help="Confidence that both claims of the answer are true.")
    ] = "95%"
    within: Annotated[
        str | None,
        typer.Option(
            "--within", metavar="P%", help="Done when the levels of the claims differ by at most this (default: 5%)."
        ),
    ] = None
    exact: Annotated[bool, typer.Option("--exact", help="Done only when neighboring levels are shown.")] = False

    def settings(self) -> CapacitySettings:
        """The settings that the flags give. Raises InputError, which names the flag, if a value cannot be read."""
        if self.exact and self.within is not None:
            raise InputError(f"--exact and --within {self.within}: they contradict each other; leave one of them out")
        budget_s = parse_duration_s(self.budget, "--budget")
        if budget_s < SHORTEST_BUDGET_S:
            raise InputError(f"--budget {self.budget}: nothing can be shown in less than 30 s; write e.g. --budget 10m")
        lowest, highest = _level(self.lowest, "--from"), _level(self.highest, "--to")
        if lowest is not None and highest is not None and lowest > highest:
            raise InputError(f"--from {self.lowest} --to {self.highest}: nothing lies between them; exchange them")
        return CapacitySettings(
            objectives=tuple(self.slo or ()),
            search="users" if self.by_users else "rate" if self.by_rate else None,
            think_s=None if self.think is None else _think_s(self.think, "--think"),
            lowest=lowest,
            highest=highest,
            budget_s=budget_s,
            confidence=parse_percent(self.confidence, "--confidence", least=CONFIDENCE[0], most=CONFIDENCE[1]),
            within=None if self.exact else parse_percent(self.within or "5%", "--within"),
        )


def _level(text: str | None, flag: str) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text) or float(text) <= 0:
        raise InputError(f"{flag} {text}: not a level above 0; write e.g. {flag} 4, or {flag} 0.5 with --rate")
    return float(text)


def _think_s(text: str, flag: str) -> float:
    """As `parse_duration_s`, but 0 is allowed."""
    return 0.0 if re.fullmatch(r"0(?:ms|s|m|h)?", text.strip()) else parse_duration_s(text, flag)


@expand_options
def capacity(
    *,
    options: Annotated[ScenarioOptions, LeaveOut("concurrency", "rate", "requests", "duration", "until", "probe")],
    search: SearchOptions,
    require: Annotated[
        str | None, typer.Option("--require", metavar="N", help="Exit 1 unless it is shown that N hold.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Continue an earlier search, in a new folder.")
    ] = None,
    show: Annotated[
        Path | None, typer.Option("--show", metavar="RUN", help="Make the reports of a search again; plays nothing.")
    ] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option("--forecast", metavar="30s", help="Forecast how many users with this think time fit. Repeatable."),
    ] = None,
    fleet: Annotated[
        int | None, typer.Option("--fleet", metavar="N", min=1, help="Forecast how many devices N users need.")
    ] = None,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="Processes that play the search; auto: as many as it needs."),
    ] = "1",
    out: Out = RESULTS,
    printing: OutputOptions,
) -> None:
    """Search the most users, or the highest rate, within the SLO, and say how sure that is."""
    output = printing.output
    required = _level(require, "--require")
    forecasts = ForecastRequest(tuple(_think_s(text, "--forecast") for text in forecast or ()), fleet)
    if show is not None:
        if options.scenario is not None or resume is not None:
            raise InputError("--show plays nothing; leave SCENARIO and --resume out")
        searched, interrupted = make_search_reports(search_folder_at(show), forecasts), False
    else:
        asked = structs.replace(search.settings(), forecasts=forecasts)
        if required is not None and asked.highest is not None and required > asked.highest:
            raise InputError(f"--require {require} --to {search.highest}: no level above --to is played; raise --to")
        loaded = _with_levels(options, search).load(output)
        earlier = None if resume is None else read_earlier(resume)
        processes = parse_workers(workers)
        searched, interrupted = asyncio.run(_search(loaded, asked, earlier, processes, out, output))
    _print(searched, output)
    code = ExitCode.INTERRUPTED if interrupted else exit_code(searched.answer, required)
    if code == ExitCode.GATE_FAILED and output != "json":
        for line in failures(searched.answer, required):
            tell(f"loadgen: exit {code:d}: {line}")
    if code == ExitCode.NO_TARGET and output == "nothing":
        tell("loadgen: exit 3: no model could be searched; run it without --quiet to see why")
    raise typer.Exit(code)


def _with_levels(options: ScenarioOptions, search: SearchOptions) -> ScenarioOptions:
    """The scenario's options, with a load of the kind that is searched. The search chooses its levels later."""
    if search.by_users and search.by_rate:
        raise InputError("--users and --rate: a search has levels of one kind; leave one of them out")
    flag = "--users" if search.by_users else "--rate" if search.by_rate else None
    if flag is not None and options.scenario is not None and re.fullmatch(NUMBERS, options.scenario):
        raise InputError(number_text(flag, options.scenario, "capacity"))
    if search.by_users:
        return structs.replace(options, concurrency="1")
    is_of_rates = search.by_rate or options.arrivals is not None
    return structs.replace(options, rate="1") if is_of_rates else options


async def _search(
    loaded: LoadedScenario,
    asked: CapacitySettings,
    earlier: EarlierSearch | None,
    workers: Workers,
    out: Path,
    output: Output,
) -> tuple[Capacity, bool]:
    """The search, and whether a stop was asked for."""
    stop = StopSignal()
    with progress_on_terminal(output) as progress, interruptible(stop, output):
        searched = await api.capacity(
            loaded, settings=asked, earlier=earlier, results=out, workers=workers, progress=progress, stop=stop
        )
    return searched, stop.requested


def _print(searched: Capacity, output: Output) -> None:
    if output == "json":
        show_json(msgspec.to_builtins(searched.answer))
    if output == "text":
        print_text(search_text(searched.answer, screen()))
    tell_place(searched.reports, output)


def exit_code(answer: CapacityFile, required: float | None) -> ExitCode:
    """3 if no model could be played. 1 if for some model no level is shown to hold, or not the required one; else 0."""
    if all(model.stopped == "target_lost" and not model.levels for model in answer.models):
        return ExitCode.NO_TARGET
    return ExitCode.GATE_FAILED if failures(answer, required) else ExitCode.DONE


def failures(answer: CapacityFile, required: float | None) -> list[str]:
    """The reasons for exit code 1: a line for each model that causes it."""
    lines = []
    for model in answer.models:
        name = f"{model.model} on {model.target}"
        if model.holds is None:
            lines.append(f"{name}: no level is shown to hold")
        elif required is not None and model.holds < required:
            wanted = format_level(required, model.search)
            lines.append(f"{name}: --require {required:g}: it is not shown that {wanted} hold")
    return lines
