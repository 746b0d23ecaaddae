"""What a request costs: energy and the device, from a measured or a given power.

Sources of a power are never mixed: two costs compare only if their powers have the same source.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from loadgen.analysis.summary import StageSummary
from loadgen.decisions.candidates.power import Power
from loadgen.scenario.cost import CostSettings

GIVEN: Final = "given"
"""The source of a power that a person gives."""
JOULES_PER_KWH: Final = 3.6e6
SECONDS_PER_YEAR: Final = 31_557_600
"""365.25 days."""

_AMOUNTS: Final = (
    "joules_per_request",
    "joules_per_token",
    "joules_per_request_beyond_idle",
    "joules_per_token_beyond_idle",
    "per_1000",
)


class Cost(Struct, frozen=True, kw_only=True):
    """The energy and the cost of one candidate's requests. None: unknown."""

    source: str | None = None
    """The source of the power."""
    joules_per_request: float | None = None
    """J for each answered request. What failed requests take is shared by the answered ones."""
    joules_per_token: float | None = None
    """J for each output token."""
    joules_per_request_beyond_idle: float | None = None
    joules_per_token_beyond_idle: float | None = None
    per_1000: float | None = None
    """The cost of 1,000 answered requests, in `currency`."""
    currency: str | None = None
    unknown: str | None = None
    """Why `per_1000` is unknown, and how to give what is missing; None if it is known."""
    workshop_cost: float | None = None
    """The workshop's (tokens/s × tokens per request) × energy factor. It is only shown, because it grows with speed."""


def cost_of(stages: Sequence[StageSummary], powers: Sequence[Power | None], settings: CostSettings) -> Cost:
    """The cost of a candidate's requests at one level: the mean over its runs that know it.

    stages: its stage at that level in each run. powers: the measured power in each run, None if it was not measured.
    """
    given = None if settings.watts is None else Power(GIVEN, settings.watts)
    costs = [_cost_of_run(stage, power or given, settings) for stage, power in zip(stages, powers, strict=True)]
    workshop_cost = _mean([_workshop_cost(stage, settings) for stage in stages])
    known = [cost for cost in costs if cost.joules_per_request is not None]
    sources = sorted({cost.source for cost in known if cost.source is not None})
    if len(sources) > 1:
        why = f"its runs have energy from different sources ({', '.join(sources)}); select runs with one of them"
        return Cost(currency=settings.currency, unknown=why, workshop_cost=workshop_cost)
    shared = (known or costs or [Cost(unknown="it has no valid stage")])[0]
    amounts = {name: _mean([getattr(cost, name) for cost in known]) for name in _AMOUNTS}
    return msgspec.structs.replace(shared, **amounts, workshop_cost=workshop_cost)


def not_comparable(costs: Mapping[str, Cost]) -> str | None:
    """Why the costs of candidates, by name, do not compare; None if they do."""
    reasons: dict[str, list[str]] = {}
    for name, cost in sorted(costs.items()):
        if cost.unknown is not None:
            reasons.setdefault(cost.unknown, []).append(name)
    if reasons:
        return "; ".join(f"unknown for {', '.join(names)}: {reason}" for reason, names in reasons.items())
    sources = {name: str(cost.source) for name, cost in sorted(costs.items())}
    if len(set(sources.values())) > 1:
        shown = ", ".join(f"{source} for {name}" for name, source in sources.items())
        return f"energy from different sources is not compared ({shown})"
    return None


def _cost_of_run(stage: StageSummary, power: Power | None, settings: CostSettings) -> Cost:
    """The cost in one run.

    With P the mean power and r the answered requests per second, a request takes P / r joules, and 1,000 requests cost
    1000 × (P / 3.6e6 × price_per_kwh + device_price / (lifetime_years × 31557600 × utilization)) / r.
    """
    rate = None if stage.throughput is UNSET else stage.throughput.requests_per_s
    if power is None:
        return Cost(currency=settings.currency, unknown="no power was measured; give watts, e.g. --cost watts=15")
    if not rate:
        return Cost(currency=settings.currency, unknown="its stage has no steady window, so no rate of requests")
    per_1000, why = None, "no price of energy; give it, e.g. --cost price_per_kwh=0.30"
    if settings.price_per_kwh is not None:
        energy_per_s = power.watts / JOULES_PER_KWH * settings.price_per_kwh
        per_1000, why = 1000 * (energy_per_s + _device_per_s(settings)) / rate, ""
    joules = power.watts / rate
    beyond = None if power.beyond_idle_watts is None else power.beyond_idle_watts / rate
    tokens = _output_tokens(stage)
    return Cost(
        source=power.source,
        joules_per_request=joules,
        joules_per_token=joules / tokens if tokens else None,
        joules_per_request_beyond_idle=beyond,
        joules_per_token_beyond_idle=beyond / tokens if beyond is not None and tokens else None,
        per_1000=per_1000,
        currency=settings.currency,
        unknown=why or None,
    )


def _device_per_s(settings: CostSettings) -> float:
    """The price of the device for each second in which it answers requests; 0 if no price is given."""
    if settings.device_price is None or settings.lifetime_years is None or settings.utilization is None:
        return 0.0
    return settings.device_price / (settings.lifetime_years * SECONDS_PER_YEAR * settings.utilization)


def _output_tokens(stage: StageSummary) -> float | None:
    """Output tokens of an answered request; None if no answer has any."""
    if stage.tokens is UNSET or stage.requests is UNSET or not stage.requests.ok:
        return None
    return stage.tokens.output / stage.requests.ok or None


def _workshop_cost(stage: StageSummary, settings: CostSettings) -> float | None:
    tokens = _output_tokens(stage)
    if settings.energy_factor is None or tokens is None or stage.throughput is UNSET:
        return None
    rate = stage.throughput.e2e_tokens_per_s
    return None if rate is None else rate * tokens * settings.energy_factor


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
