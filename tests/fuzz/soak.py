"""A million streamed token events with faults mixed in: every request is accounted for, and memory stays where it was.

python -m tests.fuzz.soak [EVENTS]      1,000,000 unless told otherwise; exit 1 when it does not hold
"""

import asyncio
import contextlib
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import psutil
from msgspec import Struct

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.mock import Every, Exponential, Fault, FixedTime, MockProcess, Script
from loadgen.mock.truth import Truth
from loadgen.record import Outcome, Reply
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply

TOKENS: Final = 100
"""Of an answer that nothing goes wrong with."""
AT_A_TIME: Final = 64
FAULTS: Final = (
    Fault("reset", 7, Every(11)),
    Fault("fin", 3, Every(13)),
    Fault("cut-chunk", 5, Every(17)),
    Fault("malformed", 4, Every(19)),
    Fault("error-event", 2, Every(23)),
    Fault("status", 429, Every(29)),
    Fault("status", 500, Every(31)),
    Fault("html", 0, Every(37)),
    Fault("empty", 0, Every(41)),
    Fault("no-end", 0, Every(43)),
    Fault("no-done", 0, Every(7)),
    Fault("split", 3, Every(47)),
)
OUTCOMES: Final[dict[str, Outcome]] = {
    "reset": "truncated",
    "fin": "truncated",
    "cut-chunk": "truncated",
    "malformed": "malformed",
    "error-event": "stream_error",
    "status": "http_error",
    "html": "not_streamed",
    "empty": "empty",
    "no-end": "truncated",
    "no-done": "ok",
    "split": "ok",
}
WARM_SHARE: Final = 0.2
"""So much of the soak goes by before memory is looked at: pools fill, and modules are loaded at the first fault."""
MOST_GROWTH: Final = 0.05


class Soaked(Struct):
    """What came of it. replies, truths: how many of each (outcome, token events, SHA-256 of the text). rss: MiB, as it
    went on, from the end of the warm-up."""

    requests: int
    events: int
    seconds: float
    replies: Counter[tuple[Outcome, int, str | None]]
    truths: Counter[tuple[Outcome, int, str | None]]
    rss: list[float]

    @property
    def growth(self) -> float:
        """The largest of the last quarter of the samples over the largest of the first, less one."""
        quarter = max(1, len(self.rss) // 4)
        return max(self.rss[-quarter:]) / max(self.rss[:quarter]) - 1

    @property
    def outcomes(self) -> Counter[Outcome]:
        found: Counter[Outcome] = Counter()
        for (outcome, _, _), count in self.replies.items():
            found[outcome] += count
        return found


def soak(events: int) -> Soaked:
    """Stream at least so many token events from a server in a process of its own, and hear what it says it did."""
    script = Script(seed=1, ttft_s=Exponential(0.002), itl_s=FixedTime(0.0002), tokens=FixedTime(TOKENS), faults=FAULTS)
    began = time.monotonic()
    with MockProcess(script) as server, _only_what_is_new_is_collected():
        soaked = asyncio.run(_stream(server.url, events))
    soaked.seconds = time.monotonic() - began
    soaked.truths = Counter(map(_of_truth, server.truth))
    return soaked


@contextlib.contextmanager
def _only_what_is_new_is_collected() -> Iterator[None]:
    """Before each look at memory, garbage is collected; what was there before the soak is not searched each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _stream(url: str, events: int) -> Soaked:
    soaked = Soaked(0, 0, 0.0, Counter(), Counter(), [])
    process = psutil.Process()
    every = max(1, events // 200)
    sample_at = round(events * WARM_SHARE)

    async def user(client: Client) -> None:
        nonlocal sample_at
        while soaked.events < events:
            reply = await _asked(client, url)
            soaked.requests += 1
            soaked.events += len(reply.stamps_ns)
            soaked.replies[reply.outcome, len(reply.stamps_ns), reply.text_sha256] += 1
            if soaked.events >= sample_at:
                gc.collect()
                soaked.rss.append(process.memory_info().rss / 2**20)
                sample_at = soaked.events + every

    async with Client() as client:
        await asyncio.gather(*(user(client) for _ in range(AT_A_TIME)))
        assert client.in_flight == 0
    return soaked


async def _asked(client: Client, url: str) -> Reply:
    body = b'{"model":"mock","stream":true,"messages":[{"role":"user","content":"a"}]}'
    request = ChatRequest(f"{url}/chat/completions", body, {}, Deadlines(request_ns=60_000_000_000))
    exchange = await client.send(request, now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns())[0]


def _of_truth(truth: Truth) -> tuple[Outcome, int, str | None]:
    kind = (truth.fault or "no-done").partition(":")[0]
    events = len(truth.stamps_ns)
    return OUTCOMES[kind], events, truth.text_sha256 if events else None


def main() -> int:
    soaked = soak(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    rate = soaked.events / soaked.seconds
    print(
        f"{soaked.events:,} token events in {soaked.requests:,} requests, {soaked.seconds:.0f} s, {rate:,.0f} a second"
    )
    print(", ".join(f"{outcome} {count:,}" for outcome, count in soaked.outcomes.most_common()))
    same = soaked.replies == soaked.truths
    print("every request as the server tells it" if same else f"not as the server tells it: {_apart(soaked)}")
    first, last = soaked.rss[0], soaked.rss[-1]
    print(f"memory {first:.1f} MiB after the warm-up, {last:.1f} at the end, {soaked.growth:+.1%} (at most 5 %)")
    return 0 if same and soaked.growth <= MOST_GROWTH else 1


def _apart(soaked: Soaked) -> str:
    ours, theirs = soaked.replies - soaked.truths, soaked.truths - soaked.replies
    return f"we have {ours.most_common(5)}, it has {theirs.most_common(5)}"


if __name__ == "__main__":
    sys.exit(main())
