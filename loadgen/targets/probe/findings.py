"""Judges what a server does from a few of its answers: replies and stamps in, findings out. Pure; sends nothing.

A finding is None if it could not be told. Nothing is assumed about a server from its name.
"""

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from typing import Final

import msgspec
import orjson
from msgspec import UNSET, Struct

from loadgen.record import Reply, ReplyFields
from loadgen.store.manifest import Probe
from loadgen.targets.probe.answers import ORDERLY, StreamAnswer, stream_answer
from loadgen.targets.probe.traits import Traits

SLOWED: Final = 1.25
"""If other streams make an answer slower by less than this factor, that cannot be told from chance."""
WHOLE_TOKEN_CHARS: Final = 2.0
"""English has about four characters a token. If an answer shows at least this many for each counted token, it shows all
tokens."""
TOKEN_CHARS: Final = 4.0
"""The usual number of characters in a token of English. Those of other languages are shorter."""
LONG_EVENT_CHARS: Final = 16.0
"""Events of at least this many characters, on average, are several tokens each."""
TOO_FEW_CHARS: Final = 1.0
"""If an answer shows fewer characters for each counted token, some tokens were not shown."""
_GAUGE: Final = re.compile(
    rb"^\S*(?:requests_processing|num_requests_running|num_running_reqs)(?:\{\S*\})? (\S+)", re.M
)


SHOWN: Final = (
    *("usage_in_stream", "role_event", "keep_alives", "waited_ms", "tokens_per_event"),
    *("characters_per_event", "reasoning_in_stream", "hidden_tokens", "completion_text"),
)
"""The findings that any streamed answer shows. The others need a probe."""


class ProbeAnswer(Struct, frozen=True):
    """One answer to a probe: the reply with its text, and the traits of its body."""

    reply: Reply
    traits: Traits

    @property
    def text(self) -> str:
        return "" if self.reply.text is UNSET else self.reply.text

    @property
    def ended(self) -> bool:
        """Whether it has an orderly end, with tokens or without."""
        return self.reply.outcome in ORDERLY

    @property
    def stream(self) -> StreamAnswer:
        """What it shows about its server, as an answer of a stage would."""
        return stream_answer(self.reply, self.traits, len(self.text))

    @property
    def took_ns(self) -> int | None:
        """The time from the request to the last token."""
        reply = self.reply
        return reply.stamps_ns[-1] - reply.written_ns if reply.stamps_ns and reply.written_ns is not None else None

    @property
    def streamed_ns(self) -> int | None:
        """The time from the first token to the last; None if that is zero."""
        stamps = self.reply.stamps_ns
        return stamps[-1] - stamps[0] if len(set(stamps)) > 1 else None


def of_streams(answers: Sequence[StreamAnswer]) -> Probe | None:
    """The findings that any streamed answer shows, of a stage or of a probe; None without answers."""
    if not answers:
        return None
    waits_ns = [answer.wait_ns for answer in answers if answer.wait_ns is not None]
    hidden = most_hidden_tokens(answers)
    return Probe(
        usage_in_stream=any(answer.token_source == "usage" for answer in answers),
        role_event=any(answer.traits.role_event for answer in answers),
        keep_alives=max(answer.traits.keep_alives for answer in answers),
        waited_ms=round(max(waits_ns) / 1e6, 1) if waits_ns else None,
        tokens_per_event=None if hidden is None or hidden > 0 else tokens_per_event(answers),
        characters_per_event=characters_per_event(answers),
        reasoning_in_stream=any(answer.traits.reasoning_events for answer in answers),
        hidden_tokens=hidden,
        completion_text=any(answer.traits.completion_text for answer in answers),
    )


def with_streams(asked: Probe | None, answers: Sequence[StreamAnswer]) -> Probe | None:
    """The findings from a server's answers in a run together with those of a probe; None without both."""
    shown = of_streams(answers)
    if asked is None or shown is None:
        return asked or shown
    return msgspec.structs.replace(asked, **{name: getattr(shown, name) for name in SHOWN})


def was_asked(probe: Probe) -> bool:
    """Whether a server was probed, with any result. Older manifests do not say when."""
    return probe.asked_utc is not None or probe.took_s is not None or asked_part(probe) is not None


