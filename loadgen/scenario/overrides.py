"""Applies the command line's flags to a scenario: from a raw TOML table to a changed one, and which flag set which key.

Opens no file. The values that flags set are checked afterwards, as if they were in the file.
"""

import copy
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import redact_url
from loadgen.scenario import FOUNDRY, Scenario
from loadgen.scenario.devices import models_on_devices
from loadgen.scenario.dotted_keys import assign, key_steps, parse_setting
from loadgen.scenario.problem import any_of, key_path, suggestion, toml_text
from loadgen.scenario.soak import SoakFlags, soak_keys
from loadgen.scenario.types import RawTable
from loadgen.scenario.variant_models import VariantFlags, variant_models

_RATED = ("constant", "poisson", "gamma")
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


class Overrides(Struct, frozen=True):
    """The flags that change a scenario. Empty or None: the flag was not given."""

    urls: tuple[str, ...] = ()
    """They pair up with `models` in order; a single url is used for all models, a single model for all urls."""
    models: tuple[str, ...] = ()
    """Without urls, these are selected from the scenario's own models."""
    devices: tuple[str, ...] = ()
    """Each model of Foundry Local is played once on each of these."""
    concurrency: tuple[int, ...] = ()
    rates_per_s: tuple[float, ...] = ()
    arrivals: str | None = None
    """One of "constant", "poisson" and "gamma:B"."""
    max_tokens: int | None = None
    requests: int | None = None
    duration_s: float | None = None
    warmup: int | None = None
    seed: int | None = None
    """The seed of schedules and order, not that of the sampling."""
    timeout_s: float | None = None
    """The deadline of a whole request."""
    ready_s: float | None = None
    """How long to wait for a server that is not ready; 0: do not wait."""
    until: str | None = None
    """See `loadgen.scenario.stop_rule`."""
    soak: SoakFlags | None = None
    """What changes the table `[soak]`."""
    build: str | None = None
    """A label for what is tested."""
    build_by: str = ""
    """The flag or variable that gives the label, for a message."""
    set: tuple[str, ...] = ()
    """Each "dotted.key=value", applied before `variant` and `devices`, and after all else."""
    variant: VariantFlags | None = None
    """What makes it the second of two variants; None: it is not."""
    headers: tuple[tuple[str, str | RawTable], ...] = ()
    """Name and value of each, as a scenario writes them; see `loadgen.scenario.headers.parse_header`."""

    # The following come from a list file or the environment.
    listed: tuple[str, ...] = ()
    """Models by name; see `models_named`."""
    listed_by: str = ""
    """The flag or variable that lists them, for a message."""
    prompts_file: str | None = None
    """An absolute path."""
    prompt: str | None = None
    """The only prompt to send."""
    rounds: int | None = None
    """How many times each model at each level gets each prompt."""
    stream: bool | None = None
    """Whether answers stream."""


Changed = tuple[RawTable, dict[str, str]]
"""A raw table, and for each dotted key that a flag set, the flag as it was written."""


