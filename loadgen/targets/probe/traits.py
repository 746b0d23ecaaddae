"""What one body shows beside its answer: role events, keep-alives, reasoning. Bytes in; knows no socket, no clock."""

import re
from typing import Final

from msgspec import Struct

from loadgen.wire.chat_json import COMPLETION_KEY, count_of, first_choice, has_reasoning, parse_object
from loadgen.wire.sse import EventTooLong, Splitter, SseEvent

_COMMENT: Final = re.compile(rb"(?:\A|\r\n|\n|\r):")


class Traits(Struct, frozen=True):
    """What a stream has beside its text."""

    role_event: bool
    """Whether an event of its own, before the first token, has the role."""
    keep_alives: int
    """Comment lines before the first token."""
    reasoning_events: int
    """Events that bear reasoning."""
    reasoning_tokens: int | None
    """How many `usage` says were spent on reasoning; None when it does not say."""
    completion_text: bool = False
    """Whether a choice has its text as a completion has it, and no delta."""


def traits_of(body: bytes, first_token_end: int | None) -> Traits:
    """The traits of a body. first_token_end: the offset after the first token-bearing event; None: there was none.

    Never raises: what cannot be read is passed over.
    """
    before = len(body) if first_token_end is None else first_token_end
    role, reasoning, completion_text = False, 0, False
    tokens: int | None = None
    for event in _events(body):
        chunk = parse_object(event.data) or {}
        choice = first_choice(chunk.get("choices")) or {}
        delta = choice.get("delta")
        completion_text = completion_text or (not isinstance(delta, dict) and bool(choice.get(COMPLETION_KEY)))
        delta = delta if isinstance(delta, dict) else {}
        ahead = event.end < before or first_token_end is None
        role = role or (ahead and isinstance(delta.get("role"), str))
        reasoning += has_reasoning(delta)
        counted = _reasoning_tokens(chunk.get("usage"))
        tokens = tokens if counted is None else counted
    return Traits(role, len(_COMMENT.findall(body[:before])), reasoning, tokens, completion_text)


def _events(body: bytes) -> list[SseEvent]:
    splitter = Splitter()
    try:
        events = splitter.feed(body)
    except EventTooLong as too_long:
        return list(too_long.events)
    tail = splitter.finish()
    return [*events, tail] if tail is not None else events


def _reasoning_tokens(usage: object) -> int | None:
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    return count_of(details.get("reasoning_tokens")) if isinstance(details, dict) else None
