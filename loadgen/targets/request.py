"""Makes the request that is sent to a model's server from a planned request. Sends nothing."""

from typing import Final

import msgspec

from loadgen.plan.plan import Plan, Planned
from loadgen.plan.prompts import messages
from loadgen.record import JsonObject
from loadgen.scenario import TOKEN_LIMITS, Scenario, Timeouts
from loadgen.scenario.objective import longest_limit_ms
from loadgen.scenario.urls import route_url
from loadgen.targets.served import Served
from loadgen.wire.exchange import ChatRequest, Deadlines

LIMIT_FACTOR: Final = 10
"""A measured request may take this many times as long as the slowest answer before the stage, because more users share
the device then, and some answers are longer."""
LEAST_LIMIT_NS: Final = 60_000_000_000
SLO_FACTOR: Final = 2
"""A request may take at least this many times the longest limit of `[slo]`: a request that was cut off sooner would say
nothing about that limit."""
FIRST_LIMIT_NS: Final = 600_000_000_000
"""How long a request may take before anything was answered: as long as 128 tokens at 0.2 tokens a second."""


def chat_request_of(served: Served, body: JsonObject, deadlines: Deadlines) -> ChatRequest:
    """The request with a body from `body_of`, ready to send to the server of a model."""
    streams = bool(body.get("stream", False))
    if not streams:  # tokens of an answer that is not streamed cannot be waited for
        deadlines = msgspec.structs.replace(deadlines, first_token_ns=None, next_token_ns=None)
    return ChatRequest(
        url=served.chat_url or route_url(served.base_url, "chat/completions"),
        body=msgspec.json.encode(body),
        headers=served.headers,
        deadlines=deadlines,
        streams=streams,
    )


def first_limit_ns(scenario: Scenario, shown_ns: int | None = None) -> int:
    """How long the test chat, or a request of the warm-up, may take.

    shown_ns: how long an earlier answer took, if there was one.
    """
    if scenario.timeouts.request_s is not None:
        return round(scenario.timeouts.request_s * 1e9)
    return max(FIRST_LIMIT_NS, LIMIT_FACTOR * (shown_ns or 0), _limit_of_slo_ns(scenario))


def limit_ns(scenario: Scenario, shown_ns: int | None) -> int:
    """How long a measured request may take: as the scenario says, else in proportion to an earlier answer.

    shown_ns: how long that took; None: nothing was answered yet.
    """
    if scenario.timeouts.request_s is not None or shown_ns is None:
        return first_limit_ns(scenario)
    return max(LEAST_LIMIT_NS, LIMIT_FACTOR * shown_ns, _limit_of_slo_ns(scenario))


def _limit_of_slo_ns(scenario: Scenario) -> int:
    return round(SLO_FACTOR * longest_limit_ms(scenario.slo) * 1e6)


def limit_rule(scenario: Scenario) -> str:
    """How long a measured request may take, in words, while nothing has been sent."""
    if scenario.timeouts.request_s is not None:
        return f"{scenario.timeouts.request_s:g} s"
    shown = "the longest answer of the level's warm-up, or of the test chat without one"
    of_slo_ns = _limit_of_slo_ns(scenario)
    least = f"{max(LEAST_LIMIT_NS, of_slo_ns) / 1e9:g} s at least"
    why = ", twice the longest limit of [slo]" if of_slo_ns > LEAST_LIMIT_NS else ""
    return f"{LIMIT_FACTOR} times {shown}; {least}{why}"


def deadlines_of(limits: Timeouts, request_ns: int) -> Deadlines:
    """A scenario's timeouts in ns. request_ns: how long a request may take, because the scenario may leave that
    open."""

    def ns(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1e9)

    return Deadlines(
        request_ns=request_ns,
        headers_ns=ns(limits.headers_s),
        first_token_ns=ns(limits.first_token_s),
        next_token_ns=ns(limits.next_token_s),
    )


def body_of(
    plan: Plan, planned: Planned, served: Served | None = None, changes: JsonObject | None = None
) -> JsonObject:
    """The JSON body of a request, complete.

    served: the served model; its server may know it by another name, need more keys, or refuse some. None: not known
    yet. changes: keys of a chat outside of the plan, which replace the scenario's; one with the value None is left out.
    Keys that the scenario omits or the server refuses are left out of `changes` too.
    """
    scenario, sampling = plan.scenario, plan.scenario.sampling
    prompt = plan.prompts[planned.prompt]
    own: JsonObject = {
        "model": plan.models[planned.model].name if served is None else served.card.id,
        "messages": messages(prompt, scenario.system),
        "tools": None if "messages" in (changes or {}) else list(prompt.tools) or None,
        "stream": sampling.stream,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "stream_options": {"include_usage": True} if sampling.stream else None,
        "seed": sampling.seed,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop) or None,
        **({} if served is None else served.extra),
        **(changes or {}),
    }
    own = {key: value for key, value in own.items() if value is not None and key not in sampling.omit}
    for key, other in ({} if served is None else served.refused_keys).items():
        if key in own:
            value = own.pop(key)
            own |= {} if other is None else {other: value}
    # `sampling.extra` overrides our keys; `changes` override both.
    body = own | sampling.extra | {key: own[key] for key in changes or {} if key in own}
    limit = (changes or {}).get("max_tokens")
    return body if limit is None else body | {name: limit for name in TOKEN_LIMITS if name in sampling.extra}
