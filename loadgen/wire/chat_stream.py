"""Decodes one streamed OpenAI chat completion: a body in, one Completion out. Knows no socket and no clock.

Operations. `decode` a body. Or `feed` a `Decoder` as the bytes arrive, read its properties, and take its `result` at
the end.

Goals. No bytes raise an exception: the Completion says what is wrong with them. The result is the same however a body
is split into feeds. A token costs a few hundred nanoseconds if events differ only in their text.

The rules, where servers differ:

- A token-bearing event is one whose choice has generated something that is not empty: content or a refusal, as a text
  or in parts; reasoning, under a key of its own or as a part of the content; speech; or a tool call's arguments. It
  counts once, however many of them it has. `chat_json` has the names.
- If there are several choices (n > 1), the first one with index 0, or without an index, counts; the others are other
  answers.
- A chunk is read from its `delta`, even if that is empty. `message`, or else a completion's `text`, counts only if the
  stream has had no `delta` so far. (Foundry Local 1.x sends both; a last `message` may repeat the whole answer.)
- **The orderly end** is the first event with a finish reason, whatever that is, else `[DONE]`. Until `[DONE]`, later
  events may still have usage and timings. Text, errors and broken bytes after the orderly end are ignored. So `error`
  and `malformed` are only set by events before it, and every token comes before or with it.
- A last event without its blank line counts if it is complete: `[DONE]`, or a JSON object. Else it was cut off.
- `data` must be a JSON object, unless it is empty or the event has a type of its own (`event: ping`).

Plan. Events are read in one of three ways, each slower and more general than the one before. `chat_fast_path` reads a
run of events that differ in one string, without parsing them. An event that is one `data` line is cut out here and
parsed. Any other goes through the splitter of `sse`.

Warning. The three ways must agree to the byte, so a change of a rule is a change of all three.
`tests/unit/wire/test_chat.py` and `tests/fuzz` compare them with each other.
"""

import hashlib
from typing import Final

from msgspec import Struct

from loadgen.record import ServerTimings
from loadgen.wire.chat_fast_path import pattern_of, run_of
from loadgen.wire.chat_json import (
    COMPLETION_KEY,
    TOO_MANY_VALUES,
    VISIBLE_KEYS,
    cached_tokens_of,
    count_of,
    error_of,
    first_choice,
    has_hidden_text,
    has_too_many_values,
    mend,
    message_of,
    one_line,
    only_text_of,
    parse_object,
    timings_of,
    visible_text,
)
from loadgen.wire.sse import MAX_EVENT_BYTES, EventTooLong, Splitter, SseEvent, cut_at_events

_DONE: Final = b"[DONE]"
_DATA: Final = b"data: "
_MAX_MISSES: Final = 3
"""After this many events in a row whose pattern the next event did not have, patterns are no longer tried."""


class _OnlyText(Struct, frozen=True, gc=False):
    """The text of a token-bearing event that has no other text."""

    key: str
    """The key under which the text is: one of the delta, or `COMPLETION_KEY`."""
    text: str
    count: int | None
    """Output tokens so far, as the event's own usage counts them."""


class Completion(Struct, frozen=True):
    """The content of one body. Offsets are into the body, exclusive (see `loadgen.wire.sse`), and never decrease."""

    events: int
    """Events of any kind; 0 for a body that is no event stream."""
    token_ends: list[int]
    """Where each token-bearing event ends."""
    first_visible: int | None
    """The index in `token_ends` of the first event with visible content; None if there is none."""
    text: str
    """The visible content, joined; lone surrogates become U+FFFD."""
    text_sha256: str
    """The hash of the text's UTF-8, in hex."""
    tokens_per_event: list[int] | None
    """Output tokens of each token-bearing event, from its own `usage`. The first has all tokens up to it, also hidden
    ones. None if an event has no usage, or if the counts fall or stay 0."""
    prompt_tokens: int | None
    """From the last `usage` that has it; None if none has."""
    cached_tokens: int | None
    """How many tokens of the prompt were cached, from the last `usage` or `timings` that has it; None if none has."""
    output_tokens: int | None
    """From the last `usage` that has it; None if none has."""
    finish_reason: str | None
    """The first one, as the server spells it; None if there is none."""
    done: bool
    """Whether there was a `[DONE]`."""
    end_offset: int | None
    """Where the event of the orderly end ends; None without an orderly end."""
    timings: ServerTimings | None
    """The last timings of llama.cpp; None from other servers."""
    error: str | None
    """The first error event's message, one line of at most 300 characters."""
    malformed: str | None
    """What is wrong with the first event that is not UTF-8, not JSON, or too long, and its number from 1."""


class _Tokens:
    """The token-bearing events so far."""

    __slots__ = ("counts", "ends", "first_visible", "texts")

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.counts: list[int | None] = []  # output tokens so far, as each event's own usage counts them
        self.texts: list[str] = []  # the visible text in pieces; one piece may be that of several events
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
        self.end: int | None = None  # where the event of the orderly end ends
        self.error: str | None = None
        self.malformed: str | None = None

    def take_usage(self, usage: object) -> int | None:
        """Read the counts in a `usage`; returns that of the output tokens."""
        if not isinstance(usage, dict):
            return None
        prompt, output = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
        if prompt is not None:
            self.prompt_tokens = prompt
        if output is not None:
            self.output_tokens = output
        return output

    def add_malformed(self, number: int, reason: str) -> None:
        """Note that event `number`, from 1, is malformed. Ignored after the orderly end."""
        if self.malformed is None and self.end is None:
            self.malformed = f"event {number}: {reason}"


