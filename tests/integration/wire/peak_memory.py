"""Asks a server for answers, one after the other, and prints what each came to and how much memory it took.

A process of its own, whose memory nothing else takes. `python -m tests.integration.wire.peak_memory URL MIB COUNT
WORDS…`: MIB is how long an answer may be, COUNT how many of each are asked for at once. Prints a JSON list of (outcome,
detail, growth of the peak in MiB), of the last of each.
"""

import asyncio
import ctypes
import gc
import resource
import sys
from pathlib import Path

import msgspec

from loadgen.clock import now_ns
from loadgen.record import Reply
from loadgen.wire import client as client_module
from loadgen.wire import receiver, stamps
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply


def peak_mib() -> float:
    """The most memory that the process has had, since the last `forget_peak` where the system can forget it."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    # Not `ru_maxrss`: on Linux it begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / (1 << 10)


def forget_peak() -> None:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # what was freed goes back to the system, or the next answer would take it unseen
            trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")


async def ask(client: Client, url: str, words: str) -> Reply:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": words}]})
    request = ChatRequest(f"{url}/chat/completions", body, {}, Deadlines(60_000_000_000), streams=words != "whole")
    exchange = await client.send(request, now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=0, keep_text=True)[0]


async def main(url: str, mib: str, count: str, *all_words: str) -> None:
    for module in (client_module, receiver, stamps):
        vars(module)["ANSWER_BYTES"] = int(mib) << 20
    rows = []
    gc.disable()  # as during a stage: answers are to be gone without it
    forget_peak()
    before = peak_mib()
    async with Client() as client:
        for words in all_words:
            replies = await asyncio.gather(*(ask(client, url, words) for _ in range(int(count))))
            reply, outcomes = replies[-1], sorted({reply.outcome for reply in replies})
            rows.append((" and ".join(outcomes), reply.detail, round(peak_mib() - before, 1)))
            del reply, replies
            await asyncio.sleep(0)  # the event loop drops the call that ended the answer, and with it the answer
            forget_peak()
    sys.stdout.buffer.write(msgspec.json.encode(rows))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
