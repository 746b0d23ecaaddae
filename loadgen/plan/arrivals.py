"""The due times of requests: seeded arrival processes as arrays of offsets. Knows no clock, no prompt and no file.

An offset is a whole number of ns from the start of its stage. Arrays are int64, in ascending order, and ≥ 0. Due times
are absolute: a late request never shifts the next one. Random gaps are rounded to ns before they are added up, so the
sums are exact, and a schedule that is drawn in pieces equals the schedule that is drawn at once.
"""

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from loadgen.errors import InputError
from loadgen.plan.rng import generator
from loadgen.scenario import Closed, Constant, Gamma, Load, Poisson, Ramp, RatedLoad, ThinkTime

DEFAULT_REQUESTS = 16
"""The number of requests of a stage whose load names neither `requests` nor `duration_s`."""

MAX_REQUESTS = 10_000_000
"""A stage with more is refused: its plan would not fit in memory."""

LONGEST_NS = 366 * 86_400 * 10**9
"""A year. Later offsets are cut to this value, so int64 cannot overflow; a schedule that reaches it is refused."""

_BLOCK = 4096

Offsets = npt.NDArray[np.int64]


def constant_ns(rate_per_s: float, count: int) -> Offsets:
    """`count` arrivals, one every 1/rate seconds; the first at 0.

    Offset i is i/rate rounded to the nearest ns, so the error does not grow with i. The rate is the decimal that it
    prints as: at 0.1/s the period is exactly 10 s, and not that of the nearest binary fraction.
    """
    return _spaced_ns(10**9 / _exact(rate_per_s), count)


def poisson_ns(rate_per_s: float, count: int, rng: np.random.Generator) -> Offsets:
    """`count` arrivals of a Poisson process: independent exponential gaps of mean 1/rate, one before the first."""
    return _accumulated_ns(rng.standard_exponential(count), rate_per_s)


def gamma_ns(rate_per_s: float, burstiness: float, count: int, rng: np.random.Generator) -> Offsets:
    """`count` arrivals with independent gamma gaps of shape `burstiness` and mean 1/rate, one before the first.

    The gaps' coefficient of variation is 1/√burstiness.
    """
    with np.errstate(over="ignore"):
        gaps = rng.standard_gamma(burstiness, count) / burstiness
    return _accumulated_ns(gaps, rate_per_s)


def ramp_ns(
    from_per_s: float,
    to_per_s: float,
    duration_s: float,
    arrivals: Literal["constant", "poisson"],
    rng: np.random.Generator,
) -> Offsets:
    """The arrivals before `duration_s` while the rate changes linearly from `from_per_s` to `to_per_s`.

    Λ(t) is the expected number of requests by t (the integral of the rate). "constant" puts arrival k = 0, 1, 2, … at
    the time when Λ(t) = k. The first is at 0, even if the rate is 0 there, and with from = to the schedule is that of
    `constant_ns`. "poisson" puts arrival k at the time when Λ(t) is the sum of k + 1 unit exponentials (inversion;
    Çinlar, Introduction to Stochastic Processes, 1975, ch. 4). Only "poisson" draws from `rng`. If both rates are 0,
    there are no arrivals. Raises InputError if more than MAX_REQUESTS are expected, or the duration is above a year.
    """
    end_ns = _end_ns(duration_s)
    total = (_exact(from_per_s) + _exact(to_per_s)) / 2 * _exact(duration_s)
    if float(total) == 0:
        return np.empty(0, np.int64)
    if total > MAX_REQUESTS:
        raise _too_many()
    if arrivals == "constant":
        expected = np.arange(math.ceil(total), dtype=np.float64)
    else:
        # A unit-rate process whose "second" is one expected request.
        expected = _drawn_ns(partial(poisson_ns, 1.0, rng=rng), math.floor(total * 10**9), 2 * MAX_REQUESTS) / 1e9
    share = expected / float(total)
    offsets = np.rint(_ramp_time(from_per_s, to_per_s, share) * (duration_s * 1e9)).astype(np.int64)
    return offsets[offsets < end_ns]


