"""The command line: parse, call, print. Verbs only; everything they do is elsewhere."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from loadgen import api
from loadgen.analysis.stop_rule import reason_unreachable
from loadgen.analysis.summary import Summary
from loadgen.cli.calibrate import calibrate
from loadgen.cli.interrupt import interruptible
from loadgen.cli.mock import mock
from loadgen.cli.models import models
from loadgen.decisions.baseline import baseline_folder, keep_baseline, why_not_kept
from loadgen.engine.run import Controls
from loadgen.engine.workers.sizing import Workers, parse_workers
from loadgen.errors import ExitCode, InputError, LoadgenError
from loadgen.live.bar import Bar
from loadgen.plan.plan import Plan
from loadgen.redact import guard_tracebacks, printable
from loadgen.report.console import console, json_text
from loadgen.report.console import terminal_width as _width
from loadgen.report.files import write_merged, write_reports
from loadgen.report.plan_text import plan_data, plan_table
from loadgen.scenario import Model
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.overrides import Overrides, parse_duration_s, parse_levels, parse_rates
from loadgen.scenario.resolve import asked_model, asked_scenario
from loadgen.store.calibration import stored, warnings_for
from loadgen.store.run_folder import MANIFEST, Run
from loadgen.targets.llamacpp.target import serving_llamacpp

_UsageError: Any = typer.BadParameter.__base__
"""What the parser raises for a wrong command line; typer exports only this descendant of it."""

app = typer.Typer(
    name="loadgen",
    help="Load-testing for language models on local and edge devices.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ScenarioName = Annotated[str | None, typer.Argument(metavar="SCENARIO", help="A path, or a name under scenarios/.")]
Urls = Annotated[
    list[str] | None, typer.Option("--url", help="An OpenAI-compatible endpoint, ending in /v1. Repeatable.")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model there, or one of the scenario's. Repeatable.")
]
Concurrency = Annotated[str | None, typer.Option("--concurrency", metavar="1,2,4", help="Users of a closed loop.")]
Rate = Annotated[str | None, typer.Option("--rate", metavar="R", help="Requests a second of an open loop: 0.5,1,2.")]
Arrivals = Annotated[str | None, typer.Option("--arrivals", metavar="A", help="constant, poisson or gamma:B.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Output tokens of a request, at most.")
]
Requests = Annotated[int | None, typer.Option("--requests", metavar="N", help="Measured requests a model and level.")]
Duration = Annotated[str | None, typer.Option("--duration", metavar="30s", help="How long requests may start.")]
Warmup = Annotated[int | None, typer.Option("--warmup", metavar="N", help="Warm-up requests a stage.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of schedules and orders.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="60s", help="Deadline of a whole request.")]
UntilFlag = Annotated[
    str | None,
    typer.Option("--until", metavar="METRIC_pNN:P%", help="Play until this percentile is known so well: ttft_p99:5%."),
]
Repeats = Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Whole runs of the same plan.")]
ModelsFile = Annotated[
    Path | None, typer.Option("--models-file", metavar="PATH", help="A models.json: plays the models it lists.")
]
PromptsFile = Annotated[
    Path | None,
    typer.Option("--prompts-file", metavar="PATH", help="A prompts.json, or any file of prompts: asks these."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the scenario.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders go.")]
WorkersFlag = Annotated[
    str, typer.Option("--workers", metavar="N|auto", help="Processes that play it; auto asks the plan and the cores.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no table.")]
BaselineName = Annotated[
    str | None, typer.Option("--baseline", metavar="NAME", help="Keep what the run says under DIR/baselines/NAME.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Percentiles need as many samples as MLPerf asks for a published result.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a baseline of that name.")]
Json = Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output, and nothing else.")]


@app.command()
def run(
    scenario: ScenarioName = None,
    url: Urls = None,
    model: Models = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    arrivals: Arrivals = None,
    max_tokens: MaxTokens = None,
    requests: Requests = None,
    duration: Duration = None,
    warmup: Warmup = None,
    seed: Seed = None,
    timeout: Timeout = None,
    until: UntilFlag = None,
    settings: Settings = None,
    models_file: ModelsFile = None,
    prompts_file: PromptsFile = None,
    out: Out = api.RESULTS,
    workers: WorkersFlag = "1",
    repeats: Repeats = 1,
    strict: Strict = False,
    baseline: BaselineName = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play a scenario, write a run folder, print the table."""
    settings = [*(settings or ()), *(["strict=true"] if strict else ())]
    given = _overrides(
        url, model, concurrency, rate, arrivals, max_tokens, requests, duration, warmup, seed, timeout, until, settings
    )
    if baseline is not None and repeats > 1:
        raise InputError(
            f"--baseline {baseline} with --repeats {repeats}: a baseline is one run; leave one of them out"
        )
    kept = None if baseline is None else baseline_folder(out, baseline, force=force)
    processes = parse_workers(workers)
    plan = api.plan_of(_loaded(scenario, given, models_file, prompts_file, quiet=quiet or as_json))
    if not (quiet or as_json):
        _warn(plan, processes)
    played, interrupted = asyncio.run(_play(plan, out, processes, repeats, quiet=quiet or as_json))
    summary, folder = played[0] if len(played) == 1 else write_merged([folder for _, folder in played])
    _show(summary, folder, quiet=quiet, as_json=as_json)
    if kept is not None:
        _keep(*played[0], kept)
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else exit_code(summary))


