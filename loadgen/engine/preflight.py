"""Before anything is timed: is the model there, and does it answer? And how a request to it is made."""

from typing import Any, Final

from loadgen.engine.stage import RunContext
from loadgen.errors import TargetError
from loadgen.plan.plan import Planned
from loadgen.record import JsonObject, Reply
from loadgen.targets.adapter.in_process import question_of
from loadgen.targets.extra_chats import TEST_CHAT, TEST_TOKENS
from loadgen.targets.openai import models_of
from loadgen.targets.request import ask_of, body_of
from loadgen.targets.served import Served
from loadgen.wire.exchange import Deadlines
from loadgen.wire.reply import read_reply

TEST_S: Final = 120.0


async def check(context: RunContext, index: int, served: Served) -> float:
    """See that a model is listed and answers one short chat; ms to that chat's first token, or to its end where answers
    come whole. Raises TargetError."""
    # First of all: the chat of a model that is not listed would be answered by another, and prove nothing.
    if served.adapter is None:
        await _is_listed(served)
    reply = await chat(context, index, served, TEST_CHAT, TEST_TOKENS)
    if reply.outcome != "ok":
        status = f" {reply.status}" if reply.status else ""
        text = f"it does not answer a short chat: {reply.outcome}{status}: {reply.detail}"
        problem, remedy = diagnosis(reply)
        if served.adapter is not None:
            remedy = f"call {served.card.target}.generate with this message, and see"
        raise TargetError(text, problem=problem, remedy=remedy)
    # Where answers come whole there is no first token; then the whole is what one waits for after a cold start.
    answered_ns = reply.stamps_ns[0] if reply.stamps_ns else reply.end_ns
    return ((answered_ns or 0) - (reply.dispatched_ns or 0)) / 1e6


async def chat(context: RunContext, index: int, served: Served, text: str, tokens: int, **more: Any) -> Reply:
    """One chat outside of any plan: its reply, with stamps that count from its own dispatch."""
    # Made as the plan's own are, but for the words and the length: what is tried here is what will be sent.
    body = body_of(context.plan, Planned(model=index, index=0, prompt=0))
    body |= {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}
    deadlines = Deadlines(request_ns=round(TEST_S * 1e9))
    now = context.clock.now_ns()
    if served.adapter is not None:
        return await served.adapter.send(question_of(body, deadlines), now, epoch_ns=now, keep_text=True)
    exchange = await context.client.send(ask_of(served, body, deadlines), now)
    return read_reply(exchange, epoch_ns=now, wall_offset_ns=0, keep_text=True)[0]


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
