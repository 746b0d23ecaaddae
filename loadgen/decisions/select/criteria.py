"""The criteria of a choice: their default weights, and their values in steps, which can be added. Pure.

10 points of quality, or a halving of time, memory, disk or cost, or a doubling of throughput, is one step. A difference
in steps between two candidates does not depend on who else is a candidate. With scores between the least and the
greatest value, it would: taking away the last candidate could then change the first.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Criterion = Literal["quality", "latency", "memory", "throughput", "cost", "disk"]
Values = NDArray[np.float64]

CRITERIA: Final[tuple[Criterion, ...]] = Criterion.__args__  # type: ignore[attr-defined]
DEFAULT_WEIGHTS: Final[dict[Criterion, float]] = {
    "quality": 0.40,
    "latency": 0.20,
    "memory": 0.15,
    "throughput": 0.10,
    "cost": 0.10,
    "disk": 0.05,
}
POINTS_OF_A_STEP: Final = 10.0
"""How many of 100 points of quality are one step."""
TIME_NOISE: Final = 0.05
"""By how much the same work takes longer or shorter in another run on the same machine. It is what `loadgen compare`
assumes for too few runs to measure it, and it moves latency, throughput and cost together."""
MEMORY_NOISE: Final = 0.02
"""By how much the peak memory of the same server differs between runs."""
TIMED: Final[frozenset[Criterion]] = frozenset({"latency", "throughput", "cost"})
"""The criteria that a slow run makes worse."""


class Unit(Struct, frozen=True):
    """The unit of a criterion in a report, and which of its values are better."""

    name: str
    better: Literal["higher", "lower"]


UNITS: Final[dict[Criterion, Unit]] = {
    "quality": Unit("points of 100", "higher"),
    "latency": Unit("ms", "lower"),
    "memory": Unit("MiB", "lower"),
    "throughput": Unit("requests/s", "higher"),
    "cost": Unit("per 1,000 requests", "lower"),
    "disk": Unit("MiB", "lower"),
}


def steps_of(criterion: Criterion, values: Values, enough: float | None = None) -> Values:
    """Values in steps; more is better. The zero is arbitrary: only differences mean anything.

    values: of any shape; above 0, except for quality. enough: a better value counts as this one.
    """
    if enough is not None:
        values = np.minimum(values, enough) if UNITS[criterion].better == "higher" else np.maximum(values, enough)
    match criterion:
        case "quality":
            return values / POINTS_OF_A_STEP
        case "throughput":
            return np.log2(values)
        case _:
            return -np.log2(values)


def shares_of(weights: Mapping[Criterion, float], compared: Mapping[Criterion, object]) -> dict[Criterion, float]:
    """The weights of the criteria that are compared, with the sum 1, in the order of `CRITERIA`. Empty if none weighs
    more than 0."""
    known = {name: weights[name] for name in CRITERIA if name in compared and weights.get(name, 0.0) > 0}
    total = sum(known.values())
    return {name: weight / total for name, weight in known.items()}


def run_noise(shares: Mapping[Criterion, float], runs: Values) -> Values:
    """The standard deviation, in steps, that the choice of the runs adds to the utility of each candidate.

    runs: how many runs of each candidate were averaged.
    """
    timed = sum(share for name, share in shares.items() if name in TIMED)
    of_one_run = np.hypot(timed * np.log2(1 + TIME_NOISE), shares.get("memory", 0.0) * np.log2(1 + MEMORY_NOISE))
    return np.asarray(of_one_run / np.sqrt(runs), dtype=np.float64)
