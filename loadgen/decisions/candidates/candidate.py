"""The candidates of some runs: who they are, and at which level they are compared. Pure."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from loadgen.decisions.candidates.runs import SelectRun, StageResult
from loadgen.errors import InputError
from loadgen.scenario import FOUNDRY
from loadgen.scenario.devices import device_of_target
from loadgen.store.manifest import Manifest, ModelCard
from loadgen.targets.listing import is_listed


class Candidate(Struct, frozen=True, kw_only=True):
    """A model, where it is served, and on which device, with its stages in each run."""

    model: str
    target: str
    device: str | None
    """The device of a variant, in small letters; None where the target does not choose one."""
    runs: tuple[tuple[StageResult, ...], ...]
    """In the order in which the runs were started."""
    run_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        place = f"{self.model}@{self.target}"
        return place if self.device is None else f"{place}/{self.device}"

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Its model cards, from the runs that have one."""
        cards = (stage.summary.card for run in self.runs for stage in run)
        return tuple(card for card in cards if card is not None)

    def at(self, level: str) -> tuple[StageResult, ...]:
        """Its valid stages at a level, at most one for each run."""
        return tuple(
            stage for run in self.runs for stage in run if stage.level == level and stage.invalid_because is None
        )

    @property
    def levels(self) -> dict[str, float]:
        """The levels at which it has a valid stage, and how much load each is."""
        return {stage.level: stage.load for run in self.runs for stage in run if stage.invalid_because is None}

    def why_not_at(self, level: str | None) -> str:
        """Why it has no valid stage at a level; None: at any."""
        stages = [stage for run in self.runs for stage in run if level in (None, stage.level)]
        reasons = [f"{stage.level} {reason}" for stage in stages if (reason := stage.invalid_because) is not None]
        return reasons[0] if reasons else f"did not play {level}"


def candidates_of(runs: Sequence[SelectRun]) -> tuple[Candidate, ...]:
    """The candidates of some runs, by name. The same one in several runs is one candidate."""
    stages: dict[tuple[str, str, str | None], dict[str, list[StageResult]]] = {}
    for run in runs:
        for stage in run.stages:
            summary = stage.summary
            device = _device_of(stage, run.manifest)
            key = (summary.model, summary.target if device is None else FOUNDRY, device)
            stages.setdefault(key, {}).setdefault(run.run_id, []).append(stage)
    candidates = (
        Candidate(
            model=model,
            target=target,
            device=device,
            runs=tuple(tuple(of_run) for of_run in by_run.values()),
            run_ids=tuple(by_run),
        )
        for (model, target, device), by_run in stages.items()
    )
    return tuple(sorted(candidates, key=lambda candidate: candidate.name))


def _device_of(stage: StageResult, manifest: Manifest) -> str | None:
    """The device on which Foundry Local runs a model; None for other targets, which do not choose one."""
    summary = stage.summary
    if (asked := device_of_target(summary.target)) is not None:
        return asked
    if summary.target != FOUNDRY:
        return None
    if summary.card is not None and summary.card.device is not None:
        return summary.card.device.lower()
    models = (each for each in manifest.scenario.models if each.name == summary.model)
    return next((each.foundry.device for each in models if each.foundry is not None), None)


def is_candidate(model: str, candidates: Iterable[Candidate]) -> bool:
    """Whether a model, by any of the names that candidates have, is one of them: with or without the version, the
    folder and the ending of a file."""
    names = {
        _plain_name(name)
        for candidate in candidates
        for name in (candidate.model, *(name for card in candidate.cards for name in (card.alias, card.id)))
    }
    return is_listed(_plain_name(model), names)


def _plain_name(name: str) -> str:
    return name.casefold().replace("\\", "/").rpartition("/")[2].removesuffix(".gguf")


class Levels(Struct, frozen=True):
    """The levels of a comparison."""

    of_answers: str
    """It speaks for quality, latency and cost."""
    of_throughput: str
    """The highest that every candidate played validly; it speaks for throughput."""


def compared_levels_of(candidates: Sequence[Candidate], asked: str | None) -> Levels | None:
    """The levels at which candidates are compared; None if nobody has a valid stage.

    asked: the level that the user names; None: the lowest that every candidate played validly. If there is none that
    all played, the one that most did, and the others are out. Raises InputError for a level that nobody played.
    """
    playing = [candidate for candidate in candidates if candidate.levels]
    loads = {level: load for candidate in playing for level, load in candidate.levels.items()}
    by_load = sorted(loads, key=lambda level: (loads[level], level))
    if asked is not None and asked not in loads:
        known = {stage.level for candidate in candidates for run in candidate.runs for stage in run}
        if asked not in known:
            raise InputError(f"level {asked}: no run has it; choose from {', '.join(by_load or sorted(known))}")
        return None
    if not playing:
        return None
    lowest = asked or min(by_load, key=lambda level: (-_count(playing, level), loads[level]))
    compared = [candidate for candidate in playing if lowest in candidate.levels]
    highest = max(by_load, key=lambda level: (_count(compared, level), loads[level]))
    return Levels(lowest, highest)


def _count(candidates: Iterable[Candidate], level: str) -> int:
    return sum(level in candidate.levels for candidate in candidates)
