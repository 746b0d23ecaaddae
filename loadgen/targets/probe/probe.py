"""Sends the few short chats of a probe, which `targets.probe.findings` judges.

No error here makes a run fail: a probe returns what it found, and notes about the rest. Its time is limited. If a
server is so slow that a question does not fit in, the question is left out, with a note.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec
from msgspec import Struct

from loadgen.clock import SYSTEM_CLOCK, Clock, utc_now, wall_offset_ns
from loadgen.plan.plan import Plan, Planned
from loadgen.record import JsonObject
from loadgen.scenario import TOKEN_LIMITS
from loadgen.store.manifest import Probe
from loadgen.targets.probe import findings as judge
from loadgen.targets.probe.findings import ProbeAnswer, with_streams
from loadgen.targets.probe.traits import traits_of
from loadgen.targets.request import body_of, chat_request_of
from loadgen.targets.served import Served
from loadgen.wire.chat_stream import Decoder, decode
from loadgen.wire.client import Client, beginning_of, describe
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.redirects import single_session
from loadgen.wire.reply import read_reply

BUDGET_S: Final = 20.0
"""The longest time of a probe. With a few tokens a second, it suffices for the first questions only."""
TOKENS: Final = 16
"""The length of a short answer: quickly generated, but long enough that two answers at temperature 1 differ."""
LONG_S: Final = 2.0
"""How long the stream that is closed would last, at the pace of the short ones, within the limits below."""
LONG_TOKENS: Final = (64, 1024)
FIRST_TOKENS: Final = 4
"""How many tokens of it are read before it is closed."""
STOP_WITHIN_S: Final = 0.5
"""A server that stops on close must have ended the stream within this time."""
POLL_EVERY_S: Final = 0.025
IDLE_POLLS: Final = 8
PLAIN: Final = "Write a long story about a lighthouse keeper."
"""The prompt of the short answers and of the long one, which begins like them, greedy, and so does not end early."""
SUBJECTS: Final = ("ship", "forest", "teacher", "river", "robot", "garden", "storm", "village")
"""The subjects of streams that are sent at once, so that no two have a prompt, and so a cached prefix, in common."""
STREAMS: Final = len(SUBJECTS)
MAX_BYTES: Final = 1 << 20
"""How much of a counter's page, or of a long stream before its first tokens, is read at most."""
COUNTERS: Final = (("/slots", judge.busy_slots), ("/metrics", judge.busy_requests))


class _Abandoned(Exception):  # noqa: N818 - not an error: the user stopped the run
    """The user stopped the run, or gave up what was in flight."""


class Asker(Struct, frozen=True):
    """The model that is probed, with what is needed to send to it, and until when (ns on the clock)."""

    plan: Plan
    index: int
    served: Served
    client: Client
    clock: Clock
    until_ns: int
    stop_requested: Callable[[], bool]

    def left_ns(self) -> int:
        return self.until_ns - self.clock.now_ns()


class Findings:
    """What a probe has found so far."""

    def __init__(self) -> None:
        self.probe = Probe()
        self._notes: list[str] = []

    def show(self, answers: Sequence[ProbeAnswer]) -> None:
        """Update, from all answers so far, the findings that any answer shows."""
        self.probe = with_streams(self.probe, [answer.stream for answer in answers if answer.ended]) or self.probe

    def add(self, **findings: bool | int | float | str | None) -> None:
        self.probe = msgspec.structs.replace(self.probe, **findings)

    def remark(self, text: str) -> None:
        self._notes.append(text)

    def end(self, took_s: float, asked_utc: str) -> Probe:
        return msgspec.structs.replace(self.probe, took_s=took_s, asked_utc=asked_utc, notes=tuple(self._notes))


