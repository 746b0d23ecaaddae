"""How late an open loop's requests are begun, and what waiting for their turn costs, beside `asyncio.sleep`.

    python benchmarks/pacing.py [--rates 20,200] [--seconds 5]

The same Poisson schedule is kept three ways in turn: by the run's own clock (`loadgen.clock.SystemClock`); by the way
that it takes where there is no timer descriptor; and by a sleep until each deadline. Late is when the waiting task
goes on, minus when it was due; CPU is that of the process, as a share of one core.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from loadgen.clock import SystemClock, now_ns, process_cpu_ns, timer_of
from loadgen.plan.rng import generator

Wait = Callable[[int], Awaitable[None]]
CLOCK = SystemClock()
AHEAD_NS = 50_000_000


async def plain_sleep(deadline_ns: int) -> None:
    if (left_ns := deadline_ns - now_ns()) > 0:
        await asyncio.sleep(left_ns / 1e9)


async def slips(due_ns: NDArray[np.int64], wait: Wait) -> tuple[NDArray[np.float64], float]:
    """How late (ms) each moment of a schedule was met, and the CPU that it took, of one core."""
    late = []
    start_ns, cpu_ns = now_ns() + AHEAD_NS, process_cpu_ns()
    for due in due_ns:
        await wait(start_ns + int(due))
        late.append(now_ns() - start_ns - int(due))
    return np.array(late) / 1e6, (process_cpu_ns() - cpu_ns) / (now_ns() - start_ns)


def ways() -> dict[str, tuple[Wait, bool]]:
    """By name: how to wait, and whether the clock may use its timer descriptor."""
    return {
        "loadgen": (CLOCK.sleep_until_ns, True),
        "loadgen, no timer descriptor": (CLOCK.sleep_until_ns, False),
        "asyncio.sleep": (plain_sleep, True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default="20,200", help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each schedule")
    options = parser.parse_args()
    print(
        f"{'rate /s':>8}  {'way':<29}{'late p50, ms':>13}{'p99':>8}{'max':>8}{'early':>7}{'CPU':>8}{'p99 / sleep':>13}"
    )
    for rate in map(float, options.rates.split(",")):
        gaps = generator(1, "pacing").exponential(1e9 / rate, max(2, round(rate * options.seconds)))
        due = np.cumsum(gaps).astype(np.int64)
        slips_by_way = {}
        for name, (wait, has_timer) in ways().items():
            with mock.patch("loadgen.clock.timer_of", timer_of if has_timer else lambda _: None):
                slips_by_way[name] = asyncio.run(slips(due, wait))
        floor = float(np.percentile(slips_by_way["asyncio.sleep"][0], 99))
        for name, (late, cpu) in slips_by_way.items():
            p50, p99 = np.percentile(late, [50, 99])
            early = int((late < 0).sum())
            row = f"{rate:>8g}  {name:<29}{p50:>13.3f}{p99:>8.3f}{late.max():>8.3f}{early:>7}{cpu:>8.1%}"
            print(f"{row}{p99 / floor:>13.2f}")


if __name__ == "__main__":
    main()
