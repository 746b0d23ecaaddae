"""What the main table must not be read without: bounds, reasons, failures, skipped models. Pure."""

from typing import Final

from loadgen.analysis.summary import Requests, StageSummary, Summary, Until, Validity
from loadgen.report.format import format_duration
from loadgen.report.metric_names import DAGGER, metric_title
from loadgen.report.section import known_percentiles, stage_name

NOT_STREAMED: Final = "answers came whole (stream = false): no TTFT, ITL or TPOT is known, and no SLO on them is judged"
CLOSED: Final = (
    "closed loop: users wait for their answers, so a stall of the server shows in no more requests than there were "
    "users, and no latency at a given rate of arrivals is bounded by these; for that, play an open loop (--rate)"
)
REPEATED: Final = (
    "{count} runs of one plan: percentiles are those of a typical run, rates the mean of the runs, and each interval "
    "comes from how the runs differ, however many requests they had"
)
ITL_BOUND: Final = "≥ or – at ITL: the gaps of one request are alike; it takes more requests to make this percentile"
HIDDEN: Final = 1.1
"""A TTFT p99 from the intended time that is so many times the one from the send hides something in the latter."""


def main_notes(summary: Summary) -> tuple[str, ...]:
    """Each note once; those of the whole run first, then those of each stage."""
    notes = []
    if summary.incomplete:
        notes.append("incomplete: the run was cut short; what is shown is what was measured")
    if summary.torn_lines:
        notes.append(f"{summary.torn_lines} torn lines of the logs could not be read")
    if not summary.streamed:
        notes.append(NOT_STREAMED)
    if summary.runs:
        notes.append(REPEATED.format(count=len(summary.runs)))
    notes += _itl_bound(summary)
    if any(stage.load.is_closed and stage.status != "skipped" for stage in summary.stages):
        notes.append(CLOSED)
    for stage in summary.stages:
        if stage.runs is not None and stage.runs.played < len(summary.runs):
            notes.append(f"{stage_name(stage)}: played in {stage.runs.played} of {len(summary.runs)} runs")
        notes += _stage_notes(stage)
    return tuple(dict.fromkeys(notes))


def _itl_bound(summary: Summary) -> list[str]:
    """Why an ITL p99 that some stage knows is a bound at others."""
    if "p99" not in known_percentiles(summary.stages, "itl_ms"):
        return []
    latencies = [latency for stage in summary.stages if (latency := stage.metric("itl_ms")) is not None]
    is_bound = any(latency.count and latency.percentile("p99").value is None for latency in latencies)
    return [ITL_BOUND] if is_bound else []


def _stage_notes(stage: StageSummary) -> list[str]:
    who = f"{stage.model} on {stage.target}"
    if stage.status == "skipped":
        return [f"{who}: skipped: {stage.reason}"]
    where = stage_name(stage)
    notes = [*_daggers(stage, who), *_failures(stage, where), *_hidden_by_send(stage, where)]
    if stage.until is not None:
        notes.append(f"{where}: {_progress_of(stage.until)}")
    if isinstance(stage.validity, Validity):
        verdict = stage.validity.verdict
        notes += [f"{where}: {verdict}: {r.observed} (limit: {r.limit}); {r.advice}" for r in stage.validity.reasons]
    return notes


def _daggers(stage: StageSummary, who: str) -> list[str]:
    """What the daggers mean: a line a reason."""
    by_reason: dict[str, list[str]] = {}
    for metric, why in stage.not_valid.items():
        by_reason.setdefault(why, []).append(metric_title(metric))
    return [f"{DAGGER} {who}: {', '.join(titles)}: {why}" for why, titles in by_reason.items()]


def _failures(stage: StageSummary, where: str) -> list[str]:
    """What failed, and what was asked again."""
    if not isinstance(stage.requests, Requests):
        return []
    notes = []
    by_outcome = dict(stage.requests.by_outcome)
    stopped = by_outcome.pop("cancelled", 0)
    if stopped:
        notes.append(f"{where}: {stopped} of {stage.requests.planned} were not sent or given up when the run ended")
    failed = stage.requests.failed - stopped
    if failed:
        named = ", ".join(f"{count} {name}" for name, count in by_outcome.items() if name != "ok")
        answered = 100 * stage.requests.ok // (stage.requests.ok + failed)
        beyond = f"no latency beyond p{answered} is known" if answered else "hardly any latency is known"
        notes.append(f"{where}: {named}; of all that were sent, {beyond}")
    if stage.requests.retried:
        retried = f"{stage.requests.retried} requests were asked again, {stage.requests.attempts} attempts in all"
        notes.append(f"{where}: {retried}; the waits between them count in the latencies")
    return notes


def _hidden_by_send(stage: StageSummary, where: str) -> list[str]:
    """What counting from the send would have hidden."""
    due, sent = stage.metric("ttft_ms"), stage.metric("ttft_from_send_ms")
    if due is None or sent is None:
        return []
    name, from_due, from_send = "p99", due.percentile("p99").value, sent.percentile("p99").value
    if from_due is None or from_send is None:
        name, from_due, from_send = "max", due.max, sent.max
    if from_due is None or from_send is None or from_due < HIDDEN * from_send:
        return []
    text = f"the TTFT's {name} is {format_duration(from_due)} from when requests were due"
    return [f"{where}: {text}; counted from the send, as most tools do, it would be {format_duration(from_send)}"]


def _progress_of(until: Until) -> str:
    """How far a stage came in what it waited for."""
    name = f"{until.metric.upper()} {until.percentile}"
    asked, count = f"±{100 * until.asked:.3g} %", f"{until.requests:,} answered requests"
    width = None if until.width is None else f"±{100 * until.width:.3g} %"
    at = f"{name} is known to {width} (asked: {asked})" if width else f"{name} is not bounded (asked: {asked})"
    if until.needed is None:
        return f"{'ended early: ' if until.early else ''}{at} after {count}"
    return f"{at} after {count}, and no more were to be played: about {_about(until.needed)} would do"


def _about(count: int) -> str:
    """A number of which two digits are meant."""
    digits = max(0, len(str(count)) - 2)
    return f"{-(-count // 10**digits) * 10**digits:,}"
