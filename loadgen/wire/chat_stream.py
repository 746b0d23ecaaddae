"""Decodes one streamed OpenAI chat completion: a body in, one Completion out. Knows no socket and no clock.

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
"""

import hashlib
from typing import Any, Final

from msgspec import Struct

from loadgen.record import ServerTimings
from loadgen.wire.chat_fast_path import pattern_of, run_of
from loadgen.wire.chat_json import (
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
_MISSES: Final = 3
"""So many events without any of their pattern behind them, and none is looked for: each is of its own kind."""


class _OnlyText(Struct, frozen=True, gc=False):
    """The text of a token-bearing event that has but one, its key, and the count of tokens that came with it."""

    key: str
    text: str
    count: int | None


class Completion(Struct, frozen=True):
    """What one body said. Offsets are into the body, exclusive (`loadgen.wire.sse.Event.end`), and never decrease.

    events: events of any kind; 0 for a body that is no event stream.
    token_ends: the ends of the token-bearing events.
    first_visible: the index into `token_ends` of the first with visible content; None when none has.
    text: the visible content, joined; lone surrogates become U+FFFD. text_sha256: of its UTF-8, in hex.
    tokens_per_event: output tokens by token-bearing event, from the usage that each of them carried; the first has
        all tokens up to it, hidden ones too. None when one carried none, or the counts fall or stay 0.
    prompt_tokens, output_tokens: the last usage that told them; None when none did.
    finish_reason: the first one, as the server words it; None without.
    done: `[DONE]` was seen.
    end_offset: the end of the event that made the orderly end; None without.
    timings: llama.cpp's, the last; None elsewhere.
    error: the first error event's message, one line of at most 300 characters.
    malformed: what was wrong with the first event that was not UTF-8, not JSON, or too long, and its number from 1.
    """

    events: int
    token_ends: list[int]
    first_visible: int | None
    text: str
    text_sha256: str
    tokens_per_event: list[int] | None
    prompt_tokens: int | None
    output_tokens: int | None
    finish_reason: str | None
    done: bool
    end_offset: int | None
    timings: ServerTimings | None
    error: str | None
    malformed: str | None


def decode(body: bytes) -> Completion:
    """Decodes a whole body. Never raises: whatever is wrong with the bytes is in the Completion."""
    decoder = Decoder()
    decoder.feed(body)
    return decoder.result()


class Decoder:
    """Decodes a body fed in pieces: any split of it gives what `decode` gives of the whole."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = Splitter(max_event_bytes=max_event_bytes)
        self._closed = False
        self._events = 0
        self._token_ends: list[int] = []
        self._first_visible: int | None = None
        self._texts: list[str] = []
        self._has_delta = False
        self._counts: list[int | None] = []  # output tokens so far, as each token-bearing event told
        self._prompt_tokens: int | None = None
        self._output_tokens: int | None = None
        self._finish_reason: str | None = None
        self._done = False
        self._end: int | None = None
        self._timings: ServerTimings | None = None
        self._error: str | None = None
        self._malformed: str | None = None
        self._max_event_bytes = max_event_bytes
        self._misses = 0

    @property
    def tokens(self) -> int:
        """Token-bearing events so far."""
        return len(self._token_ends)

    @property
    def orderly(self) -> bool:
        """The orderly end has come: nothing that the connection does can spoil this answer."""
        return self._end is not None

    @property
    def error(self) -> str | None:
        """The first error event's message, if it came before the orderly end."""
        return self._error

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body. Bytes cannot make it raise; feeding after `result` is a RuntimeError."""
        if self._closed:
            raise RuntimeError("the body has ended: result() was called")
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
            self._refuse(self._events + 1, str(too_long))
            return
        for event in events:
            self._take(event)

    def result(self) -> Completion:
        """The body has ended: what it said. May be called again."""
        if not self._closed:
            self._closed = True
            tail = self._splitter.finish()
            if self._events or tail is not None:  # a body that is no event stream at all is not for us to judge
                self._check_utf8(self._events + 1)
            if tail is not None and (tail.data.strip() == _DONE or parse_object(tail.data) is not None):
                self._take(tail)
        text = mend("".join(self._texts))
        return Completion(
            events=self._events,
            token_ends=self._token_ends.copy(),
            first_visible=self._first_visible,
            text=text,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            tokens_per_event=_differences(self._counts),
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            finish_reason=self._finish_reason,
            done=self._done,
            end_offset=self._end,
            timings=self._timings,
            error=self._error,
            malformed=self._malformed,
        )

    def _take_plain(self, data: bytes) -> int:
        """Takes the events that `data` begins with and that are one `data` line each; returns their bytes.

        The splitter would find the same ones, and `_take` the same in them: this is a faster way to it.
        """
        whole = data.rfind(b"\n\n") + 2
        if whole < 2 or len(data) > self._max_event_bytes or not _is_utf8(data[:whole]):
            return 0
        at, offset = 0, self._splitter.offset
        while data.startswith(_DATA, at):
            end = data.find(b"\n\n", at)
            if end < 0:
                break
            block = data[at:end]
            if b"\n" in block or b"\r" in block:
                break
            text = self._take(SseEvent(block[len(_DATA) :], offset + end + 2))
            start, at = at, end + 2
            if text is not None and self._end is None and self._misses < _MISSES:
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
        self._token_ends += [offset + end for end in run.ends] if offset else run.ends
        self._counts += [like.count] * len(run.ends)
        if like.key == "content":
            self._texts.append(run.text)
        return run.ends[-1]

    def _take(self, event: SseEvent) -> _OnlyText | None:
        """Takes an event; returns the text that makes it a token-bearing one, if it is the only one in it."""
        self._events += 1
        if self._done:
            return None
        bad_at = self._splitter.not_utf8_at
        if bad_at is not None and bad_at < event.end:
            self._check_utf8(self._events)
        data = event.data.strip()
        if data == _DONE:
            self._done = True
            if self._end is None:
                self._end = event.end
            return None
        chunk = parse_object(data)
        if chunk is None:
            self._take_unparsed(event)
            return None
        usage = chunk.get("usage")
        count = None if usage is None else self._take_usage(usage)
        if "timings" in chunk:
            self._timings = timings_of(chunk["timings"]) or self._timings
        if self._end is not None:
            return None
        if self._error is None and ("error" in chunk or event.event == "error" or chunk.get("object") == "error"):
            self._error = error_of(chunk, event.event)
        return self._take_choice(chunk.get("choices"), count, event.end)

    def _take_unparsed(self, event: SseEvent) -> None:
        """An event that is no JSON object: an error in plain words, an empty one, one of another type, or a fault."""
        if self._end is not None:
            return
        if event.event == "error":
            self._error = self._error or one_line(event.data.decode("utf-8", "replace")) or "an error event"
        elif event.data.strip() and event.event == "message":
            self._refuse(self._events, "not a JSON object")

    def _take_usage(self, usage: object) -> int | None:
        """Keeps the counts that `usage` tells, and returns that of output tokens."""
        if not isinstance(usage, dict):
            return None
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if is_count(prompt):
            self._prompt_tokens = prompt
        if not is_count(output):
            return None
        self._output_tokens = output
        return output

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
            content = delta.get("content")
            visible = content if isinstance(content, str) else joined_parts(content)
            if visible:
                if self._first_visible is None:
                    self._first_visible = len(self._token_ends)
                self._texts.append(visible)
            if visible or has_hidden_text(delta):
                self._token_ends.append(end)
                self._counts.append(count)
                only = _only_text(delta, visible, count)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            self._finish_reason = mend(reason)
            self._end = end
        return only

    def _check_utf8(self, number: int) -> None:
        bad_at = self._splitter.not_utf8_at
        if bad_at is not None:
            self._refuse(number, f"not UTF-8 at byte {bad_at}")

    def _refuse(self, number: int, why: str) -> None:
        if self._malformed is None and self._end is None:
            self._malformed = f"event {number}: {why}"


def _only_text(delta: dict[str, Any], visible: str, count: int | None) -> _OnlyText | None:
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
