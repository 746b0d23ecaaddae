"""What each server did when it was probed, as a table: a finding a row, a model a column. Pure; no format."""

from collections.abc import Sequence
from typing import Any, Final

from loadgen.report.format import UNKNOWN, format_duration, format_number
from loadgen.report.main_table import Column, Row, Table
from loadgen.targets.probe.findings import Probe, probe_of

NOT_TOLD: Final = "could not be told"


def server_table(cards: Sequence[dict[str, Any]]) -> Table | None:
    """The table of a manifest's model cards; None where no server was probed."""
    probed = [(card, found) for card in cards if (found := probe_of(card)) is not None]
    if not probed:
        return None
    names = [f"{card.get('alias', '?')} on {card.get('target', '?')}" for card, _ in probed]
    told = [_findings(found) for _, found in probed]
    rows = tuple(Row((title, *(one[title] for one in told))) for title in told[0])
    notes = [f"{name}: {note}" for name, (_, found) in zip(names, probed, strict=True) for note in found.notes]
    columns = (Column("", number=False), *(Column(name, number=False) for name in names))
    return Table(columns=columns, rows=rows, notes=tuple(notes))


def _findings(found: Probe) -> dict[str, str]:
    """Each finding by its title, in words."""
    return {
        "sends usage in a stream": _yes(found.usage_in_stream),
        "sends a role event": _yes(found.role_event),
        "keep-alives before the first token": _keep_alives(found),
        "tokens an event": format_number(found.tokens_per_event) if found.tokens_per_event is not None else NOT_TOLD,
        "shows reasoning as such": _yes(found.reasoning_in_stream),
        "tokens counted and not shown": NOT_TOLD if found.hidden_tokens is None else str(found.hidden_tokens),
        "honors max_tokens": _yes(found.honors_max_tokens),
        "honors stop": _yes(found.honors_stop),
        "honors seed": _yes(found.honors_seed),
        "streams in parallel": _parallel(found),
        "their speed together": NOT_TOLD if found.scaling is None else f"{format_number(found.scaling)} × that of one",
        "a closed stream stops generation": _stops(found),
        "the probe took": UNKNOWN if found.took_s is None else f"{found.took_s:.1f} s",
    }


def _yes(finding: bool | None) -> str:
    return NOT_TOLD if finding is None else "yes" if finding else "no"


def _keep_alives(found: Probe) -> str:
    if found.keep_alives is None:
        return NOT_TOLD
    wait = "" if found.waited_ms is None else f" (the longest wait was {format_duration(found.waited_ms)})"
    return f"{found.keep_alives or 'none'}{wait}"


def _parallel(found: Probe) -> str:
    if found.parallel_streams is None or found.parallel_asked is None:
        return NOT_TOLD
    least = "at least " if found.parallel_streams >= found.parallel_asked else ""
    return f"{least}{found.parallel_streams} of {found.parallel_asked} that were asked at once"


def _stops(found: Probe) -> str:
    if found.stopped_after_ms is not None:
        how = f" (within {format_duration(found.stopped_after_ms)}, by its {found.stops_on_close_by})"
    else:
        how = f" ({found.stops_on_close_by})" if found.stops_on_close_by else ""
    return f"{_yes(found.stops_on_close)}{how}"
