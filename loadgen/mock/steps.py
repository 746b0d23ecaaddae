"""The steps of an answer: what each one sends, and when the next one is due. Knows no socket.

A step is a function of the answer and its due time. It sends, stamps, and returns the next due time; None if the answer
is over, or waits for something other than time. Due times are absolute, so lateness does not add up.
"""

import math
from itertools import islice
from typing import Final

from loadgen.mock import wording
from loadgen.mock.answer import BROKEN, HELD, NEVER, SENT, Answer, Step
from loadgen.mock.distribution import values
from loadgen.mock.fault import AFTER
from loadgen.mock.wording import PIECES, pieces_of
from loadgen.plan.rng import generator

SCRIPTED_ERROR: Final = "scripted fault error-event"
"""The message of an error event, so that a reader of a log sees that the script asks for it."""
_PIECE_COUNT: Final = len(PIECES)
_MAX_DRAWN_GAPS: Final = 1 << 20


def start(answer: Answer, base_ns: int) -> int | None:
    """Begin an answer that has its slot. Times count from `base_ns`. Returns when the next step is due."""
    script, fault, kind = answer.server.script, answer.fault, answer.fault_kind
    if fault is not None and kind == "slow-headers":
        answer.record_fault()
        base_ns += round(fault.parameter * 1e9)
    _plan_answer(answer)
    ttft_s = next(values(script.ttft_s, script.seed, "mock", "ttft", answer.number))
    if script.prefill_per_s is not None:
        ttft_s += answer.truth.prompt_tokens / script.prefill_per_s
    first_ns = base_ns + round(ttft_s * 1e9)
    if not answer.chat.stream:
        answer.step = send_complete
        return answer.server.aligned_ns(first_ns + _gap_ns(answer, max(0, min(answer.tokens, _MAX_DRAWN_GAPS) - 1)))
    answer.first_ns = answer.server.aligned_ns(first_ns + _gap_ns(answer, answer.batch - 1))
    if fault is not None and kind in ("reset", "fin", "stall") and fault.parameter == 0:
        answer.step = answer.fault_step  # what goes wrong before anything is sent goes wrong before the headers
        return answer.first_ns
    if kind == "slow-headers":
        answer.step = send_head
        return base_ns
    return send_head(answer, base_ns)


def _plan_answer(answer: Answer) -> None:
    """Decide the length of the answer, and the event at which its fault comes."""
    fault, kind, batch = answer.fault, answer.fault_kind, answer.server.script.tokens_per_event
    if fault is None:
        answer.stop_at = answer.tokens
    elif kind == "empty":
        answer.tokens = answer.fault_event = 0
        answer.fault_step = send_end
    elif kind == "endless":
        answer.record_fault()
        answer.tokens = 1 << 62
    elif kind in AFTER:
        answer.fault_step = FAULT_STEPS[fault.kind]
        answer.fault_event = min(int(fault.parameter), math.ceil(answer.tokens / batch))
    else:
        answer.stop_at = answer.tokens
        answer.split = int(fault.parameter) if kind == "split" else NEVER
    answer.batch = min(batch, max(1, answer.tokens))


def _next_event_ns(due_ns: int, answer: Answer) -> int:
    """When the next event is due after one that was due at `due_ns`."""
    return answer.server.aligned_ns(due_ns + _gap_ns(answer, answer.batch))


def _gap_ns(answer: Answer, tokens: int) -> int:
    """The time for the answer's next `tokens` tokens, with the current number of streams."""
    server = answer.server
    gap_s = next(answer.gaps) if tokens == 1 else sum(islice(answer.gaps, tokens))
    return int(gap_s * server.ns_per_gap_second() + 0.5)


# The steps of a stream


