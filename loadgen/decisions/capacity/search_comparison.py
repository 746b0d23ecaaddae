"""Two searches compared: NEW is worse when it is shown not to hold what BASE is shown to hold. Pure."""

from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.capacity.answer import CapacityFile, ModelAnswer
from loadgen.decisions.capacity.resume import EarlierSearch, unlike_facts
from loadgen.decisions.capacity.words import format_level
from loadgen.decisions.compare.differences import Difference, NotAlikeError
from loadgen.errors import InputError
from loadgen.report.markdown import escape

SearchVerdict = Literal["worse", "better", "unknown"]
ORDER: Final[tuple[SearchVerdict, ...]] = ("worse", "better", "unknown")
"""The verdict on all models is the first in this order that applies to one of them."""


class SearchFigure(Struct, frozen=True, kw_only=True):
    """The capacity of one model on both sides."""

    model: tuple[str, str]
    """The model's names in BASE and in NEW."""
    metric: str = "capacity"
    unit: str
    """users, or requests/s."""
    base: float | None
    new: float | None
    base_ends: tuple[float | None, float | None]
    """The highest level shown to hold, and the lowest shown not to."""
    new_ends: tuple[float | None, float | None]
    verdict: SearchVerdict


class SearchComparison(Struct, frozen=True, kw_only=True):
    """The comparison of two searches, as in comparison.json."""

    schema: str = "loadgen.comparison/1"
    verdict: SearchVerdict
    base: tuple[str, ...]
    new: tuple[str, ...]
    design: str = "searches"
    differences: tuple[Difference, ...]
    figures: tuple[SearchFigure, ...]


def compare_searches(base: EarlierSearch, new: EarlierSearch, unlike: Literal["refuse", "accept"]) -> SearchComparison:
    """Whether NEW carries less than BASE. unlike: whether searches that asked for different things are compared.

    Raises NotAlikeError if they are not, and InputError if no model is on both sides.
    """
    differences = tuple(
        Difference(name, before, after, allowed=False) for name, before, after in unlike_facts(base.facts, new.facts)
    )
    if differences and unlike == "refuse":
        raise NotAlikeError(differences)
    figures = tuple(_figure(*pair) for pair in _pairs(base.capacity, new.capacity))
    if not figures:
        raise InputError("BASE and NEW have no model in common; search one of the same name")
    verdict = next(word for word in ORDER if any(figure.verdict == word for figure in figures))
    return SearchComparison(
        verdict=verdict,
        base=(base.capacity.run_id,),
        new=(new.capacity.run_id,),
        differences=differences,
        figures=figures,
    )


def _pairs(base: CapacityFile, new: CapacityFile) -> list[tuple[ModelAnswer, ModelAnswer]]:
    """The pairs of models with the same name; if each side has one model, the pair of these."""
    if len(base.models) == len(new.models) == 1:
        return [(base.models[0], new.models[0])]
    return [(before, after) for before in base.models for after in new.models if _key(before) == _key(after)]


def _key(model: ModelAnswer) -> tuple[str, str]:
    return model.model, model.target


def _figure(base: ModelAnswer, new: ModelAnswer) -> SearchFigure:
    verdict: SearchVerdict = "unknown"
    if base.holds is not None and new.fails is not None and new.fails <= base.holds:
        verdict = "worse"
    elif new.holds is not None and base.fails is not None and base.fails <= new.holds:
        verdict = "better"
    return SearchFigure(
        model=(base.model, new.model),
        unit="users" if base.search == "users" else "requests/s",
        base=base.capacity,
        new=new.capacity,
        base_ends=(base.holds, base.fails),
        new_ends=(new.holds, new.fails),
        verdict=verdict,
    )


def comparison_lines(comparison: SearchComparison) -> list[str]:
    """The verdict, a line for each model, and the differences of the searches."""
    lines = [f"{each.subject}: {each.base} in BASE, {each.new} in NEW" for each in comparison.differences]
    for figure in comparison.figures:
        base, new = f"BASE {_ends(figure.base_ends)}", f"NEW {_ends(figure.new_ends)}"
        name = figure.model[0] if figure.model[0] == figure.model[1] else " → ".join(figure.model)
        lines.append(f"{_verdict_words(figure)}: {name}: {base}; {new}")
    return lines


def _verdict_words(figure: SearchFigure) -> str:
    search = "users" if figure.unit == "users" else "rate"
    match figure.verdict:
        case "worse":
            level = format_level(figure.base_ends[0] or 0, search)
            return f"worse: NEW is shown not to hold {level}, which BASE is shown to hold"
        case "better":
            level = format_level(figure.new_ends[0] or 0, search)
            return f"better: NEW is shown to hold {level}, which BASE is shown not to hold"
    return "no difference detectable"


def _ends(ends: tuple[float | None, float | None]) -> str:
    words = zip(ends, ("holds", "does not"), strict=True)
    shown = [f"{level:.4g} {word}" for level, word in words if level is not None]
    return f"({', '.join(shown) or 'nothing is shown'})"


def comparison_text(comparison: SearchComparison, command: str) -> str:
    """The comparison as Markdown. command: the command that made it."""
    verdict, *_ = (line for line in comparison_lines(comparison)[len(comparison.differences) :])
    lines = [escape(line) for line in comparison_lines(comparison)]
    ids = f"BASE: `{comparison.base[0]}`. NEW: `{comparison.new[0]}`."
    return "\n\n".join([f"**{escape(verdict)}**", *lines, ids, f"```sh\n{command}\n```"]) + "\n"
