"""The charts of a comparison: a forest plot, and each run as a dot in the order of time. Pure data; knows no page."""

from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.decisions.compare.comparison import Comparison, Figure
from loadgen.decisions.compare.verdict import ComparisonVerdict
from loadgen.decisions.compare.words import change_text, figure_name, interval_text, level_text, metric_text, model_text
from loadgen.report.charts.figure import Trace, hover_text, label, layout
from loadgen.report.section import Chart, PlotlyObject

COLORS: Final[dict[ComparisonVerdict, str]] = {
    "worse": "@worse",
    "better": "@better",
    "same": "@same",
    "unknown": "@unknown",
}
ROW: Final = 24
"""The height of a row of the forest plot, in pixels."""
FAR: Final = 60.0
"""The limit of the plot in percent or points; longer intervals are cut off at the edge."""


def forest_charts(comparison: Comparison) -> tuple[Chart, ...]:
    """A forest plot for each pair of models: one row per figure, grouped by metric."""
    models = list(dict.fromkeys(figure.model for figure in comparison.figures))
    charts = []
    for number, model in enumerate(models):
        figures = [figure for figure in comparison.figures if figure.model == model]
        suffix = f": {model_text(figures[0])}" if len(models) > 1 else ""
        charts.append(_forest(comparison, figures, f"chart-forest-{number}", f"Change of each figure{suffix}"))
    return tuple(charts)


def worse_by(figure: Figure) -> tuple[float, float, float]:
    """The change in percent, or in points, and the ends of its interval; above 0 is worse."""
    if figure.points is not None and figure.points_ci is not None:
        return -100 * figure.points, -100 * figure.points_ci[1], -100 * figure.points_ci[0]
    ratio, (low, high) = figure.ratio or 1.0, figure.ratio_ci or (1.0, 1.0)
    if figure.unit == "/s":
        return 100 * (1 - ratio), 100 * (1 - high), 100 * (1 - low)
    return 100 * (ratio - 1), 100 * (low - 1), 100 * (high - 1)


def _forest(comparison: Comparison, figures: Sequence[Figure], chart_id: str, title: str) -> Chart:
    places = _places(figures)
    bounds = [end for figure in figures for end in worse_by(figure)]
    margin = 100 * comparison.margin
    low = max(min(*bounds, -1.5 * margin), -FAR)
    high = min(max(*bounds, 1.5 * margin), FAR)
    pad = 0.03 * (high - low)
    depth = max(places) + 1
    drawn = layout(
        {"title": {"text": "better ← change (%, or points of a share) → worse"}, "range": [low - pad, high + pad]},
        {
            "tickmode": "array",
            "tickvals": list(places),
            "ticktext": [_row_name(figure) for figure in figures],
            "range": [depth, -1],
            "title": {"text": ""},
            "showgrid": False,
        },
    )
    drawn["shapes"] = [
        _band(-margin, margin),
        {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "@axis", "width": 1.5}},
    ]
    drawn["margin"] |= {"l": 170}
    traces = [
        trace
        for word in COLORS
        for trace in _rows(
            comparison, [(f, at) for f, at in zip(figures, places, strict=True) if f.verdict == word], word
        )
    ]
    cut = "" if max(map(abs, bounds)) <= FAR else f" Intervals beyond ±{FAR:.0f} are cut off at the edge."
    caption = f"Point: the change from BASE to NEW. Line: its 95 % interval.{cut}"
    height = ROW * (depth + 1) + 100
    return Chart(id=chart_id, title=title, caption=caption, traces=tuple(traces), layout=drawn, height=round(height))


def _places(figures: Sequence[Figure]) -> list[float]:
    """The position of each row, from the top, with a gap between metrics."""
    places: list[float] = []
    for i, figure in enumerate(figures):
        step = 0.0 if i == 0 else 1.0 if figures[i - 1].metric == figure.metric else 1.6
        places.append(round((places[-1] if places else 0.0) + step, 2))
    return places


def _row_name(figure: Figure) -> str:
    where = "all levels" if figure.level is None else level_text(figure.level)
    return label(f"{metric_text(figure.metric)} · {where}")


