"""Serves a model and checks that it answers, before anything is timed. Sends the test chat and single chats like it."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.retry import is_last, wait_ns
from loadgen.engine.stage import RunContext
from loadgen.errors import TargetError
from loadgen.plan.plan import Planned
from loadgen.plan.rng import generator
from loadgen.record import JsonObject, Reply
from loadgen.redact import redact_keys, redact_url
from loadgen.scenario.urls import route_url
from loadgen.targets.adapter.in_process import question_of
from loadgen.targets.diagnosis import chat_error, shown_names
from loadgen.targets.extra_chats import PING, TEST_CHAT
from loadgen.targets.listing import substitute_for
from loadgen.targets.openai import ask_models, card_in, headers_of
from loadgen.targets.probe.answers import ORDERLY
from loadgen.targets.ready import ReadyWait, wait_until_answered, why_not_ready, why_not_ready_by
from loadgen.targets.registry import running_address, serve_model, target_name
from loadgen.targets.request import body_of, chat_request_of, first_limit_ns
from loadgen.targets.served import OnProgress, Served
from loadgen.targets.version import with_version
from loadgen.wire.exchange import Deadlines
from loadgen.wire.redirects import can_be_kept
from loadgen.wire.refusal import OTHER_LIMIT, REFUSED, error_in, mentions, named_keys
from loadgen.wire.reply import read_reply

CUT: Final = frozenset({"connect_error", "truncated", "malformed"})
"""Outcomes of a chat whose connection is refused or closed before an answer."""

LEAST_RETRIES: Final = 3
"""How often the test chat is sent again at least. Of servers that fail half of their chats, 6 % fail four in a row."""
MAY_PASS: Final = frozenset({"truncated", "malformed", "stream_error"})
"""Outcomes of a server that fails some of its chats. A connection that cannot be opened is not among them: where that
helps, the server is waited for."""

Tell = Callable[[str], None]
"""Called with a line for the user."""


class Checked(Struct, frozen=True):
    """A model that was checked to answer."""

    served: Served
    """It has the keys of the body that its server refuses."""
    first_token_ms: float | None = None
    """The time from the test chat's dispatch to its first token, or to its end if answers are not streamed; None
    without a test chat."""

    @property
    def cold_start_ms(self) -> float | None:
        """The time from the beginning of the model's loading to its first token; None if we did not load it."""
        load_s, first_token_ms = self.served.load_s, self.first_token_ms
        return None if load_s is None or first_token_ms is None else load_s * 1e3 + first_token_ms


class _ChatResult(Struct, frozen=True):
    """The result of a chat outside of the plan."""

    reply: Reply
    body: bytes = b""
    """The body of the answer."""
    redirected_to: str | None = None
    """The address that answered, if the server redirected the chat there."""

    @property
    def refusal(self) -> bytes:
        """What refuses something that the request's body says: the body of an answer with such a status, or an error
        that came in place of an answer; empty of any other answer."""
        reply = self.reply
        if reply.outcome == "stream_error" and not reply.stamps_ns:
            return error_in(self.body) or (reply.detail or "").encode()
        if reply.outcome == "not_streamed":
            return error_in(self.body)
        return self.body if reply.status in REFUSED else b""


class Preflight:
    """Serves the models of a run or of a probe, and checks that each answers before it is used."""

    def __init__(self, context: RunContext, tell: Tell, on_progress: OnProgress) -> None:
        self._context = context
        self._tell = tell
        self._on_progress = on_progress
        self._unready = set[str]()
        """Addresses whose server did not become ready in time."""

    async def open(self, index: int, stack: contextlib.AsyncExitStack) -> Checked:
        """Serve a model for as long as the stack lasts. Raises TargetError or InputError if it cannot be used."""
        context, scenario = self._context, self._context.plan.scenario
        model = context.plan.models[index]
        wait = ReadyWait(context.clock, scenario.timeouts.ready_s, f"{model.name} on {target_name(model)}", self._tell)
        address = running_address(model)
        # Several models may be served at one address, which is waited for once.
        if address in self._unready:
            wait.in_vain = True
        elif scenario.preflight and address is not None:
            await wait_until_answered(address, headers_of(model), wait)
            if wait.in_vain:
                self._unready.add(address)
        served = await stack.enter_async_context(serve_model(model, self._on_progress))
        if served.adapter is not None:
            stack.enter_context(context.stop_signal.cancelling(served.adapter.abandon))
        if not scenario.preflight:
            return Checked(served)
        checked = await check(context, index, served, wait, self._tell)
        return msgspec.structs.replace(checked, served=await with_version(checked.served))


