"""Whether a request that failed is asked again, and after how long; and what all of its attempts come to. Pure: knows
no socket, and of the time only what it is told."""

import msgspec
import numpy as np

from loadgen.record import Reply
from loadgen.scenario import Retries


def is_last(retries: Retries, reply: Reply) -> bool:
    """Whether nothing is asked again after an attempt: it was no failure that is named, or there are no more."""
    return reply.attempt >= retries.attempts or not is_met(retries.on, reply)


def wait_ns(retries: Retries, reply: Reply, chance: np.random.Generator) -> int:
    """How long after the end of an attempt, which was not the last, the next one is made, ns.

    The wait is backoff_s · 2^attempt (the first is number 0), or what the server's Retry-After asks for, and up to
    `jitter` of it longer, by chance; never longer than max_backoff_s.
    """
    backoff_s = retries.backoff_s * 2.0**reply.attempt
    wait_s = backoff_s if reply.retry_after_s is None else reply.retry_after_s
    # Chance only adds to a wait: a server that says when to come back is not asked before that, but for our maximum.
    longer = 1 + retries.jitter * float(chance.random())
    return round(min(wait_s * longer, retries.max_backoff_s) * 1e9)


def is_met(on: tuple[str, ...], reply: Reply) -> bool:
    """Whether a reply is one of the failures that are named: an outcome, or `http_503`, `http_5xx` by its status."""
    names: set[str] = {reply.outcome}
    if reply.outcome == "http_error" and reply.status is not None:
        names |= {f"http_{reply.status}", f"http_{reply.status // 100}xx"}
    return not names.isdisjoint(on)


def as_one(first: Reply, last: Reply, attempt: int) -> Reply:
    """What a request came to that was asked several times: the reply of its last attempt, begun when the first was.

    So its latencies, its queue and its place in the loop have the waits in them. attempt: the number of the last one.
    """
    if attempt == 0:
        return last
    # An attempt that found no connection was not sent; the user has been waiting since it was dispatched.
    sent_ns = first.dispatched_ns if first.sent_ns is None else first.sent_ns
    return msgspec.structs.replace(
        last, dispatched_ns=first.dispatched_ns, sent_ns=sent_ns, attempt=attempt, attempt_ns=last.dispatched_ns
    )


def given_up(last: Reply, now_ns: int) -> Reply:
    """What a request came to that waited for another attempt when the run was stopped, ns of the run.

    last: what came of the attempts that were made.
    """
    why = last.outcome if last.status is None else f"{last.outcome} {last.status}"
    return Reply(
        outcome="cancelled",
        detail=f"the run was stopped before another attempt; the last one: {why}",
        dispatched_ns=last.dispatched_ns,
        sent_ns=last.sent_ns,
        held_ns=last.held_ns,
        end_ns=now_ns,
        attempt=last.attempt + 1,
    )