def apply(raw: RawTable, overrides: Overrides) -> Changed:
    """The raw scenario with the flags applied, and which flag set which key. `raw` must be valid; it is not changed.

    Raises InputError if flags contradict each other or the scenario.
    """
    changed = copy.deepcopy(raw)
    flags: dict[str, str] = {}
    if overrides.urls or overrides.models:
        models, model_flags = _models(changed.get("models") or _default_models(), overrides)
        changed["models"] = models
        flags |= model_flags
    elif overrides.listed:
        own = changed.get("models") or _default_models()
        changed["models"] = models_named(own, overrides.listed, overrides.listed_by)
        places = range(len(changed["models"]))
        flags |= {f"models[{i}]{key}": overrides.listed_by for i in places for key in ("", ".name")}
    load, load_flags = _load(changed.get("load", {"mode": "closed"}), overrides)
    if load_flags:
        changed["load"] = load
        flags |= load_flags
    for key, value, flag in (
        ("prompts", *_prompts(overrides)),
        ("sampling.stream", overrides.stream, f"BENCH_STREAM={overrides.stream or 0:d}"),
        ("sampling.max_tokens", overrides.max_tokens, f"--max-tokens {overrides.max_tokens}"),
        ("warmup_requests", overrides.warmup, f"--warmup {overrides.warmup}"),
        ("seed", overrides.seed, f"--seed {overrides.seed}"),
        ("timeouts.request_s", overrides.timeout_s, f"--timeout {overrides.timeout_s or 0:g}s"),
        ("timeouts.ready_s", overrides.ready_s, f"--ready {overrides.ready_s or 0:g}s"),
        ("until", overrides.until, f"--until {overrides.until}"),
        ("build", overrides.build, overrides.build_by),
    ):
        if value is not None:
            assign(changed, key.split("."), value, flag)
            flags[key] = flag
    if overrides.soak is not None:
        changed["soak"], soak_flags = soak_keys(changed.get("soak", {}), overrides.soak, load_flags)
        flags |= soak_flags
    for name, header in overrides.headers:
        headers = changed.setdefault("headers", {})
        for other in [other for other in headers if other.lower() == name.lower()]:
            del headers[other]
        headers[name] = header
        flags["headers"] = flags[key_path("headers", name)] = f"--header {name}"
    flags = _set_keys(changed, flags, "--set", overrides.set)
    if overrides.variant is not None:
        own = [] if overrides.urls else raw.get("models") or _default_models()
        models = changed.get("models") or _default_models()
        changed["models"], model_flags = variant_models(models, own, overrides.variant)
        flags = _set_keys(changed, flags | model_flags, "--versus", overrides.variant.set)
    if overrides.devices:  # last, because the keys of other flags count the models as the scenario lists them
        changed["models"], flags = models_on_devices(
            changed.get("models") or _default_models(), overrides.devices, flags
        )
    return changed, flags


def _set_keys(changed: RawTable, flags: dict[str, str], name: str, settings: Sequence[str]) -> dict[str, str]:
    """Set dotted keys in place. name: of the flag. Returns which flag set which key, these included."""
    for setting in settings:
        flag = f"{name} {setting}"
        key, value = parse_setting(setting, flag)
        assign(changed, key_steps(key, flag), value, flag)
        flags = {k: other for k, other in flags.items() if not re.match(rf"{re.escape(key)}[.\[]", k)} | {key: flag}
    return flags


def _prompts(overrides: Overrides) -> tuple[Any, str]:
    """The prompts that are asked in place of the scenario's, and what says so; None where nothing does."""
    if overrides.prompts_file is not None:
        return {"files": overrides.prompts_file, "order": "listed"}, f"--prompts-file {overrides.prompts_file}"
    return overrides.prompt, "BENCH_PROMPT"


def _models(own: list[RawTable], overrides: Overrides) -> tuple[list[RawTable], dict[str, str]]:
    urls, names = overrides.urls, overrides.models
    if not urls:
        return _picked(own, names)
    if not names:
        hint = "add --model NAME, with the server's name for it"
        raise InputError(f"--url {redact_url(urls[0])}: no model is named; {hint}")
    if len(urls) == 1:
        urls *= len(names)
    elif len(names) == 1:
        names *= len(urls)
    if len(urls) != len(names):
        hint = "give one --model for each --url, or only one --url, or only one --model"
        raise InputError(f"--url: {len(urls)} addresses for {len(names)} models; {hint}")
    flags: dict[str, str] = {}
    for i, (url, name) in enumerate(zip(urls, names, strict=True)):
        flags |= {f"models[{i}]": f"--url {url} --model {name}"}
        flags |= {f"models[{i}].url": f"--url {url}", f"models[{i}].name": f"--model {name}"}
    return [{"name": name, "url": url} for url, name in zip(urls, names, strict=True)], flags


def _default_models() -> list[RawTable]:
    """The models of a scenario that names none."""
    models = Scenario(name="default", prompts="-").models
    return [{"name": model.name, "target": model.target} for model in models]


