"""The table `[soak]` of a scenario: what `loadgen soak` plays, and for how long. Also the flags that change it."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from loadgen.scenario.fields import PositiveFloat, PositiveInt, Text

_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class SoakTable(Struct, frozen=True, forbid_unknown_fields=True):
    """What `loadgen soak` plays: one level, for hours."""

    concurrency: PositiveInt | None = None
    """The number of users, a closed loop (default: the first level of `load`)."""
    rate_per_s: PositiveFloat | None = None
    """The requests per second, an open loop, in place of `concurrency`."""
    duration_s: PositiveFloat | None = None
    """How long requests may start, of all models together; there is no default."""
    window_s: Annotated[float, Meta(ge=1, le=600)] = 60.0
    """The length of a window."""
    disk: Text = "2GiB"
    """How large the run folder may become: a number with KiB, MiB or GiB."""
    matters: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """The smallest change over the soak that counts, as a share: of medians, of the pace and of memory. For tails it is
    three times as much."""


class SoakFlags(Struct, frozen=True):
    """The flags of `loadgen soak` that change the table. None: the flag was not given."""

    duration_s: float | None = None
    window_s: float | None = None
    disk: str | None = None
    matters: float | None = None


def parse_bytes(text: str) -> int | None:
    """The bytes of "512MiB"; None if the text is not such a size above 0."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(KiB|MiB|GiB)", text)
    size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    return size or None


def soak_keys(
    table: Mapping[str, object], given: SoakFlags, load_flags: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, str]]:
    """The raw table with the flags applied, and which flag set which of the scenario's keys.

    load_flags: the flag that set each key of the scenario's load. A level that a flag gives replaces the table's.
    """
    values: dict[str, tuple[object | None, str]] = {
        "duration_s": (given.duration_s, f"--duration {given.duration_s or 0:g}s"),
        "window_s": (given.window_s, f"--window {given.window_s or 0:g}s"),
        "disk": (given.disk, f"--disk {given.disk}"),
        "matters": (given.matters, f"--matters {100 * (given.matters or 0):g}%"),
    }
    chosen = {key: (value, flag) for key, (value, flag) in values.items() if value is not None}
    has_level = load_flags.keys() & {"load.concurrency", "load.rates_per_s"}
    remaining = table.keys() - ({"concurrency", "rate_per_s"} if has_level else set())
    changed = {key: value for key, value in table.items() if key in remaining}
    changed |= {key: value for key, (value, _) in chosen.items()}
    return changed, {f"soak.{key}": flag for key, (_, flag) in chosen.items()}
