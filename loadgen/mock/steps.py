"""An answer, step by step: what is sent next, and when the step after it is due. Knows no socket.

A step is a function of the answer and the moment at which it was due. It sends, stamps, and returns the next moment;
None when the answer is over, or waits for something other than time. Moments are absolute, so lateness does not add up.
"""

import math
from itertools import islice
from typing import Final

from loadgen.mock import wording
from loadgen.mock.answer import BROKEN, HELD, NEVER, WENT, Answer, Step
from loadgen.mock.distribution import values
from loadgen.mock.fault import AFTER
from loadgen.mock.wording import PIECES, pieces_of
from loadgen.plan.rng import generator

_COUNT: Final = len(PIECES)
_MANY: Final = 1 << 20


def begin(answer: Answer, base_ns: int) -> int | None:
    """It has its slot: times count from `base_ns`. Returns when the next step is due."""
    script, fault, kind = answer.floor.script, answer.fault, answer.kind
    if fault is not None and kind == "slow-headers":
        answer.played()
        base_ns += round(fault.parameter * 1e9)
    _take_course(answer)
    ttft_s = next(values(script.ttft_s, script.seed, "mock", "ttft", answer.number))
    if script.prefill_per_s is not None:
        ttft_s += answer.truth.prompt_tokens / script.prefill_per_s
    first_ns = base_ns + round(ttft_s * 1e9)
    if not answer.chat.stream:
        answer.step = send_whole
        return answer.floor.aligned_ns(first_ns + _gap_ns(answer, max(0, min(answer.tokens, _MANY) - 1)))
    answer.first_ns = answer.floor.aligned_ns(first_ns + _gap_ns(answer, answer.batch - 1))
    if fault is not None and kind in ("reset", "fin", "stall") and fault.parameter == 0:
        answer.step = answer.turn  # what goes wrong before anything is sent goes wrong before the headers
        return answer.first_ns
    if kind == "slow-headers":
        answer.step = send_head
        return base_ns
    return send_head(answer, base_ns)


def _take_course(answer: Answer) -> None:
    """How long the answer is, and where it leaves its ordinary course."""
    fault, kind, batch = answer.fault, answer.kind, answer.floor.script.tokens_per_event
    if fault is None:
        answer.stop_at = answer.tokens
    elif kind == "empty":
        answer.tokens = answer.turn_at = 0
        answer.turn = send_end
    elif kind == "endless":
        answer.played()
        answer.tokens = 1 << 62
    elif kind in AFTER:
        answer.turn = TURNS[fault.kind]
        answer.turn_at = min(int(fault.parameter), math.ceil(answer.tokens / batch))
    else:
        answer.stop_at = answer.tokens
        answer.split = int(fault.parameter) if kind == "split" else NEVER
    answer.batch = min(batch, max(1, answer.tokens))


def _following_ns(due_ns: int, answer: Answer) -> int:
    """When the event after one that was due at `due_ns` is."""
    return answer.floor.aligned_ns(due_ns + _gap_ns(answer, answer.batch))


def _gap_ns(answer: Answer, tokens: int) -> int:
    """The time of the answer's next `tokens` tokens after another, with as many streams as there are now."""
    floor = answer.floor
    gap_s = next(answer.gaps) if tokens == 1 else sum(islice(answer.gaps, tokens))
    return int(gap_s * floor.pace_ns() + 0.5)


# The steps of a stream


def send_head(answer: Answer, due_ns: int) -> int | None:
    floor, truth = answer.floor, answer.truth
    data = wording.stream_head(answer.framing)
    if floor.script.role_event:
        data += answer.framing.frame(answer.words.role())
    truth.status = 200
    truth.head_ns = floor.now_ns()
    answer.line.send(data)
    answer.step = send_token
    keepalive_ns = floor.keepalive_ns
    if keepalive_ns and due_ns + keepalive_ns < answer.first_ns:
        answer.step = send_comment
        return due_ns + keepalive_ns
    return answer.first_ns


def send_comment(answer: Answer, due_ns: int) -> int | None:
    answer.line.send(answer.framing.frame(wording.COMMENT))
    following_ns = due_ns + answer.floor.keepalive_ns
    if following_ns < answer.first_ns:
        return following_ns
    answer.step = send_token
    return answer.first_ns


def send_token(answer: Answer, due_ns: int) -> int | None:
    """The hot path: what is measured with this server is as fine as these lines are quick."""
    if answer.events == answer.turn_at:
        return answer.turn(answer, due_ns)
    floor, truth, start, count = answer.floor, answer.truth, answer.sent, answer.batch
    ordinary = count == 1 and start
    text = PIECES[(answer.number + start) % _COUNT] if ordinary else pieces_of(answer.number, start, count)
    data = answer.framing.frame(answer.words.tokens(text))
    event_end = len(data) - 2 if answer.framing.chunked else len(data)
    answer.sent = sent = start + count
    answer.events += 1
    if sent == answer.stop_at:
        data += ending(answer)
    if answer.split == NEVER:
        stamp_ns = floor.now_ns()  # and at once the send, with nothing in between
        went = answer.line.send(data)
    else:
        stamp_ns, went = send_split(answer, data, event_end)
    if went == BROKEN:
        answer.sent, answer.events = start, answer.events - 1
        return None
    truth.planned_ns.append(due_ns)
    truth.stamps_ns.append(stamp_ns)
    floor.slips[(stamp_ns - due_ns) >> 10] += 1
    if sent == answer.stop_at:
        finish(answer, stamp_ns)
        return None
    if count != 1:
        answer.batch = min(floor.script.tokens_per_event, max(1, answer.tokens - sent))
    following_ns = _following_ns(due_ns, answer)
    if went == HELD:
        truth.held += 1
        answer.parked_ns = following_ns
        return None
    return following_ns


