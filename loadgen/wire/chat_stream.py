"""Decodes one streamed OpenAI chat completion: a body in, one Completion out. Knows no socket and no clock.

Operations. `decode` a body; or `feed` a `Decoder` what has come so far, look at it, and take its `result` at the end.

Goals. Whatever the bytes, no exception: what is wrong with them is in the Completion. However a body is split into
feeds, the result is the same. A token costs a few hundred nanoseconds where events differ in their text only.

The rules, where servers differ:

- A token-bearing event is one whose choice has generated text, not empty: content, reasoning (`reasoning_content` or
  `reasoning`), or a tool call's arguments. It counts once, however many of them it has.
- Of several choices (n > 1), the first with index 0, or with none, counts; the others are another answer.
- A chunk with a `delta` is read from it, even an empty one; `message` counts only where there is no `delta`, in a
  stream that had none so far (Foundry Local 1.x sends both, and a last `message` may repeat the whole answer).
- **The orderly end** is the first event with a finish reason, whatever its word, else `[DONE]`. Up to `[DONE]`, later
  events may still tell usage and timings; text, errors and broken bytes behind the end count for nothing. So
  `error` and `malformed`, where set, came before any orderly end, and every token at or before it.
- A last event without its blank line counts when it is whole: `[DONE]`, or a JSON object. Otherwise it was cut off.
- `data` must be a JSON object, except when it is empty or the event has a type of its own (`event: ping`).

Plan. There are three ways to an event, each slower and more general. A run of events that differ in one string is read
by `chat_fast_path`, without parsing any. A block that is one `data` line is cut out here and parsed. Anything else goes
through the splitter of `sse`.

Warning. The ways must agree, to the byte: a change of a rule is a change of all three. `tests/unit/wire/test_chat.py`
and `tests/fuzz` hold them against each other.
"""

import hashlib
from typing import Final

from msgspec import Struct

from loadgen.record import JsonObject, ServerTimings
from loadgen.wire.chat_fast_path import pattern_of, run_of
from loadgen.wire.chat_json import (
    cached_tokens_of,
    error_of,
    first_choice,
    has_hidden_text,
    is_count,
    joined_parts,
    mend,
    one_line,
    parse_object,
    timings_of,
)
from loadgen.wire.sse import MAX_EVENT_BYTES, EventTooLong, Splitter, SseEvent

_DONE: Final = b"[DONE]"
_DATA: Final = b"data: "
_TEXT_KEYS: Final = ("content", "reasoning_content", "reasoning")
_MAX_MISSES: Final = 3
"""After so many events that no event with their pattern followed, none is looked for: each is of its own kind."""


class _OnlyText(Struct, frozen=True, gc=False):
    """The only text that a token-bearing event has."""

    key: str
    """Of the delta, whose value it is."""
    text: str
    count: int | None
    """Output tokens so far, as the event's own usage counts them."""


class Completion(Struct, frozen=True):
    """What one body says. Offsets are into the body, exclusive (see `loadgen.wire.sse`), and never decrease."""

    events: int
    """Events of any kind; 0 for a body that is no event stream."""
    token_ends: list[int]
    """Where each token-bearing event ends."""
    first_visible: int | None
    """The index into `token_ends` of the first with visible content; None when none has."""
    text: str
    """The visible content, joined; lone surrogates become U+FFFD."""
    text_sha256: str
    """Of the text's UTF-8, in hex."""
    tokens_per_event: list[int] | None
    """Output tokens of each token-bearing event, by the usage that it carried; the first has all tokens up to it,
    hidden ones too. None when one carried none, or the counts fall or stay 0."""
    prompt_tokens: int | None
    """By the last usage that has it; None when none has."""
    cached_tokens: int | None
    """Of the prompt, by the last usage or timings that have it; None when none has."""
    output_tokens: int | None
    """By the last usage that has it; None when none has."""
    finish_reason: str | None
    """The first one, in the server's word; None without."""
    done: bool
    """There was a `[DONE]`."""
    end_offset: int | None
    """Where the event ends that made the orderly end; None without one."""
    timings: ServerTimings | None
    """llama.cpp's, the last; None elsewhere."""
    error: str | None
    """The first error event's message, one line of at most 300 characters."""
    malformed: str | None
    """What is wrong with the first event that is not UTF-8, not JSON, or too long, and its number from 1."""


class _Tokens:
    """The token-bearing events so far: each attribute but `first_visible` has, or may have, an entry for every one."""

    __slots__ = ("counts", "ends", "first_visible", "texts")

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.counts: list[int | None] = []  # output tokens so far, as each event's own usage counts them
        self.texts: list[str] = []  # visible ones, to be joined at the end: of several events, or of one, or of none
        self.first_visible: int | None = None


