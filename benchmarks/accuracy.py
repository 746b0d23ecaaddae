"""How far our stamps are from the truth, and what they cost, beside a plain aiohttp loop on the same streams.

    python benchmarks/accuracy.py [--streams 1,16,64,200] [--together]

A server in a process of its own streams at known times and keeps its own account: when a request had arrived (by its
kernel), and the moment just before each token's send. Every request and every token is compared with it, one by one.
Our kernel and user stamps are of the same reads; the plain loop is a run of its own, right after ours.
"""

import argparse
import asyncio
import gc
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the scripted server is the tests' own

from loadgen.clock import now_ns, process_cpu_ns, wall_offset_ns
from loadgen.measure import host
from loadgen.wire.chat import decode
from loadgen.wire.client import Ask, Client
from loadgen.wire.exchange import Deadlines, Exchange
from loadgen.wire.reply import Stamps, read_reply
from tests.integration.server import Served, ServerProcess, Ticking

TOKENS: Final = 40
FIRST_S: Final = 0.2
GAP_S: Final = 0.05
ROUNDS: Final = 2
RAMP_IN_S: Final = 1.0
PATIENT: Final = Deadlines(request_ns=60_000_000_000)

Read = tuple[int, int, int]
Ns = NDArray[np.int64]


class Seen(Struct, frozen=True):
    """What a client saw of one request: its body, and its reads (bytes so far, user stamp, kernel's wall stamp or 0).

    sent_ns, written_ns: on the machine's clock.
    """

    body: bytes
    reads: list[Read]
    sent_ns: int
    written_ns: int


class Played(Struct, frozen=True):
    """One client's run. cpu_us: CPU time a token, all told. after_us: of it, what reading the ended replies took."""

    seen: list[Seen]
    told: dict[int, Served]
    cpu_us: float
    after_us: float = 0.0


class Cost(Struct):
    """CPU time, ns, of a closed loop and of what is done after each stream in it."""

    all_ns: int = 0
    after_ns: int = 0


PlayClient = Callable[[str, int, Cost], Awaitable[list[Seen]]]


async def closed_loop(streams: int, chat: Callable[[], Awaitable[None]], cost: Cost) -> None:
    """So many users, spread over a ramp-in, who each ask `ROUNDS` times."""

    async def user(index: int) -> None:
        await asyncio.sleep(RAMP_IN_S * index / streams)
        for _ in range(ROUNDS):
            await chat()

    gc.collect()
    gc.disable()
    began_ns = process_cpu_ns()
    await asyncio.gather(*(user(index) for index in range(streams)))
    cost.all_ns = process_cpu_ns() - began_ns
    gc.enable()


async def play_ours(url: str, streams: int, cost: Cost) -> list[Seen]:
    """Our client and the decoding of its replies, as a run does it."""
    exchanges: list[Exchange] = []
    offset_ns = wall_offset_ns()
    async with Client() as client:
        await client.open_connections(f"{url}/models", streams, {})

        async def chat() -> None:
            exchange = await client.send(Ask(f"{url}/chat/completions", b"{}", {}, PATIENT), now_ns())
            ended_ns = now_ns()
            reply, _ = read_reply(exchange, epoch_ns=0, wall_offset_ns=offset_ns)
            cost.after_ns += now_ns() - ended_ns
            if reply.outcome != "ok":
                raise SystemExit(f"a request ended as {reply.outcome}: {reply.detail}")
            exchanges.append(exchange)

        await closed_loop(streams, chat, cost)
    return [
        Seen(each.body(), each.marks.reads, each.marks.first_write_ns or 0, each.marks.written_ns or 0)
        for each in exchanges
    ]


async def play_plain(url: str, streams: int, cost: Cost) -> list[Seen]:
    """What one writes without further thought: a stamp for every piece that `iter_any` gives."""
    seen: list[Seen] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def touch() -> None:
            async with session.get(f"{url}/models") as response:
                await response.read()

        await asyncio.gather(*(touch() for _ in range(streams)))

        async def chat() -> None:
            sent_ns = now_ns()
            async with session.post(f"{url}/chat/completions", data=b"{}") as response:
                pieces = [(now_ns(), piece) async for piece in response.content.iter_any()]
            sizes = np.cumsum([len(piece) for _, piece in pieces])
            reads = [(int(size), stamp_ns, 0) for size, (stamp_ns, _) in zip(sizes, pieces, strict=True)]
            seen.append(Seen(b"".join(piece for _, piece in pieces), reads, sent_ns, sent_ns))

        await closed_loop(streams, chat, cost)
    return seen


def played(client: PlayClient, streams: int, *, together: bool) -> Played:
    """One client against a fresh server."""
    cost = Cost()

    async def main(url: str) -> list[Seen]:
        return await client(url, streams, cost)

    with ServerProcess(Ticking(tokens=TOKENS, first_s=FIRST_S, gap_s=GAP_S, together=together)) as server:
        seen = asyncio.run(main(server.url))
    tokens = streams * ROUNDS * TOKENS
    told = {request.number: request for request in server.chats}
    return Played(seen, told, cost.all_ns / tokens / 1e3, cost.after_ns / tokens / 1e3)


