"""The findings about each server, from answers and from the probe: a row per finding, a column per model. Pure."""

from collections.abc import Sequence
from typing import Final

from loadgen.report.format import UNKNOWN, format_duration, format_number
from loadgen.report.section import Column, ReportData, Row, Section, Table
from loadgen.store.manifest import Probe, ServedModel
from loadgen.targets.probe.findings import was_asked

WHAT_SERVERS_DO: Final = "What this server does"
UNDECIDED: Final = "could not be determined"
NOT_ASKED: Final = "not asked"
HOW_TO_ASK: Final = "--probe also tests max_tokens, stop, seed, parallel streams and closing a stream, after the stages"
COMPLETION_TEXT: Final = "the answers to chats have their text in choices[].text, as completions have it"
YES_OR_NO: Final = {None: UNDECIDED, True: "yes", False: "no"}


def server_behavior(data: ReportData) -> Section | None:
    """None if nothing is known about any server."""
    table = server_table(data.manifest.models)
    return None if table is None else Section(title=WHAT_SERVERS_DO, anchor="server-behavior", tables=(table,))


def server_table(cards: Sequence[ServedModel]) -> Table | None:
    """The table for the model cards of a manifest; None if nothing is known about any server."""
    probed = [(card, probe) for card in cards if (probe := card.known_probe) is not None]
    if not probed:
        return None
    names = [f"{card.alias} on {card.target}" for card, _ in probed]
    findings = [_describe_shown(probe) for _, probe in probed]
    remarks = [f"{name}: {remark}" for name, (_, probe) in zip(names, probed, strict=True) for remark in probe.notes]
    for name, (_, probe) in zip(names, probed, strict=True):
        remarks += [f"{name}: {COMPLETION_TEXT}"] if probe.completion_text else []
    if any(was_asked(probe) for _, probe in probed):
        findings = [shown | _describe_asked(probe) for shown, (_, probe) in zip(findings, probed, strict=True)]
    else:
        remarks.append(HOW_TO_ASK)
    return Table(
        columns=(Column("", "text"), *(Column(name, "prose") for name in names)),
        rows=tuple(Row((title, *(by_title[title] for by_title in findings))) for title in findings[0]),
        remarks=tuple(remarks),
    )


def _describe_shown(probe: Probe) -> dict[str, str]:
    """The findings from the stages' answers, in words, by title."""
    return {
        "sends usage in a stream": YES_OR_NO[probe.usage_in_stream],
        "sends a role event": YES_OR_NO[probe.role_event],
        "keep-alives before the first token": _describe_keep_alives(probe),
        "tokens per event": UNDECIDED if probe.tokens_per_event is None else format_number(probe.tokens_per_event),
        "sends reasoning in a stream": YES_OR_NO[probe.reasoning_in_stream],
        "tokens counted but not shown": UNDECIDED if probe.hidden_tokens is None else str(probe.hidden_tokens),
    }


def _describe_asked(probe: Probe) -> dict[str, str]:
    """The findings from the probe, in words, by title."""
    findings = {
        "honors max_tokens": YES_OR_NO[probe.honors_max_tokens],
        "honors stop": YES_OR_NO[probe.honors_stop],
        "honors seed": YES_OR_NO[probe.honors_seed],
        "streams in parallel": _describe_parallel(probe),
        "their speed together": UNDECIDED if probe.scaling is None else f"{format_number(probe.scaling)} × that of one",
        "a closed stream stops generation": _describe_stop(probe),
        "probed on": UNKNOWN if probe.asked_utc is None else probe.asked_utc[:10],
        "the probe took": UNKNOWN if probe.took_s is None else f"{probe.took_s:.1f} s",
    }
    return findings if was_asked(probe) else dict.fromkeys(findings, NOT_ASKED)


def _describe_keep_alives(probe: Probe) -> str:
    if probe.keep_alives is None:
        return UNDECIDED
    wait = "" if probe.waited_ms is None else f" (the longest wait was {format_duration(probe.waited_ms)})"
    return f"{probe.keep_alives or 'none'}{wait}"


def _describe_parallel(probe: Probe) -> str:
    if probe.parallel_streams is None or probe.parallel_asked is None:
        return UNDECIDED
    least = "at least " if probe.parallel_streams >= probe.parallel_asked else ""
    return f"{least}{probe.parallel_streams} of {probe.parallel_asked} requested at once"


def _describe_stop(probe: Probe) -> str:
    stops = YES_OR_NO[probe.stops_on_close]
    if probe.stopped_after_ms is not None:
        return f"{stops} (within {format_duration(probe.stopped_after_ms)}, by its {probe.stops_on_close_by})"
    return f"{stops} ({probe.stops_on_close_by})" if probe.stops_on_close_by else stops
