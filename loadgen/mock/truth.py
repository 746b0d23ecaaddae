"""What the server did, by its own clock: one line a chat request, and an account of all. Knows no socket."""

import math

from msgspec import Struct, field


class Truth(Struct, kw_only=True):
    """One chat request and what became of it.

    All `_ns` on `time.perf_counter_ns`: one clock for all processes here. A moment that is None did not happen.
    """

    number: int
    """Of the chat requests, from 1, in the order in which they were read."""
    connection: int
    """The number of its connection, from 0."""
    nth: int
    """Of the requests on that connection, from 0."""
    model: str = ""
    """The model that it asked for."""
    stream: bool = False
    """Whether it asked for a stream."""
    prompt_tokens: int = 0
    """Words of its messages."""
    status: int | None = None
    """Of the answer; None when no headers were sent."""
    arrived_ns: int
    """When the request's last byte had reached this machine, by the kernel; where it does not say, read_ns."""
    read_ns: int
    """When the server had read it."""
    began_ns: int | None = None
    """When it had its slot; None when it was refused or left the queue."""
    head_ns: int | None = None
    """Just before the send of the headers."""
    planned_ns: list[int] = []
    """When each token event was due; for an answer that is no stream, one in all."""
    stamps_ns: list[int] = []
    """Just before the send of the last byte of each."""
    held: int = 0
    """How many of the events the client's slow reading kept back; they have their stamps from before."""
    end_ns: int | None = None
    """Just before the send of the orderly end."""
    sent_ns: int | None = None
    """Just after the send of the last byte."""
    gone_ns: int | None = None
    """When the client went before that."""
    finish_reason: str | None = None
    """As the stream gave it."""
    output_tokens: int = 0
    """How many were sent."""
    text_sha256: str | None = None
    """Of their text, in UTF-8."""
    fault: str | None = None
    """The one that was played, with its parameter; None without."""
    error: str | None = None
    """Why a request was refused."""

    @property
    def queue_ns(self) -> int | None:
        """How long it waited for its slot, ns; None when it got none."""
        return None if self.began_ns is None else self.began_ns - self.arrived_ns


class Account(Struct, kw_only=True):
    """What a server did from its start to its end."""

    chats: int = 0
    """Chat requests."""
    others: int = 0
    """All other requests."""
    connections: int = 0
    """Connections that were accepted."""
    tokens: int = 0
    """Tokens that were sent."""
    refused: int = 0
    """Requests that a full queue turned away."""
    gone: int = 0
    """Clients that went before their answer's end."""
    faults: dict[str, int] = {}
    """How often each was played."""
    slips: dict[int, int] = {}
    """How late token events were sent, by the server's own schedule: microseconds (of 1,024 ns) -> events. Those that
    waited for a client to read are not among them."""
    requests: list[Truth] = field(default_factory=list)
    """The truth of each chat, where it was kept."""

    def slip_ms(self, p: float) -> float | None:
        """The p-th percentile of the lateness, ms, nearest-rank, within 2 µs; 100 is the largest. None without any."""
        events = sum(self.slips.values())
        rank = max(1, math.ceil(p / 100 * events))
        for late in sorted(self.slips):
            rank -= self.slips[late]
            if rank <= 0:
                return late * 1024 / 1e6
        return None
