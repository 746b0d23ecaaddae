"""What an adapter yielded, read: pieces and their stamps become a `Reply` with one outcome. Pure.

A piece is a text, or a table of these keys, each of which may stand alone:

    text            visible text
    reasoning       generated text that is not shown
    tokens          how many tokens the piece's text is
    usage           {"prompt_tokens": …, "completion_tokens": …}, of the whole answer
    finish_reason   the answer is complete, and why: "stop", "length", …

A piece with text or reasoning, not empty, is token-bearing; it counts once, as an event of a stream does.
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
    """One call of `generate` and all that came of it, ns on the monotonic clock.

    called: None when it was given up before. pieces: (stamp, what was yielded). exhausted: when the iteration ended by
    itself. failure: why it did not, or None. ended: when nobody listened any more.
    """

    dispatched_ns: int
    called_ns: int | None
    pieces: Sequence[tuple[int, object]]
    exhausted_ns: int | None
    failure: Failure | None
    ended_ns: int


class _Reading:
    """Pieces read so far."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.counts: list[int | None] = []
        self.texts: list[str] = []
        self.first_visible: int | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.finished_ns: int | None = None

    def take(self, stamp_ns: int, piece: object) -> str | None:
        """Read one more; returns what is wrong with it, or None. Behind a finish reason, only usage counts."""
        told = {"text": piece} if isinstance(piece, str) else piece
        wrong = _fault(told)
        if wrong is not None or not isinstance(told, dict):
            return wrong
        usage = told.get("usage") or {}
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt
        self.output_tokens = self.output_tokens if output is None else output
        if self.finished_ns is not None:
            return None
        text, hidden = told.get("text"), told.get("reasoning")
        if text or hidden:
            if text:
                self.first_visible = stamp_ns if self.first_visible is None else self.first_visible
                self.texts.append(text)
            self.stamps.append(stamp_ns)
            self.counts.append(told.get("tokens"))
        if told.get("finish_reason"):
            self.finish_reason, self.finished_ns = told["finish_reason"], stamp_ns
        return None

    def counted(self) -> list[int] | None:
        """Tokens by token-bearing piece; None unless each of them told."""
        told = [count for count in self.counts if count is not None]
        return told if told and len(told) == len(self.counts) else None

    def tokens(self) -> tuple[int, TokenSource]:
        """Output tokens: by usage, else by the pieces' own counts, else one a token-bearing piece."""
        if self.output_tokens is not None:
            return self.output_tokens, "usage"
        counted = self.counted()
        return (sum(counted), "usage") if counted is not None else (len(self.stamps), "events")


def reply_of(heard: AdapterAnswer, *, epoch_ns: int, streams: bool = True) -> Reply:
    """What came of a call of `generate`, with its text. epoch_ns: the run's beginning on the monotonic clock. streams:
    false for an answer that was asked for whole: it has no stamps, and its tokens are those that are told."""
    reading, malformed = _Reading(), None
    for number, (stamp_ns, piece) in enumerate(heard.pieces, start=1):
        malformed = reading.take(stamp_ns, piece)
        if malformed is not None:
            malformed = f"piece {number}: {malformed}"
            break
    orderly_ns = heard.exhausted_ns if reading.finished_ns is None else reading.finished_ns
    outcome, detail = _outcome(heard, reading, malformed, orderly_ns)
    text = _mended("".join(reading.texts))
    tokens, source = reading.tokens()

    def on_run(moment_ns: int | None) -> int | None:
        return None if moment_ns is None else moment_ns - epoch_ns

    counted = reading.counted()
    reply = Reply(
        outcome=outcome,
        detail=detail,
        dispatched_ns=on_run(heard.dispatched_ns),
        sent_ns=on_run(heard.called_ns),
        written_ns=on_run(heard.called_ns),
        end_ns=on_run(heard.ended_ns if orderly_ns is None else orderly_ns),
        last_byte_ns=on_run(heard.ended_ns if heard.exhausted_ns is None else heard.exhausted_ns),
        first_visible_ns=on_run(reading.first_visible),
        stamps_ns=tuple(stamp - epoch_ns for stamp in reading.stamps),
        tokens_per_event=None if counted is None else tuple(counted),
        stamp_source="user",
        prompt_tokens=reading.prompt_tokens,
        output_tokens=tokens,
        token_source=source,
        finish_reason=reading.finish_reason,
        text_sha256=hashlib.sha256(text.encode()).hexdigest() if reading.stamps else None,
        text=text if reading.stamps else UNSET,
    )
    if streams:
        return reply
    unknown = None if source == "events" else tokens
    return replace(reply, stamps_ns=(), tokens_per_event=None, first_visible_ns=None, output_tokens=unknown)


def _outcome(
    heard: AdapterAnswer, reading: _Reading, malformed: str | None, orderly_ns: int | None
) -> tuple[Outcome, str | None]:
    """First what the pieces say, then how the iteration ended; after a finish reason, nothing spoils it."""
    if malformed is not None:
        return "malformed", malformed
    if orderly_ns is not None:
        return ("ok", None) if reading.stamps else ("empty", "generate ended, and had yielded no text")
    if heard.failure is None:
        return "truncated", "generate did not end"
    return heard.failure.outcome, heard.failure.detail


def _fault(told: object) -> str | None:
    """What is wrong with a piece, or None."""
    if not isinstance(told, dict):
        return f"{_kind(told)}, where a text or a dict is asked for"
    for key, value in told.items():
        if key not in KEYS:
            return f"unknown key {str(key)[:60]!r}; the keys are {', '.join(KEYS)}"
        if value is None:
            continue
        if key == "usage":
            wrong = _fault_of_usage(value)
            if wrong is not None:
                return wrong
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
    """Whether it can be a number of tokens."""
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _mended(text: str) -> str:
    """With surrogate pairs made one character, and lone ones U+FFFD: as the same text reads when it came by HTTP."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
