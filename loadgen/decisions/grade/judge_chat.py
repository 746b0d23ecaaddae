"""Asks a judge over an OpenAI-compatible endpoint: which form its answers can have, and one question after another.

An answer that came is returned, whatever it says. A judge that cannot be reached, or does not answer, ends the judging:
what it has answered until then is in the cache.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.decisions.grade.judge_question import NOTE_SCHEMA, JudgeQuestion
from loadgen.decisions.grade.judges_file import ResponseFormat
from loadgen.engine.retry import wait_ns
from loadgen.errors import TargetError
from loadgen.plan.rng import generator
from loadgen.record import JsonObject, Reply
from loadgen.redact import redact_url
from loadgen.scenario import Retries
from loadgen.scenario.urls import base_url
from loadgen.store.manifest import ModelCard
from loadgen.targets.diagnosis import chat_error, shown_names
from loadgen.targets.listing import is_listed, substitute_for
from loadgen.targets.openai import ask_models, authorization
from loadgen.targets.ready import ReadyWait, wait_until_answered, why_not_ready_by
from loadgen.targets.request import FIRST_LIMIT_NS, chat_request_of
from loadgen.targets.served import Served
from loadgen.wire.client import Client
from loadgen.wire.exchange import Deadlines
from loadgen.wire.refusal import OTHER_LIMIT, error_in, mentions, named_keys
from loadgen.wire.reply import read_reply

FORMATS: Final[tuple[ResponseFormat, ...]] = ("json_schema", "json_object", "none")
"""In the order in which they are tried."""
MAX_TOKENS: Final = (2048, 256)
"""Of an answer: room for the thoughts of a reasoning model; less if the server's context is too short for that."""
RETRIES: Final = Retries(attempts=2, backoff_s=0.25, max_backoff_s=20.0)
"""How often a question is sent again to a server that fails, and after which waits."""
UNREADY: Final = frozenset({401, 403, 404, 405, 407, 408, 425, 429})
"""Statuses below 500 that say nothing about the question."""
GREETING: Final = JudgeQuestion(
    messages=({"role": "user", "content": 'Reply with {"reason": "ready", "note": 3} and nothing else.'},),
    schema=NOTE_SCHEMA,
)
"""The first chat, which shows what the server takes. Its answer counts for nothing."""


class JudgeAddress(Struct, frozen=True):
    """Where a judge answers."""

    url: str
    """The base URL of the API, usable (`loadgen.scenario.urls.mismatch_of_endpoint`)."""
    model: str

    @property
    def shown_url(self) -> str:
        """The base URL without secrets."""
        return redact_url(base_url(self.url))


class _JudgeReply(Struct, frozen=True):
    reply: Reply
    body: bytes


