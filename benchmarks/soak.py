"""What a soak costs beside a run: 100 million tokens through the log in segments, the fold and the windows.

    python benchmarks/soak.py [--tokens 100000000] [--streams 200]

A night of eight hours is made up, the same every time: so many streams, answers of 100 to 900 tokens, a few failures.
Its records go to the sinks of a soak as they would during one, second by second. No server is asked and nothing waits,
so it takes minutes. Then a part of it goes both to the sinks of a run and to those of a soak, in turn and in this
process, each as received bytes that are parsed first. Exit code 1 when a limit is crossed.
"""

import argparse
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psutil
from msgspec import Struct

from loadgen.clock import SYSTEM_CLOCK
from loadgen.engine.soak.segments import SegmentLog, SegmentSettings
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.soak.windows import WindowSettings, WindowSink
from loadgen.live.lines import ProgressLines
from loadgen.live.sink import MeasuringStart, Sinks, StageStart
from loadgen.plan.rng import generator
from loadgen.record import Record, StageFacts, StageKey, record_of
from loadgen.scenario import Slo
from loadgen.store.events import EventLog
from loadgen.store.run_folder import RequestLog
from loadgen.store.windows import HISTOGRAMS, WindowLog, read_windows
from loadgen.telemetry.observer import Observer
from loadgen.wire.exchange import ChatRequest, Deadlines, Exchange
from loadgen.wire.reply import read_reply

MAX_RSS_MIB: Final = 150.0
MAX_GROWTH_MIB: Final = 8.0
"""After the first tenth."""
MAX_BEYOND_US: Final = 2.0
"""A token, beyond what a run takes."""
MAX_HLOG_MB: Final = 10.0
"""A night and model."""
NIGHT_S: Final = 8 * 3600
WINDOW_NS: Final = 60_000_000_000
S: Final = 1_000_000_000
MS: Final = 1_000_000
SEED: Final = 1
BLOCK: Final = 1_000
MEAN_TOKENS: Final = 500
BUDGET_BYTES: Final = 2 << 30
FAILED_SHARE: Final = 0.01
COMPARED_TOKENS: Final = 1_000_000
ROUNDS: Final = 5
BLANK: Final = Record(
    outcome="ok",
    status=200,
    stamp_source="kernel",
    prompt_tokens=100,
    token_source="usage",
    finish_reason="stop",
    model="m",
    target="t",
    level="c200",
    index=0,
    phase="measured",
    prompt_id="p",
    intended_ns=0,
)


