"""The page: the same bytes from the same run, nothing that a server said taken for markup, nothing fetched."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from loadgen.analysis.summarize import summarize
from loadgen.record import Record
from loadgen.report.charts.distribution import MAX_STEPS, steps
from loadgen.report.charts.level import ttft_chart
from loadgen.report.charts.timeline import MAX_REQUESTS, begin_ns, finish_ns, lanes, timeline_charts
from loadgen.report.document import make_document, report_data
from loadgen.report.html import html
from loadgen.report.page_template import REPORT, CompiledTemplate
from loadgen.report.section import Chart, ReportStage
from loadgen.store.run_folder import Run
from tests import report_runs as runs
from tests.records import MS

SKIPPED = runs.run([runs.stage("c4", runs.closed(4), 40, skipped="no server")])
EMPTY = runs.run(
    [runs.stage("c2", runs.closed(2), 2)],
    [runs.record(i, i, level="c2", outcome="connect_error") for i in range(2)],
    [runs.facts("c2")],
)
SINGLE = runs.run([runs.stage("c4", runs.closed(4), 40)], runs.loop(4, 10), [runs.facts("c4")], slo={})
KILLED = runs.run([runs.stage("c4", runs.closed(4), 40)], runs.loop(4, 2))
NO_STAGE = runs.run([])
OPEN = runs.run(
    [runs.stage("r2", runs.OPEN, 40)],
    [runs.record(i, i * 500 * MS, level="r2") for i in range(40)],
    [runs.facts("r2", server=False)],
)
ALL: dict[str, Run] = {
    "everything": runs.everything(),
    "skipped": SKIPPED,
    "empty": EMPTY,
    "single": SINGLE,
    "killed": KILLED,
    "no stage": NO_STAGE,
    "open": OPEN,
}


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements, and what is in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self._in: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = (kind, before + data)
        elif self._in != "style":
            self.text += data

    @property
    def charts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(next(code for kind, code in self.scripts if kind))
        return found


def html_of(run: Run) -> str:
    return html(make_document(report_data(summarize(run), [run]))).decode()


def page_of(run: Run) -> Page:
    return Page(html_of(run))


def played(run: Run) -> tuple[ReportStage, ...]:
    return report_data(summarize(run), [run]).stages


def chart(run: Run) -> Chart:
    drawn = ttft_chart(played(run))
    assert drawn is not None
    return drawn


@pytest.fixture(scope="module")
def everything() -> Page:
    return page_of(ALL["everything"])


def test_equal_runs_give_equal_bytes() -> None:
    assert html_of(runs.everything()) == html_of(runs.everything())


@pytest.mark.parametrize("name", ALL)
def test_every_chart_of_the_data_has_its_element_and_the_other_way_round(name: str) -> None:
    page = page_of(ALL[name])
    drawn = [attributes["id"] for _, attributes in page.elements if attributes.get("class") == "chart"]
    assert drawn == [one["id"] for one in page.charts]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_chart_is_one_that_plotly_accepts(name: str) -> None:
    from plotly.graph_objects import Figure

    for one in page_of(ALL[name]).charts:
        # Names of our colors become colors; anything else that plotly does not know raises.
        data = re.sub(r'"@\w+"', '"#123456"', json.dumps({"data": one["traces"], "layout": one["layout"]}))
        Figure(json.loads(data))


def test_every_stage_that_was_played_has_a_timeline(everything: Page) -> None:
    ids = {one["id"] for one in everything.charts}
    for number, planned in enumerate(ALL["everything"].manifest.stages):
        assert (f"chart-timeline-{number}" in ids) == (planned.skipped is None)


def test_every_stage_has_a_row_in_the_main_table_and_in_that_of_the_verdicts() -> None:
    run = ALL["everything"]
    page = html_of(run)
    main = page.partition('<section class="card verdict-last">')[2].partition("</section>")[0]
    verdicts = page.partition('<section id="validity">')[2].partition("</section>")[0]
    assert main.count("<tr") == verdicts.count("<tr") == 1 + len(run.manifest.stages)


def test_what_a_server_or_a_file_said_is_text_and_never_an_element(everything: Page) -> None:
    assert not [tag for tag, _ in everything.elements if tag == "img"]
    assert "</script><img src=x onerror=alert(1)>" in everything.text
    assert not [name for _, attributes in everything.elements for name in attributes if name.startswith("on")]
    said = [hover for one in everything.charts for trace in one["traces"] for hover in trace.get("hovertext", ())]
    assert any("&lt;/script&gt;&lt;img" in hover for hover in said)
    assert not any("<img" in hover for hover in said)


def test_a_control_character_of_a_server_does_not_reach_the_page() -> None:
    failed = runs.record(0, 0, level="c1", outcome="http_error", detail="\x1b[31mred\x00")
    run = runs.run([runs.stage("c1", runs.closed(1), 1)], [failed])
    page = html_of(run)
    assert "[31mred" in page
    assert "\x1b" not in page
    assert "\x00" not in page


def test_nothing_is_fetched(everything: Page) -> None:
    for tag, attributes in everything.elements:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "action", "data"} & set(attributes)
    style = html_of(SKIPPED).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_the_scripts_of_the_page_run_and_no_other(everything: Page) -> None:
    policy = next(a["content"] for tag, a in everything.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    code = [script for kind, script in everything.scripts if kind is None]
    assert len(code) == 2
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"default-src 'none'; script-src {scripts};" in policy


def test_a_page_without_charts_carries_no_script_to_run() -> None:
    page = page_of(SKIPPED)
    assert [kind for kind, _ in page.scripts] == ["application/json"]
    assert "no server" in page.text


def test_every_color_that_a_chart_names_is_in_the_style_sheet_for_both_schemes(everything: Page) -> None:
    style = html_of(SKIPPED).partition("<style>")[2]
    light, _, dark = style.partition("prefers-color-scheme: dark")
    names = set(re.findall(r'"@(\w+)"', json.dumps(everything.charts)))
    assert {"model0", "level0", "waiting", "failed"} <= names
    for name in names:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark.partition("* {")[0]


def test_an_invalid_stage_is_struck_out_but_its_verdict_is_not() -> None:
    run = ALL["everything"]
    row = next(line for line in html_of(run).splitlines() if line.startswith('<tr class="invalid">'))
    assert "<s>2 users</s>" in row
    assert row.count("<s>") == row.count("<td") - 1
    assert '<span class="badge invalid">✕ invalid</span>' in row


def test_a_level_is_called_invalid_where_no_model_has_a_valid_stage_and_points_fade_one_by_one() -> None:
    drawn = chart(ALL["everything"])
    assert [text.endswith("invalid") for text in drawn.layout["xaxis"]["ticktext"]] == [
        False,
        False,
        False,
        True,
        False,
    ]
    medians = next(trace for trace in drawn.traces if trace["name"] == "tiny on url p50")
    assert [opacity < 1 for opacity in medians["marker"]["opacity"]] == [False, True, False, False]


def test_a_percentile_that_is_only_bounded_is_a_hollow_triangle_at_its_bound() -> None:
    told = summarize(SINGLE).stages[0].metrics
    assert isinstance(told, dict)
    stages = [runs.stage("c2", runs.closed(2), 12), runs.stage("c4", runs.closed(4), 40)]
    known = runs.run(stages, [*runs.loop(2, 6), *runs.loop(4, 10)], [runs.facts("c2"), runs.facts("c4")])
    metric = summarize(known).stages[0].metrics
    assert isinstance(metric, dict)
    assert metric["ttft_ms"].percentile("p90").value is None
    triangles = [t for t in chart(known).traces if t["name"] == "p90, at least"]
    assert [t["marker"]["symbol"] for t in triangles] == ["triangle-up-open"]
    assert triangles[0]["y"] == [pytest.approx(metric["ttft_ms"].percentile("p90").at_least)]
    assert told["ttft_ms"].percentile("p90").value is not None
    assert not [t for t in chart(SINGLE).traces if t["name"] == "p90, at least"]


def test_where_no_stage_knows_a_p90_the_slowest_request_is_drawn() -> None:
    short = runs.run([runs.stage("c2", runs.closed(2), 12)], runs.loop(2, 6), [runs.facts("c2")])
    metric = summarize(short).stages[0].metric("ttft_ms")
    assert metric is not None
    drawn = {trace["name"]: trace for trace in chart(short).traces}
    assert "p90, at least" not in drawn
    assert drawn["slowest"]["y"] == [pytest.approx(metric.max)]
    assert drawn["slowest"]["hovertext"][0].endswith(f"slowest TTFT of 12: {metric.max:.0f} ms")


def test_error_bars_end_at_the_interval() -> None:
    told = summarize(SINGLE).stages[0].metrics
    assert isinstance(told, dict)
    trace = next(t for t in chart(SINGLE).traces if t["name"] == "p50")
    low, high = told["ttft_ms"].percentile("p50").interval or (None, None)
    assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(high, rel=1e-4)
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(low, rel=1e-4)


def test_a_limit_in_sight_is_drawn_and_one_far_above_is_told() -> None:
    def with_limit(limit_ms: float) -> Chart:
        stages = [runs.stage("c4", runs.closed(4), 40)]
        return chart(runs.run(stages, runs.loop(4, 10), [runs.facts("c4")], slo={"ttft_ms": limit_ms}))

    assert [shape["y0"] for shape in with_limit(200.0).layout["shapes"]] == [200.0]
    assert with_limit(60_000.0).layout["shapes"] == []
    assert "60 s" in with_limit(60_000.0).caption


def test_in_an_open_loop_levels_are_named_by_their_rate() -> None:
    axis = chart(OPEN).layout["xaxis"]
    assert axis["ticktext"] == ["2 /s poisson"]
    assert axis["title"]["text"] == "load (requests per second)"
    assert "from when it was due" in page_of(OPEN).text


def test_a_long_stage_shows_its_first_requests_and_says_so() -> None:
    rounds = MAX_REQUESTS // 4 + 5
    run = runs.run(
        [runs.stage("c4", runs.closed(4), 4 * rounds)],
        runs.loop(4, rounds),
        [runs.facts("c4")],
    )
    [timeline] = timeline_charts(played(run))
    assert sum(len(trace["x"]) for trace in timeline.traces if trace["name"] == "waiting") == MAX_REQUESTS
    assert timeline.caption == f"The first {MAX_REQUESTS} of {4 * rounds} requests."


@pytest.mark.slow
def test_the_command_line_and_the_page_s_module_are_there_without_plotly_and_jinja() -> None:
    code = "import sys, loadgen.cli.app, loadgen.report.html; sys.exit(bool({'plotly', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the compiled template is kept, in a folder of this test, and where it may be written."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = CompiledTemplate(REPORT).path
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the templates that are compiled."""
    names: list[str] = []
    compile_template = Environment.compile

    def compile_and_note(self: Environment, source: str, name: str, *rest: object, **named: object) -> object:
        names.append(name)
        return compile_template(self, source, name, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Environment, "compile", compile_and_note)
    return names


