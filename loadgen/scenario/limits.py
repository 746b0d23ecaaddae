"""How large a number of a scenario may be: beyond that no machine could hold the plan, or no clock count to its end.

Knows the types of a scenario, and nothing of what is done with them.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from loadgen.scenario.problem import Problem, key_path

YEAR_S: Final = 366 * 86_400.0
LIMITS: Final[dict[str, int]] = {
    "concurrency": 100_000,
    "requests": 10_000_000,
    "min_requests": 10_000_000,
    "warmup_requests": 10_000_000,
    "max_in_flight": 10_000_000,
    "max_requests_per_s": 10_000_000,
    "slots": 256,
    "context_tokens": 10_000_000,
    "threads": 1024,
    "prefill_threads": 1024,
}
"""By the name of the key. A stage of more requests would not fit in memory, nor more users than there are ports; 256 is
what llama.cpp can do at once."""
_CELLS: Final = 2**31 - 1


def over_limit(table: Struct, path: str = "") -> Iterator[Problem]:
    """What in a table, or in those within it, is beyond its ceiling. path: the table's dotted key."""
    for key in table.__struct_fields__:
        yield from _of_value(key, getattr(table, key), key_path(path, key))
    slots, context = (getattr(table, key, 0) for key in ("slots", "context_tokens"))
    if slots * context > _CELLS:
        message = f"{context:,} tokens of each of {slots} slots are more than llama.cpp can count"
        yield Problem(key_path(path, "context_tokens"), message, "lower one of them")


def _of_value(key: str, value: Any, path: str) -> Iterator[Problem]:
    if isinstance(value, Struct):
        yield from over_limit(value, path)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _of_value(key, item, f"{path}[{i}]")
    elif isinstance(value, int | float) and key.endswith("_s") and not key.endswith("_per_s"):
        if value > YEAR_S:
            yield Problem(path, f"{value:g} s is more than a year", "lower it")
    elif isinstance(value, int | float) and value > LIMITS.get(key, value):
        yield Problem(path, f"{value:,} is more than {LIMITS[key]:,}", "lower it")
