"""Before anything is timed: is the model there, and does it answer? And how a request to it is made."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.stage import RunContext
from loadgen.errors import TargetError
from loadgen.plan.plan import Planned
from loadgen.record import JsonObject, Reply
from loadgen.targets.adapter.in_process import question_of
from loadgen.targets.extra_chats import PING, TEST_CHAT, TEST_TOKENS
from loadgen.targets.openai import models_of
from loadgen.targets.request import body_of, chat_request_of
from loadgen.targets.served import Served
from loadgen.wire.exchange import Deadlines
from loadgen.wire.refusal import OTHER_LIMIT, REFUSED, mentions, named_keys
from loadgen.wire.reply import read_reply

TEST_S: Final = 120.0
Note = Callable[[str], None]
"""Takes a line for the person."""


class Checked(Struct, frozen=True):
    """A model that answers."""

    served: Served
    """With the keys of the body that its server refuses."""
    first_token_ms: float
    """From the test chat's dispatch to its first token, or to its end where answers come whole."""


class _ChatResult(Struct, frozen=True):
    """What came of a chat outside of the plan."""

    reply: Reply
    refusal: bytes = b""
    """The body of an answer that refuses what the request's body says; empty of any other."""


async def check(context: RunContext, index: int, served: Served, note: Note) -> Checked:
    """See that a model is listed and answers one short chat, without the keys that its server refuses. Raises
    TargetError."""
    # First of all: the chat of a model that is not listed would be answered by another, and prove nothing.
    if served.adapter is None:
        await _is_listed(served)
    served, reply = await _chat_as_accepted(context, index, served)
    for key, other in served.refused_keys.items():
        instead = "is left out" if other is None else f"is sent as {other}"
        note(f"{served.card.alias} on {served.card.target} refuses {key}, which {instead}")
    if reply.outcome != "ok":
        status = f" {reply.status}" if reply.status else ""
        text = f"it does not answer a short chat: {reply.outcome}{status}: {reply.detail}"
        problem, remedy = diagnosis(reply)
        if served.adapter is not None:
            remedy = f"call {served.card.target}.generate with this message, and see"
        raise TargetError(text, problem=problem, remedy=remedy)
    # Where answers come whole there is no first token; then the whole is what one waits for after a cold start.
    answered_ns = reply.stamps_ns[0] if reply.stamps_ns else reply.end_ns
    return Checked(served, ((answered_ns or 0) - (reply.dispatched_ns or 0)) / 1e6)


async def ping(context: RunContext, index: int, served: Served) -> Reply:
    """Ask for one token, outside of any plan."""
    return (await _chat(context, index, served, PING, 1)).reply


async def _chat_as_accepted(context: RunContext, index: int, served: Served) -> tuple[Served, Reply]:
    """The test chat, asked again without each key of ours that the server refuses; returns what it was sent to at last,
    with those keys, and its reply."""
    answer, needless = await _chat(context, index, served, TEST_CHAT, TEST_TOKENS), set[str]()
    while True:
        named = named_keys(answer.refusal, _own_keys(context, index, served) - needless)
        removed = named.named or named.mentioned[:1]
        if not removed:
            return served, answer.reply
        without = _without(served, removed, answer.refusal)
        again = await _chat(context, index, without, TEST_CHAT, TEST_TOKENS)
        # A sentence that mentions a key still when it is not sent any more lists what is allowed: it is sent again.
        if not named.named and removed[0] in named_keys(again.refusal, {removed[0], OTHER_LIMIT}).mentioned:
            needless.add(removed[0])
        else:
            served, answer = without, again


def _own_keys(context: RunContext, index: int, served: Served) -> set[str]:
    """The keys of a request that may be tried without: ours, and no part of the question."""
    own = {*body_of(context.plan, Planned(model=index, index=0, prompt=0), served)}
    return own - {*context.plan.scenario.sampling.extra} - {"model", "messages", "stream"}


def _without(served: Served, keys: tuple[str, ...], refusal: bytes) -> Served:
    """A server that is not sent these keys any more, or, where it names one, another in place of the first."""
    refused = dict(served.refused_keys)
    own_name = {other: key for key, other in refused.items() if other is not None}
    for key in keys:
        if key in own_name:  # refused under its other name as well
            refused[own_name[key]] = None
        else:
            renamed = key == "max_tokens" and mentions(refusal, OTHER_LIMIT)
            refused[key] = OTHER_LIMIT if renamed else None
    return msgspec.structs.replace(served, refused_keys=refused)


async def _chat(context: RunContext, index: int, served: Served, text: str, tokens: int) -> _ChatResult:
    """One chat outside of any plan; its reply's stamps count from its own dispatch."""
    # Made as the plan's own are, but for the words and the length: what is tried here is what will be sent.
    changes = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    body = body_of(context.plan, Planned(model=index, index=0, prompt=0), served, changes)
    deadlines = Deadlines(request_ns=round(TEST_S * 1e9))
    now = context.clock.now_ns()
    if served.adapter is not None:
        return _ChatResult(await served.adapter.send(question_of(body, deadlines), now, epoch_ns=now, keep_text=True))
    exchange = await context.client.send(chat_request_of(served, body, deadlines), now)
    reply = read_reply(exchange, epoch_ns=now, wall_offset_ns=0, keep_text=True)[0]
    return _ChatResult(reply, exchange.body() if reply.status in REFUSED else b"")


async def _is_listed(served: Served) -> None:
    """Many servers answer any name with whatever they have loaded: a name that is not listed would measure another."""
    entries = await models_of(served.base_url, served.headers)
    names = {str(name) for entry in entries for name in (entry.get("id"), *_aliases(entry))}
    wanted = served.card.id
    if names and not is_listed(wanted, names):
        known = ", ".join(sorted(names)[:12])
        remedy = f"ask for one of them: {known}"
        raise TargetError(f"{wanted} is not in {served.base_url}/models", problem="not_in_catalog", remedy=remedy)


def is_listed(wanted: str, names: set[str]) -> bool:
    """Whether a name is among those that a server lists. Some list a model without the version by which they take it
    (Foundry Local 1.x), or with a tag that nobody has to say (Ollama); of two versions, neither is the other."""
    bare = {name.partition(":")[0] for name in names}
    return wanted in names or wanted.partition(":")[0] in names or wanted in bare


def _aliases(entry: JsonObject) -> list[object]:
    aliases = entry.get("aliases")
    return aliases if isinstance(aliases, list) else []


def diagnosis(reply: Reply) -> tuple[str, str]:
    """What is wrong with a model that did not answer, in one word, and what can be done."""
    detail = (reply.detail or "").lower()
    if "memory" in detail or "bad_alloc" in detail:
        return "out_of_memory", "unload other models, or take a smaller variant"
    if reply.outcome == "connect_error":
        return "no_service", "is the server running there?"
    if reply.outcome == "timeout":
        return "cold", "is the model still loading? warm it, then run again"
    if reply.status in {401, 403}:
        return "no_key", "set LOADGEN_API_KEY"
    if reply.status == 404:
        return "not_in_catalog", "ask for a model that the server lists"
    return "unusable", "try the same chat with curl, and look at the server's log"
