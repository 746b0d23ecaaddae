"""The verb `models`: prints the model cards of the targets, and writes them as `models.json`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen import api
from loadgen.cli.options import Header, Output, Ready, ScenarioOptions, headers_of_flags
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.engine.server_probe import AskedServer, ask_servers
from loadgen.errors import InputError, TargetError
from loadgen.plan.plan import Plan
from loadgen.redact import redact_url
from loadgen.report.cards import behavior_text, cards_text
from loadgen.scenario import Headers, Model, Scenario, Timeouts
from loadgen.scenario.check import first_conflict
from loadgen.scenario.file import load_scenario
from loadgen.scenario.model_list import model_list_text
from loadgen.scenario.overrides import Overrides, parse_ready_s
from loadgen.store.files import write_to
from loadgen.store.manifest import ModelCard, ServedModel
from loadgen.targets.catalog import default_models, list_cards, model_list_of
from loadgen.targets.diagnosis import shown_names


def models(
    scenario: Annotated[
        str | None, typer.Argument(metavar="SCENARIO", help="Ask the targets of this scenario: a path or a name.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="An OpenAI-compatible endpoint: its base path, or only a port. Repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="With --probe: only this model. Repeatable.")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Test each model's server: up to 17 chats per model.")] = False,
    header: Header = None,
    ready: Ready = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="PATH", help="Also write the cards as a models.json.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """Print the model cards of the targets.

    The targets are those of a scenario or those at a URL; without either, Foundry Local and the embedded server.
    """
    if probe:
        if write is not None:
            message = "a command writes the cards or probes the servers, not both"
            raise InputError(f"--write {write} with --probe: {message}; leave one of them out")
        if url and scenario is None and not model:
            model = [_only_model_at(url, header, _ready_s(None, ready))]
        asked = ScenarioOptions(scenario=scenario, url=url, model=model, probe=True, header=header, ready=ready)
        _print_probes(asked, "json" if as_json else "text")
        return
    if model:
        raise InputError(
            f"--model {model[0]}: without --probe, all models are listed; add --probe to test the server of this one"
        )
    if write is not None and write.exists() and not force:
        raise InputError(f"--write {write}: it already exists; choose another name, or add --force")
    places, ready_s = _places(scenario, url or [], header), _ready_s(scenario, ready)
    cards, problems = asyncio.run(list_cards(places, _tell_on_terminal, ready_s=ready_s, tell=tell))
    for problem in problems:
        tell(f"loadgen: {problem}")
    if not cards:
        raise TargetError("no target offers a model", remedy="see above")
    if write is not None:
        _write(write, cards)
    if as_json:
        data = [{k: v for k, v in msgspec.to_builtins(card).items() if v is not None} for card in cards]
        show_json(data)
    else:
        print_text(cards_text(cards, screen()))


def _only_model_at(urls: list[str], header: list[str] | None, ready_s: float) -> str:
    """The only model at an address. Raises InputError if several are listed there."""
    cards, problems = asyncio.run(
        list_cards(_places(None, urls, header), _tell_on_terminal, ready_s=ready_s, tell=tell)
    )
    if problems or not cards:
        raise TargetError(problems[0] if problems else "no model is listed there")
    names = tuple(dict.fromkeys(card.id for card in cards))
    if len(names) > 1:
        where = redact_url(f"--probe --url {urls[0]}")
        raise InputError(f"models {where}: several models are listed; add --model NAME: {shown_names(names)}")
    return names[0]


def _print_probes(options: ScenarioOptions, output: Output) -> None:
    if options.scenario is None and not options.url and not options.model:
        raise InputError("models --probe: no target is named; name a SCENARIO, or --url URL --model NAME")
    plan = api.plan_of(options.load(output))
    asked = asyncio.run(_asked(plan))
    if not asked:
        raise TargetError("no model could be asked", remedy="see above")
    if output == "json":
        cards = [msgspec.to_builtins(server.card) | {"probe": msgspec.to_builtins(server.probe)} for server in asked]
        show_json(cards)
    else:
        models = [ServedModel(**msgspec.structs.asdict(server.card), probe=server.probe) for server in asked]
        print_text(behavior_text(models, screen()))


async def _asked(plan: Plan) -> list[AskedServer]:
    return [server async for server in ask_servers(plan, tell)]


def _ready_s(scenario: str | None, flag: str | None) -> float:
    """How long to wait for a server: as the flag says, otherwise as the scenario says."""
    if flag is not None:
        return parse_ready_s(flag)
    return Timeouts().ready_s if scenario is None else load_scenario(scenario).scenario.timeouts.ready_s


def _places(scenario: str | None, urls: list[str], header: list[str] | None) -> list[Model]:
    headers = headers_of_flags(header)
    if urls:
        if scenario is not None:
            both = redact_url(f"both {scenario} and --url {urls[0]}")
            raise InputError(f"models: {both} name targets; leave one of them out")
        own = msgspec.convert(dict(headers), Headers)
        places = [Model(name="any", target="openai", url=url, headers=own) for url in dict.fromkeys(urls)]
        problem = first_conflict(Scenario(name="models", prompts="-", models=tuple(places)))
        if problem is not None:
            flag = "--header" if ".headers" in problem.key else "--url"
            raise InputError(redact_url(f"{flag}: {problem.message}; {problem.hint}"))
        return places
    if scenario is not None:
        return list(load_scenario(scenario, Overrides(headers=headers)).scenario.models)
    if headers:
        raise InputError(
            f"--header {headers[0][0]}: only endpoints get headers; add --url URL, or name a scenario with one"
        )
    return default_models()


def _tell_on_terminal(text: str, share: float | None) -> None:
    if share is None and sys.stderr.isatty():
        tell(text)


def _write(path: Path, cards: list[ModelCard]) -> None:
    try:
        write_to(path, model_list_text(model_list_of(cards)))
    except OSError as error:
        raise InputError(f"--write {path}: cannot be written ({error.strerror}); choose another place") from error
    tell(f"wrote {path}")
