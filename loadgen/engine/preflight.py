"""Before anything is timed: is the model there, and does it answer? And how a request to it is made."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.stage import RunContext
from loadgen.errors import TargetError
from loadgen.plan.plan import Planned
from loadgen.record import Reply
from loadgen.scenario.urls import route_url
from loadgen.targets.adapter.in_process import question_of
from loadgen.targets.diagnosis import chat_error, shown_names
from loadgen.targets.extra_chats import PING, TEST_CHAT, TEST_TOKENS
from loadgen.targets.listing import substitute_for
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
    body: bytes = b""
    """The answer's."""

    @property
    def refusal(self) -> bytes:
        """The body of an answer that refuses what the request's body says; empty of any other."""
        return self.body if self.reply.status in REFUSED else b""


async def check(context: RunContext, index: int, served: Served, note: Note) -> Checked:
    """See that a model answers one short chat, without the keys that its server refuses. Raises TargetError."""
    served, answer = await _chat_as_accepted(context, index, served)
    reply = answer.reply
    for key, other in served.refused_keys.items():
        instead = "is left out" if other is None else f"is sent as {other}"
        note(f"{served.card.alias} on {served.card.target} refuses {key}, which {instead}")
    if reply.outcome != "ok":
        if served.adapter is None:
            raise await chat_error(served, reply)
        remedy = f"call {served.card.target}.generate with this message, and see"
        raise TargetError(f"it does not answer a short chat: {reply.outcome}: {reply.detail}", remedy=remedy)
    if served.card.listed is False:
        _check_unlisted(served, answer.body, note)
    # Where answers come whole there is no first token; then the whole is what one waits for after a cold start.
    answered_ns = reply.stamps_ns[0] if reply.stamps_ns else reply.end_ns
    return Checked(served, ((answered_ns or 0) - (reply.dispatched_ns or 0)) / 1e6)


def _check_unlisted(served: Served, answer: bytes, note: Note) -> None:
    """Say that a server does not list a model that it answers for. Raises TargetError where another model answered."""
    wanted, names = served.card.id, served.models.names
    other = substitute_for(wanted, names, answer)
    if other is not None:
        message = f"{wanted} is not in {route_url(served.base_url, 'models')}, and {other} answered in its place"
        remedy = f"ask for one of them: {shown_names(names)}"
        raise TargetError(message, problem="not_in_catalog", remedy=remedy)
    note(f"{wanted} is not among the models that its server lists ({shown_names(names)}), and answers all the same")


async def ping(context: RunContext, index: int, served: Served) -> Reply:
    """Ask for one token, outside of any plan."""
    return (await _chat(context, index, served, PING, 1)).reply


async def _chat_as_accepted(context: RunContext, index: int, served: Served) -> tuple[Served, _ChatResult]:
    """The test chat, asked again without each key of ours that the server refuses; returns what it was sent to at last,
    with those keys, and what came of it."""
    answer, needless = await _chat(context, index, served, TEST_CHAT, TEST_TOKENS), set[str]()
    while True:
        named = named_keys(answer.refusal, _own_keys(context, index, served) - needless)
        removed = named.named or named.mentioned[:1]
        if not removed:
            return served, answer
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
    return _ChatResult(reply, exchange.body())