def test_the_template_is_compiled_once_and_gives_the_same_page(compiled: Path, compilations: list[str]) -> None:
    first = html_of(SINGLE)
    assert compiled.is_file()
    assert html_of(SINGLE) == first
    assert compilations == ["page.html"]


def test_a_template_that_was_compiled_from_something_else_or_is_damaged_is_compiled_again(
    compiled: Path, compilations: list[str]
) -> None:
    page = html_of(SINGLE)
    whole = compiled.read_bytes()
    checksum, _, code = whole.partition(b"\n")
    for other in (b"", b"\n", checksum, checksum + b"\n", whole[:-1], checksum[::-1] + b"\n" + code):
        compilations.clear()
        compiled.write_bytes(other)
        assert html_of(SINGLE) == page
        assert (compilations, compiled.read_bytes()[: len(checksum)]) == (["page.html"], checksum)


def test_a_page_is_made_where_no_compiled_template_can_be_kept(compiled: Path) -> None:
    page = html_of(SINGLE)
    compiled.unlink()
    compiled.mkdir()
    assert html_of(SINGLE) == page


def test_no_compiled_template_is_written_where_python_is_to_write_none(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    html_of(SINGLE)
    assert not compiled.exists()


def test_a_summary_of_another_run_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        report_data(summarize(NO_STAGE), [SINGLE])


@st.composite
def overlapping(draw: st.DrawFn) -> list[Record]:
    starts = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=30)))
    waits = draw(st.lists(st.integers(1, 50), min_size=len(starts), max_size=len(starts)))
    pairs = enumerate(zip(starts, waits, strict=True))
    return [runs.record(i, start, level="c1", wait_ns=wait, gap_ns=1) for i, (start, wait) in pairs]