def _warn(plan: Plan, workers: Workers) -> None:
    """Say where a plan goes beyond what this machine was calibrated for, and where it cannot come to what it is for."""
    found = stored()
    notes = [line for line in (found.note, reason_unreachable(plan)) if line]
    for line in (*notes, *warnings_for(plan, found.calibration, api.processes_of(plan, workers))):
        typer.echo(printable(f"loadgen: {line}"), err=True)


async def _play(
    plan: Plan, out: Path, workers: Workers, repeats: int, *, quiet: bool
) -> tuple[list[tuple[Summary, Path]], bool]:
    """The summary and the folder of each run, and whether somebody wanted an end."""
    controls = Controls()
    played: list[tuple[Summary, Path]] = []

    def ended(found: Run) -> None:
        played.append((write_reports(found.folder), found.folder))

    with Bar(quiet=quiet) as bar, interruptible(controls, quiet=quiet):
        await api.repeat(plan, repeats, results=out, workers=workers, progress=bar, controls=controls, ended=ended)
    return played, controls.wish.asked


@app.command("plan")
def plan_verb(
    scenario: ScenarioName = None,
    url: Urls = None,
    model: Models = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    arrivals: Arrivals = None,
    max_tokens: MaxTokens = None,
    requests: Requests = None,
    duration: Duration = None,
    warmup: Warmup = None,
    seed: Seed = None,
    timeout: Timeout = None,
    until: UntilFlag = None,
    settings: Settings = None,
    models_file: ModelsFile = None,
    prompts_file: PromptsFile = None,
    out: Out = api.RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Every request with its due time, as JSON.")] = False,
) -> None:
    """Print what would be sent and when; sends nothing."""
    given = _overrides(
        url, model, concurrency, rate, arrivals, max_tokens, requests, duration, warmup, seed, timeout, until, settings
    )
    made = api.plan_of(_loaded(scenario, given, models_file, prompts_file, quiet=as_json))
    if as_json:
        _write_json(plan_data(made))
    else:
        typer.echo(plan_table(made, api.last_pace(out, made.scenario.name), width=_width()), nl=False)


