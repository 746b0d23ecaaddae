"""Clients of token streams as one writes them without further thought: with aiohttp, httpx, and the OpenAI SDK.

    python clients.py CLIENT URL STREAMS ASKS RAMP_IN_S SEEN

Needs nothing but the client's own package. A closed loop of STREAMS users who each ask ASKS times. SEEN gets a line a
request: its number, when it was sent, 0, and a stamp for each token (ns of `time.perf_counter_ns`).
"""

import asyncio
import bisect
import importlib
import itertools
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ASK = {
    "model": "m",
    "messages": [{"role": "user", "content": "Tick."}],
    "max_tokens": 4096,
    "stream": True,
    "stream_options": {"include_usage": True},
}
Answer = tuple[int, int, list[int]]
"""Number, sent, stamps."""


async def closed_loop(streams: int, asks: int, ramp_in_s: float, chat: Callable[[], Awaitable[None]]) -> None:
    async def user(index: int) -> None:
        await asyncio.sleep(ramp_in_s * index / streams)
        for _ in range(asks):
            await chat()

    await asyncio.gather(*(user(index) for index in range(streams)))


async def play_aiohttp(url: str, streams: int, asks: int, ramp_in_s: float) -> list[Answer]:
    """A stamp for each piece that `iter_any` gives; nothing is parsed until the run is over. The defaults, but for
    the limit of 100 connections, which would make it another load."""
    aiohttp = importlib.import_module("aiohttp")
    answers: list[tuple[int, list[tuple[int, bytes]]]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def chat() -> None:
            sent = time.perf_counter_ns()
            pieces: list[tuple[int, bytes]] = []
            async with session.post(f"{url}/chat/completions", json=ASK) as response:
                async for piece in response.content.iter_any():
                    pieces.append((time.perf_counter_ns(), piece))  # noqa: PERF401  as one writes it
            answers.append((sent, pieces))

        await closed_loop(streams, asks, ramp_in_s, chat)
    return [mapped(sent, pieces) for sent, pieces in answers]


def mapped(sent: int, pieces: list[tuple[int, bytes]]) -> Answer:
    """Each token's stamp: that of the piece with its event's last byte."""
    body = b"".join(piece for _, piece in pieces)
    sizes = list(itertools.accumulate(len(piece) for _, piece in pieces))
    events = list(re.finditer(rb'"content":\s*"(.*?)".*?\n\n', body))
    stamps = [pieces[bisect.bisect_left(sizes, event.end())][0] for event in events]
    return int(events[0][1]), sent, stamps


async def play_httpx(url: str, streams: int, asks: int, ramp_in_s: float) -> list[Answer]:
    """`aiter_lines`, and each event parsed as it comes."""
    httpx = importlib.import_module("httpx")
    answers: list[Answer] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def chat() -> None:
            sent = time.perf_counter_ns()
            texts, stamps = [], []
            async with client.stream("POST", f"{url}/chat/completions", json=ASK) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        stamps.append(time.perf_counter_ns())
                        texts.append(choices[0]["delta"]["content"])
            answers.append((int(texts[0]), sent, stamps))

        await closed_loop(streams, asks, ramp_in_s, chat)
    return answers


async def play_openai(url: str, streams: int, asks: int, ramp_in_s: float) -> list[Answer]:
    """The OpenAI SDK: `async for chunk in stream`."""
    openai = importlib.import_module("openai")
    answers: list[Answer] = []
    asked: Any = ASK
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def chat() -> None:
            sent = time.perf_counter_ns()
            texts, stamps = [], []
            async for chunk in await client.chat.completions.create(**asked):
                if chunk.choices and chunk.choices[0].delta.content:
                    stamps.append(time.perf_counter_ns())
                    texts.append(chunk.choices[0].delta.content)
            answers.append((int(texts[0]), sent, stamps))

        await closed_loop(streams, asks, ramp_in_s, chat)
    return answers


CLIENTS = {"aiohttp": play_aiohttp, "httpx": play_httpx, "openai": play_openai}


def main() -> None:
    client, url, streams, asks, ramp_in_s, path = sys.argv[1:]
    answers = asyncio.run(CLIENTS[client](url, int(streams), int(asks), float(ramp_in_s)))
    lines = (" ".join(map(str, (number, sent, 0, *stamps))) for number, sent, stamps in answers)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
