"""How the variants of one model for different devices differ, as ratios. Pure."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import total
from loadgen.analysis.throughput import throughput_of_run
from loadgen.report.format import UNKNOWN, format_number
from loadgen.report.metric_names import marked, metric_title
from loadgen.report.section import Column, ReportData, ReportStage, Row, Section, Table
from loadgen.scenario import FOUNDRY
from loadgen.scenario.devices import device_of_target
from loadgen.stats.mean import mean_interval

BASE: Final = "CPU"
"""The device to which the others are compared, if the model was played on it."""
RATIO: Final = (
    "each number is that of the first device divided by that of the second: below 1, the first took less time or "
    "memory; above 1, it made more tokens per second"
)
ONE_RUN: Final = (
    "no intervals: one run does not show by how much a ratio would differ in another run; to see that, play several "
    "(--repeats 5)"
)
SEVERAL_RUNS: Final = (
    "the 95 % intervals come from the ratio in each run, and thus from the differences between the runs: the two "
    "variants of one run are one pair"
)


class _ComparedNumber(Struct, frozen=True):
    """A number of one stage of one run that is compared."""

    title: str
    metric: str
    """Its name in `not_valid`."""
    read: Callable[[StageData], float | None]


def acceleration(data: ReportData) -> Section | None:
    """None if no model was played on two devices."""
    rows = tuple(_row(stage, base) for stage, base in _pairs(data.stages))
    if not rows:
        return None
    heads = (Column("model", "text"), Column("devices", "text"), Column("load", "text"))
    table = Table(
        columns=(*heads, *(Column(number.title) for number in _NUMBERS)),
        rows=rows,
        remarks=(RATIO, SEVERAL_RUNS if len(data.summary.runs) > 1 else ONE_RUN),
    )
    return Section(title="With and without acceleration", anchor="acceleration", tables=(table,))


def _pairs(stages: Sequence[ReportStage]) -> Iterator[tuple[ReportStage, ReportStage]]:
    """Each stage on another device than the base, with the stage of the same model and level on the base."""
    played = [stage for stage in stages if _device(stage) is not None]
    for model in dict.fromkeys(stage.summary.model for stage in played):
        own = [stage for stage in played if stage.summary.model == model]
        devices = list(dict.fromkeys(_device(stage) for stage in own))
        base_device = BASE if BASE in devices else devices[0]
        bases = {stage.level: stage for stage in own if _device(stage) == base_device}
        for stage in own:
            if _device(stage) != base_device and stage.level in bases:
                yield stage, bases[stage.level]


def _device(stage: ReportStage) -> str | None:
    """CPU, GPU or NPU, if Foundry Local served the stage's model; None if not, or if its device is not known."""
    target, card = stage.summary.target, stage.summary.card
    if (asked := device_of_target(target)) is not None:
        return asked.upper()
    return card.device.upper() if target == FOUNDRY and card is not None and card.device is not None else None


def _row(stage: ReportStage, base: ReportStage) -> Row:
    devices = f"{_device(stage)} / {_device(base)}"
    pairs = _pairs_of_runs(stage, base)
    return Row(
        (stage.summary.model, devices, stage.load, *(_cell(number, stage, base, pairs) for number in _NUMBERS)),
        invalid=stage.is_invalid or base.is_invalid,
    )


def _pairs_of_runs(stage: ReportStage, base: ReportStage) -> list[tuple[StageData, StageData]]:
    """Both stages in each run that has both complete; if fewer than two have, in each run that played both."""
    pairs = list(zip(stage.runs, base.runs, strict=True))
    complete = [pair for pair in pairs if all(each.is_complete for each in pair)]
    return complete if len(complete) >= 2 else [pair for pair in pairs if not any(each.is_skipped for each in pair)]


def _cell(
    number: _ComparedNumber, stage: ReportStage, base: ReportStage, pairs: Sequence[tuple[StageData, StageData]]
) -> str:
    """The geometric mean of the runs' ratios and its interval; a dash unless every run knows the ratio."""
    logs = [_log_ratio(number.read(above), number.read(below)) for above, below in pairs]
    known = [log for log in logs if log is not None]
    if not known or len(known) < len(logs):
        return UNKNOWN
    text = format_number(math.exp(sum(known) / len(known)))
    if interval := mean_interval(known):
        low, high = (format_number(math.exp(end)) for end in interval)
        text = f"{text} ({low} – {high})"
    flagged = next((each for each in (stage, base) if number.metric in each.summary.not_valid), stage)
    return marked(flagged.summary, number.metric, text)


def _log_ratio(value: float | None, base: float | None) -> float | None:
    return math.log(value / base) if value and base and min(value, base) > 0 else None


def _median(metric: str) -> _ComparedNumber:
    def read(stage: StageData) -> float | None:
        latency = stage.latencies.get(metric)
        return None if latency is None else latency.percentile("p50").value

    return _ComparedNumber(f"{metric_title(metric)} p50", metric, read)


def _tokens_per_s(stage: StageData) -> float | None:
    return throughput_of_run(stage).output_tokens_per_s


def _memory(stage: StageData) -> float | None:
    """The highest memory of the server's processes together, bytes; None if not known."""
    return None if stage.facts is None else total(server.rss_peak_bytes for server in stage.facts.servers)


def _cold_start(stage: StageData) -> float | None:
    return None if stage.card is None else stage.card.cold_start_ms


_NUMBERS: Final = (
    *(_median(metric) for metric in ("ttft_ms", "tpot_ms", "e2e_ms")),
    _ComparedNumber(metric_title("output_tokens_per_s"), "output_tokens_per_s", _tokens_per_s),
    _ComparedNumber("memory", "rss", _memory),
    _ComparedNumber("cold start", "cold_start_ms", _cold_start),
)