def decode(body: bytes) -> Completion:
    """Decode a whole body. Never raises: the Completion says what is wrong with the bytes."""
    decoder = Decoder()
    decoder.feed(body)
    return decoder.result()


class Decoder:
    """Decodes a body that is fed in pieces. Any split of a body gives the result of `decode`."""

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
        self._has_delta = False  # True once a `delta` has come: a `message` after it only repeats
        self._misses = 0  # how many events in a row had a pattern that the next one did not have

    @property
    def tokens(self) -> int:
        """Token-bearing events so far."""
        return len(self._tokens.ends)

    @property
    def orderly(self) -> bool:
        """Whether the orderly end has come. After it, nothing that the connection does changes the outcome."""
        return self._statements.end is not None

    @property
    def error(self) -> str | None:
        """The first error event's message, if it came before the orderly end."""
        return self._statements.error

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body. No bytes make it raise. Raises RuntimeError after `result` was called."""
        if self._closed:
            raise RuntimeError("the body has ended: result() was called")
        for piece in cut_at_events(data):
            self._take_piece(piece)

    def _take_piece(self, data: bytes) -> None:
        # In the middle of an event, only the splitter has its beginning.
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
            self._statements.add_malformed(self._events + 1, str(too_long))
            return
        for event in events:
            self._take(event)

    def result(self) -> Completion:
        """The content of the body, which has ended. May be called again."""
        if not self._closed:
            self._closed = True
            tail = self._splitter.finish()
            if self._events or tail is not None:  # the caller judges a body that is no event stream at all
                self._check_utf8(self._events + 1)
            if tail is not None and (tail.data.strip() == _DONE or parse_object(tail.data) is not None):
                self._take(tail)
        tokens, statements = self._tokens, self._statements
        # Joined before surrogates are mended, because servers cut an emoji in two, and each half alone would be lost.
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
        """Take the first events of `data` as long as each is one `data` line; returns how many bytes they are.

        The splitter would cut out the same events, more slowly.
        """
        complete = data.rfind(b"\n\n") + 2
        # Data with bad UTF-8, or that may be too long, is left to the splitter, which reports where that is.
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
        """Take the events from `at` on that differ only in their text from the one between `start` and `at`; returns
        where they end."""
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
        tokens.counts += [like.count] * len(run.ends)  # they differ only in their text, so their usage is the same
        if like.key in (*VISIBLE_KEYS, COMPLETION_KEY):
            tokens.texts.append(run.text)
        return run.ends[-1]

    def _take(self, event: SseEvent) -> _OnlyText | None:
        """Take an event. Returns its text if it is token-bearing and has no other text."""
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
        chunk = parse_object(data) if data else None
        if chunk is None:
            self._take_unparsed(event)
            return None
        # Usage and timings are read even after the orderly end, because servers send them in a last event of their own.
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
        """Take an event that is no JSON object. It is an error as plain text, empty, of another type, or malformed."""
        statements = self._statements
        if statements.end is not None:
            return
        if event.event == "error":
            statements.error = statements.error or one_line(event.data.decode("utf-8", "replace")) or "an error event"
        elif event.data.strip() and event.event == "message":
            reason = TOO_MANY_VALUES if has_too_many_values(event.data) else "not a JSON object"
            statements.add_malformed(self._events, reason)

    def _take_choice(self, choices: object, count: int | None, end: int) -> _OnlyText | None:
        choice = first_choice(choices)
        if choice is None:
            return None
        only: _OnlyText | None = None
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._has_delta = True
        else:
            delta = None if self._has_delta else message_of(choice)
        if delta is not None:
            tokens = self._tokens
            visible = visible_text(delta)
            if visible:
                if tokens.first_visible is None:
                    tokens.first_visible = len(tokens.ends)
                tokens.texts.append(visible)
            if visible or has_hidden_text(delta):
                tokens.ends.append(end)
                tokens.counts.append(count)
                if (text := only_text_of(delta, visible)) is not None:
                    key = text[0] if self._has_delta or "message" in choice else COMPLETION_KEY
                    only = _OnlyText(key, text[1], count)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            self._statements.finish_reason = mend(reason)
            self._statements.end = end
        return only

    def _check_utf8(self, number: int) -> None:
        bad_at = self._splitter.not_utf8_at
        if bad_at is not None:
            self._statements.add_malformed(number, f"not UTF-8 at byte {bad_at}")


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _differences(counts: list[int | None]) -> list[int] | None:
    """The tokens of each event, from cumulative counts. None if a count is missing, or if they fall or stay 0."""
    tokens: list[int] = []
    before = 0
    for count in counts:
        if count is None or count < before:
            return None
        tokens.append(count - before)
        before = count
    return tokens if before else None
