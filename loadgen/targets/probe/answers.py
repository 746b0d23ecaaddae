"""What a stage's own streamed answers show about their server. Sends nothing; knows no plan."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from loadgen.record import Reply, TokenSource
from loadgen.targets.probe.traits import Traits, traits_of
from loadgen.wire.chat_stream import decode

if TYPE_CHECKING:  # a report reads what was found, and imports no client
    from loadgen.wire.exchange import Exchange

SAMPLED_ANSWERS: Final = 8
"""How many of a model's first answers in a stage are examined. More would hardly show anything else."""
MAX_BODY_BYTES: Final = 256 << 10
"""Longer bodies are left out, so that the sampler needs little memory."""


class StreamAnswer(Struct, frozen=True):
    """One streamed answer with an orderly end, with tokens or without."""

    wait_ns: int | None
    """The time from the request's last byte to the first token; None if either is not known."""
    events: int
    """How many events have tokens."""
    output_tokens: int | None
    token_source: TokenSource
    finish_reason: str | None
    characters: int
    """The length of the visible text."""
    traits: Traits


ORDERLY: Final = frozenset({"ok", "empty"})
"""Outcomes of an answer with an orderly end, with tokens or without."""

StreamAnswers = dict[int, tuple[StreamAnswer, ...]]
"""By the model's index in the plan."""


def stream_answer(reply: Reply, traits: Traits, characters: int) -> StreamAnswer:
    """The `StreamAnswer` of a reply, which must have an orderly end."""
    wait_ns = reply.stamps_ns[0] - reply.written_ns if reply.stamps_ns and reply.written_ns is not None else None
    return StreamAnswer(
        wait_ns=wait_ns,
        events=len(reply.stamps_ns),
        output_tokens=reply.output_tokens,
        token_source=reply.token_source,
        finish_reason=reply.finish_reason,
        characters=characters,
        traits=traits,
    )


def merge_answers(parts: Iterable[StreamAnswers]) -> StreamAnswers:
    """The answers of several stages, or of several processes that shared one."""
    together: StreamAnswers = {}
    for part in parts:
        for model, answers in part.items():
            together[model] = (*together.get(model, ()), *answers)
    return together


class AnswerSampler:
    """Keeps the bodies of a stage's first answers while it is played, and parses them when it is over.

    Keeping a body costs only a reference. Parsing it takes a millisecond, for which other requests would wait if it
    were done on the event loop during the stage.
    """

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[Reply, bytes]]] = {}

    def take(self, model: int, exchange: "Exchange", reply: Reply) -> None:
        """Keep a reply and its body, if it is one of the model's first answers with an orderly end."""
        held = self._held.setdefault(model, [])
        if len(held) >= SAMPLED_ANSWERS or not exchange.request.streams or reply.outcome not in ORDERLY:
            return
        body = exchange.body()
        if len(body) <= MAX_BODY_BYTES:
            held.append((reply, body))

    def answers(self) -> StreamAnswers:
        """What the answers show, by model. Call it when the stage is over."""
        return {model: tuple(_read(reply, body) for reply, body in held) for model, held in self._held.items() if held}


def _read(reply: Reply, body: bytes) -> StreamAnswer:
    completion = decode(body)
    traits = traits_of(body, next(iter(completion.token_ends), None))
    return stream_answer(reply, traits, len(completion.text))