async def check(context: RunContext, index: int, served: Served, wait: ReadyWait, tell: Tell) -> Checked:
    """Check that a model answers the test chat, without the keys that its server refuses.

    The test chat has the keys of the scenario's chats, and is retried like them. If the server says that it is still
    loading, this waits. Raises TargetError.
    """
    while True:
        accepted, answer = await _chat_as_accepted(context, index, served)
        reply = answer.reply
        loading = await _why_not_ready(context, index, served, answer)
        if loading is None or not await wait.pause(loading, reply.retry_after_s or 0.0):
            break
    if reply.outcome not in ORDERLY:
        if served.adapter is None:
            raise await chat_error(served, reply, loading)
        remedy = f"call {served.card.target}.generate with this message to see the error"
        raise TargetError(f"it does not answer the test chat: {reply.outcome}: {reply.detail}", remedy=remedy)
    who = f"{served.card.alias} on {served.card.target}"
    if wait.began_ns is not None:
        tell(f"{who} is ready, after {(context.clock.now_ns() - wait.began_ns) / 1e9:.1f} s")
        if context.plan.models[index].url is not None:  # while it was loading, it may not have known all of its models
            accepted = await _listed_anew(accepted)
    for key, other in accepted.refused_keys.items():
        instead = "is left out" if other is None else f"is sent as {other}"
        tell(f"{who} refuses {key}, which {instead}")
    if accepted.card.listed is False:
        _check_unlisted(accepted, answer.body, tell)
    if answer.redirected_to is not None:
        accepted = _followed(accepted, answer.redirected_to, who, tell)
    # If answers are not streamed, there is no first token; the cold start then ends with the whole answer.
    answered_ns = reply.stamps_ns[0] if reply.stamps_ns else reply.end_ns
    began_ns, ended_ns = reply.dispatched_ns or 0, reply.end_ns or 0
    accepted = msgspec.structs.replace(accepted, test_chat_ns=ended_ns - began_ns)
    return Checked(accepted, ((answered_ns or 0) - began_ns) / 1e6)


async def _why_not_ready(context: RunContext, index: int, served: Served, answer: _ChatResult) -> str | None:
    """Why the test chat shows that a server is not ready yet; None if it is, or if waiting would not help."""
    reply, model = answer.reply, context.plan.models[index]
    if served.adapter is not None:
        return None
    # Between its list of models and the chat, a server may have restarted. Then its list is refused as well.
    is_cut = reply.status is None and reply.outcome in CUT and not reply.stamps_ns
    address = running_address(model)
    if is_cut and address is not None:
        return await why_not_ready(address, headers_of(model))
    return why_not_ready_by(reply, answer.body)


async def _listed_anew(served: Served) -> Served:
    """A model behind a URL, with the present list of its server."""
    models = await ask_models(served.base_url, served.headers)
    return msgspec.structs.replace(served, models=models, card=card_in(models, served.card.alias, served.card.target))


def _check_unlisted(served: Served, answer: bytes, tell: Tell) -> None:
    """Note that a server does not list a model that it answers for. Raises TargetError if another model answered."""
    wanted, names = served.card.id, served.models.names
    other = substitute_for(wanted, names, answer)
    if other is not None:
        message = f"{wanted} is not in {route_url(served.base_url, 'models')}, and {other} answered in its place"
        remedy = f"ask for one of them: {shown_names(names)}"
        raise TargetError(message, problem="not_in_catalog", remedy=remedy)
    tell(f"{wanted} is not among the models that its server lists ({shown_names(names)}), but it answers")


def _followed(served: Served, redirected_to: str, who: str, tell: Tell) -> Served:
    """The served model with the URL to which its server redirects chats; notes that. If the redirect leads to another
    server, or perhaps applies to this chat only, the URL stays."""
    redirects = f"{who} redirects chats to {redact_keys(redact_url(redirected_to))}"
    if not can_be_kept(route_url(served.base_url, "chat/completions"), redirected_to):
        tell(f"{redirects}: that takes a round trip, which is in every TTFT")
        return served
    tell(f"{redirects}, where they are sent from now on")
    return msgspec.structs.replace(served, chat_url=redirected_to)


async def ping(context: RunContext, index: int, served: Served) -> Reply:
    """Ask for one token, outside of any plan."""
    return (await _chat(context, index, served, PING, {"max_tokens": 1})).reply


