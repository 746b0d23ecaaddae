"""A history in words: a sentence for each group, and the numbers in their units. Pure."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from loadgen.decisions.history.breaks import SeriesBreak
from loadgen.decisions.history.change_groups import ChangeGroup
from loadgen.decisions.history.changes import NightChange
from loadgen.decisions.history.series import StageSeriesKey
from loadgen.decisions.history.verdict import HistoryAnswer
from loadgen.report.format import format_count, format_duration, format_number, format_percent
from loadgen.stats.change_points import MIN_VALUES
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import NightMetric

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MOST_NAMED: Final = 4
"""How many builds, traits or keys a sentence names; the others are counted."""
MOST_LEVELS: Final = 3
"""How many levels of a new machine a sentence compares."""


def verdict_sentence(answer: HistoryAnswer) -> str:
    """The first sentence: whether the newest night, or a night since the moment asked for, showed something worse."""
    newest = answer.newest
    if newest is None:
        return "No night."
    if answer.usable < MIN_VALUES:
        nights = "nights that a change needs"
        return f"Not enough nights: {answer.usable} of {MIN_VALUES} {nights}."
    asked = answer.settings.since
    where = "the newest night" if asked is None else f"a night since {_day(asked, newest)}"
    match answer.verdict:
        case "regression":
            group = next(
                each for each in answer.change_groups if each.is_new("worse", answer.first_new) and each.stands
            )
            return f"Worse, as {where} showed: {', '.join(map(_change_name, group.changes))}."
        case "improvement":
            group = next(each for each in answer.change_groups if each.is_new("better", answer.first_new))
            return f"Better, as {where} showed: {', '.join(map(_change_name, group.changes))}."
        case _:
            standing = sum(group.stands for group in answer.change_groups)
            still = f"; {format_count(standing, 'earlier regression')} still there" if standing else ""
            return f"Nothing newly worse, as {where} showed{still}."


def title_text(answer: HistoryAnswer) -> str:
    """What was read: `summarizer · 212 nights, 209 of them used · machine 3fa1c09e (a CPU)`."""
    newest, count = answer.newest, len(answer.chosen)
    nights = format_count(count, "night") + (f", {answer.used} of them used" if answer.used != count else "")
    if answer.settings.machine is None:
        machines = len({answer.nights[at].machine for at in answer.chosen})
        return f"{answer.settings.scenario} · {nights} · {format_count(machines, 'machine')}"
    name = "" if newest is None else f" ({newest.machine_name})"
    return f"{answer.settings.scenario} · {nights} · machine {answer.settings.machine}{name}"


def history_lines(answer: HistoryAnswer) -> list[str]:
    """A sentence for each group, and for each night on which series begin anew; the newest first."""
    dated = [(group.first_shown_by, group_sentence(answer, group)) for group in answer.change_groups]
    dated += [(each.night, break_sentence(answer, each)) for each in answer.breaks]
    return [sentence for _, sentence in sorted(dated, key=lambda pair: -pair[0])]


def group_sentence(answer: HistoryAnswer, group: ChangeGroup) -> str:
    """`ttft_p95 rose 12 % (412 → 462 ms) on 11 Nov (10 to 12 Nov), between builds b10711 and b10719; …`."""
    lead, nights = group.lead, answer.nights
    newest = nights[-1]
    metric = lead.series.metric
    verb = "rose" if lead.after > lead.before else "fell"
    range_text = ""
    if lead.earliest != lead.latest:
        range_text = f" ({_days(nights[lead.earliest], nights[lead.latest], newest)})"
    parts = [
        f"{metric.name} {verb} {_size(lead)}({levels_text(metric, lead.before, lead.after)}) "
        f"on {night_day(nights[lead.night], newest)}{range_text}{_builds(lead)}"
    ]
    if others := group.changes[1:]:
        parts.append(f"with it {', '.join(map(_change_name, others))}")
    if lead.possible_causes.traits:
        parts.append(f"then too: {_named(lead.possible_causes.traits)}")
    shown_on = night_day(nights[group.first_shown_by], newest)
    by_lead = lead.shown_by == group.first_shown_by
    # The lead may have begun, by its own estimate, after another metric had shown the group.
    parts.append(
        f"shown by the night of {shown_on}"
        if by_lead
        else f"first shown by {_first_name(group)} in the night of {shown_on}"
    )
    if gone_on := _gone_on(group):
        parts.append(f"gone on {night_day(nights[gone_on], newest)}")
    return f"{_word(answer, group)}{_owner(answer, lead)}: {'; '.join(parts)}"


def _first_name(group: ChangeGroup) -> str:
    """The metric that first showed a group."""
    return next(each.series.metric.name for each in group.changes if each.shown_by == group.first_shown_by)


def _word(answer: HistoryAnswer, group: ChangeGroup) -> str:
    """Whether the group is for the worse or the better, and whether that is news."""
    word = group.lead.direction
    is_new = (group.is_new("worse", answer.first_new) and group.stands) or group.is_new("better", answer.first_new)
    return f"new, {word}" if is_new else word


def _gone_on(group: ChangeGroup) -> int | None:
    """The night on which the last of a group's changes was gone; None if one of them stands."""
    nights = [change.gone_on for change in group.changes]
    return None if any(night is None for night in nights) else max(night for night in nights if night is not None)


