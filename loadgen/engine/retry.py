"""Whether a failed request is retried, after how long, and which reply its attempts make together. Pure."""

import msgspec
import numpy as np

from loadgen.record import Reply, ReplyFields
from loadgen.scenario import Retries


def is_last(retries: Retries, reply: ReplyFields) -> bool:
    """True if this attempt will not be retried: it was the last that is allowed, or is no failure to retry."""
    return reply.attempt >= retries.attempts or not is_retryable(retries.on, reply)


def wait_ns(retries: Retries, reply: Reply, chance: np.random.Generator) -> int:
    """How long after the end of an attempt the next one begins, ns.

    The wait is backoff_s · 2^attempt (the first attempt is number 0), or what the server's Retry-After asks for. A
    random part of up to `jitter` of that is added. It is never longer than max_backoff_s.
    """
    backoff_s = retries.backoff_s * 2.0**reply.attempt
    wait_s = backoff_s if reply.retry_after_s is None else reply.retry_after_s
    # Jitter only lengthens a wait, so that a server is never asked earlier than its Retry-After says, except when that
    # is above our maximum.
    longer = 1 + retries.jitter * float(chance.random())
    return round(min(wait_s * longer, retries.max_backoff_s) * 1e9)


def is_retryable(on: tuple[str, ...], reply: ReplyFields) -> bool:
    """Whether a reply is a failure that `on` names: by its outcome, or by its status, as `http_503` or `http_5xx`."""
    names: set[str] = {reply.outcome}
    if reply.outcome == "http_error" and reply.status is not None:
        names |= {f"http_{reply.status}", f"http_{reply.status // 100}xx"}
    return not names.isdisjoint(on)


def as_one(first: Reply, last: Reply, attempt: int) -> Reply:
    """The reply of a request that was sent several times: that of its last attempt, with the beginning of its first.

    So its latencies include the waits between attempts. attempt: the number of the last one.
    """
    if attempt == 0:
        return last
    # An attempt that got no connection was not sent. Its user has waited since it was dispatched.
    sent_ns = first.dispatched_ns if first.sent_ns is None else first.sent_ns
    return msgspec.structs.replace(
        last, dispatched_ns=first.dispatched_ns, sent_ns=sent_ns, attempt=attempt, attempt_ns=last.dispatched_ns
    )


def given_up(last: Reply, now_ns: int, why: str = "the run was stopped") -> Reply:
    """The reply of a request that waited for its next attempt when it was given up.

    last: the reply of its attempts so far. now_ns: since the run began. why: as text.
    """
    last_words = last.outcome if last.status is None else f"{last.outcome} {last.status}"
    return Reply(
        outcome="cancelled",
        detail=f"{why} before another attempt; the last one: {last_words}",
        dispatched_ns=last.dispatched_ns,
        sent_ns=last.sent_ns,
        held_ns=last.held_ns,
        end_ns=now_ns,
        attempt=last.attempt + 1,
    )


def cut_by_gap(reply: Reply, why: str) -> Reply:
    """The reply of a request during which nothing was run: its times are no latencies, however it ended. why: as
    text."""
    return msgspec.structs.replace(reply, outcome="cancelled", detail=why)
