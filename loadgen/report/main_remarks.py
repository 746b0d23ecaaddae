"""The remarks under the main table: bounds, the reasons of verdicts, failures, skipped models. Pure."""

from typing import Final

from msgspec import UNSET

from loadgen.analysis.summary import Requests, StageSummary, Summary, Until, Validity
from loadgen.report.format import format_count, format_duration, format_stage_load
from loadgen.report.metric_names import DAGGER, metric_title
from loadgen.report.section import known_percentiles, stage_name
from loadgen.stats.steady import MIN_VALUES

NOT_STREAMED: Final = (
    "answers were not streamed (stream = false), so no TTFT, ITL or TPOT is known, and no SLO on them is judged"
)
CLOSED: Final = (
    "closed loop: each user waits for an answer before asking again, so a stall of the server delays only as many "
    "requests as there are users; to measure latencies at a fixed rate of arrivals, play an open loop (--rate)"
)
REPEATED: Final = (
    "{count} runs of one plan: each percentile is that of a typical run, each rate the mean of the runs, and each "
    "interval comes from the differences between the runs, not from their number of requests"
)
ITL_BOUND: Final = (
    "≥ or – at ITL: the gaps within one request resemble each other, so this percentile needs more requests"
)
NOT_TOLD_STEADY: Final = (
    "whether the latencies had settled{where} is not known, because there are too few requests to tell (it takes "
    "{fewest} or more at full load, and still more if the latencies first rose or fell)"
)
HIDDEN: Final = 1.1
"""A remark says how much the send hides if the TTFT p99 from the intended time is at least this many times the one
from the send."""


def main_remarks(summary: Summary) -> tuple[str, ...]:
    """The remarks on the whole run, then those on each stage; none of them twice."""
    remarks = []
    if summary.incomplete:
        remarks.append("incomplete: the run was cut short, and this report covers only what was measured until then")
    if summary.torn_lines:
        remarks.append(f"{format_count(summary.torn_lines, 'torn line')} of the logs could not be read")
    if not summary.streamed:
        remarks.append(NOT_STREAMED)
    if summary.runs:
        remarks.append(REPEATED.format(count=len(summary.runs)))
    remarks += [*_itl_bound(summary), *_not_told_steady(summary)]
    if any(stage.load.is_closed and stage.status != "skipped" for stage in summary.stages):
        remarks.append(CLOSED)
    for stage in summary.stages:
        if stage.runs is not None and stage.runs.played < len(summary.runs):
            remarks.append(f"{stage_name(stage)}: played in {stage.runs.played} of {len(summary.runs)} runs")
        remarks += _stage_remarks(stage)
    return tuple(dict.fromkeys(remarks))


def _itl_bound(summary: Summary) -> list[str]:
    """A remark if the ITL p99 is known in some stage and only a bound in another."""
    if "p99" not in known_percentiles(summary.stages, "itl_ms"):
        return []
    latencies = [latency for stage in summary.stages if (latency := stage.metric("itl_ms")) is not None]
    is_bound = any(latency.count and latency.percentile("p99").value is None for latency in latencies)
    return [ITL_BOUND] if is_bound else []


def _not_told_steady(summary: Summary) -> list[str]:
    """A remark on the stages that have too few requests to tell whether their latencies had settled."""
    stages = [stage for stage in summary.stages if stage.steadiness is not None and stage.steadiness.steady is None]
    if not stages:
        return []
    is_all = len(stages) == sum(stage.status != "skipped" for stage in summary.stages)
    where = "" if is_all else f" at {', '.join(dict.fromkeys(format_stage_load(stage) for stage in stages))}"
    return [NOT_TOLD_STEADY.format(where=where, fewest=MIN_VALUES)]


def _stage_remarks(stage: StageSummary) -> list[str]:
    who = f"{stage.model} on {stage.target}"
    if stage.status == "skipped":
        return [f"{who}: skipped: {stage.reason}"]
    where = stage_name(stage)
    remarks = [*_daggers(stage, who), *_failures(stage, where), *_hidden_by_send(stage, where)]
    if stage.until is not None:
        remarks.append(f"{where}: {_progress_of(stage.until)}")
    if isinstance(stage.validity, Validity):
        verdict = stage.validity.verdict
        remarks += [f"{where}: {verdict}: {r.observed} (limit: {r.limit}); {r.advice}" for r in stage.validity.reasons]
    return remarks


def _daggers(stage: StageSummary, who: str) -> list[str]:
    """The meaning of the daggers, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for metric, why in stage.not_valid.items():
        by_reason.setdefault(why, []).append(metric_title(metric))
    return [f"{DAGGER} {who}: {', '.join(titles)}: {why}" for why, titles in by_reason.items()]


def _failures(stage: StageSummary, where: str) -> list[str]:
    """How many requests failed, and how many were retried."""
    if not isinstance(stage.requests, Requests):
        return []
    remarks = []
    by_outcome = dict(stage.requests.by_outcome)
    stopped = by_outcome.pop("cancelled", 0)
    if stopped:
        were = f"{stopped} of {stage.requests.planned} {'was' if stopped == 1 else 'were'}"
        why = "the run was stopped" if stage.soak is UNSET else "loadgen was stopped or not run"
        remarks.append(f"{where}: {were} given up or never sent, because {why}")
    failed = stage.requests.failed - stopped
    if failed:
        named = ", ".join(f"{count} {name}" for name, count in by_outcome.items() if name != "ok")
        answered = 100 * stage.requests.ok // (stage.requests.ok + failed)
        beyond = f"no latency above p{answered} is known" if answered else "hardly any latency is known"
        remarks.append(f"{where}: {named}; counting all requests that were sent, {beyond}")
    if isinstance(stage.requests.retried, int) and stage.requests.retried:
        was = "was" if stage.requests.retried == 1 else "were"
        retried = f"{format_count(stage.requests.retried, 'request')} {was} retried"
        attempts = f"{stage.requests.attempts} attempts in all"
        remarks.append(f"{where}: {retried}, {attempts}; the latencies include the waits between them")
    return remarks


def _hidden_by_send(stage: StageSummary, where: str) -> list[str]:
    """How much shorter the TTFT would look if it counted from the send."""
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
    """How precisely the percentile of a stop rule is known at the end of a stage."""
    name = f"{metric_title(until.metric)} {until.percentile}"
    asked, count = f"±{100 * until.asked:.3g} %", format_count(until.requests, "answered request")
    width = None if until.width is None else f"±{100 * until.width:.3g} %"
    at = f"{name} is known to {width} (asked: {asked})" if width else f"{name} is not bounded (asked: {asked})"
    if until.needed is None:
        return f"{'ended early: ' if until.early else ''}{at} after {count}"
    return f"{at} after {count}, and the plan had no more requests; about {_about(until.needed)} would be enough"


def _about(count: int) -> str:
    """A number rounded up to two significant digits."""
    digits = max(0, len(str(count)) - 2)
    return f"{-(-count // 10**digits) * 10**digits:,}"