def break_sentence(answer: HistoryAnswer, each: SeriesBreak) -> str:
    """That the machine or the scenario changed, which is no regression."""
    night = answer.nights[each.night]
    day = night_day(night, answer.nights[-1])
    if each.kind == "scenario":
        keys = f" ({_named(each.keys)})" if each.keys else ", though no key of the scenario changed"
        return f"scenario: another test from {day} on{keys}; its series begin anew"
    before = answer.nights[each.before].machine
    levels = [
        f"{level.metric} {levels_text(_metric_of(answer, level.metric), level.before, level.after)}"
        for level in each.levels[:MOST_LEVELS]
    ]
    beside = f": {', '.join(levels)}" if levels else ""
    return f"machine: {night.machine} from {day} on, after {before}{beside}; its series begin anew"


def _metric_of(answer: HistoryAnswer, name: str) -> NightMetric:
    return next(metric for metric in answer.settings.metrics if metric.name == name)


def _owner(answer: HistoryAnswer, change: NightChange) -> str:
    name = series_name(answer, change.series.stage.key)
    return f" for {name}" if name else ""


def series_name(answer: HistoryAnswer, key: StageSeriesKey) -> str:
    """What tells the series of one metric apart: the model, its target, the level, the machine and the test, as far as
    there are several. Empty if there are not."""
    keys = [series.stage.key for series in answer.series]
    parts = [
        value
        for name in ("model", "target", "level", "machine")
        if len({getattr(each, name) for each in keys}) > 1 and (value := getattr(key, name))
    ]
    digests = list(dict.fromkeys(each.digest for each in keys if _same_stage(each, key)))
    if len(digests) > 1:
        parts.append(f"test {digests.index(key.digest) + 1}")
    return " ".join(parts)


def _same_stage(first: StageSeriesKey, second: StageSeriesKey) -> bool:
    return (first.machine, first.model, first.target, first.level) == (
        second.machine,
        second.model,
        second.target,
        second.level,
    )


def _builds(change: NightChange) -> str:
    builds = change.possible_causes.builds
    if not builds:
        return ""
    if change.possible_causes.is_between_two_builds:
        return f", between builds {builds[0]} and {builds[1]}"
    return f", builds {_named(builds)}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(change: NightChange) -> str:
    """`12 % `, `0.8 points `, or nothing if the level before was 0."""
    if change.change is None:
        return ""
    return f"{_amount(change, abs(change.change))} "


def _change_name(change: NightChange) -> str:
    """`ttft_p50 +12 %`."""
    return f"{change.series.metric.name} {change_text(change)}"


def change_text(change: NightChange) -> str:
    """The size of a change with its sign: `+12 %`, `−0.8 points`."""
    sign = "+" if change.after > change.before else "−"
    if change.change is None:
        return f"{sign}{format_value(change.series.metric, abs(change.after - change.before))}"
    return f"{sign}{_amount(change, abs(change.change))}"


def _amount(change: NightChange, size: float) -> str:
    return size_text(change.series.metric, size)


def signed_text(metric: NightMetric, size: float) -> str:
    """As `size_text`, with the sign of the size; without one if it is too small to be told."""
    text = size_text(metric, abs(size))
    if not float(text.split(" ")[0]):
        return text
    return f"{'+' if size > 0 else '−'}{text}"


def size_text(metric: NightMetric, size: float) -> str:
    """A change without its sign: relative, in percent; of a share, in points."""
    if not metric.unit:
        return f"{format_number(100 * size, 2)} points"
    percent = 100 * size
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def format_value(metric: NightMetric, value: float) -> str:
    """A value with its unit."""
    match metric.unit:
        case "ms":
            return format_duration(value)
        case "":
            return format_percent(value)
        case "MiB":
            return f"{value:.0f} MiB" if abs(value) >= 100 else f"{format_number(value)} MiB"
        case unit:
            return f"{format_number(value)} {unit}"


def levels_text(metric: NightMetric, before: float, after: float) -> str:
    """Two levels, with the unit once if both have the same: `412 → 462 ms`."""
    first, last = format_value(metric, before), format_value(metric, after)
    number, _, unit = first.partition(" ")
    return f"{number} → {last}" if unit and last.endswith(f" {unit}") else f"{first} → {last}"


def night_day(night: NightRecord, newest: NightRecord) -> str:
    """The day on which a night began: `14 Nov`, and with the year if it is not that of the newest night."""
    year, month, day = night.date.split("-")
    return f"{int(day)} {MONTHS[int(month) - 1]}" + ("" if newest.date.startswith(year) else f" {year}")


def _day(moment: datetime, newest: NightRecord) -> str:
    date = moment.astimezone().date()
    return f"{date.day} {MONTHS[date.month - 1]}" + ("" if newest.date.startswith(str(date.year)) else f" {date.year}")


def _days(first: NightRecord, last: NightRecord, newest: NightRecord) -> str:
    """`10 to 12 Nov`, `30 Oct to 2 Nov`."""
    end = night_day(last, newest)
    if first.date[:7] == last.date[:7]:
        return f"{int(first.date[8:])} to {end}"
    return f"{night_day(first, newest)} to {end}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Values as a line of `width` characters or fewer, the lowest of them and the highest at its ends; a blank where
    no value is known. If there are more values than characters, each stands for the middle of several."""
    if len(values) > width:
        values = [_middle(values[_at(i, values, width) : _at(i + 1, values, width)]) for i in range(width)]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = len(BLOCKS) - 1

    def block(value: float | None) -> str:
        if value is None:
            return " "
        return BLOCKS[math.floor((value - low) / span * steps + 0.5)] if span else BLOCKS[steps // 2]

    return "".join(map(block, values))


BLOCKS: Final = "▁▂▃▄▅▆▇█"


def _at(number: int, values: Sequence[float | None], width: int) -> int:
    return number * len(values) // width


def _middle(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