def errors_ms(run: Played, *, kernel: bool) -> dict[str, NDArray[np.float64]]:
    """Reported minus true, sample by sample. kernel: by the kernel's stamps, else by those taken in Python."""
    offset_ns = wall_offset_ns()
    found: dict[str, list[Ns]] = {"TTFT": [], "service TTFT": [], "ITL": []}
    for one in run.seen:
        reads = one.reads if kernel else [(size, user_ns, 0) for size, user_ns, _ in one.reads]
        completion = decode(one.body)
        stamps = np.array(Stamps(reads, 0, offset_ns).at(completion.token_ends)[0], dtype=np.int64)
        truth = run.told[int(completion.text.split()[0])]
        sent = np.array(truth.tokens_ns, dtype=np.int64)
        true_ttft = sent[:1] - truth.arrived_ns
        found["TTFT"].append(stamps[:1] - one.sent_ns - true_ttft)
        found["service TTFT"].append(stamps[:1] - one.written_ns - true_ttft)
        found["ITL"].append(np.diff(stamps) - np.diff(sent))
    return {name: np.concatenate(values) / 1e6 for name, values in found.items()}


def spread(errors: NDArray[np.float64]) -> str:
    """p50, p99 and maximum of the errors' sizes, in ms."""
    sizes = np.sort(np.abs(errors))
    ranks = [sizes[math.ceil(share * len(sizes)) - 1] for share in (0.5, 0.99, 1.0)]
    return " ".join(f"{size:8.3f}" for size in ranks)


def print_level(streams: int, *, together: bool) -> None:
    """One level of streams: our stamps of either kind, and the plain loop."""
    ours, plain = (played(client, streams, together=together) for client in (play_ours, play_plain))
    rows = [("loadgen, user stamps", ours, False), ("plain aiohttp", plain, False)]
    if all(wall_ns for one in ours.seen for _, _, wall_ns in one.reads):
        rows.insert(0, ("loadgen, kernel stamps", ours, True))
    for name, run, kernel in rows:
        errors = errors_ms(run, kernel=kernel)
        print(f"{streams:>7}  {name:<22} " + " | ".join(spread(values) for values in errors.values()))
    print(
        f"{'':>7}  CPU a token: loadgen {ours.cpu_us:.1f} µs ({ours.after_us:.1f} of it decoding the ended answers), "
        f"plain aiohttp {plain.cpu_us:.1f} µs: ratio {ours.cpu_us / plain.cpu_us:.2f}, "
        f"{(ours.cpu_us - ours.after_us) / plain.cpu_us:.2f} while streaming; "
        f"the truth itself is within {truth_width_ms(ours):.3f} ms (p99)\n",
        flush=True,
    )


def truth_width_ms(run: Played) -> float:
    """How long the server's send calls took, p99: a token left it somewhere in between."""
    widths: Sequence[int] = sorted(
        after - before for told in run.told.values() for before, after in zip(told.tokens_ns, told.sent_ns, strict=True)
    )
    return widths[math.ceil(0.99 * len(widths)) - 1] / 1e6


def print_machine() -> None:
    """What these numbers depend on, and would be others with."""
    machine, load = host.host(), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print("Depends on (compare only with runs on the same):")
    for name, value in machine.items():
        print(f"  {name}: {value}")
    print(f"  versions: {host.versions()}")
    print(f"  load of the machine before: {'not known' if load is None else f'{load:.2f}'}")
    cores = os.cpu_count() or 1
    if cores < 4:
        print(
            f"  {cores} cores for client, server and everything else: the maxima are the scheduler's, not the client's"
        )
    if sys.platform != "linux":
        print("  no kernel stamps on this system: there are user stamps only")


def main() -> None:
    parser = argparse.ArgumentParser(description="Our stamps and their cost against a server's own account.")
    parser.add_argument("--streams", default="1,16,64,200", help="so many at once: 1,16,64,200")
    parser.add_argument("--together", action="store_true", help="all streams' tokens come at the same moments")
    given = parser.parse_args()
    levels = [int(level) for level in given.streams.split(",")]
    print_machine()
    began_s = time.perf_counter()
    pace = "all together" if given.together else "staggered"
    print(f"\nStreams of {TOKENS} tokens, TTFT {FIRST_S * 1e3:g} ms, ITL {GAP_S * 1e3:g} ms, {pace}.")
    print("Size of the error (reported minus true), ms: p50, p99, maximum\n")
    heads = " | ".join(f"{name:^26}" for name in ("TTFT", "service TTFT", "ITL"))
    print(f"streams  {'stamps':<22} {heads}")
    for level in levels:
        print_level(level, together=given.together)
    print(f"done in {time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