def _picked(own: list[RawTable], names: tuple[str, ...]) -> tuple[list[RawTable], dict[str, str]]:
    picked: list[RawTable] = []
    flags: dict[str, str] = {}
    known = [str(model["name"]) for model in own]
    for name in names:
        if name not in known:
            guess = suggestion(name, known)
            hint = f"did you mean {guess}?" if guess else f"it has {', '.join(known)}; or give its address with --url"
            raise InputError(f"--model {name}: the scenario has no model of that name; {hint}")
        for model in own:
            if model["name"] == name:
                flags[f"models[{len(picked)}]"] = f"--model {name}"
                picked.append(model)
    return picked, flags


def _load(load: RawTable, overrides: Overrides) -> Changed:
    flags: dict[str, str] = {}
    if overrides.concurrency:
        levels = ",".join(str(level) for level in overrides.concurrency)
        flag = f"--concurrency {levels}"
        for given, other in (
            (overrides.rates_per_s, f"--rate {_listed(overrides.rates_per_s)}"),
            (overrides.arrivals, f"--arrivals {overrides.arrivals}"),
        ):
            if given:
                raise InputError(
                    f"{flag} with {other}: users who wait for answers have no rate of arrivals; leave one of them out"
                )
        base = load if load["mode"] == "closed" else _only(load, "requests", "duration_s")
        load = {**base, "mode": "closed", "concurrency": list(overrides.concurrency)}
        flags |= {"load.mode": flag, "load.concurrency": flag}
    elif overrides.rates_per_s or overrides.arrivals:
        load, flags = _open_load(load, overrides)
    return _length(load, flags, overrides)


def _open_load(load: RawTable, overrides: Overrides) -> Changed:
    mode = load["mode"]
    arrivals, shape = _arrivals(overrides.arrivals)
    arrivals_flag = f"--arrivals {overrides.arrivals}"
    flags: dict[str, str] = {}
    if not overrides.rates_per_s:
        if mode == "ramp":
            return {**load, "arrivals": arrivals}, {"load.arrivals": arrivals_flag}
        if mode not in _RATED:
            raise InputError(f'{arrivals_flag}: a "{mode}" load has no rate; add one, such as --rate 0.5,1')
    new = _only(load, "rates_per_s", "requests", "duration_s", "max_in_flight", "at_limit")
    new["mode"] = arrivals or (mode if mode in _RATED else "poisson")
    if overrides.rates_per_s:
        flag = f"--rate {_listed(overrides.rates_per_s)}"
        new["rates_per_s"] = list(overrides.rates_per_s)
        flags |= {"load.rates_per_s": flag, "load.mode": flag}
    if arrivals:
        flags["load.mode"] = arrivals_flag
    if shape is not None:
        new["burstiness"] = shape
        flags["load.burstiness"] = arrivals_flag
    elif new["mode"] == "gamma":
        new["burstiness"] = load["burstiness"]
    return new, flags


def _arrivals(text: str | None) -> tuple[str | None, float | None]:
    """(mode, burstiness) of a value of `--arrivals`."""
    if text is None or text in ("constant", "poisson"):
        return text, None
    name, _, shape = text.partition(":")
    if name != "gamma":
        hint = "write constant, poisson or gamma:B, such as gamma:0.5"
        raise InputError(f"--arrivals {text}: unknown arrival process; {hint}")
    if not re.fullmatch(_NUMBER, shape) or not 0 < float(shape) < math.inf:
        raise InputError(f"--arrivals {text}: gamma needs a burstiness above 0; write e.g. gamma:0.5")
    return "gamma", float(shape)