def send_head(answer: Answer, due_ns: int) -> int | None:
    server, truth = answer.server, answer.truth
    data = wording.stream_head(answer.framing)
    if server.script.role_event:
        data += answer.framing.frame(answer.events_text.role())
    truth.status = 200
    truth.head_ns = server.now_ns()
    answer.sender.send(data)
    answer.step = send_token
    keepalive_ns = server.keepalive_ns
    if keepalive_ns and due_ns + keepalive_ns < answer.first_ns:
        answer.step = send_comment
        return due_ns + keepalive_ns
    return answer.first_ns


def send_comment(answer: Answer, due_ns: int) -> int | None:
    answer.sender.send(answer.framing.frame(wording.COMMENT))
    next_ns = due_ns + answer.server.keepalive_ns
    if next_ns < answer.first_ns:
        return next_ns
    answer.step = send_token
    return answer.first_ns


def send_token(answer: Answer, due_ns: int) -> int | None:
    """Send a token event. This is the hot path; its speed limits the precision of the server's stamps."""
    if answer.events == answer.fault_event:
        return answer.fault_step(answer, due_ns)
    server, truth, start, count = answer.server, answer.truth, answer.sent, answer.batch
    ordinary = count == 1 and start
    text = PIECES[(answer.number + start) % _PIECE_COUNT] if ordinary else pieces_of(answer.number, start, count)
    data = answer.framing.frame(answer.events_text.token(text))
    event_end = len(data) - 2 if answer.framing.chunked else len(data)
    answer.sent = sent = start + count
    answer.events += 1
    if sent == answer.stop_at:
        data += end_bytes(answer)
    if answer.split == NEVER:
        stamp_ns = server.now_ns()  # the send must follow at once, with nothing in between
        result = answer.sender.send(data)
    else:
        stamp_ns, result = send_split(answer, data, event_end)
    if result == BROKEN:
        answer.sent, answer.events = start, answer.events - 1
        return None
    truth.planned_ns.append(due_ns)
    truth.stamps_ns.append(stamp_ns)
    server.slips[(stamp_ns - due_ns) >> 10] += 1
    if sent == answer.stop_at:
        finish(answer, stamp_ns)
        return None
    if count != 1:
        answer.batch = min(server.script.tokens_per_event, max(1, answer.tokens - sent))
    next_ns = _next_event_ns(due_ns, answer)
    if result == HELD:
        truth.held += 1
        answer.held_step_ns = next_ns
        return None
    return next_ns


def end_bytes(answer: Answer) -> bytes:
    """The end of a stream, in its chunks."""
    kind, words, framing = answer.fault_kind, answer.events_text, answer.framing
    data = b"" if kind == "no-end" else framing.frame(words.finish(answer.finish_reason))
    usage = answer.server.script.usage
    if usage == "always" or (usage == "asked" and answer.chat.asks_for_usage):
        data += framing.frame(words.usage(answer.truth.prompt_tokens, answer.sent))
    if kind in ("no-end", "no-done"):
        answer.record_fault()
    else:
        data += framing.frame(wording.DONE)
    return data + framing.end


def finish(answer: Answer, end_ns: int) -> None:
    """The end has been sent, so the answer is over."""
    if answer.fault_kind != "no-end":
        answer.truth.end_ns = end_ns
        answer.truth.finish_reason = answer.finish_reason
    answer.server.release(answer)


def send_split(answer: Answer, data: bytes, event_end: int) -> tuple[int, int]:
    """Send in pieces. Returns the time before the piece with byte `event_end - 1`, and the result of the send."""
    answer.record_fault()
    if answer.split == 0:
        cuts = list(range(1, len(data)))
    else:
        chance = generator(answer.server.script.seed, "mock", "split", answer.number, answer.events)
        most = min(answer.split - 1, len(data) - 1)
        cuts = sorted((1 + chance.choice(len(data) - 1, most, replace=False)).tolist())
    stamp_ns, result, start = 0, SENT, 0
    for cut in [*cuts, len(data)]:
        if start < event_end <= cut:
            stamp_ns = answer.server.now_ns()
        result = min(result, answer.sender.send(data[start:cut]))
        start = cut
    return stamp_ns, result


# Faults of a stream


