"""The levels that a search distinguishes: every number of users up to 40, then steps of 2.5 %; for rates, steps of
2.5 %. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

STEP: Final = 0.025
MAX_USERS: Final = 512
"""The highest number of users that is played by default."""
RATES: Final = (0.01, 100_000.0)
"""The lowest and the highest rate that is played by default, requests per second."""


def user_levels(lowest: float, highest: float, visited: Iterable[float] = ()) -> list[float]:
    """Numbers of users from the lowest to the highest, both included, and the levels between them that were visited."""
    levels = {float(users) for users in _users(int(highest)) if users >= lowest}
    return _within({lowest, highest} | levels, lowest, highest, visited)


def rate_levels(lowest: float, highest: float, visited: Iterable[float] = ()) -> list[float]:
    """Requests per second from the lowest to the highest, as in `user_levels`."""
    levels = {rate for rate in _rates() if lowest <= rate <= highest}
    return _within({lowest, highest} | levels, lowest, highest, visited)


def _within(levels: set[float], lowest: float, highest: float, visited: Iterable[float]) -> list[float]:
    return sorted(levels | {level for level in visited if lowest <= level <= highest})


@lru_cache(maxsize=8)
def _users(highest: int) -> tuple[int, ...]:
    levels = [1]
    while levels[-1] < highest:
        levels.append(min(highest, levels[-1] + max(1, int(levels[-1] * STEP))))
    return tuple(levels)


@lru_cache(maxsize=1)
def _rates() -> tuple[float, ...]:
    """The powers of 1.025, rounded to four digits. One of them is 1."""
    lowest, highest = RATES
    rates = [1.0]
    while rates[-1] < highest:
        rates.append(rates[-1] * (1 + STEP))
    while rates[0] > lowest:
        rates.insert(0, rates[0] / (1 + STEP))
    return tuple(float(f"{rate:.4g}") for rate in rates)
