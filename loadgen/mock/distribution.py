"""The distributions of times and lengths: a constant, or one of four others. Knows no request and no clock."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan.rng import generator

_UNITS = {"us": (1, 1e6), "ms": (1, 1e3), "s": (1, 1), "m": (60, 1)}
"""Each unit in seconds, as (factor, divisor), so that 50us is exactly 5e-05 and not a neighboring float."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BLOCK = 64
"""How many values are drawn at once: one draw costs about the same, but a long stream must not draw all at once."""


class FixedTime(Struct, frozen=True, tag="constant"):
    """Always the same."""

    value: float


class Normal(Struct, frozen=True, tag="normal"):
    """Normal, truncated at 0: values below 0 are drawn again, which raises the mean if `mean` is near 0."""

    mean: float
    deviation: float


class LogNormal(Struct, frozen=True, tag="lognormal"):
    """`median` × e^(sigma · N(0, 1)), with a long tail to the right, like most waits."""

    median: float
    sigma: float


class Uniform(Struct, frozen=True, tag="uniform"):
    """Uniform between the two values."""

    low: float
    high: float


class Exponential(Struct, frozen=True, tag="exp"):
    """Exponential: gaps of a Poisson process."""

    mean: float


Distribution = FixedTime | Normal | LogNormal | Uniform | Exponential


def values(distribution: Distribution, seed: int, *purpose: str | int) -> Iterator[float]:
    """An endless stream of values ≥ 0 that depends only on the distribution, the seed and the purpose."""
    if isinstance(distribution, FixedTime):
        return repeat(distribution.value)
    return _draw(distribution, generator(seed, *purpose))


def _draw(distribution: Distribution, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from _block(distribution, rng).tolist()


def _block(distribution: Distribution, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    match distribution:
        case FixedTime(value):
            return np.full(_BLOCK, value)
        case Normal(mean, deviation):
            block = rng.normal(mean, deviation, _BLOCK)
            while (below := block < 0).any():
                block[below] = rng.normal(mean, deviation, int(below.sum()))
            return block
        case LogNormal(median, sigma):
            return median * np.exp(sigma * rng.standard_normal(_BLOCK))
        case Uniform(low, high):
            return rng.uniform(low, high, _BLOCK)
        case Exponential(mean):
            return rng.exponential(mean, _BLOCK)


def parse_times(text: str, flag: str) -> Distribution:
    """A distribution of seconds: `200ms`, `normal:200ms:20ms`, … Raises InputError that names the flag."""
    return _parse(text, flag, lambda part: parse_time_s(part, flag, text), "200ms")


def parse_counts(text: str, flag: str) -> Distribution:
    """A distribution of whole numbers: `40`, `uniform:10:100`, … Raises InputError that names the flag."""

    def count(part: str) -> float:
        if not re.fullmatch(_NUMBER, part):
            raise InputError(f"{flag} {text}: {part!r} is not a number; write e.g. {flag} 40 or {flag} uniform:10:100")
        return float(part)

    return _parse(text, flag, count, "40")


def parse_time_s(part: str, flag: str, text: str | None = None) -> float:
    """Seconds of `200ms`, `1.5s`, `50us`, `2m`; 0 needs no unit. Raises InputError that names the flag.

    text: the complete value of the flag, if `part` is only a part of it.
    """
    match = re.fullmatch(rf"({_NUMBER})(us|ms|s|m)", part)
    if match is None and part != "0":
        given = part if text is None else text
        raise InputError(f"{flag} {given}: {part!r} is not a time; write it with its unit, such as 200ms, 1.5s or 50us")
    if match is None:
        return 0.0
    factor, divisor = _UNITS[match[2]]
    return float(match[1]) * factor / divisor


def _parse(text: str, flag: str, number: Callable[[str], float], example: str) -> Distribution:
    kind, *parts = text.strip().split(":")
    match kind, parts:
        case _, []:
            distribution: Distribution = FixedTime(number(kind))
        case "normal", [mean, deviation]:
            distribution = Normal(number(mean), number(deviation))
        case "lognormal", [median, sigma] if re.fullmatch(_NUMBER, sigma):
            distribution = LogNormal(number(median), float(sigma))
        case "uniform", [low, high]:
            distribution = Uniform(number(low), number(high))
        case "exp", [mean]:
            distribution = Exponential(number(mean))
        case _:
            raise InputError(
                f"{flag} {text}: no such distribution; write {example}, normal:MEAN:DEVIATION, "
                "lognormal:MEDIAN:SIGMA (a plain number), uniform:LOW:HIGH or exp:MEAN"
            )
    problem = parameter_problem(distribution)
    if problem is not None:
        raise InputError(f"{flag} {text}: {problem}")
    return distribution


def parameter_problem(distribution: Distribution) -> str | None:
    """What is wrong with the parameters, in words; None if they are valid."""
    numbers = [getattr(distribution, name) for name in distribution.__struct_fields__]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return "each number must be finite, and 0 or more"
    if isinstance(distribution, Uniform) and distribution.low > distribution.high:
        return "LOW is above HIGH; swap them"
    if isinstance(distribution, LogNormal) and distribution.sigma > 5:
        return "SIGMA is of the logarithm, and above 5 most values are absurd; write e.g. 0.5"
    return None
