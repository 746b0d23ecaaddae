"""The levels that are worth telling apart: every user up to 40, then 2.5 % apart; rates 2.5 % apart. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

STEP: Final = 0.025
MAX_USERS: Final = 512
"""The highest level of users that is played where nobody says."""
RATES: Final = (0.01, 100_000.0)
"""The lowest and the highest rate that is played where nobody says, requests a second."""


def user_levels(lowest: float, highest: float, visited: Iterable[float] = ()) -> list[float]:
    """Numbers of users from the lowest to the highest, both among them, and those that were visited in between."""
    levels = {float(users) for users in _users(int(highest)) if users >= lowest}
    return _within({lowest, highest} | levels, lowest, highest, visited)


def rate_levels(lowest: float, highest: float, visited: Iterable[float] = ()) -> list[float]:
    """Requests a second from the lowest to the highest, as `user_levels`."""
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
    """Powers of 1.025, to four digits: 1 is one of them."""
    lowest, highest = RATES
    rates = [1.0]
    while rates[-1] < highest:
        rates.append(rates[-1] * (1 + STEP))
    while rates[0] > lowest:
        rates.insert(0, rates[0] / (1 + STEP))
    return tuple(float(f"{rate:.4g}") for rate in rates)