class JudgeChat:
    """The chats with a judge. Use `open` first."""

    def __init__(
        self, address: JudgeAddress, client: Client, clock: Clock, wait: ReadyWait, limit_ns: int = FIRST_LIMIT_NS
    ) -> None:
        """wait: how long a server that is not ready is waited for. limit_ns: how long an answer may take."""
        self._client = client
        self._clock = clock
        self._wait = wait
        self._limit_ns = limit_ns
        self.response_format: ResponseFormat = "json_schema"
        card = ModelCard(alias=address.model, id=address.model, target="judge")
        self._served = Served(base_url=base_url(address.url), headers=authorization(), card=card)
        self._refused = dict[str, str | None]()
        self._max_tokens = MAX_TOKENS[0]

    async def open(self) -> None:
        """Wait until the server is ready, and find which form of answers it takes, and which keys of a request. Raises
        TargetError if it cannot be reached, or does not answer."""
        await wait_until_answered(self._served.base_url, self._served.headers, self._wait)
        models = await ask_models(self._served.base_url, self._served.headers)
        self._served = msgspec.structs.replace(self._served, models=models)
        for response_format in FORMATS:
            self.response_format = response_format
            answer = await self._answer_to_greeting()
            if _is_answered(answer.reply):
                self._check_who_answered(answer)
                return
            if not _is_refusal(answer):
                break
        raise await self._error(answer.reply)

    def _check_who_answered(self, answer: _JudgeReply) -> None:
        """Raise TargetError if another model answered in the judge's place."""
        wanted, names = self._served.card.id, self._served.models.names
        other = substitute_for(wanted, names, answer.body)
        if other is not None and not is_listed(wanted, names):
            message = f"{wanted} is not in {self._shown_url}, and {other} answered in its place"
            remedy = f"ask for one of them: {shown_names(names)}"
            raise TargetError(f"the judge {message}", problem="not_in_catalog", remedy=remedy)

    @property
    def _shown_url(self) -> str:
        return redact_url(self._served.base_url)

    async def text(self, question: JudgeQuestion, asked_before: int = 0) -> str:
        """The judge's answer; empty if the server refuses this question, or the judge says nothing. asked_before: how
        often the question was answered without a verdict. Raises TargetError."""
        answer = await self._send(question, asked_before)
        reply = answer.reply
        if _is_answered(reply):
            return reply.text if isinstance(reply.text, str) else ""
        # It may be too long for this model, or against the rules of its host. Or the server answers nothing any more.
        if _is_refusal(answer) and _is_answered((await self._send(GREETING, 0)).reply):
            return ""
        raise await self._error(reply)

    async def _answer_to_greeting(self) -> _JudgeReply:
        """The answer to the greeting, without the keys that the server refuses."""
        while True:
            answer = await self._send(GREETING, 0)
            loading = why_not_ready_by(answer.reply, answer.body)
            if loading is not None and await self._wait.pause(loading):
                continue
            if not _is_refusal(answer):
                return answer
            own = {"max_tokens", "temperature", "seed"}
            own -= {key for key, other in self._refused.items() if other is None}
            refused = named_keys(_refusal(answer), own)
            if "max_tokens" in refused.values and self._max_tokens != MAX_TOKENS[1]:
                self._max_tokens = MAX_TOKENS[1]
                continue
            keys = refused.named or refused.mentioned[:1]
            if not keys:
                return answer
            for key in keys:
                renamed = key == "max_tokens" and mentions(answer.body, OTHER_LIMIT) and key not in self._refused
                self._refused[key] = OTHER_LIMIT if renamed else None

    async def _send(self, question: JudgeQuestion, asked_before: int) -> _JudgeReply:
        """Send a question, and again after a pause if the server fails."""
        answer = await self._send_once(question, asked_before)
        for retry in range(RETRIES.attempts):
            if not _may_pass(answer):
                break
            reply = msgspec.structs.replace(answer.reply, attempt=retry)
            pause_ns = wait_ns(RETRIES, reply, generator(0, "judge", question.digest, retry))
            await self._clock.sleep_until_ns(self._clock.now_ns() + pause_ns)
            answer = await self._send_once(question, asked_before)
        return answer

    async def _send_once(self, question: JudgeQuestion, asked_before: int) -> _JudgeReply:
        body = dict(self._body_of(question, asked_before))
        now = self._clock.now_ns()
        exchange = await self._client.send(
            chat_request_of(self._served, body, Deadlines(request_ns=self._limit_ns)), now
        )
        reply = read_reply(exchange, epoch_ns=now, wall_offset_ns=0, keep_text=True)[0]
        return _JudgeReply(reply, exchange.body())

    def _body_of(self, question: JudgeQuestion, asked_before: int) -> Iterator[tuple[str, object]]:
        own: JsonObject = {
            "model": self._served.card.id,
            "messages": list(question.messages),
            "stream": False,
            "max_tokens": self._max_tokens,
            "temperature": question.temperature(asked_before),
            "seed": 10 * question.vote + asked_before,
            "response_format": self._format_of(question),
        }
        for key, value in own.items():
            name = self._refused.get(key, key)
            if name is not None and value is not None:
                yield name, value

    def _format_of(self, question: JudgeQuestion) -> JsonObject | None:
        match self.response_format:
            case "json_schema":
                schema = {"name": "verdict", "strict": True, "schema": question.schema}
                return {"type": "json_schema", "json_schema": schema}
            case "json_object":
                return {"type": "json_object"}
            case "none":
                return None

    async def _error(self, reply: Reply) -> TargetError:
        who = f"the judge {self._served.card.id} at {self._shown_url}"
        if reply.outcome == "timeout":
            message = f"{who} did not answer within {self._limit_ns / 1e9:g} s"
            return TargetError(message, problem="cold", remedy="give a faster judge; what it has answered is kept")
        error = await chat_error(self._served, reply, None)
        return TargetError(f"{who}: {error.message}", problem=error.problem, remedy=error.remedy)


def _is_answered(reply: Reply) -> bool:
    return reply.outcome in ("ok", "empty")


def _refusal(answer: _JudgeReply) -> bytes:
    """The error in the body of an answer."""
    return answer.body if answer.reply.outcome == "http_error" else error_in(answer.body)


def _is_refusal(answer: _JudgeReply) -> bool:
    """Whether the server answered that it does not take this request. A 500 or 501 may be one as well: some servers
    fail at a form of answers that they do not know."""
    reply = answer.reply
    if reply.outcome == "stream_error":
        return True
    return (
        reply.outcome == "http_error"
        and reply.status is not None
        and (reply.status in (500, 501) or (400 <= reply.status < 500 and reply.status not in UNREADY))
    )


def _may_pass(answer: _JudgeReply) -> bool:
    """Whether the same request may be answered the next time."""
    reply = answer.reply
    if reply.outcome == "http_error":
        return reply.status in (408, 425, 429) or (reply.status or 0) >= 500
    return reply.outcome in ("connect_error", "truncated", "malformed")