def trace_ns(text: str, where: str, speed: float = 1.0, limit: int | None = None) -> Offsets:
    """The offsets that `text` lists, one per line, in seconds, divided by `speed`.

    Blank lines and lines that start with # are skipped. limit: how many offsets to read (None: all). where: the name of
    the text, for messages. Raises InputError, with the line, if an offset is malformed, negative, not finite, above a
    year, or less than the one before, and if there is no offset.
    """
    offsets_s: list[float] = []
    number, last = 0, 0.0
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if limit is not None and len(offsets_s) >= limit:
            break
        offset = _trace_offset_s(entry, last, speed, f"{where}, line {number}")
        offsets_s.append(offset)
        last = offset
    if not offsets_s and limit != 0:
        raise InputError(
            f"{where}, line {number}: the trace ends without an offset; write at least one, in seconds from the start"
        )
    return np.rint(np.array(offsets_s, np.float64) / speed * 1e9).astype(np.int64)


def arrivals_ns(load: RatedLoad, rate_per_s: float, seed: int) -> Offsets:
    """The arrivals of one stage of an open loop, at one of the load's rates.

    With `load.requests`, there are that many arrivals; with `load.duration_s`, those due strictly before it (maybe
    none); with both, the limit that is reached first applies; with neither, there are DEFAULT_REQUESTS. A larger
    `requests` or `duration_s` only appends arrivals. The random stream depends on seed, mode and rate. Raises
    InputError for more than MAX_REQUESTS, for a duration above a year, and if the last of `requests` would come due
    later.
    """
    limit = DEFAULT_REQUESTS if load.duration_s is None else MAX_REQUESTS + 1
    if load.requests is not None:
        limit = min(load.requests, MAX_REQUESTS + 1)
    end_ns = LONGEST_NS if load.duration_s is None else _end_ns(load.duration_s)
    match load:
        case Constant():
            fitting = math.ceil(_exact(rate_per_s) * end_ns / 10**9)
            offsets = constant_ns(rate_per_s, min(limit, fitting))
            offsets = offsets[offsets < end_ns]
        case Poisson():
            rng = generator(seed, "arrivals", "poisson", str(float(rate_per_s)))
            offsets = _drawn_ns(partial(poisson_ns, rate_per_s, rng=rng), end_ns, limit)
        case Gamma():
            rng = generator(seed, "arrivals", "gamma", str(float(rate_per_s)))
            offsets = _drawn_ns(partial(gamma_ns, rate_per_s, load.burstiness, rng=rng), end_ns, limit)
    if offsets.size > MAX_REQUESTS:
        raise _too_many()
    if load.duration_s is None and offsets.size < limit:
        raise InputError(
            f"load.rates_per_s: at {rate_per_s:g} requests per second, {limit} take more than a year; "
            "raise the rate, lower load.requests, or set load.duration_s"
        )
    return offsets


def most_requests(load: Load) -> int | None:
    """The highest number of measured requests of one model at one level; None if it is not known beforehand."""
    if isinstance(load, Ramp) or load.requests is not None:
        return None if isinstance(load, Ramp) else load.requests
    return DEFAULT_REQUESTS if isinstance(load, Closed | RatedLoad) and load.duration_s is None else None


def think_times_ns(think: ThinkTime, count: int, rng: np.random.Generator) -> Offsets:
    """`count` waits of a user between an answer and the next request: durations, not offsets; at most a year each.

    Only "exponential" draws from `rng`.
    """
    gaps = np.ones(count) if think.distribution == "constant" else rng.standard_exponential(count)
    return _gaps_ns(gaps, think.mean_s * 1e9)


def default_ramp_in_s(load: Closed, users: int) -> float:
    """The time in seconds over which the users' first requests are spread if `load.ramp_in_s` is None: 1 s, or the mean
    think time if that is longer; 0 with one user.
    """
    return 0.0 if users == 1 else max(1.0, load.think_time.mean_s)


def ramp_in_ns(users: int, ramp_in_s: float) -> Offsets:
    """The time of each user's first request in a closed loop: user u asks at u · ramp_in_s / users, the first at 0."""
    return _spaced_ns(_exact(ramp_in_s) * 10**9 / users, users)


def shard(offsets: Offsets, k: int, n: int) -> Offsets:
    """The offsets that worker k of n plays, 0 ≤ k < n: every n-th from the k-th on, as a view.

    Together, the n shards contain every offset once. Raises ValueError for a k outside its range.
    """
    if not 0 <= k < n:
        raise ValueError(f"shard {k} of {n}")
    return offsets[k::n]


