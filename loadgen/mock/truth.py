"""What the server did, by its own clock: one line a chat request, and an account of all. Knows no socket."""

import math

from msgspec import Struct, field


class Truth(Struct, kw_only=True):
    """One chat request and what became of it. All `_ns` on `time.perf_counter_ns`: one clock for all processes here.

    number: of the chat requests, from 1, in the order in which they were read. connection: the number of its
        connection, from 0. nth: of the requests on that connection, from 0.
    model: what it asked for. stream: whether it asked for a stream. prompt_tokens: words of its messages.
    status: of the answer; None when no headers were sent.
    arrived_ns: when the request's last byte had reached this machine, by the kernel; where it does not say, read_ns.
    read_ns: when the server had it. began_ns: when it had its slot; None when it was refused or left the queue.
    head_ns: just before the send of the headers; None when none were sent.
    planned_ns: when each token event was due. stamps_ns: just before the send of the last byte of each; of both, one a
        token event, and one in all for an answer that is no stream. held: how many of them the client's slow reading
        kept back; they have their stamps from before.
    end_ns: just before the send of the orderly end. sent_ns: just after the send of the last byte. gone_ns: the client
        went before that. None: it did not happen.
    finish_reason: as the stream said it. output_tokens: how many were sent. text_sha256: of their text, in UTF-8.
    fault: the one that was played, with its parameter; None without. error: why a request was refused.
    """

    number: int
    connection: int
    nth: int
    model: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    status: int | None = None
    arrived_ns: int
    read_ns: int
    began_ns: int | None = None
    head_ns: int | None = None
    planned_ns: list[int] = []
    stamps_ns: list[int] = []
    held: int = 0
    end_ns: int | None = None
    sent_ns: int | None = None
    gone_ns: int | None = None
    finish_reason: str | None = None
    output_tokens: int = 0
    text_sha256: str | None = None
    fault: str | None = None
    error: str | None = None

    @property
    def queue_ns(self) -> int | None:
        """How long it waited for its slot, ns; None when it got none."""
        return None if self.began_ns is None else self.began_ns - self.arrived_ns


class Account(Struct, kw_only=True):
    """What a server did from its start to its end.

    chats: chat requests. others: all other requests. connections: that were accepted. tokens: that were sent.
    faults: how often each was played. refused: by a full queue. gone: clients that went before their answer's end.
    slips: how late token events were sent, by the server's own schedule: microseconds (of 1,024 ns) -> events. Those
        that waited for a client to read are not among them. requests: the truth of each chat, where it was kept.
    """

    chats: int = 0
    others: int = 0
    connections: int = 0
    tokens: int = 0
    refused: int = 0
    gone: int = 0
    faults: dict[str, int] = {}
    slips: dict[int, int] = {}
    requests: list[Truth] = field(default_factory=list)

    def slip_ms(self, p: float) -> float | None:
        """The p-th percentile of the lateness, ms, nearest-rank, within 2 µs; 100 is the largest. None without any."""
        events = sum(self.slips.values())
        rank = max(1, math.ceil(p / 100 * events))
        for late in sorted(self.slips):
            rank -= self.slips[late]
            if rank <= 0:
                return late * 1024 / 1e6
        return None