class Night(Struct, frozen=True):
    """What a night of so many tokens took."""

    tokens: int
    requests: int
    cpu_us: float
    """A token, of all sinks together, and of what they have compressed beside them."""
    rss_mib: tuple[float, ...]
    """At each hundredth of the tokens."""
    hlog_mb: float
    folder_mb: float
    windows: int
    collector_ms: float
    """The longest garbage collection between two windows."""

    @property
    def growth_mib(self) -> float:
        """By how much the most memory after the first tenth was above the most within it. It comes and goes by some
        MiB, with the records that wait to be folded and the segment that is compressed."""
        tenth = max(1, len(self.rss_mib) // 10)
        return max(self.rss_mib[tenth:]) - max(self.rss_mib[:tenth])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--streams", type=int, default=200)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        ratio, run_us, soak_us = compare(folder / "compared", asked.streams)
        night = play_night(folder / "night", asked.tokens, asked.streams)
    finally:
        shutil.rmtree(folder)
    print(f"{night.tokens:,} tokens in {night.requests:,} requests, {night.windows} windows of {NIGHT_S // 3600} h")
    print(f"sinks of a soak         {night.cpu_us:6.2f} µs a token")
    print(f"memory                  {max(night.rss_mib):6.0f} MiB (limit {MAX_RSS_MIB:g})")
    print(f"  more after a tenth    {night.growth_mib:6.1f} MiB (limit {MAX_GROWTH_MIB:g})")
    print(f"histograms.hlog         {night.hlog_mb:6.1f} MB a model (limit {MAX_HLOG_MB:g})")
    print(f"run folder              {night.folder_mb:6.0f} MB")
    print(f"garbage collection      {night.collector_ms:6.1f} ms at most between two windows")
    print(f"parsing and sinks       {run_us:6.2f} µs a token in a run, {soak_us:.2f} in a soak: {ratio:.2f} times")
    print(f"  beyond a run          {soak_us - run_us:6.2f} µs a token (limit {MAX_BEYOND_US:g})")
    crossed = {
        "memory": max(night.rss_mib) > MAX_RSS_MIB,
        "growth of memory": night.growth_mib > MAX_GROWTH_MIB,
        "histograms.hlog": night.hlog_mb > MAX_HLOG_MB,
        "cost beyond a run": soak_us - run_us > MAX_BEYOND_US,
    }
    for name in (name for name, is_crossed in crossed.items() if is_crossed):
        print(f"limit crossed: {name}")
    return 1 if any(crossed.values()) else 0


def records(tokens: int, streams: int) -> Iterator[Record]:
    """The records of a night, in the order in which their requests end, one stream after the other in turn."""
    rng = generator(SEED, "soak")
    requests = max(1, tokens // MEAN_TOKENS)
    every_ns = NIGHT_S * S / requests
    for first in range(0, requests, BLOCK):
        counts = rng.integers(100, 2 * MEAN_TOKENS - 100, BLOCK, endpoint=True)
        gaps_ns = (rng.gamma(20.0, streams * every_ns / MEAN_TOKENS / 20.0, int(counts.sum()))).astype(np.int64)
        fails = rng.random(BLOCK) < FAILED_SHARE
        at = 0
        for index in range(first, min(first + BLOCK, requests)):
            count = int(counts[index - first])
            end_ns = round((index + 1) * every_ns)
            stamps = end_ns - gaps_ns[at : at + count].sum() + np.cumsum(gaps_ns[at : at + count])
            at += count
            yield record_at(index, tuple(stamps.tolist()), end_ns, "timeout" if fails[index - first] else "ok")


def record_at(index: int, stamps_ns: tuple[int, ...], end_ns: int, outcome: str) -> Record:
    sent_ns = stamps_ns[0] - 200 * MS
    return msgspec.structs.replace(
        BLANK,
        outcome=outcome,
        index=index,
        intended_ns=sent_ns - 40_000,
        dispatched_ns=sent_ns - 20_000,
        sent_ns=sent_ns,
        written_ns=sent_ns + 50_000,
        end_ns=end_ns,
        last_byte_ns=end_ns,
        first_visible_ns=stamps_ns[0],
        stamps_ns=stamps_ns,
        output_tokens=len(stamps_ns),
    )


def stage_of(streams: int) -> StageStart:
    return StageStart(
        models=("m",),
        targets=("t",),
        level="c200",
        latency_origin="sent",
        count=None,
        duration_s=float(NIGHT_S),
        users=streams,
    )


class SoakSinks:
    """The sinks of a soak, in their order."""

    def __init__(self, folder: Path, streams: int) -> None:
        folder.mkdir(parents=True)
        settings = WindowSettings(WINDOW_NS, Slo(ttft_ms=300.0))
        self._windows = WindowLog(folder, time.time())
        events = EventLog(folder, SYSTEM_CLOCK, SYSTEM_CLOCK.now_ns())
        segments = SegmentSettings(budget_bytes=BUDGET_BYTES)
        self.log = SegmentLog(folder / "requests.jsonl", segments, events, SYSTEM_CLOCK)
        writer = WindowWriter(self._windows, settings, lambda _: (0, None))
        self._sink = WindowSink(settings, lambda part: writer.take(0, part))
        self.sinks = Sinks((self.log, ProgressLines(print), self._sink, writer))
        self._observer = Observer(SYSTEM_CLOCK, lambda: streams)
        self.sinks.start(stage_of(streams))
        self.sinks.measure(MeasuringStart(0, 0, self._observer))

    def stop(self, end_ns: int) -> None:
        self.sinks.stop(facts_of(end_ns))
        self.log.close()
        self._windows.close()


def facts_of(end_ns: int) -> StageFacts:
    return StageFacts(
        models=("m",), targets=("t",), level="c200", start_ns=0, end_ns=end_ns, complete=True, cpu_share=0.1
    )


def play_night(folder: Path, tokens: int, streams: int) -> Night:
    """Pass a night's records to the sinks of a soak. The collector is off, as in one, but between windows."""
    sinks, process = SoakSinks(folder, streams), psutil.Process()
    rss_mib, cpu_ns, done, requests, next_tick_ns = list[float](), 0, 0, 0, S
    made = records(tokens, streams)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        began_ns = time.process_time_ns()
        while True:
            made_ns = time.thread_time_ns()
            record = next(made, None)
            cpu_ns -= time.thread_time_ns() - made_ns
            if record is None:
                break
            while record.end_ns is not None and next_tick_ns <= record.end_ns:
                sinks.sinks.tick(next_tick_ns)
                next_tick_ns += S
            sinks.sinks.record(record)
            done, requests = done + len(record.stamps_ns), requests + 1
            if done >= (len(rss_mib) + 1) * tokens // 100:
                rss_mib.append(process.memory_info().rss / 2**20)
        sinks.stop(NIGHT_S * S)
        cpu_ns += time.process_time_ns() - began_ns
    finally:
        gc.enable()
        gc.unfreeze()
    lines = read_windows(folder)
    return Night(
        tokens=done,
        requests=requests,
        cpu_us=cpu_ns / done / 1e3,
        rss_mib=tuple(rss_mib),
        hlog_mb=(folder / HISTOGRAMS).stat().st_size / 1e6,
        folder_mb=sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        windows=len(lines),
        collector_ms=max(line.collector_ms for line in lines),
    )


class RunSinks:
    """The sinks of a run, in their order."""

    def __init__(self, folder: Path, streams: int) -> None:
        folder.mkdir(parents=True)
        self._log = RequestLog(folder / "requests.jsonl")
        self.sinks = Sinks((self._log, ProgressLines(print)))
        self.sinks.start(stage_of(streams))

    def stop(self, end_ns: int) -> None:
        self.sinks.stop(facts_of(end_ns))
        self._log.close()


def compare(folder: Path, streams: int) -> tuple[float, float, float]:
    """How many times what a run takes a soak takes, and both, µs of CPU a token: the median of several rounds."""
    exchanges = [exchange_of(tokens) for tokens in (100, 300, 500, 700, 900)]
    costs: list[tuple[float, float]] = []
    for round_number in range(ROUNDS):
        pair = tuple(
            cost_us(kind(folder / f"{kind.__name__}-{round_number}", streams), exchanges)
            for kind in (RunSinks, SoakSinks)
        )
        costs.append((pair[0], pair[1]))
    run_us, soak_us = (float(np.median(values)) for values in zip(*costs, strict=True))
    return soak_us / run_us, run_us, soak_us


def exchange_of(tokens: int) -> Exchange:
    """An answer of so many tokens as it was received."""
    exchange = Exchange(ChatRequest("http://h/v1/chat/completions", b"{}", {}, Deadlines(request_ns=S)), 0)
    rng = generator(SEED, "soak exchange", tokens)
    gaps_ns = rng.gamma(20.0, MS, tokens).astype(np.int64).cumsum().tolist()
    event = b'data: {"choices": [{"index": 0, "delta": {"content": " word"}}]}\n\n'
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": %d}}\n\n' % tokens
    end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n' + usage + b"data: [DONE]\n\n"
    exchange.stamps.record_write(20_000)
    exchange.response.status, exchange.response.content_type = 200, "text/event-stream"
    for token in range(1, tokens + 1):
        exchange.response.append(event if token < tokens else event + end)
        exchange.stamps.record_read(len(exchange.body()), 200 * MS + gaps_ns[token - 1], 0)
    exchange.ended_ns = 200 * MS + gaps_ns[-1]
    return exchange


def cost_us(sinks: "RunSinks | SoakSinks", exchanges: Sequence[Exchange]) -> float:
    """The CPU time that parsing and the sinks take, µs a token."""
    key, done, began_ns = StageKey("t", "m", "c200"), 0, time.thread_time_ns()
    for index in range(COMPARED_TOKENS // MEAN_TOKENS):
        reply, _ = read_reply(exchanges[index % len(exchanges)], epoch_ns=0, wall_offset_ns=0)
        record = record_of(reply, key, index=index, phase="measured", prompt_id="p", intended_ns=0)
        sinks.sinks.record(record)
        done += len(record.stamps_ns)
    sinks.stop(60 * S)
    return (time.thread_time_ns() - began_ns) / done / 1e3


if __name__ == "__main__":
    sys.exit(main())