def asked_part(probe: Probe) -> Probe | None:
    """A probe without the findings that any answer shows. None if it has no others."""
    known = (
        probe.honors_max_tokens,
        probe.honors_stop,
        probe.honors_seed,
        probe.parallel_streams,
        probe.stops_on_close,
    )
    if all(finding is None for finding in known):
        return None
    return msgspec.structs.replace(probe, **dict.fromkeys(SHOWN))


def tokens_per_event(answers: Sequence[StreamAnswer]) -> float | None:
    """Output tokens by `usage` over token-bearing events. The end token, which has no event, is left out. None without
    `usage` or events."""
    counted = [answer for answer in answers if answer.token_source == "usage" and answer.events]
    events = sum(answer.events for answer in counted)
    tokens = sum(_shown_tokens(answer.output_tokens, answer.events, answer.finish_reason) for answer in counted)
    return round(tokens / events, 3) if events else None


def characters_per_event(answers: Sequence[StreamAnswer]) -> float | None:
    """Characters of visible text over token-bearing events; None without events."""
    events = sum(answer.events for answer in answers)
    return round(sum(answer.characters for answer in answers) / events, 3) if events else None


def shown_tokens(reply: ReplyFields) -> int:
    """Output tokens without the end token, which `usage` may count but no event has."""
    return _shown_tokens(reply.output_tokens, len(reply.stamps_ns), reply.finish_reason)


def least_tokens(reply: ReplyFields, probe: Probe) -> int:
    """How many tokens an answer showed, as far as that is known: at least one an event.

    They are counted by `usage`, if the server hides none. If it sends no `usage`, they are estimated from the length of
    the text, but only if events are too long to be single tokens.
    """
    events = len(reply.stamps_ns)
    if reply.token_source == "usage":
        return shown_tokens(reply) if probe.hidden_tokens == 0 else events
    characters = probe.characters_per_event or 0.0
    return round(events * characters / TOKEN_CHARS) if characters >= LONG_EVENT_CHARS else events


def _shown_tokens(output_tokens: int | None, events: int, finish_reason: str | None) -> int:
    tokens = output_tokens or 0
    return tokens - (finish_reason == "stop" and tokens > events)


def most_hidden_tokens(answers: Sequence[StreamAnswer]) -> int | None:
    """The highest number of tokens that one answer hid. None if no answer is known to have hidden any, but one may
    have."""
    hidden = [hidden_tokens(answer) for answer in answers if answer.token_source == "usage"]
    most = max((count for count in hidden if count is not None), default=None)
    return most if most or None not in hidden else None


def hidden_tokens(answer: StreamAnswer) -> int | None:
    """How many output tokens `usage` counts and no event showed. None if events may carry several tokens instead.

    Taken from the server's own count of reasoning if it has one and shows none; else estimated from the characters that
    were shown.
    """
    if answer.token_source != "usage" or answer.output_tokens is None:
        return None
    if answer.traits.reasoning_events:
        return 0
    if answer.traits.reasoning_tokens:
        return answer.traits.reasoning_tokens
    excess = _shown_tokens(answer.output_tokens, answer.events, answer.finish_reason) - answer.events
    characters_per_token = answer.characters / max(1, answer.output_tokens)
    if excess <= 0 or (answer.events and characters_per_token >= WHOLE_TOKEN_CHARS):
        return 0
    return excess if characters_per_token < TOO_FEW_CHARS else None


def honors_max_tokens(answer: ProbeAnswer, limit: int) -> bool | None:
    """Whether an answer stopped at the limit; None if it ended by itself before that."""
    tokens = answer.reply.output_tokens
    if not answer.ended or tokens is None:
        return None
    if tokens > limit or len(answer.reply.stamps_ns) > limit:
        return False
    return True if answer.reply.finish_reason == "length" or tokens == limit else None