async def probe(
    plan: Plan,
    index: int,
    served: Served,
    client: Client,
    *,
    clock: Clock = SYSTEM_CLOCK,
    budget_s: float = BUDGET_S,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Probe:
    """Probe the server of a model. Never raises for what a server does; takes about budget_s at most.

    index: that of the model in the plan. stop_requested: returns True if the user stops the run; then no more chats are
    sent. The server must serve the model, and must have no other requests.
    """
    findings, asked = Findings(), utc_now()
    began_ns = clock.now_ns()
    asker = Asker(plan, index, served, client, clock, began_ns + round(budget_s * 1e9), stop_requested)
    try:
        async with asyncio.timeout(budget_s + 1):
            await _ask_all(asker, findings)
    except _Abandoned:
        findings.remark("stopped by the user")
    except TimeoutError:
        findings.remark(f"not finished within {budget_s:g} s")
    except Exception as error:  # noqa: BLE001  a probe that fails never makes a run fail
        findings.remark(f"failed: {type(error).__name__}: {describe(error)}")
    took_s = round((clock.now_ns() - began_ns) / 1e9, 3)
    return findings.end(took_s, asked.isoformat())


async def _ask_all(asker: Asker, findings: Findings) -> None:
    """Ask all questions, in an order in which each can use the answers to earlier ones."""
    if not _is_sent(asker, "max_tokens") and not {*TOKEN_LIMITS} & {*asker.plan.scenario.sampling.extra}:
        findings.remark("not asked: requests have no max_tokens, so answers would be long")
        return
    plain = await _chat(asker, PLAIN, TOKENS)
    alone = [plain]
    findings.show(alone)
    if not plain.ended:
        findings.remark(f"no answer to judge: {plain.reply.outcome}: {plain.reply.detail}")
        return
    findings.add(honors_max_tokens=judge.honors_max_tokens(plain, TOKENS))
    if not plain.reply.stamps_ns:
        findings.remark(f"no token was shown within max_tokens = {TOKENS}")
        return
    if _is_affordable(asker, plain, 4, "stop and seed", findings):
        alone += await _ask_sampling(asker, plain, findings)
        findings.show(alone)
    if _is_affordable(asker, plain, STREAMS, "parallel streams", findings):
        await _ask_parallel(asker, alone, findings)
    if _is_affordable(asker, plain, 6, "closing a stream", findings):
        await _ask_closing(asker, alone, findings)


def _is_affordable(asker: Asker, plain: ProbeAnswer, answers: int, question: str, findings: Findings) -> bool:
    """Whether the time that is left suffices for this many more answers, if each takes as long as the first."""
    if answers * (plain.took_ns or 0) <= asker.left_ns():
        return True
    findings.remark(f"{question}: left out, because the server is too slow")
    return False


async def _ask_sampling(asker: Asker, plain: ProbeAnswer, findings: Findings) -> list[ProbeAnswer]:
    """Find whether the server honors `stop` and `seed`. Returns the answers."""
    answers = []
    word = judge.stop_word(plain.text)
    if not _is_sent(asker, "stop"):
        findings.remark("stop: not asked, because requests leave it out")
    elif word is None:
        findings.remark("stop: the answer has no suitable word")
    else:
        answers.append(await _chat(asker, PLAIN, TOKENS, stop=[word]))
        findings.add(honors_stop=judge.honors_stop(plain.text, word, answers[-1]))
    if not (_is_sent(asker, "seed") and _is_sent(asker, "temperature")):
        findings.remark("seed: not asked, because requests leave out seed or temperature")
        return answers
    seeded = [await _chat(asker, PLAIN, TOKENS, temperature=1.0, seed=seed) for seed in (11, 11, 12)]
    findings.add(honors_seed=judge.honors_seed(*seeded))
    return answers + seeded


async def _ask_parallel(asker: Asker, alone: list[ProbeAnswer], findings: Findings) -> None:
    """Find how many streams run at once, and whether they are faster together than one after another."""
    together = await asyncio.gather(*(_chat(asker, f"Tell me about a {subject}.", TOKENS) for subject in SUBJECTS))
    findings.show([*alone, *together])
    findings.add(
        parallel_streams=judge.most_parallel(together),
        parallel_asked=len(together),
        scaling=judge.scaling(alone, together),
    )
    failed = [answer.reply.outcome for answer in together if not answer.ended]
    if failed:
        findings.remark(f"{len(failed)} of {len(together)} parallel streams failed: {failed[0]}")


async def _ask_closing(asker: Asker, alone: list[ProbeAnswer], findings: Findings) -> None:
    """Find whether closing a stream stops its generation: by the server's own count if it has one, else by time."""
    paces = sorted(pace for answer in alone if (pace := judge.pace_per_s(answer)) is not None)
    full = [answer for answer in alone if answer.reply.output_tokens == TOKENS]
    if not paces or not full:
        findings.remark("closing a stream: no answer was long enough to compare with")
        return
    pace = paces[len(paces) // 2]
    context = asker.served.card.context_tokens or 2 * LONG_TOKENS[1]
    tokens = min(max(LONG_TOKENS[0], round(pace * LONG_S)), LONG_TOKENS[1], context // 2)
    left_ns = (tokens - FIRST_TOKENS) / pace * 1e9
    takes_turns = findings.probe.parallel_streams == 1
    company: ProbeAnswer | None = None
    async with single_session(asker.left_ns() / 1e9) as session:
        idle = await _idle_counters(asker, session)
        async with _long_stream(asker, session, tokens) as long:
            counter = await _counter_that_shows(asker, session, idle, long)
            if counter is None and long.runs() and not takes_turns:
                company = await _chat(asker, PLAIN, TOKENS)
            runs = long.runs()
        if counter is not None:
            closed = await _judge_by_counter(asker, session, counter, left_ns)
        elif not runs:
            closed = Closing(by=f"the long stream {'ended by itself' if long.ended else 'failed'}")
        else:
            closed = _judge_by_clock(full, company, await _chat(asker, PLAIN, TOKENS), left_ns)
    findings.add(stops_on_close=closed.stops, stops_on_close_by=closed.by, stopped_after_ms=closed.after_ms)
    if closed.stops is False:
        await asyncio.sleep(min(left_ns, asker.left_ns(), LONG_S * 1e9) / 1e9)  # until it has ended


class Closing(Struct, frozen=True):
    """Whether a server stops generating a stream that is closed."""

    stops: bool | None = None
    by: str | None = None
    """By what that was found, or why it was not."""
    after_ms: float | None = None
    """After how long it stopped, by the server's own count."""


class BusyCounter(Struct, frozen=True):
    """A path of a server whose page says how many requests it works on."""

    path: str
    read: Callable[[bytes], int | None]
    idle: int
    """The count before the long stream."""


async def _idle_counters(asker: Asker, session: aiohttp.ClientSession) -> list[BusyCounter]:
    """The counters of a server, read before the long stream is requested."""
    clock, counters = asker.clock, []
    for path, read in COUNTERS:
        idle = await _busy(asker, session, path, read)
        for _ in range(IDLE_POLLS):  # the server may still count an earlier request that has just ended
            if not idle:
                break
            await clock.sleep_until_ns(clock.now_ns() + round(POLL_EVERY_S * 1e9))
            idle = await _busy(asker, session, path, read)
        if idle is not None:
            counters.append(BusyCounter(path, read, idle))
    return counters


async def _counter_that_shows(
    asker: Asker, session: aiohttp.ClientSession, counters: list[BusyCounter], long: "_LongStream"
) -> BusyCounter | None:
    """The counter that shows the long stream while it runs; None if none does."""
    for counter in counters:
        busy = await _busy(asker, session, counter.path, counter.read)
        if long.runs() and busy is not None and busy > counter.idle:
            return counter
    return None


async def _judge_by_counter(
    asker: Asker, session: aiohttp.ClientSession, counter: BusyCounter, left_ns: float
) -> Closing:
    """Find, by a counter, whether the server is as idle as before soon after the long stream was closed."""
    clock, limit_ns = asker.clock, round(min(STOP_WITHIN_S * 1e9, left_ns / 2))
    closed_ns = clock.now_ns()
    while clock.now_ns() - closed_ns <= limit_ns:
        busy = await _busy(asker, session, counter.path, counter.read)
        took_ms = round((clock.now_ns() - closed_ns) / 1e6, 1)
        if busy is not None and busy <= counter.idle:
            return Closing(True, counter.path, took_ms)
        await clock.sleep_until_ns(clock.now_ns() + round(POLL_EVERY_S * 1e9))
    return Closing(False, counter.path)


def _judge_by_clock(
    alone: list[ProbeAnswer], company: ProbeAnswer | None, after: ProbeAnswer, left_ns: float
) -> Closing:
    """Find whether the long stream stopped, by the times of a short answer alone, beside it, and after it was closed.

    company: the answer beside the long stream; None if streams take turns, so that it would have waited. Answers are
    timed from the first token to the last, which other streams slow most; if they take turns, from the request.
    """

    def length_ns(answer: ProbeAnswer) -> int | None:
        return answer.took_ns if company is None else answer.streamed_ns

    lengths_ns = sorted(length for answer in alone if (length := length_ns(answer)))
    company_ns = None if company is None else length_ns(company)
    after_ns = length_ns(after)
    if not lengths_ns or after_ns is None or (company is not None and company_ns is None):
        return Closing(by="an answer beside the long stream failed")
    alone_ns = lengths_ns[len(lengths_ns) // 2]
    stops = judge.stops_when_closed(alone_ns=alone_ns, company_ns=company_ns, after_ns=after_ns, left_ns=left_ns)
    beside = "" if company_ns is None else f", {company_ns / 1e6:.0f} ms beside an open stream"
    times = f"{alone_ns / 1e6:.0f} ms alone{beside}, {after_ns / 1e6:.0f} ms after its end"
    return Closing(stops, f"{TOKENS} tokens took {times}")


class _LongStream:
    """A long stream of which only the first tokens are read."""

    def __init__(self, response: aiohttp.ClientResponse | None) -> None:
        self._response = response
        self._decoder = Decoder()

    async def begin(self) -> None:
        """Read its first tokens."""
        if self._response is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                left_bytes = MAX_BYTES
                async for piece in self._response.content.iter_any():
                    self._decoder.feed(piece)
                    left_bytes -= len(piece)
                    if left_bytes <= 0 or self._decoder.tokens >= FIRST_TOKENS or self._decoder.orderly:
                        break

    @property
    def ended(self) -> bool:
        """Whether its orderly end has arrived."""
        return self._decoder.orderly

    def runs(self) -> bool:
        """Whether it has begun and, by what has arrived, not ended by itself."""
        if self._response is None or self._response.content.exception() is not None:
            return False
        self._decoder.feed(self._response.content.read_nowait())
        return self._decoder.tokens >= FIRST_TOKENS and not self._decoder.orderly


@contextlib.asynccontextmanager
async def _long_stream(asker: Asker, session: aiohttp.ClientSession, tokens: int) -> AsyncIterator[_LongStream]:
    """A long stream whose first tokens were read. It is closed when the context ends."""
    request = _request_of(asker, PLAIN, tokens, {})
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **request.headers}
    response = None
    with contextlib.suppress(aiohttp.ClientError, OSError):
        response = await session.post(request.url, data=request.body, headers=headers)
    long = _LongStream(response)
    try:
        await long.begin()
        yield long
    finally:
        if response is not None:
            response.close()  # closes the connection too, so that the rest of the answer is not read
            await asyncio.sleep(0)


async def _busy(
    asker: Asker, session: aiohttp.ClientSession, path: str, read: Callable[[bytes], int | None]
) -> int | None:
    """How many requests a server works on, by its own count; None if it does not say."""
    parts = urlsplit(asker.served.base_url)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.removesuffix("/v1") + path, "", ""))
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with session.get(url, headers=asker.served.headers) as response:
            return read(await beginning_of(response, MAX_BYTES)) if response.status == 200 else None
    return None


def _request_of(asker: Asker, text: str, tokens: int, more: JsonObject) -> ChatRequest:
    """A chat of the probe: streamed, greedy, and without the scenario's sampling, except its extra keys."""
    own: JsonObject = {
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "temperature": 0.0,
        **dict.fromkeys(("stop", "seed", "top_p")),
    }
    body = body_of(asker.plan, Planned(model=asker.index, index=0, prompt=0), asker.served, own | more)
    return chat_request_of(asker.served, body, Deadlines(request_ns=max(100_000_000, asker.left_ns())))


def _is_sent(asker: Asker, key: str) -> bool:
    """Whether requests have a key of ours, by any name. A key that is not sent cannot be honored."""
    instead = asker.served.refused_keys.get(key, key)
    return instead is not None and key not in asker.plan.scenario.sampling.omit


async def _chat(asker: Asker, text: str, tokens: int, **more: Any) -> ProbeAnswer:
    """Send one short chat; returns its reply with the traits of its body. Raises _Abandoned if the user stopped the run
    or gave the chat up."""
    if asker.stop_requested():
        raise _Abandoned
    now = asker.clock.now_ns()
    exchange = await asker.client.send(_request_of(asker, text, tokens, more), now)
    reply, _ = read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)
    if reply.outcome == "cancelled":
        raise _Abandoned
    body = exchange.body() if exchange.response.status == 200 else b""
    first = next(iter(decode(body).token_ends), None)
    return ProbeAnswer(reply, traits_of(body, first))