class _Statements:
    """What the server says about the answer, and what is wrong with it."""

    __slots__ = (
        *("cached_tokens", "done", "end", "error", "finish_reason"),
        *("malformed", "output_tokens", "prompt_tokens", "timings"),
    )

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.timings: ServerTimings | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.end: int | None = None  # of the event that made the orderly end
        self.error: str | None = None
        self.malformed: str | None = None

    def take_usage(self, usage: object) -> int | None:
        """Read the counts of a `usage`; returns that of output tokens."""
        if not isinstance(usage, dict):
            return None
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if is_count(prompt):
            self.prompt_tokens = prompt
        if not is_count(output):
            return None
        self.output_tokens = output
        return output

    def refuse(self, number: int, reason: str) -> None:
        """The event of that number, from 1, is none; behind the orderly end nobody minds."""
        if self.malformed is None and self.end is None:
            self.malformed = f"event {number}: {reason}"


def decode(body: bytes) -> Completion:
    """Decodes a whole body. Never raises: whatever is wrong with the bytes is in the Completion."""
    decoder = Decoder()
    decoder.feed(body)
    return decoder.result()


class Decoder:
    """Decodes a body fed in pieces: any split of it gives what `decode` gives of the whole."""

    __slots__ = (
        "_closed",
        "_events",
        "_has_delta",
        "_max_event_bytes",
        "_misses",
        "_splitter",
        "_statements",
        "_tokens",
    )

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = Splitter(max_event_bytes=max_event_bytes)
        self._max_event_bytes = max_event_bytes
        self._closed = False
        self._events = 0
        self._tokens = _Tokens()
        self._statements = _Statements()
        self._has_delta = False  # from then on a `message` is a repetition
        self._misses = 0  # events in a row whose pattern the next one did not have

    @property
    def tokens(self) -> int:
        """Token-bearing events so far."""
        return len(self._tokens.ends)

    @property
    def orderly(self) -> bool:
        """The orderly end has come: nothing that the connection does can spoil this answer."""
        return self._statements.end is not None

    @property
    def error(self) -> str | None:
        """The first error event's message, if it came before the orderly end."""
        return self._statements.error

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body. Bytes cannot make it raise; feeding after `result` is a RuntimeError."""
        if self._closed:
            raise RuntimeError("the body has ended: result() was called")
        # In the middle of an event, only the splitter knows how it began.
        if self._splitter.between_events and (plain := self._take_plain(data)):
            self._splitter.skip(plain)
            data = data[plain:]
            if not data:
                return
        try:
            events = self._splitter.feed(data)
        except EventTooLong as too_long:
            for event in too_long.events:
                self._take(event)
            self._statements.refuse(self._events + 1, str(too_long))
            return
        for event in events:
            self._take(event)

    def result(self) -> Completion:
        """The body has ended: what it says. May be called again."""
        if not self._closed:
            self._closed = True
            tail = self._splitter.finish()
            if self._events or tail is not None:  # a body that is no event stream at all is not for us to judge
                self._check_utf8(self._events + 1)
            if tail is not None and (tail.data.strip() == _DONE or parse_object(tail.data) is not None):
                self._take(tail)
        tokens, statements = self._tokens, self._statements
        # Joined before they are mended: servers cut an emoji in two, and a half by itself would be lost.
        text = mend("".join(tokens.texts))
        return Completion(
            events=self._events,
            token_ends=tokens.ends.copy(),
            first_visible=tokens.first_visible,
            text=text,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            tokens_per_event=_differences(tokens.counts),
            prompt_tokens=statements.prompt_tokens,
            cached_tokens=statements.cached_tokens,
            output_tokens=statements.output_tokens,
            finish_reason=statements.finish_reason,
            done=statements.done,
            end_offset=statements.end,
            timings=statements.timings,
            error=statements.error,
            malformed=statements.malformed,
        )

    def _take_plain(self, data: bytes) -> int:
        """Takes the events that `data` begins with and that are one `data` line each; returns their bytes.

        The splitter would find the same ones, and `_take` the same in them: this is a faster way to it.
        """
        complete = data.rfind(b"\n\n") + 2
        # The splitter says where bad UTF-8 is, and what is too long; so data that may be either is left to it.
        if complete < 2 or len(data) > self._max_event_bytes or not _is_utf8(data[:complete]):
            return 0
        at, offset = 0, self._splitter.offset
        statements = self._statements
        while data.startswith(_DATA, at):
            end = data.find(b"\n\n", at)
            if end < 0:
                break
            block = data[at:end]
            if b"\n" in block or b"\r" in block:
                break
            text = self._take(SseEvent(block[len(_DATA) :], offset + end + 2))
            start, at = at, end + 2
            if text is not None and statements.end is None and self._misses < _MAX_MISSES:
                at = self._take_run(text, data, start, at, offset)
        return at

    def _take_run(self, like: _OnlyText, data: bytes, start: int, at: int, offset: int) -> int:
        """Takes the events from `at` on that are like the one from `start` to there; returns where they end."""
        pattern = pattern_of(data[start:at], like.key, like.text)
        if pattern is None:
            return at
        run = run_of(pattern, data, at)
        if not run.ends:
            self._misses += 1
            return at
        self._misses = 0
        self._events += len(run.ends)
        tokens = self._tokens
        tokens.ends += [offset + end for end in run.ends] if offset else run.ends
        tokens.counts += [like.count] * len(run.ends)  # the same bytes but for the text, and so the same usage
        if like.key == "content":
            tokens.texts.append(run.text)
        return run.ends[-1]

    def _take(self, event: SseEvent) -> _OnlyText | None:
        """Takes an event; returns the text that makes it a token-bearing one, if it is the only one in it."""
        self._events += 1
        statements = self._statements
        if statements.done:
            return None
        bad_at = self._splitter.not_utf8_at
        if bad_at is not None and bad_at < event.end:
            self._check_utf8(self._events)
        data = event.data.strip()
        if data == _DONE:
            statements.done = True
            if statements.end is None:
                statements.end = event.end
            return None
        chunk = parse_object(data)
        if chunk is None:
            self._take_unparsed(event)
            return None
        # Usage and timings before the end is looked at: servers send them in an event of their own behind it.
        usage = chunk.get("usage")
        count = None if usage is None else statements.take_usage(usage)
        if "timings" in chunk:
            statements.timings = timings_of(chunk["timings"]) or statements.timings
        if usage is not None or "timings" in chunk:
            cached = cached_tokens_of(usage, chunk.get("timings"))
            statements.cached_tokens = statements.cached_tokens if cached is None else cached
        if statements.end is not None:
            return None
        if statements.error is None and ("error" in chunk or event.event == "error" or chunk.get("object") == "error"):
            statements.error = error_of(chunk, event.event)
        return self._take_choice(chunk.get("choices"), count, event.end)

    def _take_unparsed(self, event: SseEvent) -> None:
        """An event that is no JSON object: an error in plain words, an empty one, one of another type, or a fault."""
        statements = self._statements
        if statements.end is not None:
            return
        if event.event == "error":
            statements.error = statements.error or one_line(event.data.decode("utf-8", "replace")) or "an error event"
        elif event.data.strip() and event.event == "message":
            statements.refuse(self._events, "not a JSON object")

    def _take_choice(self, choices: object, count: int | None, end: int) -> _OnlyText | None:
        choice = first_choice(choices)
        if choice is None:
            return None
        only: _OnlyText | None = None
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._has_delta = True
        else:
            delta = None if self._has_delta else choice.get("message")
        if isinstance(delta, dict):
            tokens = self._tokens
            content = delta.get("content")
            visible = content if isinstance(content, str) else joined_parts(content)
            if visible:
                if tokens.first_visible is None:
                    tokens.first_visible = len(tokens.ends)
                tokens.texts.append(visible)
            if visible or has_hidden_text(delta):
                tokens.ends.append(end)
                tokens.counts.append(count)
                only = _only_text(delta, visible, count)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            self._statements.finish_reason = mend(reason)
            self._statements.end = end
        return only

    def _check_utf8(self, number: int) -> None:
        bad_at = self._splitter.not_utf8_at
        if bad_at is not None:
            self._statements.refuse(number, f"not UTF-8 at byte {bad_at}")


def _only_text(delta: JsonObject, visible: str, count: int | None) -> _OnlyText | None:
    """The only text that a delta has, with its key and its event's count; None when it has another, or in parts."""
    texts = [(key, text) for key in _TEXT_KEYS if isinstance(text := delta.get(key), str) and text]
    if len(texts) != 1 or (visible and texts[0][0] != "content"):
        return None
    return _OnlyText(*texts[0], count)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _differences(counts: list[int | None]) -> list[int] | None:
    """Tokens by event from cumulative counts; None when one is missing, or they fall, or stay 0."""
    tokens: list[int] = []
    before = 0
    for count in counts:
        if count is None or count < before:
            return None
        tokens.append(count - before)
        before = count
    return tokens if before else None