def stop_word(text: str) -> str | None:
    """A word of an answer that can be its stop word in a second request: the first one after a quarter of the answer.

    None if there is none. The last word is never taken, because it may be cut off.
    """
    for match in list(re.finditer(r"\w{2,}", text))[:-1]:
        if match.start() >= max(1, len(text) // 4) and text.find(match[0]) == match.start():
            return match[0]
    return None


def honors_stop(plain: str, word: str, stopped: ProbeAnswer) -> bool | None:
    """Whether `stopped`, the answer to a request with the stop word, ended there. plain: the answer without it. None:
    the two answers differ."""
    if stopped.reply.status == 400:
        return False
    if not stopped.ended:
        return None
    text, upto = stopped.text.rstrip(), plain.partition(word)[0]
    if text == (upto + word).rstrip():
        return True  # the word itself is shown, and nothing after it
    if word in text:
        return False
    return True if upto.startswith(text) and stopped.reply.finish_reason != "length" else None


def honors_seed(once: ProbeAnswer, again: ProbeAnswer, other: ProbeAnswer) -> bool | None:
    """Whether equal seeds gave equal answers, at temperature 1. once, again: with one seed; other: with another. None:
    all answers are alike, or have no text."""
    if once.reply.status == 400:
        return False
    if not all(answer.reply.outcome == "ok" and answer.text for answer in (once, again, other)):
        return None
    if once.text != again.text:
        return False
    return True if other.text != once.text else None


def pace_per_s(answer: ProbeAnswer) -> float | None:
    """Token-bearing events a second, from the first to the last; None if all came at one moment."""
    length_ns = answer.streamed_ns
    return None if length_ns is None else (len(answer.reply.stamps_ns) - 1) / length_ns * 1e9


def most_parallel(answers: Sequence[ProbeAnswer]) -> int | None:
    """The highest number of streams that were between their first and their last token at the same moment; None without
    such streams."""
    return max((depth for _, _, depth in _depths(answers)), default=None)


def scaling(alone: Sequence[ProbeAnswer], together: Sequence[ProbeAnswer]) -> float | None:
    """The speed of all streams together, while the most of them ran, over that of one stream alone, in token-bearing
    events a second.

    1 means that they take turns at the same work; the number of streams means that they do not slow each other. alone:
    answers to single streams, of which the median counts. None if no streams ran together for long enough to bring two
    events each.
    """
    paces = [pace for answer in alone if (pace := pace_per_s(answer)) is not None]
    most = most_parallel(together)
    if most is None or most < 2 or not paces:
        return None
    spans = [(begin, end) for begin, end, depth in _depths(together) if depth == most]
    stamps = [stamp for answer in together for stamp in answer.reply.stamps_ns]
    inside = sum(begin < stamp <= end for begin, end in spans for stamp in stamps)
    length_ns = sum(end - begin for begin, end in spans)
    return round(inside / length_ns * 1e9 / statistics.median(paces), 2) if inside >= 2 * most else None


def _depths(answers: Sequence[ProbeAnswer]) -> list[tuple[int, int, int]]:
    """(from, to, how many streams were between their first and their last token) for each span of time."""
    ran = [answer.reply.stamps_ns for answer in answers if len(set(answer.reply.stamps_ns)) > 1]
    edges = sorted({moment for stamps in ran for moment in (stamps[0], stamps[-1])})
    spans = []
    for begin, end in itertools.pairwise(edges):
        depth = sum(stamps[0] <= begin and stamps[-1] >= end for stamps in ran)
        if depth:
            spans.append((begin, end, depth))
    return spans


def stops_when_closed(*, alone_ns: float, company_ns: float | None, after_ns: float, left_ns: float) -> bool | None:
    """Whether the server stopped generating a long stream that was closed, from the times of a short answer.

    alone_ns: without another stream. company_ns: beside the long stream; None: the server does one at a time, so the
    answer would have waited for the rest of the long one, left_ns. after_ns: sent after the long stream was closed.
    None if other streams do not slow this server.
    """
    if company_ns is None:
        return after_ns < alone_ns + left_ns / 2 if left_ns > alone_ns else None
    if company_ns < SLOWED * alone_ns:
        return None
    return after_ns <= math.sqrt(alone_ns * company_ns)


def busy_slots(body: bytes) -> int | None:
    """How many slots are busy, by llama.cpp's `/slots`; None if the body is something else."""
    try:
        slots = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    states = [slot.get("is_processing") for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
    return sum(map(bool, states)) if states and all(isinstance(state, bool) for state in states) else None


def busy_requests(body: bytes) -> int | None:
    """How many requests are running, by `/metrics` of llama.cpp, vLLM or SGLang; None if it does not say."""
    gauges = _GAUGE.findall(body)
    try:
        return round(sum(map(float, gauges))) if gauges else None
    except (ValueError, OverflowError):
        return None
