"""The loads of a calibration as data: schedules of tokens that are known beforehand. Knows no socket and no clock."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from loadgen.mock import FixedTime, Script

TTFT_S: Final = 0.1
SLOW_ITL_MS: Final = 50.0
RATE_STREAMS: Final = 64
EVENTS_A_SERVER: Final = 10_000
"""The rate of token events up to which one scripted server is used, as long as there are cores for more servers."""
MAX_SERVERS: Final = 4
GOLDEN: Final = 0.6180339887498949


class LoadStep(Struct, frozen=True, kw_only=True):
    """Loads with the same script, played one after the other."""

    series: Literal["streams", "rates"]
    """The quantity that grows from load to load."""
    pace: Literal["staggered", "together"] = "staggered"
    """Whether each stream has its own token times, or all streams have the same."""
    itl_ms: float = SLOW_ITL_MS
    streams: tuple[int, ...]
    """The number of streams at once of each load; each stream has one answer."""
    full_s: float = 1.0
    """How long all streams run together."""
    ramp_in_s: float = 0.5
    """The time within which users start; it is longer if there are too many users."""
    starts_per_s: float = 500.0
    """The largest number of users that start per second."""

    def ramp_in_of(self, streams: int) -> float:
        """The time in seconds after which the last user has started."""
        return 0.0 if streams == 1 else max(self.ramp_in_s, streams / self.starts_per_s)

    def tokens_of(self, streams: int) -> int:
        """The number of tokens in each answer."""
        return max(2, round((self.ramp_in_of(streams) + self.full_s) * 1e3 / self.itl_ms))

    def script(self) -> Script:
        """The script of the server."""
        itl_s = self.itl_ms / 1e3
        return Script(
            ttft_s=FixedTime(TTFT_S),
            itl_s=FixedTime(itl_s),
            tokens=FixedTime(max(map(self.tokens_of, self.streams))),
            together_s=itl_s if self.pace == "together" else 0.0,
        )

    def servers(self, cores: int) -> int:
        """How many server processes are needed to keep the pace; they leave one core for us."""
        events_per_s = max(self.streams) * 1e3 / self.itl_ms
        return max(1, min(MAX_SERVERS, cores - 1, -(-round(events_per_s) // EVENTS_A_SERVER)))

    def begins_ns(self, streams: int) -> list[int]:
        """The start of each user, spread over the ramp-in, and evenly over the gap between two tokens."""
        gap_s, ramp_in_s = self.itl_ms / 1e3, self.ramp_in_of(streams)
        gaps = [ramp_in_s * user / streams // gap_s + user * GOLDEN % 1.0 for user in range(streams)]
        return [round(gap_s * gap * 1e9) for gap in gaps]


USUAL: Final = (
    LoadStep(series="streams", streams=(1, 16, 64, 200, 500, 1000)),
    LoadStep(series="streams", streams=(64, 200, 500, 1000), pace="together"),
    *(LoadStep(series="rates", streams=(RATE_STREAMS,), itl_ms=itl_ms) for itl_ms in (20.0, 10.0, 5.0, 2.5, 1.25)),
)
QUICK: Final = (
    LoadStep(series="streams", streams=(16, 200)),
    LoadStep(series="streams", streams=(200,), pace="together"),
    *(LoadStep(series="rates", streams=(RATE_STREAMS,), itl_ms=itl_ms) for itl_ms in (10.0, 2.5)),
)


def at_most(load_steps: tuple[LoadStep, ...], max_streams: int) -> tuple[LoadStep, ...]:
    """The steps, without loads of more than `max_streams` streams."""
    possible = []
    for step in load_steps:
        streams = tuple(count for count in step.streams if count <= max_streams)
        if streams:
            possible.append(msgspec.structs.replace(step, streams=streams))
    return tuple(possible)
