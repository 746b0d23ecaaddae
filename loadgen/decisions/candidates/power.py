"""The measured power of the device in each stage of a run, from the energy in its summary."""

import contextlib
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.record import StageKey
from loadgen.store.run_folder import Run

SUMMARY: Final = "summary.json"


class Power(Struct, frozen=True):
    """The mean power of the device while a stage's measured requests ran, W."""

    source: str
    """What measured it, as the summary names it, such as `rapl-package`; or `given`."""
    watts: float
    beyond_idle_watts: float | None = None
    """The same without the power of the idle device; None if that is not known."""


def measured_powers(run: Run) -> dict[StageKey, Power]:
    """The mean power of each stage of a run whose summary has its energy: joules / the seconds of the measured part.

    Empty if nothing measured energy during the run.
    """
    summary = _Summary()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        summary = msgspec.json.decode((run.folder / SUMMARY).read_bytes(), type=_Summary)
    seconds = {key: (facts.end_ns - facts.start_ns) / 1e9 for facts in run.facts for key in facts.keys}
    powers = {}
    for stage in summary.stages:
        key = StageKey(stage.target, stage.model, stage.level)
        power = None if stage.energy is None else _power_of(stage.energy, seconds.get(key, 0.0))
        if power is not None:
            powers[key] = power
    return powers


class _Energy(Struct, frozen=True):
    """The energy of a stage, as the summary has it."""

    source: str | None = None
    joules: float | None = None
    joules_beyond_idle: float | None = None


class _Stage(Struct, frozen=True):
    model: str
    target: str
    level: str
    energy: _Energy | None = None


class _Summary(Struct, frozen=True):
    """The part of a summary that has energy."""

    stages: tuple[_Stage, ...] = ()


def _power_of(energy: _Energy, seconds: float) -> Power | None:
    if energy.source is None or not energy.joules or energy.joules < 0 or seconds <= 0:
        return None
    beyond = energy.joules_beyond_idle
    return Power(energy.source, energy.joules / seconds, None if beyond is None else beyond / seconds)
