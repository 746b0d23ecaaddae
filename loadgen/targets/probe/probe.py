"""Asks a server what it does, in a handful of short chats: the sending part of `targets.probe.findings`.

Nothing that happens here makes a run fail: a probe stores what it knows, and a note about what it does not. It is
bounded by time; on a server so slow that a question does not fit any more, the question is left out, and noted.
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
"""All of a probe. An edge device at a few tokens a second gets no further than the first questions."""
TOKENS: Final = 16
"""Of each short answer: so few that a probe stays quick, so many that two answers at temperature 1 differ."""
LONG_S: Final = 2.0
"""How long the stream that is closed would go on, by the pace of the short ones, within the limits below."""
LONG_TOKENS: Final = (64, 1024)
FIRST_TOKENS: Final = 4
"""So many tokens of it are read before it is closed."""
STOP_WITHIN_S: Final = 0.5
"""Within so long a server must have let go of a closed stream."""
POLL_EVERY_S: Final = 0.025
IDLE_POLLS: Final = 8
PLAIN: Final = "Write a long story about a lighthouse keeper."
"""Asked for short answers and for the long one: whose beginning, greedy, is then known not to end by itself."""
SUBJECTS: Final = ("ship", "forest", "teacher", "river", "robot", "garden", "storm", "village")
"""Sent at once, a stream each: no two of them have a prompt, and with it a cached prefix, in common."""
STREAMS: Final = len(SUBJECTS)
MAX_BYTES: Final = 1 << 20
"""What is read of a counter's page, or of a long stream before its first tokens."""
COUNTERS: Final = (("/slots", judge.busy_slots), ("/metrics", judge.busy_requests))


class _Abandoned(Exception):  # noqa: N818 - not an error: the person has had enough
    """The person wanted an end, or gave up what was in flight."""


class Asker(Struct, frozen=True):
    """Who is asked, and until when, ns on the clock."""

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
    """What a probe knows so far."""

    def __init__(self) -> None:
        self.probe = Probe()
        self._notes: list[str] = []

    def show(self, answers: Sequence[ProbeAnswer]) -> None:
        """Judge by all answers so far what every answer shows."""
        self.probe = with_streams(self.probe, [answer.stream for answer in answers if answer.ended]) or self.probe

    def add(self, **findings: bool | int | float | str | None) -> None:
        self.probe = msgspec.structs.replace(self.probe, **findings)

    def note(self, text: str) -> None:
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
    """What the server of a model does. Never raises for what a server does; takes about budget_s at most.

    index: the model's, among the plan's. stop_requested: whether somebody wants an end: then no further chat is sent.
    The server must serve the model, and be idle but for us.
    """
    findings, asked = Findings(), utc_now()
    began_ns = clock.now_ns()
    asker = Asker(plan, index, served, client, clock, began_ns + round(budget_s * 1e9), stop_requested)
    try:
        async with asyncio.timeout(budget_s + 1):
            await _ask_all(asker, findings)
    except _Abandoned:
        findings.note("stopped by the person")
    except TimeoutError:
        findings.note(f"ran out of its {budget_s:g} s")
    except Exception as error:  # noqa: BLE001  a probe that fails never makes a run fail
        findings.note(f"broke off: {type(error).__name__}: {describe(error)}")
    took_s = round((clock.now_ns() - began_ns) / 1e9, 3)
    return findings.end(took_s, asked.isoformat())


async def _ask_all(asker: Asker, findings: Findings) -> None:
    """The questions, in an order in which each may use what the ones before have told."""
    if not _is_sent(asker, "max_tokens") and not {*TOKEN_LIMITS} & {*asker.plan.scenario.sampling.extra}:
        findings.note("not asked: requests go without max_tokens, so no answer would be short")
        return
    plain = await _chat(asker, PLAIN, TOKENS)
    alone = [plain]
    findings.show(alone)
    if not plain.ended:
        findings.note(f"no answer to judge by: {plain.reply.outcome}: {plain.reply.detail}")
        return
    findings.add(honors_max_tokens=judge.honors_max_tokens(plain, TOKENS))
    if not plain.reply.stamps_ns:
        findings.note(f"no token was shown within max_tokens = {TOKENS}")
        return
    if _is_affordable(asker, plain, 4, "stop and seed", findings):
        alone += await _ask_sampling(asker, plain, findings)
        findings.show(alone)
    if _is_affordable(asker, plain, STREAMS, "parallel streams", findings):
        await _ask_parallel(asker, alone, findings)
    if _is_affordable(asker, plain, 6, "closing a stream", findings):
        await _ask_closing(asker, alone, findings)


def _is_affordable(asker: Asker, plain: ProbeAnswer, answers: int, question: str, findings: Findings) -> bool:
    """Whether so many more answers fit in what is left of the time, each as long as the first one took."""
    if answers * (plain.took_ns or 0) <= asker.left_ns():
        return True
    findings.note(f"{question}: left out, the server is too slow to ask in time")
    return False