def ending(answer: Answer) -> bytes:
    """The end of a stream, in its chunks."""
    kind, words, framing = answer.kind, answer.words, answer.framing
    data = b"" if kind == "no-end" else framing.frame(words.finish(answer.reason))
    usage = answer.floor.script.usage
    if usage == "always" or (usage == "asked" and answer.chat.asks_for_usage):
        data += framing.frame(words.usage(answer.truth.prompt_tokens, answer.sent))
    if kind in ("no-end", "no-done"):
        answer.played()
    else:
        data += framing.frame(wording.DONE)
    return data + framing.end


def finish(answer: Answer, end_ns: int) -> None:
    """The end is sent: the answer is over."""
    if answer.kind != "no-end":
        answer.truth.end_ns = end_ns
        answer.truth.finish_reason = answer.reason
    answer.floor.over(answer)


def send_split(answer: Answer, data: bytes, event_end: int) -> tuple[int, int]:
    """Sends in pieces; returns the moment before the one that held byte `event_end - 1`, and how it went."""
    answer.played()
    if answer.split == 0:
        cuts = list(range(1, len(data)))
    else:
        chance = generator(answer.floor.script.seed, "mock", "split", answer.number, answer.events)
        most = min(answer.split - 1, len(data) - 1)
        cuts = sorted((1 + chance.choice(len(data) - 1, most, replace=False)).tolist())
    stamp_ns, went, start = 0, WENT, 0
    for cut in [*cuts, len(data)]:
        if start < event_end <= cut:
            stamp_ns = answer.floor.now_ns()
        went = min(went, answer.line.send(data[start:cut]))
        start = cut
    return stamp_ns, went


# The turns that a stream may take


def send_end(answer: Answer, _: int) -> None:
    if answer.kind == "empty":
        answer.played()
    data, end_ns = ending(answer), answer.floor.now_ns()
    if answer.line.send(data) != BROKEN:
        finish(answer, end_ns)


def play_fin(answer: Answer, _: int) -> None:
    answer.played()
    answer.floor.over(answer, then=answer.line.close)


def play_reset(answer: Answer, _: int) -> None:
    answer.played()
    answer.floor.over(answer, then=answer.line.reset)


def play_stall(answer: Answer, _: int) -> None:
    """Nothing more, until the client goes. The slot stays taken."""
    answer.played()


def play_cut_chunk(answer: Answer, _: int) -> None:
    """Half of what its size promises, and a FIN."""
    answer.played()
    data = answer.framing.frame(answer.words.tokens(pieces_of(answer.number, answer.sent, 1)))
    answer.line.send(data[: len(data) // 2])
    answer.floor.over(answer, then=answer.line.close)


def play_malformed(answer: Answer, due_ns: int) -> int | None:
    """An event whose JSON breaks off; then the stream goes on as if nothing had been."""
    answer.played()
    answer.line.send(answer.framing.frame(answer.words.broken(pieces_of(answer.number, answer.sent, 1))))
    answer.turn, answer.turn_at, answer.stop_at = send_end, NEVER, answer.tokens
    if answer.sent >= answer.tokens:
        send_end(answer, due_ns)
        return None
    return _following_ns(due_ns, answer)


def play_error_event(answer: Answer, _: int) -> None:
    """An error in the stream, and the body's end, without a finish reason or `[DONE]`."""
    answer.played()
    broken = wording.event(wording.error_body("the model has failed, as it was told to", "server_error"))
    answer.line.send(answer.framing.frame(broken) + answer.framing.end)
    answer.floor.over(answer)


TURNS: Final[dict[str | None, Step]] = {
    "fin": play_fin,
    "reset": play_reset,
    "stall": play_stall,
    "cut-chunk": play_cut_chunk,
    "malformed": play_malformed,
    "error-event": play_error_event,
}


# An answer that is no stream


def send_whole(answer: Answer, due_ns: int) -> None:
    """The whole answer at once, at the time of its last token; or what goes wrong in its place."""
    kind = answer.kind
    if kind == "endless":
        play_stall(answer, due_ns)
        return
    if kind in ("fin", "reset", "stall"):
        TURNS[kind](answer, due_ns)
        return
    truth, number = answer.truth, answer.number
    text = pieces_of(number, 0, answer.tokens)
    body = wording.completion(
        number, answer.chat.model, answer.floor.created, text, answer.reason, truth.prompt_tokens, answer.tokens
    )
    if kind == "malformed":
        body = body[: len(body) // 2]
    elif kind == "error-event":
        body = wording.json_bytes(wording.error_body("the model has failed, as it was told to", "server_error"))
    if kind in ("malformed", "error-event", "cut-chunk", "empty"):
        answer.played()
    data = wording.whole(200, body, lasts=answer.framing.lasts)
    if kind == "cut-chunk":
        data = data[: len(data) - len(body) // 2]
    truth.status = 200
    truth.head_ns = stamp_ns = answer.floor.now_ns()
    if answer.split == NEVER:
        went = answer.line.send(data)
    else:
        stamp_ns, went = send_split(answer, data, len(data))
    if went == BROKEN:
        return
    if kind in ("malformed", "error-event", "cut-chunk"):
        answer.floor.over(answer, then=answer.line.close if kind == "cut-chunk" else None)
        return
    answer.sent = answer.tokens
    truth.planned_ns.append(due_ns)
    truth.stamps_ns.append(stamp_ns)
    answer.floor.slips[(stamp_ns - due_ns) >> 10] += 1
    finish(answer, stamp_ns)