app.command()(models)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a scenario's (its newest run).")
    ],
    merge: Annotated[bool, typer.Option("--merge", help="Make one report of repeated runs of the same plan.")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Make the reports of run folders again, from the folders alone, and print their tables."""
    folders = [_run_folder(path) for path in runs]
    if merge:
        merged, folder = write_merged(folders, strict=strict)
        _show(merged, folder, quiet=False, as_json=as_json)
        return
    summaries = [write_reports(folder, strict=strict) for folder in folders]
    if as_json:
        _write_json([msgspec.to_builtins(s) for s in summaries] if len(runs) > 1 else msgspec.to_builtins(summaries[0]))
        return
    for summary, folder in zip(summaries, folders, strict=True):
        _show(summary, folder, quiet=False, as_json=False)


@app.command()
def serve(
    model: Annotated[str, typer.Option("--model", help="What the server calls its model.")] = "smollm2-135m",
    gguf: Annotated[Path | None, typer.Option("--gguf", help="A model file (default: SmolLM2-135M).")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Parallel streams.")] = 4,
) -> None:
    """Start the embedded server, print its URL, stop on Ctrl-C."""
    asyncio.run(_serve(asked_model(model, gguf, slots), port))


async def _serve(model: Model, port: int) -> None:
    controls = Controls()
    with interruptible(controls, quiet=True):
        async with serving_llamacpp(model, port=port) as served:
            typer.echo(served.base_url)
            typer.echo(f"{served.card.alias}; Ctrl-C stops it", err=True)
            await controls.wish.wait()


app.command()(mock)
app.command()(calibrate)


def _overrides(
    url: list[str] | None,
    model: list[str] | None,
    concurrency: str | None,
    rate: str | None,
    arrivals: str | None,
    max_tokens: int | None,
    requests: int | None,
    duration: str | None,
    warmup: int | None,
    seed: int | None,
    timeout: str | None,
    until: str | None,
    settings: list[str] | None,
) -> Overrides:
    return Overrides(
        urls=tuple(url or ()),
        models=tuple(model or ()),
        concurrency=parse_levels(concurrency) if concurrency is not None else (),
        rates_per_s=parse_rates(rate) if rate is not None else (),
        arrivals=arrivals,
        max_tokens=max_tokens,
        requests=requests,
        duration_s=parse_duration_s(duration) if duration is not None else None,
        warmup=warmup,
        seed=seed,
        timeout_s=parse_duration_s(timeout, "--timeout") if timeout is not None else None,
        until=until,
        set=tuple(settings or ()),
    )


def _loaded(
    scenario: str | None, given: Overrides, models_file: Path | None, prompts_file: Path | None, *, quiet: bool
) -> LoadedScenario:
    loaded, notes = asked_scenario(scenario, given, models_file=models_file, prompts_file=prompts_file)
    for note in () if quiet else notes:
        typer.echo(printable(note), err=True)
    return loaded


def _keep(summary: Summary, folder: Path, kept: Path) -> None:
    why_not = why_not_kept(summary)
    if why_not is None:
        keep_baseline(folder, kept)
    typer.echo(printable(f"baseline: {kept}" if why_not is None else f"no baseline was kept: {why_not}"), err=True)


def _run_folder(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    newest = api.runs_of(path)
    if newest:
        return newest[-1]
    raise InputError(f"{path}: no run folder; give one that has a {MANIFEST}, such as those under results/")


def exit_code(summary: Summary) -> ExitCode:
    """3 when no model could be used; 1 when a gate failed or a stage is invalid; else 0."""
    played = [stage for stage in summary.stages if stage.status == "played"]
    if not played:
        return ExitCode.NO_TARGET
    failed = any(stage.slo is not None and stage.slo.passed is False for stage in played)
    invalid = any(stage.validity is not msgspec.UNSET and stage.validity.verdict == "invalid" for stage in played)
    return ExitCode.GATE_FAILED if failed or invalid else ExitCode.DONE


def _show(summary: Summary, folder: Path, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        _write_json(msgspec.to_builtins(summary))
        return
    if not quiet:
        typer.echo(console(summary, width=_width(), color=sys.stdout.isatty()), nl=False)
    typer.echo(
        f"report: {folder / 'report.md'}" if summary.runs else f"report: {folder / 'report.html'} (and report.md)"
    )


def _write_json(value: Any) -> None:
    sys.stdout.write(json_text(value))


def main() -> NoReturn:
    """The entry point. Whatever a person must act on is one line on standard error."""
    guard_tracebacks()
    try:
        code = app(standalone_mode=False)
    except LoadgenError as error:
        _complain(str(error), error.exit_code)
    except _UsageError as error:
        if isinstance(error, typer.BadParameter) or not str(error).startswith("Usage"):
            hint = f"; see `{error.ctx.command_path} --help`" if getattr(error, "ctx", None) else ""
            _complain(f"{error.format_message().rstrip('.')}{hint}", ExitCode.BAD_INPUT)
        typer.echo(error.format_message())
        sys.exit(ExitCode.BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _complain(message: str, code: ExitCode) -> NoReturn:
    print(f"loadgen: {printable(message)}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
