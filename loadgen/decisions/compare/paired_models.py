"""Finds the models of different runs that correspond. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from loadgen.decisions.compare.sides import ComparedRun, Sides, stage_key
from loadgen.errors import InputError
from loadgen.record import StageKey

Served = tuple[str, str]
"""A target and a model on it."""


class LeftOut(Struct, frozen=True):
    """A model or a level that is not compared, and why."""

    model: str | None
    level: str | None
    why: str


class PairedModel(Struct, frozen=True):
    """A model with its name in each run, and the levels that all runs played with it."""

    base: str
    """Its name in BASE."""
    new: str
    served: tuple[Served, ...]
    """The target and model in each run, in the order of `Sides.runs`."""
    levels: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.base if self.base == self.new else f"{self.base} → {self.new}"

    def key(self, run: int, level: str) -> StageKey:
        target, model = self.served[run]
        return StageKey(target, model, level)


def paired_models(
    sides: Sides, asked: Sequence[tuple[str, str]], levels: Sequence[str]
) -> tuple[tuple[PairedModel, ...], tuple[LeftOut, ...]]:
    """The models that all runs have in common, each with its levels, and the models and levels that only some runs
    have.

    asked: pairs of different names that correspond, in BASE and NEW. levels: the levels to compare; empty: all. Raises
    InputError if no level is in common, and for a name or a level that no run has.
    """
    first = served_by(sides.base[0])
    partners = [
        *(_partners(first, served_by(run), ()) for run in sides.base),
        *(_partners(first, served_by(run), asked) for run in sides.new),
    ]
    common = [served for served in first if all(served in each for each in partners)]
    left_out = [LeftOut(model, None, "not in all runs") for target, model in first if (target, model) not in common]
    for run, each in zip(sides.runs, partners, strict=True):
        rest = [served for served in served_by(run) if served not in each.values()]
        left_out += [LeftOut(model, None, f"only in {run.run_id}") for _, model in rest]
    _check_levels(sides, levels)
    models = []
    for served in common:
        model = PairedModel(served[1], partners[-1][served][1], tuple(each[served] for each in partners), levels=())
        shared, unshared = _levels_of(model, sides, levels)
        left_out += unshared
        if shared:
            models.append(PairedModel(model.base, model.new, model.served, shared))
    if not models:
        raise InputError(_nothing_in_common(sides))
    return tuple(models), tuple(dict.fromkeys(left_out))


def served_by(run: ComparedRun) -> list[Served]:
    """The models that a run played, each once."""
    return list(dict.fromkeys((stage.target, stage.model) for stage in run.played))


def _partners(
    first: Sequence[Served], other: Sequence[Served], asked: Sequence[tuple[str, str]]
) -> dict[Served, Served]:
    """For each model of the first run, that of another: as asked, by target and name, by name, or the only two left."""
    partners: dict[Served, Served] = {}
    for base_name, new_name in asked:
        partners[_named(first, base_name, "BASE")] = _named(other, new_name, "NEW")
    rest = [served for served in other if served not in partners.values()]
    for served in [served for served in first if served not in partners and served in rest]:
        partners[served] = served
        rest.remove(served)
    single = [served for served in first if served not in partners]
    names, other_names = (Counter(name for _, name in runs) for runs in (single, rest))
    for served in single:
        if names[served[1]] == 1 and other_names[served[1]] == 1:
            partners[served] = next(partner for partner in rest if partner[1] == served[1])
            rest.remove(partners[served])
    if len(first) == len(other) == 1 and not partners:
        partners[first[0]] = other[0]
    return partners


def _named(served: Sequence[Served], name: str, side: str) -> Served:
    """The model that `--pair` means: its name, or its name and target where two targets have it."""
    matching = [each for each in served if name in (each[1], f"{each[1]}@{each[0]}")]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(f"{model}@{target}" for target, model in served)
    problem = "is on several targets" if matching else "was not played"
    raise InputError(f"--pair: {name} {problem} in {side}; it has {known}")


def _levels_of(model: PairedModel, sides: Sides, wanted: Sequence[str]) -> tuple[tuple[str, ...], list[LeftOut]]:
    """The levels that every run played with a model, and why others are left out."""
    played = [
        [
            stage.level
            for stage in run.played
            if (stage.target, stage.model) == model.served[i] and _answered(run, stage_key(stage))
        ]
        for i, run in enumerate(sides.runs)
    ]
    shared, left_out = [], []
    for level in dict.fromkeys(level for levels in played for level in levels):
        if wanted and level not in wanted:
            continue
        having = [level in levels for levels in played]
        if all(having):
            shared.append(level)
        else:
            left_out.append(LeftOut(model.name, level, _where(having, sides)))
    return tuple(shared), left_out


def _answered(run: ComparedRun, key: StageKey) -> bool:
    stage = run.stage(key)
    return stage is not None and getattr(stage.requests, "ok", 0) > 0


def _where(having: Sequence[bool], sides: Sides) -> str:
    base, new = having[: len(sides.base)], having[len(sides.base) :]
    match all(base), any(base), all(new), any(new):
        case True, _, _, False:
            return "only in BASE"
        case _, False, True, _:
            return "only in NEW"
        case _:
            return "not answered in all runs"


def _check_levels(sides: Sides, wanted: Iterable[str]) -> None:
    known = dict.fromkeys(stage.level for run in sides.runs for stage in run.played)
    for level in wanted:
        if level not in known:
            raise InputError(f"--stage {level}: no run has it; they have {', '.join(known)}")


def _nothing_in_common(sides: Sides) -> str:
    def has(run: ComparedRun) -> str:
        levels = dict.fromkeys(stage.level for stage in run.played)
        models = dict.fromkeys(model for _, model in served_by(run))
        return f"{', '.join(models)} at {', '.join(levels)}"

    base, new = sides.base[0], sides.new[0]
    hint = "compare runs that have one, or name models that correspond with --pair"
    return f"no level in common: BASE has {has(base)}, NEW has {has(new)}; {hint}"
