"""A comparison in words: what changed, what did not, and how many runs would show more. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.decisions.compare.comparison import Comparison, Figure
from loadgen.decisions.compare.differences import Degraded
from loadgen.decisions.compare.verdict import BEYOND, ComparisonVerdict
from loadgen.report.format import UNKNOWN, format_duration, format_number, format_percent, format_signed
from loadgen.report.metric_names import DAGGER, metric_title
from loadgen.stats.permutation import exchanges_of_runs, fewest_blocks

MOST_NAMED: Final = 6
"""The maximum number of figures that a line names; the others are counted."""
SMALLEST_SHOWN: Final = 5e-4
"""A change up to this size is printed as 0."""
_TITLES: Final = {"goodput": "SLO met", "ok": "answered", "rss": "memory", "ttft_from_send": "TTFT from send"}
_ASSUMED_HINT: Final = "repeat both sides 3 times or more to measure it, or give it with --noise"


def figure_name(comparison: Comparison, figure: Figure) -> str:
    """`TTFT p50 at 4 users`, or `TTFT p50, over all levels`; with the model in front if there are several."""
    where = ", over all levels" if figure.level is None else f" at {level_text(figure.level)}"
    return f"{_owner(comparison, figure)}{metric_text(figure.metric)}{where}"


def marked_name(comparison: Comparison, figure: Figure) -> str:
    """As `figure_name`, with a dagger if a stage of the figure is degraded."""
    name = model_text(figure)
    is_degraded = any(each.model == name and figure.level in (each.level, None) for each in comparison.degraded)
    return f"{figure_name(comparison, figure)} {DAGGER}" if is_degraded else figure_name(comparison, figure)


def _owner(comparison: Comparison, figure: Figure) -> str:
    several = len({each.model for each in comparison.figures}) > 1
    return f"{model_text(figure)}: " if several else ""


def model_text(figure: Figure) -> str:
    base, new = figure.model
    return base if base == new else f"{base} → {new}"


def metric_text(metric: str) -> str:
    """`TTFT p50` for `ttft_p50`, `tok/s` for `output_tokens_per_s`."""
    name, _, percentile = metric.rpartition("_")
    if metric in _TITLES or not percentile.startswith("p") or not percentile[1:2].isdigit():
        return _TITLES[metric] if metric in _TITLES else metric_title(metric)
    return f"{_TITLES[name] if name in _TITLES else metric_title(name)} {percentile}"


def level_text(level: str) -> str:
    """`4 users` for `c4`, `2.5 /s` for `r2.5`; other labels are unchanged."""
    if users := re.fullmatch(r"c(\d+)", level):
        return "1 user" if users[1] == "1" else f"{users[1]} users"
    rate = re.fullmatch(r"r([\d.e+-]+)", level)
    return f"{rate[1]} /s" if rate else level


def change_text(figure: Figure) -> str:
    """The change of NEW: `+9.8 %`, or `−2.1 points`."""
    if figure.points is not None:
        return f"{format_signed(figure.points * 100)} points"
    return f"{_percent(figure.ratio or 1.0)} %"


def interval_text(figure: Figure) -> str:
    """The 95 % interval of a change: `+6.1 to +13.6`, in the unit of the change."""
    if figure.points_ci is not None:
        return " to ".join(format_signed(end * 100) for end in figure.points_ci)
    return " to ".join(_percent(end) for end in figure.ratio_ci or (1.0, 1.0))


def value_text(figure: Figure, value: float | None) -> str:
    """A value of a figure with its unit."""
    if value is None:
        return UNKNOWN
    match figure.unit:
        case "ms":
            return format_duration(value)
        case "share":
            return format_percent(value)
        case "MiB":
            return f"{format_number(value)} MiB"
    return f"{format_number(value)} /s"


def _percent(ratio: float) -> str:
    return format_signed((ratio - 1) * 100)


def verdict_line(comparison: Comparison) -> str:
    """The verdict, the figure that decides it, and the number of runs."""
    sides = sides_text(comparison)
    rest = [figure for figure in comparison.figures if figure.verdict == comparison.verdict]
    match comparison.verdict:
        case "worse" | "better" as word:
            first = first_figure(rest)
            named = f"{_owner(comparison, first)}{metric_text(first.metric)} {change_text(first)}"
            where = "over all levels" if first.level is None else f"at {level_text(first.level)}"
            return f"{word}: {named} ({interval_text(first)}), {where}; {sides}"
        case "same":
            return f"the same within {format_percent(comparison.margin)}: all {len(rest)} figures; {sides}"
    if too_few_runs(comparison):
        unit = "blocks" if comparison.design == "blocks" else "runs"
        return f"too few {unit} to show a difference; {sides}"
    return f"no difference detectable; {sides}"


def sides_text(comparison: Comparison) -> str:
    """The number of runs: `5 runs against 5`, or `6 blocks of two runs`."""
    if comparison.design == "blocks":
        return f"{len(comparison.base)} blocks of two runs"
    return f"{_count(len(comparison.base))} against {len(comparison.new)}"


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def first_figure(figures: Sequence[Figure]) -> Figure:
    """The figure to name first: one over all levels if there is one, and then the largest change."""
    return max(figures, key=lambda figure: (figure.level is None and figure.points is None, size_of(figure)))


def size_of(figure: Figure) -> float:
    """The size of a change, in either direction."""
    if figure.points is not None:
        return abs(figure.points)
    return abs((figure.ratio or 1.0) - 1)


def more_lines(comparison: Comparison) -> list[str]:
    """The lines below the verdict: the other figures by their verdicts, the limits of what is known, and doubts."""
    return [*changed_lines(comparison), *context_lines(comparison), *_asked_lines(comparison)]


def _asked_lines(comparison: Comparison) -> list[str]:
    """The differences between two variants, which are alike otherwise."""
    if comparison.design != "blocks":
        return []
    allowed = [each for each in comparison.differences if each.allowed]
    named = (f"{each.subject} ({each.base} in BASE, {each.new} in NEW)" for each in allowed)
    if comparison.unlike:  # these stand above
        return _line("what else differs", named) or ["nothing else differs"]
    return _line("what differs", named) or ["nothing differs: NEW is the same as BASE"]


def changed_lines(comparison: Comparison) -> list[str]:
    """The figures that are worse and those that are better, except the one that the verdict names."""
    lines = []
    for word in ("worse", "better"):
        figures = _shortened([figure for figure in comparison.figures if figure.verdict == word])
        title: str = word
        if comparison.verdict == word:
            first = first_figure(figures)
            figures, title = [figure for figure in figures if figure is not first], f"{word} too"
        lines += _line(title, _named(comparison, figures))
    return lines


def context_lines(comparison: Comparison) -> list[str]:
    """The figures that did not change, those that are not known, and the basis of the answer."""
    lines = []
    if comparison.verdict != "same":
        same = _grouped(comparison, "same")
        lines += _line(f"the same within {format_percent(comparison.margin)}", same)
    lines += [*_differing_lines(comparison), *_unknown_lines(comparison)]
    if comparison.worst_excluded is not None:
        excluded = format_percent(max(comparison.worst_excluded, 0.0))
        lines.append(f"nothing is worse by more than {excluded} (95 % confidence, except for shares of requests)")
    return [*lines, *noise_lines(comparison)]


def _line(title: str, names: Iterable[str]) -> list[str]:
    named = list(names)
    if not named:
        return []
    more = [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return [f"{title}: {'; '.join([*named[:MOST_NAMED], *more])}"]


def _shortened(figures: Sequence[Figure]) -> list[Figure]:
    """The figures without the levels of a metric that is also there over all levels."""
    means = {(figure.model, figure.metric) for figure in figures if figure.level is None}
    return [each for each in figures if each.level is None or (each.model, each.metric) not in means]


def _named(comparison: Comparison, figures: Sequence[Figure]) -> list[str]:
    ordered = sorted(figures, key=lambda figure: (figure.level is not None, -size_of(figure)))
    return [f"{figure_name(comparison, each)} {change_text(each)} ({interval_text(each)})" for each in ordered]


def _grouped(comparison: Comparison, verdict: ComparisonVerdict) -> list[str]:
    """The metrics all of whose figures have a verdict, and the single figures of other metrics with it."""
    names = []
    for model, metric in dict.fromkeys((figure.model, figure.metric) for figure in comparison.figures):
        own = [figure for figure in comparison.figures if (figure.model, figure.metric) == (model, metric)]
        having = [figure for figure in own if figure.verdict == verdict]
        if len(having) == len(own):
            names.append(f"{_owner(comparison, own[0])}{metric_text(metric)}")
        else:
            names += [figure_name(comparison, figure) for figure in having]
    return names


def _unknown_figures(comparison: Comparison) -> list[Figure]:
    """Each metric that is not known somewhere, once: over all levels if that is not known, otherwise its first
    level."""
    figures = []
    for model, metric in dict.fromkeys((figure.model, figure.metric) for figure in comparison.figures):
        own = [figure for figure in comparison.figures if (figure.model, figure.metric) == (model, metric)]
        unknown = [figure for figure in own if figure.verdict == "unknown"]
        figures += [next((each for each in unknown if each.level is None), unknown[0])] if unknown else []
    return figures


def _differs(figure: Figure) -> bool:
    """Whether the 95 % interval of the change excludes no change, as it is printed."""
    low, high = figure.points_ci or tuple(end - 1 for end in figure.ratio_ci or (1.0, 1.0))
    return low > SMALLEST_SHOWN or high < -SMALLEST_SHOWN


def _differing_lines(comparison: Comparison) -> list[str]:
    """The figures that differ in these runs, where so few runs cannot show that they differ in general."""
    needed = too_few_runs(comparison)
    if needed is None:
        return []
    unit = "blocks" if comparison.design == "blocks" else "runs"
    why = f"too few to show a difference at --alpha {format_percent(comparison.alpha)}"
    title = f"differs in these {unit}, which are {why} ({needed} {_unit(comparison)} would be enough)"
    return _line(title, _named(comparison, [each for each in _unknown_figures(comparison) if _differs(each)]))


def _unknown_lines(comparison: Comparison) -> list[str]:
    """The other figures that are not known, and how many runs would be enough for all that are not."""
    unknown, is_too_few = _unknown_figures(comparison), too_few_runs(comparison) is not None
    figures = [each for each in unknown if not (is_too_few and _differs(each))]
    named = [
        f"{figure_name(comparison, each)} ({interval_text(each)} {'points' if each.points is not None else '%'})"
        for each in figures
    ]
    needed = [each.runs_needed for each in figures if each.runs_needed is not None]
    if not needed:
        return _line("not known", named)
    numbers = sorted(each for each in needed if isinstance(each, int))
    ends: list[int | str] = [*numbers[:1], *numbers[1:][-1:], *([BEYOND] if len(numbers) < len(needed) else [])]
    runs = " to ".join(dict.fromkeys(str(each) for each in (ends[0], ends[-1])))
    (line,) = _line("not known", named)
    return [f"{line}; {runs} {_unit(comparison)} {_enough(comparison)}"]


def needed_text(comparison: Comparison, figure: Figure) -> str:
    """How many runs would decide: `9 runs a side would be enough to show a change of 5 %`."""
    return f"{figure.runs_needed} {_unit(comparison)} {_enough(comparison)}"


def _enough(comparison: Comparison) -> str:
    return f"would be enough to show a change of {format_percent(comparison.margin)}"


def _unit(comparison: Comparison) -> str:
    return "blocks" if comparison.design == "blocks" else "runs a side"


def too_few_runs(comparison: Comparison) -> int | None:
    """How many runs a side, or blocks, have enough exchanges for the requested alpha; None if these runs have, or if
    no runs are exchanged."""
    if comparison.design == "few":
        return None
    if comparison.design == "blocks":
        fewest = fewest_blocks(comparison.alpha)
        return fewest if len(comparison.base) < fewest else None
    if exchanges_of_runs(len(comparison.base), len(comparison.new)) * comparison.alpha >= 1 - 1e-9:
        return None
    return next(runs for runs in range(2, 100) if exchanges_of_runs(runs, runs) * comparison.alpha >= 1 - 1e-9)


def noise_lines(comparison: Comparison) -> list[str]:
    """The run-to-run noise and its source, if it matters; and what this comparison cannot show."""
    lines = []
    if (needed := too_few_runs(comparison)) is not None:
        enough = f"{needed} can" if comparison.design == "blocks" else f"{needed} a side can"
        alpha = format_percent(comparison.alpha)
        lines.append(f"{sides_text(comparison)} cannot show worse or better at --alpha {alpha}; {enough}")
    sd = "" if comparison.noise.sd is None else f" {format_percent(comparison.noise.sd)}"
    if comparison.design == "few":
        match comparison.noise.source:
            case "assumed":
                lines.append(f"too few runs to measure the run-to-run noise, so{sd} is assumed; {_ASSUMED_HINT}")
            case "given":
                lines.append(f"too few runs to measure the run-to-run noise, so{sd} is used, as given with --noise")
            case source:
                which = "these runs" if source == "repeats" else "earlier runs of the same work"
                lines.append(f"few runs: the run-to-run noise{sd} is that of {which}")
    lines += _degraded_lines(comparison)
    for each in comparison.left_out:
        name = each.model if each.level is None else f"{each.model} at {level_text(each.level)}"
        lines.append(f"left out: {name}, {each.why}")
    return lines


def _degraded_lines(comparison: Comparison) -> list[str]:
    """The stages that are degraded, each level of a model once, with the reasons of the first run."""
    by_stage: dict[tuple[str, str], list[Degraded]] = {}
    for each in comparison.degraded:
        by_stage.setdefault((each.model, each.level), []).append(each)
    lines = []
    for (model, level), runs in by_stage.items():
        which = runs[0].run if len(runs) == 1 else f"{len(runs)} runs, such as {runs[0].run}"
        reasons = "; ".join(runs[0].reasons)
        lines.append(f"{DAGGER} degraded: {model} at {level_text(level)} in {which} ({reasons})")
    return lines


def difference_lines(comparison: Comparison) -> list[str]:
    """One line for each difference that must not be."""
    return [f"not alike: {each.subject}: {each.base} in BASE, {each.new} in NEW" for each in comparison.unlike]
