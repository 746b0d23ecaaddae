"""A selection in sentences. Pure: the console, the reports and `selection.json` have the same ones."""

import math
from collections.abc import Sequence
from typing import Final, Literal

from loadgen.decisions.select.criteria import Criterion
from loadgen.decisions.select.selection import CandidateRow, CriterionRow, LeadRow, Selection
from loadgen.report.format import UNKNOWN, format_bytes, format_count, format_duration, format_number

USABLE: Final = 25.0
"""Points of 100: if even the upper end of the best quality is below this, nobody does the job."""
LEAST_SHOWN: Final = 0.02
"""Weighted steps: a smaller difference is no reason for a choice."""
STEPS_NOTE: Final = (
    "One step is 10 points of quality, half of the latency, memory, disk or cost, or twice the throughput. "
    "The interval of a lead is one of 95 % for all pairs at once of those that were still compared."
)
DEFAULT_WEIGHTS_NOTE: Final = "a judgment of ours; set yours with --weights"
_MOST_DIGITS: Final = 6
"""Decimals of a share."""


def decision_text(selection: Selection) -> str:
    """The decision and its reason, in two sentences or three."""
    decision = selection.decision
    if decision.verdict == "none":
        return _none_text(selection)
    sentences = [_useless(selection)] if _useless(selection) else []
    rows = {row.name: row for row in selection.candidates}
    assert decision.first is not None
    first = rows[decision.first]
    if decision.verdict == "recommended":
        sentences.append(f"{first.name} is recommended: {strengths(first)}.")
        sentences.append(_reason(selection, first))
    else:
        sentences.append(_tied_text(selection, first, rows))
    return " ".join(sentences)


def _useless(selection: Selection) -> str:
    """A sentence if nobody does the job; empty otherwise."""
    rows = [row for row in selection.candidates if row.eligible]
    best = max((row.criteria["quality"] for row in rows if "quality" in row.criteria), key=_value, default=None)
    if best is None or (best.value if best.ci is None else best.ci[1]) >= USABLE:
        return ""
    return f"None of them does this job: the best quality is {quality_text(best)} of 100."


def _value(row: CriterionRow) -> float:
    return row.value


def strengths(row: CandidateRow) -> str:
    """Quality, E2E, memory and license of a candidate, as far as they are known."""
    parts = []
    if (quality := row.criteria.get("quality")) is not None:
        parts.append(f"quality {quality_text(quality)}")
    if (latency := row.criteria.get("latency")) is not None:
        parts.append(f"E2E {format_duration(latency.value)} (geometric mean)")
    if (memory := row.criteria.get("memory")) is not None:
        parts.append(format_mib(memory.value))
    if row.facts.license.value is not None:
        parts.append(row.facts.license.value)
    return ", ".join(parts)


def quality_text(row: CriterionRow) -> str:
    """A quality with its interval: 41 (31 to 51)."""
    if row.ci is None:
        return _points(row.value)
    return f"{_points(row.value)} ({_points(row.ci[0])} to {_points(row.ci[1])})"


def _points(value: float) -> str:
    """Points of 100, whole from 1 on."""
    return f"{value:.1f}" if 0.05 <= value < 1 else f"{value:.0f}"


def format_mib(mib: float | None) -> str:
    return UNKNOWN if mib is None else format_bytes(round(mib * 2**20))


def _reason(selection: Selection, first: CandidateRow) -> str:
    others = [row for row in selection.candidates if row.lead is not None]
    turning = _turning_of(selection)
    if not others:
        rest = "it is the only candidate" if len(selection.candidates) == 1 else "all others are out"
        return f"There is nothing to compare with: {rest}."
    second = others[0]
    assert second.lead is not None
    return f"It leads {second.name} by {lead_text(second.lead)}{_why(selection, first, second)}, and {turning}."


def _why(selection: Selection, first: CandidateRow, second: CandidateRow) -> str:
    """What the lead over another is made of: where the first is better by most, and where it is worse by most."""
    better, worse = _extremes(selection, first, second)
    text = f", for its {_against(better, first, second)}" if better else ""
    return f"{text}, in spite of its {_against(worse, first, second)}" if better and worse else text


