"""Searches by `loadgen.capacity` of scripted servers whose capacity is known by simulation, over loopback.

They take real time. A visit on a busy machine is not judged, and the search says so.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from benchmarks.queues import Queue
from loadgen import api
from loadgen.decisions.capacity.answer import ModelAnswer
from loadgen.decisions.capacity.search_request import CapacitySettings
from loadgen.decisions.capacity.words import answer_line, format_level
from loadgen.mock import FixedTime, LogNormal, MockProcess, Script
from loadgen.scenario import Closed, Model, Poisson, Scenario
from loadgen.scenario.file import LoadedScenario

FOUR_SLOTS: Final = Queue(slots=4, prefill_s=0.15, prefill_sigma=0.5, tokens=(10, 10), itl_s=0.01, slowdown=0.0)
"""About 15 requests a second."""
TWO_SLOTS: Final = structs.replace(FOUR_SLOTS, slots=2, prefill_s=0.05)
BUDGET_S: Final = 45.0


class LiveOutcome(Struct, frozen=True):
    """What one search claimed, beside the truth."""

    line: str
    is_wrong: bool
    claims: int
    """How many of the two claims it made."""


def script_of(queue: Queue) -> Script:
    """The scripted server that a queue simulates."""
    return Script(
        ttft_s=LogNormal(queue.prefill_s, queue.prefill_sigma),
        itl_s=FixedTime(queue.itl_s),
        tokens=FixedTime(queue.tokens[0]),
        slots=queue.slots,
    )


def search_live(name: str, queue: Queue, objectives: tuple[str, ...], rate: float | None, truth: float) -> LiveOutcome:
    """A search of the scripted server. rate: the first rate, of an open loop; None: of users."""
    load = Closed() if rate is None else Poisson((rate,))
    with MockProcess(script_of(queue)) as server, tempfile.TemporaryDirectory() as folder:
        model = Model(name="mock", url=server.url, target="openai")
        scenario = Scenario(name="live", prompts=("Say hello.",), models=(model,), load=load)
        loaded = LoadedScenario(scenario, None, Path(folder), "the benchmark")
        settings = CapacitySettings(objectives=objectives, budget_s=BUDGET_S)
        searched = asyncio.run(api.capacity(loaded, settings=settings, results=Path(folder)))
    (answer,) = searched.answer.models
    return _outcome(name, answer, truth)


def _outcome(name: str, answer: ModelAnswer, truth: float) -> LiveOutcome:
    known_to = 0.0 if answer.search == "users" else 0.01
    too_high = (answer.holds or 0.0) > truth * (1 + known_to)
    too_low = answer.fails is not None and answer.fails <= truth * (1 - known_to)
    doubts = sorted({doubt for level in answer.levels for doubt in level.doubts})
    words = [
        f"{name}: truth {format_level(truth, answer.search)}; {answer_line(answer, 0.95)}",
        f"stopped: {answer.stopped} after {answer.spent_s:.0f} s",
        *([f"some visits do not count: {', '.join(doubts)}"] if doubts else []),
        "WRONG" if too_high or too_low else "right" if answer.holds or answer.fails else "no claim",
    ]
    claims = (answer.holds is not None) + (answer.fails is not None)
    return LiveOutcome("; ".join(words), too_high or too_low, claims)
