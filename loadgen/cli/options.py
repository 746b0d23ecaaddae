"""The options that several verbs share, each group as a struct, and the parsing of their values."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
import typer
from msgspec import Struct

from loadgen.cli.streams import tell
from loadgen.errors import InputError
from loadgen.scenario.devices import parse_devices
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.headers import parse_header
from loadgen.scenario.overrides import Overrides, parse_duration_s, parse_levels, parse_rates, parse_ready_s
from loadgen.scenario.resolve import resolve_scenario
from loadgen.scenario.soak import SoakFlags
from loadgen.scenario.types import RawTable
from loadgen.scenario.variant_models import VariantFlags

RESULTS: Final = Path("results")
"""The default folder for run folders."""

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders go.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Show a percentile only with as many samples as MLPerf requires.")
]

Ready = Annotated[
    str | None,
    typer.Option("--ready", metavar="60s", help="How long to wait for a server that is not ready; 0 does not wait."),
]

Output = Literal["text", "json", "nothing"]
"""What a verb prints: text for readers, only JSON, or as little as possible."""


Header = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Send this header; '$VAR' takes a secret. Repeatable."),
]


def headers_of_flags(flags: list[str] | None) -> tuple[tuple[str, str | RawTable], ...]:
    """The headers of the flags, in the form of a scenario. Raises InputError."""
    return tuple(parse_header(flag, os.environ) for flag in flags or ())


class ScenarioOptions(Struct, frozen=True):
    """The scenario, and the changes to it. A flag is one field here and one line in `overrides`."""

    scenario: Annotated[str | None, typer.Argument(metavar="SCENARIO", help="A path, or a name under scenarios/.")] = (
        None
    )
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="An OpenAI-compatible endpoint: its base path, or only a port. Repeatable."),
    ] = None
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model there, or one of the scenario's. Repeatable.")
    ] = None
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="cpu,gpu", help="Play each Foundry Local model once on each device."),
    ] = None
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", metavar="1,2,4", help="Numbers of users: a closed loop.")
    ] = None
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="R", help="Requests per second: an open loop, e.g. 0.5,1,2.")
    ] = None
    arrivals: Annotated[
        str | None, typer.Option("--arrivals", metavar="A", help="constant, poisson or gamma:BURSTINESS.")
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", help="Maximum output tokens per request.")
    ] = None
    requests: Annotated[
        int | None, typer.Option("--requests", metavar="N", help="Measured requests per model and level.")
    ] = None
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="30s", help="Time during which requests start.")
    ] = None
    warmup: Annotated[int | None, typer.Option("--warmup", metavar="N", help="Warm-up requests per stage.")] = None
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of schedules and prompt order.")] = None
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="60s", help="Deadline for a whole request.")] = (
        None
    )
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="METRIC_pNN:P%", help="End a stage at this precision, e.g. ttft_p99:5%."),
    ] = None
    header: Header = None
    build: Annotated[
        str | None,
        typer.Option("--build", metavar="LABEL", help="A label for what is tested [LOADGEN_BUILD]."),
    ] = None
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the scenario. Repeatable.")
    ] = None
    probe: Annotated[
        bool, typer.Option("--probe", help="After the stages, test each server: up to 16 chats per model.")
    ] = False
    ready: Ready = None
    no_preflight: Annotated[
        bool, typer.Option("--no-preflight", help="Do not wait for the server, and send it no test chat.")
    ] = False
    models_file: Annotated[
        Path | None, typer.Option("--models-file", metavar="PATH", help="Play the models that this models.json lists.")
    ] = None
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts-file", metavar="PATH", help="Use the prompts in this file; - reads a pipe."),
    ] = None

    def overrides(self) -> Overrides:
        """The changes of the flags. Raises InputError, which names the flag, for a value that cannot be parsed."""
        return Overrides(
            urls=tuple(self.url or ()),
            models=tuple(self.model or ()),
            devices=parse_devices(self.devices) if self.devices is not None else (),
            concurrency=parse_levels(self.concurrency) if self.concurrency is not None else (),
            rates_per_s=parse_rates(self.rate) if self.rate is not None else (),
            arrivals=self.arrivals,
            max_tokens=self.max_tokens,
            requests=self.requests,
            duration_s=parse_duration_s(self.duration) if self.duration is not None else None,
            warmup=self.warmup,
            seed=self.seed,
            timeout_s=parse_duration_s(self.timeout, "--timeout") if self.timeout is not None else None,
            until=self.until,
            ready_s=parse_ready_s(self.ready) if self.ready is not None else None,
            build=self.build,
            build_by="" if self.build is None else f"--build {self.build}",
            headers=headers_of_flags(self.header),
            set=(
                *(self.settings or ()),
                *(("probe=true",) if self.probe else ()),
                *(("preflight=false",) if self.no_preflight else ()),
            ),
        )

    def load(
        self, output: Output, variant: VariantFlags | None = None, soak: SoakFlags | None = None
    ) -> LoadedScenario:
        """The scenario as flags, list files and the environment change it; says which variables do, to people.

        variant: what makes it the second of two variants. soak: what changes its table `[soak]`.
        """
        overrides = msgspec.structs.replace(self.overrides(), variant=variant, soak=soak)
        loaded, remarks = resolve_scenario(
            self.scenario, overrides, models_file=self.models_file, prompts_file=self.prompts_file
        )
        if output == "text":
            for remark in remarks:
                tell(remark)
        return loaded

    def with_setting(self, setting: str) -> "ScenarioOptions":
        """The same options and one more `--set`."""
        return msgspec.structs.replace(self, settings=[*(self.settings or ()), setting])


class RepeatOptions(Struct, frozen=True):
    """How often a plan is played, and what else in alternation with it."""

    repeats: Annotated[
        int | None,
        typer.Option("--repeats", metavar="N", min=1, help="Play the plan N times, and merge the runs."),
    ] = None
    rest: Annotated[str | None, typer.Option("--rest", metavar="5s", help="Wait this long between runs.")] = None
    versus: Annotated[
        list[str] | None,
        typer.Option(
            "--versus",
            metavar="KEY=VALUE",
            help="Also play a variant with this key set, in alternation, and compare. Repeatable.",
        ),
    ] = None
    versus_url: Annotated[
        str | None, typer.Option("--versus-url", metavar="URL", help="As --versus, with the models at another address.")
    ] = None
    versus_model: Annotated[
        str | None, typer.Option("--versus-model", metavar="NAME", help="As --versus, with another model.")
    ] = None
    anyway: Annotated[
        bool, typer.Option("--anyway", help="With --versus: compare variants that do not do the same work.")
    ] = False

    @property
    def rest_s(self) -> float:
        return 0.0 if self.rest is None else parse_duration_s(self.rest, "--rest")

    @property
    def variant(self) -> VariantFlags | None:
        """What the second variant has otherwise; None where there is one variant alone. Raises InputError."""
        rest_s = self.rest_s
        if self.versus is None and self.versus_url is None and self.versus_model is None:
            if self.anyway:
                raise InputError("--anyway: there is one variant alone; add --versus KEY=VALUE, or leave it out")
            if rest_s and (self.repeats or 1) < 2:
                raise InputError(f"--rest {self.rest}: there is one run alone; add --repeats N, or leave it out")
            return None
        if self.repeats is not None and self.repeats < 2:
            raise InputError(
                f"--repeats {self.repeats} with --versus: a block of two runs shows nothing; play 5 or more"
            )
        return VariantFlags(tuple(self.versus or ()), self.versus_url, self.versus_model)


class OutputOptions(Struct, frozen=True):
    """How much is printed. `--json` wins over `--quiet`."""

    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.")] = False

    @property
    def output(self) -> Output:
        return "json" if self.as_json else "nothing" if self.quiet else "text"


class LeaveOut:
    """Beside a struct of options in an annotation: fields that are no options of the verb, and keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)


