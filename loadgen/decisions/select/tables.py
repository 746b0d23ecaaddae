"""The tables of a selection, for the console and the reports. Pure; no format."""

from typing import Final

from loadgen.decisions.select.criteria import CRITERIA
from loadgen.decisions.select.facts import ModelFact
from loadgen.decisions.select.selection import CandidateRow, Selection
from loadgen.decisions.select.sensitivity import bands_beside
from loadgen.decisions.select.words import format_mib, lead_text, signed, value_text
from loadgen.report.format import UNKNOWN, format_duration, format_number
from loadgen.report.section import Column, Row, Table

TITLES: Final = {
    "quality": "quality",
    "latency": "E2E",
    "memory": "memory",
    "throughput": "answers",
    "cost": "cost/1,000",
    "disk": "disk",
}
FACT_TITLES: Final = {
    "license": "license",
    "commercial": "commercial use",
    "memory_mib": "peak memory",
    "disk_mib": "size on disk",
    "context_tokens": "context",
    "device": "device",
    "execution_provider": "execution provider",
    "capabilities": "capabilities",
    "startup_s": "start",
    "load_s": "load",
    "cold_start_ms": "cold start",
}


def console_table(selection: Selection) -> Table:
    """A row for each candidate: its place, values, and lead of the first over it. Ranks decide what a narrow terminal
    leaves out."""
    ranks = {"quality": 0, "latency": 0, "memory": 1, "throughput": 3, "cost": 4, "disk": 4}
    shown = [name for name in CRITERIA if any(name in row.criteria for row in selection.candidates)]
    columns = (
        Column("candidate", "text"),
        *(Column(TITLES[name], rank=ranks[name]) for name in shown),
        Column("license", "text", rank=2),
        Column("behind by", rank=1),
        Column("chance of first", rank=3),
        Column("", "text"),
    )
    currency = selection.policy.cost.currency
    rows = (
        Row(
            (
                row.name,
                *(value_text(name, row.criteria.get(name), currency) for name in shown),
                row.facts.license.value or UNKNOWN,
                UNKNOWN if row.lead is None else signed(row.lead.steps),
                _chance_text(row, selection),
                state_text(selection, row),
            )
        )
        for row in selection.candidates
    )
    return Table(columns, tuple(rows))


def state_text(selection: Selection, row: CandidateRow) -> str:
    """What became of a candidate, in a few words."""
    state = _place_text(selection, row)
    marks = [*(["degraded"] if row.verdict == "degraded" else []), *(["incomplete"] if row.incomplete else [])]
    return ", ".join([state, *marks])


def _place_text(selection: Selection, row: CandidateRow) -> str:
    decision = selection.decision
    if row.out is not None:
        return "out"
    if row.name == decision.recommended:
        return "recommended"
    if row.name in decision.not_told_apart:
        return "tied, first" if row.name == decision.first else "tied"
    return "compared"


def main_table(selection: Selection) -> Table:
    """The workshop's table, whose four columns come first, and what this selection adds to it."""
    columns = (
        Column("Model", "text"),
        Column("Avg Latency"),
        Column("p95"),
        Column("TPS"),
        Column("quality"),
        Column("memory"),
        Column("disk"),
        Column("license", "text"),
        Column("cost/1,000"),
        Column("", "text"),
    )
    currency = selection.policy.cost.currency
    rows = []
    for row in selection.candidates:
        values = [value_text(name, row.criteria.get(name), currency) for name in ("quality", "memory", "disk", "cost")]
        figures = (row.name, format_duration(row.e2e_ms["mean"]), _p95_text(row), format_number(row.tokens_per_s))
        rows.append(
            Row((*figures, *values[:3], row.facts.license.value or UNKNOWN, values[3], state_text(selection, row)))
        )
    return Table(columns, tuple(rows), _main_remarks(selection))


def _main_remarks(selection: Selection) -> tuple[str, ...]:
    remarks = [
        f"Avg Latency is the mean of E2E at {selection.level}, and what is compared is its geometric mean over "
        "prompts, which one slow answer moves less; TPS is output tokens per second of one user (median); memory is "
        "the server's peak at the highest level played."
    ]
    if any(row.criteria and row.e2e_ms["p95"] is None for row in selection.candidates):
        remarks.append("A p95 is known from 72 answered requests on; with fewer, ≥ stands before its lower bound.")
    return tuple(remarks) if selection.level is not None else ()


