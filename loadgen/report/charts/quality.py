"""Charts of the quality of answers: by level, and by prompt. Pure data; knows no page."""

from collections.abc import Sequence

from loadgen.analysis.quality import by_prompt
from loadgen.analysis.quality_types import Quality
from loadgen.report.charts.figure import (
    MODEL_COLORS,
    Axis,
    Trace,
    aside,
    by_model,
    hover_text,
    label,
    layout,
    level_axis,
    positions,
    rounded,
    stage_hover,
)
from loadgen.report.format import format_count, format_number
from loadgen.report.section import Chart, ReportStage


def quality_charts(stages: Sequence[ReportStage]) -> tuple[Chart, ...]:
    """The mean quality by level with its interval, and the quality of each prompt; none if no stage has a mark."""
    marked = [stage for stage in stages if isinstance(stage.summary.quality, Quality) and _mean(stage) is not None]
    return (_level_chart(marked), _prompt_chart(marked)) if marked else ()


def _mean(stage: ReportStage) -> float | None:
    quality = stage.summary.quality
    return quality.mean if isinstance(quality, Quality) else None


def _quality_axis() -> Axis:
    return {"title": {"text": "quality (0 to 100)"}, "range": [-2, 102], "dtick": 25}


def _level_chart(stages: Sequence[ReportStage]) -> Chart:
    models, at = by_model(stages), positions(stages)
    traces: list[Trace] = []
    for index, (who, own_stages) in enumerate(models.items()):
        color, step = f"@model{index % MODEL_COLORS}", aside(index, len(models))
        blocks = [stage.summary.quality for stage in own_stages if isinstance(stage.summary.quality, Quality)]
        means = [block.mean or 0.0 for block in blocks]
        ends = [block.ci or (mean, mean) for block, mean in zip(blocks, means, strict=True)]
        error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": color}
        error["array"] = rounded(high - mean for (_, high), mean in zip(ends, means, strict=True))
        error["arrayminus"] = rounded(mean - low for (low, _), mean in zip(ends, means, strict=True))
        traces.append(
            {
                "x": [round(at[stage.level] + step, 4) for stage in own_stages],
                "y": rounded(means),
                "error_y": error,
                "mode": "lines+markers",
                "name": label(who),
                "line": {"color": color, "width": 2},
                "marker": {"color": color, "size": 9},
                "hovertext": [
                    stage_hover(stage, f"quality {format_number(block.mean)}", format_count(block.prompts, "prompt"))
                    for stage, block in zip(own_stages, blocks, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    caption = "The mean over prompts; bars are 95 % intervals."
    drawn = layout(level_axis(stages), _quality_axis())
    return Chart(
        id="chart-quality", title="Quality of the answers", caption=caption, traces=tuple(traces), layout=drawn
    )


def _prompt_chart(stages: Sequence[ReportStage]) -> Chart:
    """The quality of each prompt at the first level of each model that has marks."""
    models = by_model(stages)
    first = {who: own_stages[0] for who, own_stages in models.items()}
    marks = {who: _marks(stage) for who, stage in first.items()}
    prompts = list(dict.fromkeys(prompt for each in marks.values() for prompt in each))
    traces: list[Trace] = []
    for index, (who, each) in enumerate(marks.items()):
        step = aside(index, len(models))
        traces.append(
            {
                "x": [round(prompts.index(prompt) + step, 4) for prompt in each],
                "y": rounded(each.values()),
                "mode": "markers",
                "name": label(f"{who}, {first[who].load}"),
                "marker": {"color": f"@model{index % MODEL_COLORS}", "size": 9},
                "hovertext": [
                    hover_text(label(prompt), f" · {label(who)}", f"quality {format_number(mark)}")
                    for prompt, mark in each.items()
                ],
                "hoverinfo": "text",
            }
        )
    shown = {"tickmode": "array", "tickvals": list(range(len(prompts))), "ticktext": [label(each) for each in prompts]}
    axis = shown | {"tickangle": -45, "range": [-0.6, len(prompts) - 0.4]}
    caption = "At the first level of each model; a prompt that was asked several times has the mean of its answers."
    drawn = layout(axis, _quality_axis())
    return Chart(
        id="chart-quality-prompts", title="Quality by prompt", caption=caption, traces=tuple(traces), layout=drawn
    )


def _marks(stage: ReportStage) -> dict[str, float]:
    return by_prompt((answer for data in stage.runs for answer in data.scored or ()), "quality")
