"""The log of what the server did, by its own clock: one line per chat request, and an account of all. Knows no
socket."""

import math

from msgspec import Struct, field


class Truth(Struct, kw_only=True):
    """One chat request and how it ended.

    All `_ns` values are on `time.perf_counter_ns`, the same clock in all processes of a machine. None means that the
    event did not happen.
    """

    number: int
    """The number of the chat request, from 1, in the order in which the server read them."""
    connection: int
    """The number of its connection, from 0."""
    nth: int
    """The number of the request on that connection, from 0."""
    model: str = ""
    """The model that it asked for."""
    stream: bool = False
    """Whether it asked for a stream."""
    prompt_tokens: int = 0
    """The number of words in its messages."""
    status: int | None = None
    """The status of the answer; None if no headers were sent."""
    arrived_ns: int
    """When the request's last byte reached this machine, by the kernel's stamp; read_ns if there is none."""
    read_ns: int
    """When the server had read the request."""
    began_ns: int | None = None
    """When the request got its slot; None if it was refused or left the queue."""
    head_ns: int | None = None
    """Just before the send of the headers."""
    planned_ns: list[int] = []
    """When each token event was due; an answer that is not streamed has one entry."""
    stamps_ns: list[int] = []
    """Just before the send of the last byte of each token event."""
    held: int = 0
    """How many events were delayed because the client read slowly; their stamps are from before the delay."""
    end_ns: int | None = None
    """Just before the send of the orderly end."""
    sent_ns: int | None = None
    """Just after the send of the last byte."""
    gone_ns: int | None = None
    """When the client left before that."""
    finish_reason: str | None = None
    """The finish reason that the stream sent."""
    output_tokens: int = 0
    """The number of tokens that were sent."""
    text_sha256: str | None = None
    """Of their text, in UTF-8."""
    fault: str | None = None
    """The fault that was played, with its parameter; None if there was none."""
    error: str | None = None
    """Why a request was refused."""

    @property
    def queue_ns(self) -> int | None:
        """How long it waited for its slot, ns; None if it got none."""
        return None if self.began_ns is None else self.began_ns - self.arrived_ns


class Account(Struct, kw_only=True):
    """The totals of a server from its start to its end."""

    chats: int = 0
    """Chat requests."""
    others: int = 0
    """All other requests."""
    connections: int = 0
    """Connections that were accepted."""
    tokens: int = 0
    """Tokens that were sent."""
    queue_full: int = 0
    """Requests that were refused because the queue was full."""
    clients_left: int = 0
    """Clients that left before the end of their answer."""
    faults: dict[str, int] = {}
    """How often each fault was played."""
    slips: dict[int, int] = {}
    """The lateness of token events relative to the server's own schedule: microseconds (of 1,024 ns) -> events, without
    those that waited for a client to read."""
    requests: list[Truth] = field(default_factory=list)
    """The truth of each chat, if it was kept."""

    def slip_ms(self, p: float) -> float | None:
        """The p-th percentile of the lateness, ms, nearest rank, within 2 µs; 100 is the maximum. None without
        events."""
        events = sum(self.slips.values())
        rank = max(1, math.ceil(p / 100 * events))
        for late in sorted(self.slips):
            rank -= self.slips[late]
            if rank <= 0:
                return late * 1024 / 1e6
        return None
