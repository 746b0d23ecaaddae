"""Each request of a stage as a bar over time, in lanes, which show the requests in flight. Pure data; knows no page."""

import heapq
from collections.abc import Sequence
from typing import Final

from loadgen.analysis.stage import StageData
from loadgen.record import Record
from loadgen.redact import printable
from loadgen.report.charts.figure import Trace, by_model, hover_text, label, layout, rounded
from loadgen.report.format import format_duration
from loadgen.report.section import Chart, PlotlyObject, ReportStage

MAX_REQUESTS: Final = 300
SAME_SCALE: Final = 5.0
"""The timelines of one model share a scale if the longest lasts at most this many times as long as the shortest."""
DETAIL_CHARACTERS: Final = 160
FLOOR_PX, LANE_PX, CEILING_PX = 96, 15, 440


def timeline_charts(stages: Sequence[ReportStage]) -> list[Chart]:
    """A timeline for each stage in which a request was measured. stages: those of one run."""
    charts = []
    models = by_model(stages)
    for own_stages in models.values():
        drawn = [(stage, records) for stage in own_stages if (records := _first_records(_data(stage)))]
        spans = [_span_s(records) for _, records in drawn]
        same = bool(spans) and max(spans) <= SAME_SCALE * min(spans)
        for (stage, records), span in zip(drawn, spans, strict=True):
            name = stage.load if len(models) == 1 else f"{stage.who}, {stage.load}"
            charts.append(_timeline(stage, name, records, max(spans) if same else span))
    return charts


def _data(stage: ReportStage) -> StageData:
    (data,) = stage.runs
    return data


def _first_records(data: StageData) -> list[Record]:
    """The first requests of a stage, in the order in which they began."""
    return heapq.nsmallest(MAX_REQUESTS, data.measured, key=lambda record: (begin_ns(record), record.index))


def begin_ns(record: Record) -> int:
    """When a request was sent; if it never was, when it was dispatched or intended."""
    known = (record.sent_ns, record.dispatched_ns)
    return next((moment for moment in known if moment is not None), record.intended_ns)


def finish_ns(record: Record) -> int:
    """When a request ended; if it has no end, its last known time."""
    known = [moment for moment in (record.end_ns, *record.stamps_ns[-1:]) if moment is not None]
    return max(begin_ns(record), *known) if known else begin_ns(record)


def lanes(records: Sequence[Record]) -> list[int]:
    """A lane for each request, from 1: the lowest that is free. There are as many lanes as requests ran at once.

    records: in the order in which they began.
    """
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    assigned = []
    for record in records:
        while busy and busy[0][0] <= begin_ns(record):
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy) + 1
        assigned.append(lane)
        heapq.heappush(busy, (finish_ns(record), lane))
    return assigned


def _span_s(records: Sequence[Record]) -> float:
    return max(1e-3, (max(map(finish_ns, records)) - min(map(begin_ns, records))) / 1e9)


def _timeline(stage: ReportStage, name: str, records: Sequence[Record], span_s: float) -> Chart:
    zero_ns = min(map(begin_ns, records))
    rows = lanes(records)
    most = max(rows)
    drawn = layout(
        {"title": {"text": "seconds since the stage's first request (s)"}, "range": [-0.01 * span_s, 1.01 * span_s]},
        {"title": {"text": "in flight"}, "range": [0.4, most + 0.6], "tickformat": "d"}
        | ({"dtick": 1} if most <= 8 else {"nticks": 6}),
    )
    drawn |= {"barmode": "overlay", "bargap": 0.15, "showlegend": False}
    window = _data(stage).window
    if window is not None:
        ends = {"x0": (window.start_ns - zero_ns) / 1e9, "x1": (window.end_ns - zero_ns) / 1e9, "y0": 0, "y1": 1}
        look = {"yref": "paper", "fillcolor": "@window", "line": {"width": 0}, "layer": "below"}
        drawn["shapes"].append({"type": "rect", **ends, **look})
    requests = list(zip(records, rows, strict=True))
    height = min(CEILING_PX, FLOOR_PX + LANE_PX * most)
    total = len(_data(stage).measured)
    capped = f"The first {len(records)} of {total:,} requests." if total > len(records) else ""
    mark = " (invalid)" if stage.is_invalid else ""
    return Chart(
        id=f"chart-timeline-{stage.number}",
        title=f"{name}{mark}",
        caption=capped,
        traces=tuple(_traces(requests, zero_ns)),
        layout=drawn,
        height=height,
    )


def _traces(requests: Sequence[tuple[Record, int]], zero_ns: int) -> list[Trace]:
    well = [(record, lane) for record, lane in requests if record.outcome == "ok"]
    badly = [(record, lane) for record, lane in requests if record.outcome != "ok"]
    waits = [(record, lane, begin_ns(record), _first_ns(record)) for record, lane in well]
    streams = [(record, lane, _first_ns(record), finish_ns(record)) for record, lane in well]
    failures = [(record, lane, begin_ns(record), finish_ns(record)) for record, lane in badly]
    traces = [_bars(waits, zero_ns, "waiting", {"color": "@waiting"})]
    traces.append(_bars(streams, zero_ns, "streaming", {"color": "@streaming"}))
    if failures:
        hatched = {"color": "@failed", "pattern": {"shape": "/", "size": 6, "solidity": 0.45}}
        traces.append(_bars(failures, zero_ns, "failed", hatched))
        ends = [end for _, _, _, end in failures]
        traces.append(
            {
                "mode": "markers",
                "x": rounded((end - zero_ns) / 1e9 for end in ends),
                "y": [lane for _, lane, _, _ in failures],
                "name": "failed",
                "marker": {"symbol": "x", "size": 9, "color": "@failed", "line": {"width": 1, "color": "@card"}},
                "hovertext": [_hover_of(record) for record, _, _, _ in failures],
                "hoverinfo": "text",
                "cliponaxis": False,
            }
        )
    return [trace for trace in traces if trace["x"]]


def _first_ns(record: Record) -> int:
    return record.stamps_ns[0] if record.stamps_ns else finish_ns(record)


def _bars(parts: Sequence[tuple[Record, int, int, int]], zero_ns: int, name: str, marker: PlotlyObject) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [lane for _, lane, _, _ in parts],
        "base": rounded((start - zero_ns) / 1e9 for _, _, start, _ in parts),
        "x": rounded((end - start) / 1e9 for _, _, start, end in parts),
        "marker": marker | {"line": {"width": 0}},
        "hovertext": [_hover_of(record) for record, _, _, _ in parts],
        "hoverinfo": "text",
    }


def _hover_of(record: Record) -> str:
    """The text beside a bar under the pointer."""
    lines = []
    if record.outcome != "ok":
        detail = f": {printable(record.detail)[:DETAIL_CHARACTERS]}" if record.detail else ""
        status = f" {record.status}" if record.status not in (None, 200) else ""
        lines.append(label(f"{record.outcome}{status}{detail}"))
    begin = begin_ns(record)
    if record.stamps_ns:
        waited, streamed = record.stamps_ns[0] - begin, finish_ns(record) - record.stamps_ns[0]
        lines.append(f"waited {format_duration(waited / 1e6)}, streamed {format_duration(streamed / 1e6)}")
    else:
        lines.append(f"no token in {format_duration((finish_ns(record) - begin) / 1e6)}")
    if record.output_tokens is not None:
        lines.append(f"{record.output_tokens} tokens")
    return hover_text(f"request {record.index}", f" · {label(record.prompt_id)}", *lines)