def _band(low: float, high: float) -> PlotlyObject:
    sides = {"x0": low, "x1": high, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "rect", "layer": "below", "fillcolor": "@margin", "line": {"width": 0}} | sides


def _rows(comparison: Comparison, rows: Sequence[tuple[Figure, float]], word: ComparisonVerdict) -> Iterable[Trace]:
    if not rows:
        return
    xs, low, high, texts = [], [], [], []
    for figure, _ in rows:
        change, start, end = worse_by(figure)
        xs.append(round(max(min(change, FAR), -FAR), 3))
        low.append(round(max(xs[-1] - max(start, -FAR), 0), 3))
        high.append(round(max(min(end, FAR) - xs[-1], 0), 3))
        texts.append(
            hover_text(
                label(figure_name(comparison, figure)),
                f" {word}",
                f"{change_text(figure)}, 95 % interval {interval_text(figure)}",
                f"p worse {figure.p_worse:.3g}, p better {figure.p_better:.3g}",
            )
        )
    yield {
        "x": xs,
        "y": [at for _, at in rows],
        "mode": "markers",
        "name": word,
        "marker": {"color": COLORS[word], "size": 9, "symbol": _symbol(word)},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": high,
            "arrayminus": low,
            "color": COLORS[word],
            "thickness": 2,
            "width": 4,
        },
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _symbol(word: ComparisonVerdict) -> str:
    """The symbol of a verdict, for readers who do not see its color."""
    return {"worse": "triangle-right", "better": "triangle-left", "same": "circle", "unknown": "circle-open"}[word]


def run_charts(comparison: Comparison) -> tuple[Chart, ...]:
    """For each model, the figures of every run as ratios to the mean of BASE, in the order of time."""
    if len(comparison.base) + len(comparison.new) < 3:
        return ()
    models = list(dict.fromkeys(figure.model for figure in comparison.figures))
    charts = []
    for number, model in enumerate(models):
        figures = _of_runs([figure for figure in comparison.figures if figure.model == model])
        if figures:
            suffix = f": {model_text(figures[0])}" if len(models) > 1 else ""
            title = f"Each run against the mean of BASE{suffix}"
            charts.append(_run_chart(comparison, figures, f"chart-runs-{number}", title))
    return tuple(charts)


def _of_runs(figures: Sequence[Figure]) -> list[Figure]:
    """The figures over all levels; if there is only one level, the figures of that level."""
    ratios = [figure for figure in figures if figure.points is None]
    return [figure for figure in ratios if figure.level is None] or ratios


def _run_chart(comparison: Comparison, figures: Sequence[Figure], chart_id: str, title: str) -> Chart:
    order = sorted((*comparison.base, *comparison.new))
    place = {run_id: i + 1 for i, run_id in enumerate(order)}
    drawn = layout(
        {"title": {"text": "run, in the order of time"}, "dtick": 1, "range": [0.5, len(order) + 0.5]},
        {"title": {"text": "to the mean of BASE (%)"}, "zeroline": True, "zerolinecolor": "@axis"},
    )
    traces: list[Trace] = []
    for i, figure in enumerate(figures):
        mean = figure.base if figure.level is not None and figure.base else 1.0
        step = (i - (len(figures) - 1) / 2) * min(0.08, 0.7 / len(figures))
        for side, ids, values in (
            ("BASE", comparison.base, figure.base_runs),
            ("NEW", comparison.new, figure.new_runs),
        ):
            name = label(metric_text(figure.metric))
            traces.append(
                {
                    "x": [round(place[run_id] + step, 3) for run_id in ids],
                    "y": [round(100 * (value / mean - 1), 3) for value in values],
                    "mode": "markers",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": side == "BASE",
                    "marker": {
                        "color": f"@level{round(i * 7 / max(len(figures) - 1, 1))}",
                        "size": 9,
                        "symbol": "circle-open" if side == "BASE" else "circle",
                    },
                    "text": [hover_text(name, f" {side}", label(run_id)) for run_id in ids],
                    "hovertemplate": "%{text}<br>%{y:+.1f} %<extra></extra>",
                }
            )
    caption = "Open: BASE. Filled: NEW."
    return Chart(id=chart_id, title=title, caption=caption, traces=tuple(traces), layout=drawn)
