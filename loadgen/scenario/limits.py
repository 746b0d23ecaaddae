"""The largest numbers that a scenario may have. With larger ones, a plan would not fit in memory, or a run never end.

Knows the types of a scenario, but not what they are used for.
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
"""The limit by the name of the key. More requests would not fit in memory; more users would need more ports than there
are; llama.cpp can serve 256 streams at once."""
_CELLS: Final = 2**31 - 1


def over_limit(table: Struct, path: str = "") -> Iterator[Problem]:
    """The values in a table, or in a nested one, that exceed their limit. path: the table's dotted key."""
    for key in table.__struct_fields__:
        yield from _of_value(key, getattr(table, key), key_path(path, key))
    slots, context = (getattr(table, key, None) or 0 for key in ("slots", "context_tokens"))
    if slots * context > _CELLS:
        message = f"{slots} slots of {context:,} tokens each are more than llama.cpp can handle"
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