def _extremes(selection: Selection, first: CandidateRow, second: CandidateRow) -> tuple[str | None, str | None]:
    """The criterion by which the first leads another by most, and the one by which it is behind by most."""
    parts = {
        name: share * (first.criteria[name].steps - second.criteria[name].steps)
        for name, share in selection.policy.shares.items()
    }
    better, worse = max(parts, key=lambda name: parts[name]), min(parts, key=lambda name: parts[name])
    is_better, is_worse = parts[better] > LEAST_SHOWN, parts[worse] < -LEAST_SHOWN
    return better if is_better else None, worse if is_worse else None


def _against(name: str | None, first: CandidateRow, second: CandidateRow) -> str:
    """A criterion with the values of both: quality (81 against 50)."""
    assert name is not None
    return f"{name} ({_plain(name, first)} against {_plain(name, second)})"


def _plain(name: str, row: CandidateRow) -> str:
    """The value of a criterion without its interval."""
    criterion = row.criteria[name]
    return _points(criterion.value) if name == "quality" else value_text(name, criterion)


def lead_text(lead: LeadRow, unit: str = " steps") -> str:
    """A lead with its interval: 0.42 steps (0.10 to 0.74)."""
    shown = f"{signed(lead.steps)}{unit}"
    return shown if lead.ci is None else f"{shown} ({signed(lead.ci[0])} to {signed(lead.ci[1])})"


def signed(value: float, plus: Literal["", "+"] = "") -> str:
    """A number of steps with two decimals, and a real minus sign. plus: what stands before a number above 0."""
    rounded = round(value, 2) + 0.0  # no −0.00
    return f"{plus if rounded > 0 else ''}{rounded:.2f}".replace("-", "−")


def _tied_text(selection: Selection, first: CandidateRow, rows: dict[str, CandidateRow]) -> str:
    decision = selection.decision
    names = list(decision.not_told_apart)
    second = rows[names[1]]
    assert second.lead is not None
    prompts = format_count(selection.prompts, "prompt")
    lead = f"{first.name} leads {second.name} by {lead_text(second.lead)}"
    if second.lead.ci is None:
        task = "play more prompts" if selection.quality_by == "key_points" else "grade the answers to more prompts"
        more = f"one prompt cannot tell; {task}"
    elif decision.needed_prompts is None:
        more = "more prompts would hardly tell; other weights or more runs might"
    else:
        more = f"about {decision.needed_prompts:,} prompts would tell"
    better, worse = _extremes(selection, first, second)
    sides = []
    if better:
        sides.append(f"{first.name} has the better {_against(better, first, second)}")
    if worse:
        sides.append(f"{second.name} has the better {_against(worse, second, first)}")
    text = f"{_joined(names)} cannot be told apart on {prompts} ({lead}); {more}. "
    if sides:
        text += f"{', '.join(sides)}. "
    return f"{text}Until then: {first.name}, by its estimate: {strengths(first)}."