def _exact(value: float) -> Fraction:
    """The decimal that the value prints as, which is the number in the scenario file."""
    return Fraction(str(value))


def _end_ns(duration_s: float) -> int:
    # Round up: a whole ns is before the end exactly if it is less than this.
    end_ns = math.ceil(_exact(duration_s) * 10**9)
    if end_ns > LONGEST_NS:
        raise InputError(f"load.duration_s: {duration_s:g} s is more than a year; lower it")
    return end_ns


def _too_many() -> InputError:
    return InputError(
        f"load: a stage of more than {MAX_REQUESTS:,} requests; lower the rate, load.requests or load.duration_s"
    )


def _spaced_ns(period_ns: Fraction, count: int) -> Offsets:
    # i times the whole part is exact in int64. The rest is below 1 ns, so its float product is off by less than 1e-8 ns
    # at i = 1e7, while i · 1e9 as a float would already be rounded to 2 ns.
    index = np.arange(count, dtype=np.int64)
    whole_ns = min(math.floor(period_ns), LONGEST_NS)
    below = np.floor(index * float(period_ns - math.floor(period_ns)) + 0.5).astype(np.int64)
    within = np.minimum(index, LONGEST_NS // max(whole_ns, 1))
    offsets: Offsets = np.minimum(within * whole_ns + below, LONGEST_NS)
    return offsets


def _gaps_ns(gaps: npt.NDArray[np.float64], mean_ns: float) -> Offsets:
    finite = min(mean_ns, sys.float_info.max)  # 0 times infinity would not be a number
    with np.errstate(over="ignore"):
        return np.minimum(np.rint(gaps * finite), LONGEST_NS).astype(np.int64)


def _accumulated_ns(gaps: npt.NDArray[np.float64], rate_per_s: float) -> Offsets:
    steps = _gaps_ns(gaps, 1e9 / rate_per_s)
    # The integer sum is exact but may wrap around; the float sum shows where.
    past = np.cumsum(steps, dtype=np.float64) >= LONGEST_NS
    return np.where(past, np.int64(LONGEST_NS), np.minimum(np.cumsum(steps), LONGEST_NS))


def _drawn_ns(draw: Callable[[int], Offsets], end_ns: int, limit: int) -> Offsets:
    """The first arrivals before `end_ns`, at most `limit`. draw: continues the process by a number of arrivals."""
    parts = [np.empty(0, np.int64)]
    last, drawn = 0, 0
    while last < end_ns and drawn < limit:
        part = draw(_BLOCK) + last
        parts.append(part)
        last, drawn = int(part[-1]), drawn + _BLOCK
    offsets: Offsets = np.concatenate(parts)
    return offsets[: min(limit, int(np.searchsorted(offsets, end_ns)))]


def _ramp_time(start: float, stop: float, share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The share of a linear ramp's time at which the given share of its requests is reached, both in [0, 1].

    The square of the rate is linear in the count: v² = a² (1 - u) + b² u, and t = u (a + b) / (a + v). Unlike in the
    quadratic formula, no terms cancel if a = b or one of them is 0.
    """
    top = max(start, stop)
    a, b = start / top, stop / top
    if a == 0:
        return np.sqrt(share)
    return share * (a + b) / (a + np.sqrt(a * a * (1 - share) + b * b * share))


def _trace_offset_s(entry: str, last_s: float, speed: float, place: str) -> float:
    try:
        offset = float(entry)
    except ValueError:
        raise InputError(
            f"{place}: {entry[:40]!r} is not a number; write one offset in seconds, such as 1.25"
        ) from None
    if not math.isfinite(offset):
        raise InputError(f"{place}: {entry} is not finite; write an offset in seconds, such as 1.25")
    if offset < 0:
        raise InputError(
            f"{place}: {entry} is negative; count offsets in seconds from the start of the trace, 0 or more"
        )
    if offset < last_s:
        raise InputError(f"{place}: {entry} is less than {last_s!r} before it; sort the offsets")
    if offset / speed * 1e9 > LONGEST_NS:
        raise InputError(
            f"{place}: {entry} s at speed {speed:g} is more than a year; count offsets from the start of the trace"
        )
    return offset