@given(overlapping())
def test_lanes_never_overlap_and_are_as_many_as_ran_at_once(records: list[Record]) -> None:
    rows = lanes(records)
    spans = [(begin_ns(record), finish_ns(record), row) for record, row in zip(records, rows, strict=True)]
    for place, (start, end, row) in enumerate(spans):
        assert not any(other == row and s < end and start < e for s, e, other in spans[place + 1 :])
    at_once = max(sum(s <= start < e for s, e, _ in spans) for start, _, _ in spans)
    assert max(rows) == at_once


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_an_ecdf_is_the_share_of_values_at_or_below(values: list[int]) -> None:
    xs, shares = steps(np.sort(np.array(values, dtype=np.int64)), "linear")
    assert shares[0] == 0
    for x, share in zip(xs[1:], shares[1:], strict=True):
        assert share == pytest.approx(sum(value <= x for value in values) / len(values))
    assert shares[-1] == 1


def test_an_ecdf_on_a_logarithmic_axis_counts_the_zeros_that_it_cannot_show() -> None:
    xs, shares = steps(np.array([0, 0, 5, 9], dtype=np.int64), "log")
    assert xs == [5, 5, 9]
    assert shares == [0.5, 0.75, 1.0]


def test_a_long_ecdf_is_thinned_and_keeps_both_ends() -> None:
    xs, shares = steps(np.arange(1, 100_001, dtype=np.int64), "log")
    assert len(xs) <= MAX_STEPS + 1
    assert (xs[0], xs[-1], shares[-1]) == (1, 100_000, 1.0)
