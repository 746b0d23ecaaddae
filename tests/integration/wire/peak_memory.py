"""Asks a server for answers, one after the other, and prints what each came to and how much memory it took.

A process of its own: the peak of a process's memory never falls. `python -m tests.integration.wire.peak_memory URL
WORDS…`; prints a JSON list of (outcome, detail, growth of the peak in MiB).
"""

import asyncio
import resource
import sys

import msgspec

from loadgen.clock import now_ns
from loadgen.record import Reply
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


async def ask(client: Client, url: str, words: str) -> Reply:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": words}]})
    request = ChatRequest(f"{url}/chat/completions", body, {}, Deadlines(60_000_000_000), streams=words != "whole")
    exchange = await client.send(request, now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=0, keep_text=True)[0]


async def main(url: str, *all_words: str) -> None:
    before, rows = peak_mib(), []
    async with Client() as client:
        for words in all_words:
            reply = await ask(client, url, words)
            rows.append((reply.outcome, reply.detail, round(peak_mib() - before, 1)))
    sys.stdout.buffer.write(msgspec.json.encode(rows))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