def send_end(answer: Answer, _: int) -> None:
    if answer.fault_kind == "empty":
        answer.record_fault()
    data, end_ns = end_bytes(answer), answer.server.now_ns()
    if answer.sender.send(data) != BROKEN:
        finish(answer, end_ns)


def play_fin(answer: Answer, _: int) -> None:
    answer.record_fault()
    answer.server.release(answer, then=answer.sender.close)


def play_reset(answer: Answer, _: int) -> None:
    answer.record_fault()
    answer.server.release(answer, then=answer.sender.reset)


def play_stall(answer: Answer, _: int) -> None:
    """Send nothing more until the client leaves. The slot stays taken."""
    answer.record_fault()


def play_cut_chunk(answer: Answer, _: int) -> None:
    """Send half of the bytes that the chunk's size announces, and a FIN."""
    answer.record_fault()
    data = answer.framing.frame(answer.events_text.token(pieces_of(answer.number, answer.sent, 1)))
    answer.sender.send(data[: len(data) // 2])
    answer.server.release(answer, then=answer.sender.close)


def play_malformed(answer: Answer, due_ns: int) -> int | None:
    """Send an event whose JSON breaks off; then the stream continues."""
    answer.record_fault()
    answer.sender.send(
        answer.framing.frame(answer.events_text.truncated_token(pieces_of(answer.number, answer.sent, 1)))
    )
    answer.fault_step, answer.fault_event, answer.stop_at = send_end, NEVER, answer.tokens
    if answer.sent >= answer.tokens:
        send_end(answer, due_ns)
        return None
    return _next_event_ns(due_ns, answer)


def play_error_event(answer: Answer, _: int) -> None:
    """Send an error in the stream, and the body's end, without a finish reason or `[DONE]`."""
    answer.record_fault()
    broken = wording.event(wording.error_body(SCRIPTED_ERROR, "server_error"))
    answer.sender.send(answer.framing.frame(broken) + answer.framing.end)
    answer.server.release(answer)


FAULT_STEPS: Final[dict[str | None, Step]] = {
    "fin": play_fin,
    "reset": play_reset,
    "stall": play_stall,
    "cut-chunk": play_cut_chunk,
    "malformed": play_malformed,
    "error-event": play_error_event,
}


# An answer that is not streamed


def send_complete(answer: Answer, due_ns: int) -> None:
    """Send the complete answer at the time of its last token, or play its fault instead."""
    kind = answer.fault_kind
    if kind == "endless":
        play_stall(answer, due_ns)
        return
    if kind in ("fin", "reset", "stall"):
        FAULT_STEPS[kind](answer, due_ns)
        return
    truth, number = answer.truth, answer.number
    text = pieces_of(number, 0, answer.tokens)
    body = wording.completion(
        number, answer.chat.model, answer.server.created, text, answer.finish_reason, truth.prompt_tokens, answer.tokens
    )
    if kind == "malformed":
        body = body[: len(body) // 2]
    elif kind == "error-event":
        body = wording.json_bytes(wording.error_body(SCRIPTED_ERROR, "server_error"))
    if kind in ("malformed", "error-event", "cut-chunk", "empty"):
        answer.record_fault()
    data = wording.response(200, body, answer.framing)
    if kind == "cut-chunk":
        data = data[: len(data) - len(body) // 2]
    truth.status = 200
    truth.head_ns = stamp_ns = answer.server.now_ns()
    if answer.split == NEVER:
        result = answer.sender.send(data)
    else:
        stamp_ns, result = send_split(answer, data, len(data))
    if result == BROKEN:
        return
    if kind in ("malformed", "error-event", "cut-chunk"):
        answer.server.release(answer, then=answer.sender.close if kind == "cut-chunk" else None)
        return
    answer.sent = answer.tokens
    truth.planned_ns.append(due_ns)
    truth.stamps_ns.append(stamp_ns)
    answer.server.slips[(stamp_ns - due_ns) >> 10] += 1
    finish(answer, stamp_ns)