def _joined(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _none_text(selection: Selection) -> str:
    measured = [row for row in selection.candidates if row.criteria]
    if not measured:
        reasons = "; ".join(f"{row.name}: {row.out}" for row in selection.candidates)
        return f"No candidate can be compared: {reasons}."
    text = "No candidate meets the requirements."
    nearest = next((row for row in selection.candidates if row.name == selection.decision.nearest), None)
    return text if nearest is None else f"{text} The nearest is {nearest.name}: {nearest.out}."


def _turning_of(selection: Selection) -> str:
    """What would change who is first, by the nearest turning point; or that no weight would."""
    changing = [
        (distance, row.text)
        for row in selection.sensitivity.values()
        if (distance := _distance(row.weight, row.first)) is not None
    ]
    if len(selection.sensitivity) == 1:
        return f"nothing else than {next(iter(selection.sensitivity))} has a weight"
    if not changing:
        return "stays first whatever any single criterion weighs"
    return min(changing)[1]


def _distance(weight: float, first: Sequence[tuple[float, str]]) -> float | None:
    """How far a weight is from the nearest turning point; None if there is none."""
    edges = [start for start, _ in first[1:]]
    return min((abs(edge - weight) for edge in edges), default=None)


def turning_text(
    criterion: Criterion | str,
    share: float,
    first: Sequence[tuple[float, str]],
    recommended: tuple[float, float] | None = None,
) -> str:
    """For which weights of a criterion the first stays first: `stays first while latency weighs less than 0.63 (now
    0.20); above that, b is first; from 0.41 on they are tied`. first: from which share on, and who. recommended: the
    shares for which the first leads everybody for sure."""
    return _first_text(criterion, share, first) + _tied_from(share, recommended)


def _tied_from(share: float, recommended: tuple[float, float] | None) -> str:
    """From which weights on the first is tied with another; empty if it is so now, or with no weight."""
    if recommended is None or recommended == (0.0, 1.0):
        return ""
    low, high = recommended
    digits = _digits_between(low, share, high)
    below = f"up to {_up(low, digits):.{digits}f}" if low > 0 else ""
    above = f"from {_down(high, digits):.{digits}f} on" if high < 1 else ""
    return f"; {' and '.join(filter(None, (below, above)))} they are tied"


def _first_text(criterion: Criterion | str, share: float, first: Sequence[tuple[float, str]]) -> str:
    at = max(place for place, (start, _) in enumerate(first) if start <= share or place == 0)
    low, high = first[at][0], first[at + 1][0] if at + 1 < len(first) else 1.0
    below = first[at - 1][1] if at else None
    above = first[at + 1][1] if at + 1 < len(first) else None
    digits = _digits_between(0.0 if below is None else low, share, 1.0 if above is None else high)
    now = f"(now {share:.{digits}f})"
    if below is None and above is None:
        return f"stays first whatever {criterion} weighs {now}"
    low_text, high_text = f"{_up(low, digits):.{digits}f}", f"{_down(high, digits):.{digits}f}"
    if above is None:
        return f"stays first while {criterion} weighs more than {low_text} {now}; below that, {below} is first"
    if below is None:
        return f"stays first while {criterion} weighs less than {high_text} {now}; above that, {above} is first"
    within = f"stays first while {criterion} weighs {low_text} to {high_text} {now}"
    return f"{within}; below that, {below} is first, and above that, {above}"


def _digits_between(low: float, share: float, high: float) -> int:
    """The fewest decimals with which a share shows as between two others that are rounded toward it. An end of 0 or 1
    is none."""
    for digits in range(2, _MOST_DIGITS):
        shown = round(share, digits)
        if (low == 0 or _up(low, digits) < shown) and (high == 1 or _down(high, digits) > shown):
            return digits
    return _MOST_DIGITS


def _up(value: float, digits: int) -> float:
    return math.ceil(value * 10.0**digits) / 10.0**digits


def _down(value: float, digits: int) -> float:
    return math.floor(value * 10.0**digits) / 10.0**digits


def lines_of(selection: Selection) -> list[str]:
    """What the console says besides the table: the decision, who is out, what is not compared, and the weights."""
    lines = [selection.decision.text]
    if not any(row.criteria for row in selection.candidates):
        return lines  # it says of each why it is out, and nothing was weighed
    out = [f"{row.name} ({row.out})" for row in selection.candidates if row.out is not None]
    if out:
        lines.append(f"Out: {', '.join(out)}.")
    if selection.left_out:
        reasons = [f"{name} ({reason})" for name, reason in selection.left_out.items()]
        lines.append(f"Not compared: {', '.join(reasons)}.")
    lines.append(weights_text(selection))
    return lines


def weights_text(selection: Selection) -> str:
    """The weights of the criteria that are compared, with where they come from."""
    shares = selection.policy.shares or selection.policy.weights
    listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if share)
    origin = {
        "default": DEFAULT_WEIGHTS_NOTE,
        "scenario": "from the scenario",
        "policy": "from the policy file",
        "flags": "from --weights",
    }[selection.policy.weights_by]
    return f"Weights: {listed} ({origin})."


def value_text(name: str, row: CriterionRow | None, currency: str | None = None) -> str:
    """The value of a criterion in a table."""
    if row is None:
        return UNKNOWN
    match name:
        case "quality":
            return quality_text(row)
        case "latency":
            return format_duration(row.value)
        case "memory" | "disk":
            return format_mib(row.value)
        case "throughput":
            return f"{format_number(row.value)} /s"
        case _:
            return f"{format_number(row.value)}{f' {currency}' if currency else ''}"
