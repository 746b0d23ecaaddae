"""Makes a `Reply` with one outcome of the chunks that an adapter yielded and their stamps. Pure.

A chunk is a text, or a dict of these keys, each of which may stand alone:

    text            visible text
    reasoning       generated text that is not shown
    tokens          how many tokens the chunk's text is
    usage           {"prompt_tokens": …, "completion_tokens": …}, of the whole answer
    finish_reason   the answer is complete, and why: "stop", "length", …

A chunk with text or reasoning, not empty, is token-bearing; it counts once, as an event of a stream does.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from loadgen.record import Outcome, Reply, TokenSource
from loadgen.wire.exchange import Failure

KEYS: Final = ("text", "reasoning", "tokens", "usage", "finish_reason")
_MAX_COUNT: Final = 2**63 - 1


class AdapterAnswer(Struct, frozen=True, kw_only=True):
    """One call of `generate` and its results, ns on the monotonic clock."""

    dispatched_ns: int
    called_ns: int | None
    """None if it was given up before the call."""
    chunks: Sequence[tuple[int, object]]
    """A stamp and the yielded value, for each."""
    exhausted_ns: int | None
    """When the iteration ended by itself; None if it did not."""
    failure: Failure | None
    """Why it did not end by itself."""
    ended_ns: int
    """When loadgen stopped listening."""


class _Reading:
    """The content of the chunks that were read so far."""

    def __init__(self) -> None:
        self.stamps: list[int] = []  # of the token-bearing chunks
        self.counts: list[int | None] = []  # their tokens, as they say themselves
        self.texts: list[str] = []
        self.first_visible: int | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.finished_ns: int | None = None

    def take(self, stamp_ns: int, yielded: object) -> str | None:
        """Read one more chunk; returns what is wrong with it, or None. After a finish reason, only usage counts."""
        chunk = {"text": yielded} if isinstance(yielded, str) else yielded
        fault = _fault(chunk)
        if fault is not None or not isinstance(chunk, dict):
            return fault
        usage = chunk.get("usage") or {}
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt
        self.output_tokens = self.output_tokens if output is None else output
        if self.finished_ns is not None:
            return None
        text, hidden = chunk.get("text"), chunk.get("reasoning")
        if text or hidden:
            if text:
                self.first_visible = stamp_ns if self.first_visible is None else self.first_visible
                self.texts.append(text)
            self.stamps.append(stamp_ns)
            self.counts.append(chunk.get("tokens"))
        if chunk.get("finish_reason"):
            self.finish_reason, self.finished_ns = chunk["finish_reason"], stamp_ns
        return None

    def tokens_per_chunk(self) -> list[int] | None:
        """The tokens of each token-bearing chunk; None unless every one has a count."""
        known = [count for count in self.counts if count is not None]
        return known if known and len(known) == len(self.counts) else None

    def tokens(self) -> tuple[int, TokenSource]:
        """Output tokens: by usage, else by the chunks' own counts, else one for each token-bearing chunk."""
        if self.output_tokens is not None:
            return self.output_tokens, "usage"
        counts = self.tokens_per_chunk()
        return (sum(counts), "usage") if counts is not None else (len(self.stamps), "events")


def reply_of(answer: AdapterAnswer, *, epoch_ns: int) -> Reply:
    """The reply of a call of `generate`, with its text. epoch_ns: the run's beginning on the monotonic clock."""
    reading, malformed = _Reading(), None
    for number, (stamp_ns, yielded) in enumerate(answer.chunks, start=1):
        malformed = reading.take(stamp_ns, yielded)
        if malformed is not None:
            malformed = f"piece {number}: {malformed}"
            break
    orderly_ns = answer.exhausted_ns if reading.finished_ns is None else reading.finished_ns
    outcome, detail = _outcome(answer, reading, malformed, orderly_ns)
    text = _without_surrogates("".join(reading.texts))
    tokens, source = reading.tokens()

    def on_run(moment_ns: int | None) -> int | None:
        return None if moment_ns is None else moment_ns - epoch_ns

    counts = reading.tokens_per_chunk()
    return Reply(
        outcome=outcome,
        detail=detail,
        dispatched_ns=on_run(answer.dispatched_ns),
        sent_ns=on_run(answer.called_ns),
        written_ns=on_run(answer.called_ns),
        end_ns=on_run(answer.ended_ns if orderly_ns is None else orderly_ns),
        last_byte_ns=on_run(answer.ended_ns if answer.exhausted_ns is None else answer.exhausted_ns),
        first_visible_ns=on_run(reading.first_visible),
        stamps_ns=tuple(stamp - epoch_ns for stamp in reading.stamps),
        tokens_per_event=None if counts is None else tuple(counts),
        stamp_source="user",
        prompt_tokens=reading.prompt_tokens,
        output_tokens=tokens,
        token_source=source,
        finish_reason=reading.finish_reason,
        text_sha256=hashlib.sha256(text.encode()).hexdigest() if reading.stamps else None,
        text=text if reading.stamps else UNSET,
    )


def as_whole(reply: Reply) -> Reply:
    """The reply of an answer that was not streamed: it has no stamps, and tokens only if they were counted."""
    tokens = None if reply.token_source == "events" else reply.output_tokens
    return replace(reply, stamps_ns=(), tokens_per_event=None, first_visible_ns=None, output_tokens=tokens)


def _outcome(
    answer: AdapterAnswer, reading: _Reading, malformed: str | None, orderly_ns: int | None
) -> tuple[Outcome, str | None]:
    """How the request ended. The chunks decide before the end of the iteration; after a finish reason, it is ok."""
    if malformed is not None:
        return "malformed", malformed
    if orderly_ns is not None:
        return ("ok", None) if reading.stamps else ("empty", "generate ended, and had yielded no text")
    if answer.failure is None:
        return "truncated", "generate did not end"
    return answer.failure.outcome, answer.failure.detail


def _fault(chunk: object) -> str | None:
    """What is wrong with a chunk; None if nothing is."""
    if not isinstance(chunk, dict):
        return f"{_kind(chunk)}, where a text or a dict is asked for"
    for key, value in chunk.items():
        if key not in KEYS:
            return f"unknown key {str(key)[:60]!r}; the keys are {', '.join(KEYS)}"
        if value is None:
            continue
        if key == "usage":
            fault = _fault_of_usage(value)
            if fault is not None:
                return fault
        elif key == "tokens":
            if not is_count(value):
                return "tokens is not a whole number of 0 or more"
        elif not isinstance(value, str):
            return f"{key} is {_kind(value)}, not a text"
    return None


def _fault_of_usage(usage: Any) -> str | None:
    if not isinstance(usage, dict):
        return f"usage is {_kind(usage)}, not a dict"
    for key in ("prompt_tokens", "completion_tokens"):
        if usage.get(key) is not None and not is_count(usage[key]):
            return f"usage.{key} is not a whole number of 0 or more"
    return None


def is_count(value: object) -> bool:
    """Whether a value can be a number of tokens."""
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _without_surrogates(text: str) -> str:
    """A text with surrogate pairs as one character, and lone surrogates as U+FFFD, as if it had come by HTTP."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
