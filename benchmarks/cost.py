"""What one more token costs a client in CPU time: long answers minus short ones, of the same requests. Pure.

A request costs as well, and so does a start; both cancel out. What a client does with a token later, such as decoding
it when the answer has ended, does not.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks.tables import FLOOR, OURS, PLAIN, Target, number, table
from benchmarks.truth import Load

SHORT: Final = Load(streams=64, asks=1, tokens=8, ttft_ms=200.0, itl_ms=25.0, together=False)
LONG: Final = Load(streams=64, asks=1, tokens=108, ttft_ms=200.0, itl_ms=25.0, together=False)

TIMES_C: Final = 6.0
SHARE_OF_PLAIN: Final = 0.6

Costs = Mapping[str, Sequence[float]]
"""CPU µs a token, by client, of each round."""


def token_us(short_ns: float, long_ns: float) -> float:
    """µs a token, from the CPU time of a whole run of either load."""
    return (long_ns - short_ns) / 1e3 / (LONG.requests * LONG.tokens - SHORT.requests * SHORT.tokens)


def middle(costs: Costs, name: str) -> float | None:
    """The median over rounds; None for a client that was not measured."""
    return float(np.median(costs[name])) if costs.get(name) else None


def ratio(costs: Costs, name: str, other: str) -> float | None:
    cost, base = middle(costs, name), middle(costs, other)
    return cost / base if cost is not None and base else None


def cost_table(costs: Costs) -> str:
    rows = []
    for name in costs:
        shown = f"**{name}**" if name == OURS else name
        rounds = ", ".join(f"{each:.1f}" for each in costs[name])
        times = (number(ratio(costs, name, FLOOR)), number(ratio(costs, name, PLAIN), ".2f"))
        rows.append((shown, rounds, number(middle(costs, name)), *times))
    return table(("client", "each round, µs", "median, µs", "× C", "× aiohttp"), rows, texts=2)


def cost_targets(costs: Costs) -> list[Target]:
    targets = []
    for other, text, most in (
        (FLOOR, f"CPU a token at most {TIMES_C:g} times the C reader's", TIMES_C),
        (
            PLAIN,
            f"CPU a token at most {SHARE_OF_PLAIN:.0%} of a plain aiohttp loop's".replace("%", " %"),
            SHARE_OF_PLAIN,
        ),
    ):
        measured = ratio(costs, OURS, other)
        if measured is not None:
            targets.append(Target(text, LONG, f"{measured:.2f} times", measured <= most))
    return targets