def _p95_text(row: CandidateRow) -> str:
    known, bound = row.e2e_ms["p95"], row.e2e_ms["p95_at_least"]
    return format_duration(known) if known is not None or bound is None else f"≥ {format_duration(bound)}"


def requirements_table(selection: Selection) -> Table | None:
    """For each candidate, each requirement and whether it holds; None if nothing is required."""
    keys = list(dict.fromkeys(check.key for row in selection.candidates for check in row.requirements))
    if not keys:
        return None
    columns = (Column("candidate", "text"), *(Column(key, "prose") for key in keys), Column("out because", "prose"))
    rows = []
    for row in selection.candidates:
        checks = {check.key: check for check in row.requirements}
        cells = [
            f"{'✓' if checks[key].holds else '✗'} {checks[key].text}" if key in checks else UNKNOWN for key in keys
        ]
        rows.append(Row((row.name, *cells, row.out or "")))
    return Table(columns, tuple(rows))


def leads_table(selection: Selection) -> Table:
    """How sure the choice is."""
    columns = (
        Column("candidate", "text"),
        Column("utility (steps)"),
        Column("the first leads it by"),
        Column("chance of first"),
        Column("share of all weightings"),
        Column("on the Pareto front", "text"),
    )
    rows = (
        Row(
            (
                row.name,
                signed(row.utility or 0.0),
                UNKNOWN if row.lead is None else lead_text(row.lead, ""),
                _chance_text(row, selection),
                share_text(row.acceptability),
                _front_text(row),
            )
        )
        for row in selection.candidates
        if row.eligible
    )
    return Table(columns, tuple(rows))


def _chance_text(row: CandidateRow, selection: Selection) -> str:
    """The chance of being first among several: also where all draws or none had the candidate first, another draw may
    not."""
    chance, compared = row.chance_of_first, sum(each.chance_of_first is not None for each in selection.candidates)
    return share_text(chance if chance is None or compared < 2 else min(max(chance, 0.001), 0.999))