async def _ask_sampling(asker: Asker, plain: ProbeAnswer, findings: Findings) -> list[ProbeAnswer]:
    """Does it honor `stop` and `seed`? Returns the answers."""
    answers = []
    word = judge.stop_word(plain.text)
    if not _is_sent(asker, "stop"):
        findings.note("stop: left out of requests")
    elif word is None:
        findings.note("stop: no word in the answer to stop at")
    else:
        answers.append(await _chat(asker, PLAIN, TOKENS, stop=[word]))
        findings.add(honors_stop=judge.honors_stop(plain.text, word, answers[-1]))
    if not (_is_sent(asker, "seed") and _is_sent(asker, "temperature")):
        findings.note("seed: left out of requests, or the temperature is")
        return answers
    seeded = [await _chat(asker, PLAIN, TOKENS, temperature=1.0, seed=seed) for seed in (11, 11, 12)]
    findings.add(honors_seed=judge.honors_seed(*seeded))
    return answers + seeded


async def _ask_parallel(asker: Asker, alone: list[ProbeAnswer], findings: Findings) -> None:
    """How many streams run at once, and do they get more done together than one after the other?"""
    together = await asyncio.gather(*(_chat(asker, f"Tell me about a {subject}.", TOKENS) for subject in SUBJECTS))
    findings.show([*alone, *together])
    findings.add(
        parallel_streams=judge.most_parallel(together),
        parallel_asked=len(together),
        scaling=judge.scaling(alone, together),
    )
    failed = [answer.reply.outcome for answer in together if not answer.ended]
    if failed:
        findings.note(f"of {len(together)} streams at once {len(failed)} failed: {failed[0]}")


async def _ask_closing(asker: Asker, alone: list[ProbeAnswer], findings: Findings) -> None:
    """Does closing a stream stop its generation? By the server's own count where it has one, else by the clock."""
    paces = sorted(pace for answer in alone if (pace := judge.pace_per_s(answer)) is not None)
    full = [answer for answer in alone if answer.reply.output_tokens == TOKENS]
    if not paces or not full:
        findings.note("closing a stream: no answer was long enough to compare with")
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
        await asyncio.sleep(min(left_ns, asker.left_ns(), LONG_S * 1e9) / 1e9)  # let it run out, in nobody's way


class Closing(Struct, frozen=True):
    """Whether a server stops when a stream is closed."""

    stops: bool | None = None
    by: str | None = None
    """How that was told, or why not."""
    after_ms: float | None = None
    """By the server's own count."""


class BusyCounter(Struct, frozen=True):
    """A path of a server that says how many requests it works on."""

    path: str
    read: Callable[[bytes], int | None]
    idle: int
    """What it said before the long stream."""


async def _idle_counters(asker: Asker, session: aiohttp.ClientSession) -> list[BusyCounter]:
    """The counters that a server keeps, before it is asked for the long stream."""
    clock, counters = asker.clock, []
    for path, read in COUNTERS:
        idle = await _busy(asker, session, path, read)
        for _ in range(IDLE_POLLS):  # what we asked before may be ended and not yet put away
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
    """The counter that shows the long stream while it runs; None where none does."""
    for counter in counters:
        busy = await _busy(asker, session, counter.path, counter.read)
        if long.runs() and busy is not None and busy > counter.idle:
            return counter
    return None


async def _judge_by_counter(
    asker: Asker, session: aiohttp.ClientSession, counter: BusyCounter, left_ns: float
) -> Closing:
    """Whether the server is as idle as before, soon after the long stream has been closed."""
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
    """By how long a short answer takes: alone, beside the long stream, and then when the long one has been closed.

    company: None where streams take turns, and it would have waited for the end of the long one. Answers are timed from
    the first token to the last, which company slows most; where they take turns, from the request.
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
    """A long stream that is being read no further."""

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
        """Whether it has begun, and not ended by itself, by all that has arrived."""
        if self._response is None or self._response.content.exception() is not None:
            return False
        self._decoder.feed(self._response.content.read_nowait())
        return self._decoder.tokens >= FIRST_TOKENS and not self._decoder.orderly


@contextlib.asynccontextmanager
async def _long_stream(asker: Asker, session: aiohttp.ClientSession, tokens: int) -> AsyncIterator[_LongStream]:
    """A long stream whose first tokens have been read; it is closed as the context ends."""
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
            response.close()  # the connection with it: the rest of the answer is not wanted
            await asyncio.sleep(0)


async def _busy(
    asker: Asker, session: aiohttp.ClientSession, path: str, read: Callable[[bytes], int | None]
) -> int | None:
    """How many requests a server says that it works on; None when it does not say."""
    parts = urlsplit(asker.served.base_url)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.removesuffix("/v1") + path, "", ""))
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with session.get(url, headers=asker.served.headers) as response:
            return read(await beginning_of(response, MAX_BYTES)) if response.status == 200 else None
    return None


def _request_of(asker: Asker, text: str, tokens: int, more: JsonObject) -> ChatRequest:
    """A chat of the probe's own: streamed, greedy, and with nothing of the scenario's sampling but its extra keys."""
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
    """Whether requests have a key of ours, by whatever name: what is not sent cannot be honored."""
    instead = asker.served.refused_keys.get(key, key)
    return instead is not None and key not in asker.plan.scenario.sampling.omit


async def _chat(asker: Asker, text: str, tokens: int, **more: Any) -> ProbeAnswer:
    """One short chat: its reply, with what its body showed. Raises _Abandoned when somebody gave it up or wants an
    end."""
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
