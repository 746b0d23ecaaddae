"""How a planned request becomes the request that a model's server is sent. Sends nothing."""

import msgspec

from loadgen.plan.plan import Plan, Planned
from loadgen.plan.prompts import messages
from loadgen.record import JsonObject
from loadgen.scenario import Timeouts
from loadgen.targets.served import Served
from loadgen.wire.exchange import Ask, Deadlines


def ask_of(served: Served, body: JsonObject, deadlines: Deadlines) -> Ask:
    """A request to a model that is being served, ready to send: named as the server names it."""
    full_body = body | served.extra | {"model": served.card.id}
    streams = bool(full_body["stream"])
    if not streams:  # an answer that comes whole has no tokens to wait for
        deadlines = msgspec.structs.replace(deadlines, first_token_ns=None, next_token_ns=None)
    return Ask(
        url=f"{served.base_url}/chat/completions",
        body=msgspec.json.encode(full_body),
        headers=served.headers,
        deadlines=deadlines,
        streams=streams,
    )


def deadlines_of(limits: Timeouts) -> Deadlines:
    """A scenario's timeouts in ns."""

    def ns(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1e9)

    return Deadlines(
        request_ns=round(limits.request_s * 1e9),
        headers_ns=ns(limits.headers_s),
        first_token_ns=ns(limits.first_token_s),
        next_token_ns=ns(limits.next_token_s),
    )


def body_of(plan: Plan, planned: Planned) -> JsonObject:
    """The request's JSON body, without what its target adds."""
    scenario, sampling = plan.scenario, plan.scenario.sampling
    body: JsonObject = {
        "model": plan.models[planned.model].name,
        "messages": messages(plan.prompts[planned.prompt], scenario.system),
        "stream": sampling.stream,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.stream:
        body["stream_options"] = {"include_usage": True}
    optional = {"seed": sampling.seed, "top_p": sampling.top_p, "stop": list(sampling.stop) or None}
    body.update({key: value for key, value in optional.items() if value is not None})
    body.update(sampling.extra)
    return body