def share_text(share: float | None) -> str:
    """A share in whole percent: 0 and 100 are exact."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.005 or 0.995 < share < 1:
        return "< 1 %" if share < 0.5 else "> 99 %"
    return f"{100 * share:.0f} %"


def _front_text(row: CandidateRow) -> str:
    if row.pareto:
        return "of quality and latency, and of all" if row.pareto_all else "of quality and latency"
    return "of all criteria" if row.pareto_all else "no"


def steps_table(selection: Selection) -> Table:
    """What the leads are sums of: each value, and by how many steps it is better or worse than that of the first."""
    rows = _eligible(selection)
    columns = (Column("criterion", "text"), Column("weight"), *(Column(row.name) for row in rows))
    first = next(row for row in rows if row.name == selection.decision.first)
    lines = []
    for name, share in selection.policy.shares.items():
        cells = [value_text(name, row.criteria[name]) for row in rows]
        steps = [row.criteria[name].steps - first.criteria[name].steps for row in rows]
        shown = [
            cell if row is first else f"{cell} · {signed(step, '+')}"
            for cell, step, row in zip(cells, steps, rows, strict=True)
        ]
        lines.append(Row((name, f"{share:.2f}", *shown)))
    return Table(columns, tuple(lines), ("After the point: steps better (+) or worse (−) than the first.",))


def _eligible(selection: Selection) -> list[CandidateRow]:
    return [row for row in selection.candidates if row.eligible]


def turning_table(selection: Selection) -> Table:
    """What each weight would have to be for another candidate to be first."""
    columns = (
        Column("criterion", "text"),
        Column("weighs now"),
        Column(f"{selection.decision.first}", "prose"),
        Column("to try it", "text"),
    )
    rows = (
        Row((name, f"{row.weight:.2f}", row.text, ", ".join(_flags_to_try(selection, name))))
        for name, row in selection.sensitivity.items()
    )
    return Table(columns, tuple(rows))


def _flags_to_try(selection: Selection, name: str) -> list[str]:
    """The weights to give, so that a criterion weighs a little more or less than at its next turning points. If the
    weights are from flags, all of them, since a flag takes the place of the one before."""
    row, policy = selection.sensitivity[name], selection.policy
    rest = sum(weight for other, weight in policy.weights.items() if other != name and other in policy.shares)
    flags = []
    for low, high in bands_beside(row.weight, row.first):
        weight = _weight_between(low, high, rest)
        if policy.weights_by == "flags":
            given = {other: f"{asked:g}" for other, asked in policy.weights.items()} | {name: weight}
        else:
            given = {name: weight}
        flags.append(f"--weights {','.join(f'{key}={value}' for key, value in given.items())}")
    return flags


def _weight_between(low: float, high: float, rest: float) -> str:
    """A weight, beside others with the sum `rest`, that is a share between two others, with as few digits as that
    takes."""
    for digits in range(3, 12):
        text = f"{(low + high) / 2 / (1 - (low + high) / 2) * rest:.{digits}g}"
        if low < float(text) / (float(text) + rest) < high:
            break
    return text


def facts_table(selection: Selection) -> Table:
    """The facts of each candidate with their sources."""
    columns = (Column("fact", "text"), *(Column(row.name, "text") for row in selection.candidates))
    rows = []
    for name, title in FACT_TITLES.items():
        facts: list[ModelFact[object]] = [getattr(row.facts, name) for row in selection.candidates]
        if any(fact.value is not None for fact in facts):
            rows.append(Row((title, *(fact_text(name, fact) for fact in facts))))
    return Table(columns, tuple(rows))


def fact_text(name: str, fact: ModelFact[object]) -> str:
    """A fact with its source: 1.10 GiB (measured)."""
    match fact.value:
        case None:
            return "unknown"
        case int() | float() as number if name.endswith("_mib"):
            shown = format_mib(float(number))
        case int() | float() as number if name.endswith("_s"):
            shown = format_duration(float(number) * 1000)
        case int() | float() as number if name.endswith("_ms"):
            shown = format_duration(float(number))
        case int() | float() as number:
            shown = f"{number:,.0f}"
        case tuple() as several:
            shown = ", ".join(map(str, several))
        case other:
            shown = str(other)
    return f"{shown} ({fact.source})"


def graded_table(selection: Selection) -> Table:
    """The quality of each candidate by the notes of each kind, beside that by the key points."""
    columns = (Column("candidate", "text"), Column("graded", "text"), Column("prompts"), Column("by notes"))
    rows = []
    for graded in selection.graded:
        title = {"hand": "by hand", "judge": "by a judge"}[graded.kind]
        for name in (row.name for row in selection.candidates):
            if (quality := graded.quality.get(name)) is None:
                rows.append(Row((name, title, "0", UNKNOWN, UNKNOWN)))
                continue
            ends = "" if quality.ci is None else f" ({quality.ci[0]:.0f} to {quality.ci[1]:.0f})"
            marks = UNKNOWN if quality.key_points is None else f"{quality.key_points:.0f}"
            rows.append(Row((name, title, str(quality.n), f"{quality.value:.0f}{ends}", marks)))
    return Table((*columns, Column("by the key points")), tuple(rows))


def cost_table(selection: Selection) -> Table | None:
    """Energy and cost of each candidate; None if no energy is known."""
    rows = [row for row in selection.candidates if row.cost is not None]
    if not any(row.cost is not None and (row.cost.source or row.cost.workshop_cost) for row in rows):
        return None
    currency = selection.policy.cost.currency
    columns = (
        Column("candidate", "text"),
        Column("power from", "text"),
        Column("J per request"),
        Column("J per token"),
        Column("beyond idle, J per request"),
        Column(f"cost of 1,000 requests{f' ({currency})' if currency else ''}"),
        Column("workshop_cost"),
    )
    cells = []
    for row in rows:
        cost = row.cost
        assert cost is not None
        amounts = (cost.joules_per_request, cost.joules_per_token, cost.joules_per_request_beyond_idle, cost.per_1000)
        cells.append(
            Row((row.name, cost.source or UNKNOWN, *map(format_number, amounts), format_number(cost.workshop_cost)))
        )
    return Table(columns, tuple(cells))