def _length(load: RawTable, flags: dict[str, str], overrides: Overrides) -> Changed:
    """The load with the requested number of requests or seconds; one of them alone replaces the other."""
    load = dict(load)
    if overrides.requests is not None:
        flag = f"--requests {overrides.requests}"
        if load["mode"] == "ramp":
            raise InputError(f'{flag}: load.requests: a "ramp" load ends after its duration; use --duration instead')
        if overrides.duration_s is None:
            load.pop("duration_s", None)
        load["requests"] = overrides.requests
        least = load.get("min_requests")
        if isinstance(least, int) and least > overrides.requests:
            del load["min_requests"]  # the flag says how many requests a level has
        flags["load.requests"] = flag
    if overrides.duration_s is not None:
        flag = f"--duration {overrides.duration_s:g}s"
        if load["mode"] == "trace":
            raise InputError(f'{flag}: load.duration_s: a "trace" load ends with its file; use --requests instead')
        if overrides.requests is None:
            load.pop("requests", None)
        load["duration_s"] = overrides.duration_s
        load.pop("min_requests", None)  # a stage must not last longer than --duration
        flags["load.duration_s"] = flag
    return load, flags


def _only(load: RawTable, *keys: str) -> RawTable:
    return {key: load[key] for key in keys if key in load}


def _listed(rates: tuple[float, ...]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)


def parse_duration_s(text: str, flag: str = "--duration") -> float:
    """Seconds, above 0, of "30s", "2m", "1h", "500ms" or "1.5" (seconds). Raises InputError that names the flag."""
    match = re.fullmatch(rf"({_NUMBER})(ms|s|m|h|)", text.strip())
    seconds = float(match[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"{flag} {text}: not a time above 0; write e.g. {flag} 30s, 2m, 1h or 500ms")
    return seconds


def parse_ready_s(text: str, flag: str = "--ready") -> float:
    """As `parse_duration_s`, but 0 is allowed."""
    return 0.0 if text.strip() == "0" else parse_duration_s(text, flag)


def parse_levels(text: str, flag: str = "--concurrency") -> tuple[int, ...]:
    """Numbers of users of "1,2,4". Raises InputError that names the flag."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not re.fullmatch(r"[0-9]{1,9}", part) or int(part) < 1:
            raise InputError(f"{flag} {text}: {toml_text(part)} is not a number of users; write e.g. {flag} 1,2,4")
    return tuple(int(part) for part in parts)


def parse_rates(text: str, flag: str = "--rate") -> tuple[float, ...]:
    """Requests a second of "0.5,1". Raises InputError that names the flag."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not re.fullmatch(_NUMBER, part) or not 0 < float(part) < math.inf:
            raise InputError(f"{flag} {text}: {toml_text(part)} is not a rate above 0; write e.g. {flag} 0.5,1")
    return tuple(float(part) for part in parts)


_PLACE: Final = ("target", "url", "foundry")


def models_named(own: Sequence[RawTable], names: Sequence[str], label: str) -> list[RawTable]:
    """The models of these names, in their order. label: the flag or variable that names them, for an error message.

    If the scenario has a model of a name, the name means that model. Otherwise, if all of the scenario's models are
    served in one place that can serve several models (an endpoint, or Foundry Local), the named model is served there.
    In all other cases Foundry Local serves it, because a name alone does not say which weights an embedded server
    should load.
    """
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"{label}: {any_of(twice[:1])} is listed twice; leave one out")
    models: list[RawTable] = []
    for name in names:
        same_name = [model for model in own if model.get("name") == name]
        models += same_name or [{"name": name, **_common_place(own)}]
    return models


def _common_place(own: Sequence[RawTable]) -> RawTable:
    places = [{key: model[key] for key in _PLACE if model.get(key) is not None} for model in own]
    if not places or any(place != places[0] for place in places):
        return {"target": FOUNDRY}
    place = places[0]
    if place.get("url") is not None:
        return place
    if place.get("target") != FOUNDRY and "foundry" not in place:
        return {"target": FOUNDRY}
    # Foundry Local's embedded model is a single model; all others come from the catalog.
    options = {key: value for key, value in place.get("foundry", {}).items() if key != "embedded"}
    return {"target": FOUNDRY, **({"foundry": options} if options else {})}