def expand_options(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes structs of options, in the form that the parser needs: each of their fields is a parameter."""
    fields: dict[str, tuple[type[Struct], tuple[str, ...]]] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(verb, include_extras=True)
    for parameter in inspect.signature(verb).parameters.values():
        kind = hints[parameter.name]
        struct = getattr(kind, "__origin__", kind)
        if isinstance(struct, type) and issubclass(struct, Struct):
            beside = (each for each in getattr(kind, "__metadata__", ()) if isinstance(each, LeaveOut))
            own = _parameters_of(struct, next(beside, LeaveOut()))
            fields[parameter.name] = struct, tuple(each.name for each in own)
            parameters += own
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def expanded(**values: Any) -> None:
        groups = {
            name: kind(**{field: values.pop(field) for field in own if field in values})
            for name, (kind, own) in fields.items()
        }
        verb(**groups, **values)

    expanded.__dict__["__signature__"] = inspect.Signature(parameters)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _parameters_of(kind: type[Struct], left_out: LeaveOut) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    defaults = dict(zip(kind.__struct_fields__, kind.__struct_defaults__, strict=True))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
        for name in kind.__struct_fields__
        if name not in left_out.names
    ]


def flags_given(options: Struct) -> list[str]:
    """The flags of a struct of options that do not have their defaults; an argument by what its help calls it."""
    hints = get_type_hints(type(options), include_extras=True)
    defaults = dict(zip(options.__struct_fields__, options.__struct_defaults__, strict=True))
    given = [name for name in options.__struct_fields__ if getattr(options, name) != defaults[name]]
    described = [next(each for each in hints[name].__metadata__ if hasattr(each, "param_decls")) for name in given]
    return [
        next(iter(each.param_decls or ()), None) or str(each.metavar if each.default is ... else each.default)
        for each in described
    ]