async def _test_chat(context: RunContext, index: int, served: Served) -> _ChatResult:
    """Send the test chat. If it fails, it is retried like the scenario's requests, and at least `LEAST_RETRIES` times
    if the next attempt may succeed: a server that fails some of its requests is to be measured, not skipped."""
    retries = context.plan.scenario.retries
    for attempt in itertools.count():
        answer = await _chat(context, index, served, TEST_CHAT)
        reply = msgspec.structs.replace(answer.reply, attempt=attempt)
        may_pass = attempt < LEAST_RETRIES and _may_pass_next_time(answer, _own_keys(context, index, served))
        if is_last(retries, reply) and not may_pass:
            break
        chance = generator(context.plan.scenario.seed, "test chat", index, attempt)
        pause_ns = wait_ns(retries, reply, chance)
        await context.clock.sleep_until_ns(context.clock.now_ns() + pause_ns)
    return answer


def _may_pass_next_time(answer: _ChatResult, own_keys: set[str]) -> bool:
    """Whether the same chat may be answered the next time: the server failed, and names no key of the request. Statuses
    of a server that is still loading are not among these failures, because it is waited for."""
    reply = answer.reply
    is_failure = reply.outcome in MAY_PASS or (reply.status or 0) >= 500
    if reply.outcome in ORDERLY or not is_failure or why_not_ready_by(reply, answer.body) is not None:
        return False
    named = named_keys((reply.detail or "").encode(), own_keys)
    return not (named.named or named.mentioned or named_keys(answer.refusal, own_keys).named)


async def _chat_as_accepted(context: RunContext, index: int, served: Served) -> tuple[Served, _ChatResult]:
    """Send the test chat, and again without each key of ours that the server refuses. Returns the served model with
    those keys, and the result of the last chat."""
    answer, needless = await _test_chat(context, index, served), set[str]()
    while True:
        named = named_keys(answer.refusal, _own_keys(context, index, served) - needless)
        removed = named.named or named.mentioned[:1]
        if not removed:
            return served, answer
        without = _without(served, removed, answer.refusal)
        again = await _test_chat(context, index, without)
        # If the refusal still mentions a key that was not sent, its sentence lists what is allowed. So that key stays.
        if not named.named and removed[0] in named_keys(again.refusal, {removed[0], OTHER_LIMIT}).mentioned:
            needless.add(removed[0])
        else:
            served, answer = without, again


def _own_keys(context: RunContext, index: int, served: Served) -> set[str]:
    """The keys of a request without which it may be tried: those that we add, except those of the question."""
    own = {*body_of(context.plan, Planned(model=index, index=0, prompt=0), served)}
    return own - {*context.plan.scenario.sampling.extra} - {"model", "messages", "stream", "tools"}


def _without(served: Served, keys: tuple[str, ...], refusal: bytes) -> Served:
    """The served model with these keys refused. `max_tokens` gets its newer name if the refusal has that name in it."""
    refused = dict(served.refused_keys)
    own_name = {other: key for key, other in refused.items() if other is not None}
    for key in keys:
        if key in own_name:  # refused under its other name as well
            refused[own_name[key]] = None
        else:
            renamed = key == "max_tokens" and mentions(refusal, OTHER_LIMIT)
            refused[key] = OTHER_LIMIT if renamed else None
    return msgspec.structs.replace(served, refused_keys=refused)


async def _chat(
    context: RunContext, index: int, served: Served, text: str, changes: JsonObject | None = None
) -> _ChatResult:
    """Send one chat outside of any plan. The stamps of its reply count from its own dispatch."""
    # It has the keys of the plan's chats, so that what is tested is what will be sent.
    messages = [{"role": "user", "content": text}]
    body = body_of(
        context.plan, Planned(model=index, index=0, prompt=0), served, {"messages": messages, **(changes or {})}
    )
    # Without deadlines for tokens, because this chat may be the one that loads the model.
    deadlines = Deadlines(request_ns=first_limit_ns(context.plan.scenario, served.test_chat_ns))
    now = context.clock.now_ns()
    if served.adapter is not None:
        return _ChatResult(await served.adapter.send(question_of(body, deadlines), now, epoch_ns=now, keep_text=True))
    exchange = await context.client.send(chat_request_of(served, body, deadlines), now)
    reply = read_reply(exchange, epoch_ns=now, wall_offset_ns=0, keep_text=True)[0]
    return _ChatResult(reply, exchange.body(), exchange.response.redirected_to)
