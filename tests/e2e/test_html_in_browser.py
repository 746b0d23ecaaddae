"""A browser draws the report: every chart, under its own content policy, and without a word in the console."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen.analysis.summarize import summarize
from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.capacity.search_request import CapacitySettings
from loadgen.decisions.drift.files import make_soak_reports
from loadgen.decisions.history.document import history_document
from loadgen.decisions.history.read import HistoryRequest, read_answer
from loadgen.decisions.select.decide import decide
from loadgen.decisions.select.document import page_document
from loadgen.decisions.select.policy import policy_of
from loadgen.report.document import make_document, report_data
from loadgen.report.html import html
from loadgen.store.run_folder import Run
from tests import report_runs as runs
from tests.e2e.browser import SETTLED_MS, Browser
from tests.night_folders import QUIET, Night, write_nights
from tests.selected_runs import SelectedModel, write_run
from tests.soak_folder import INTERRUPTED, INTERRUPTIONS, write_soak
from tests.unit.decisions.capacity.test_play import SLO, search

pytestmark = pytest.mark.e2e


DRAWN = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('.chart')].map(
  chart => [chart.id, chart.querySelectorAll('svg.main-svg').length]
)))"""
"""How many drawings each chart of a page holds, by its id, in the order of the page."""
Browse = Callable[[str], tuple[dict[str, int], list[str]]]


@pytest.fixture
def browse(browser: Browser, tmp_path: Path) -> Browse:
    """The charts of a page as a browser draws them, and the lines that it wrote to its console."""

    def drawn_and_said(page: str) -> tuple[dict[str, int], list[str]]:
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8", newline="\n")
        with browser.page(tmp_path) as tab:
            tab.ask("Emulation.setVirtualTimePolicy", policy="pause")
            tab.ask("Page.navigate", url=path.as_uri())
            tab.ask("Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending", budget=SETTLED_MS)
            tab.wait_for("Emulation.virtualTimeBudgetExpired")
            return json.loads(tab.value_of(DRAWN)), tab.console()

    return drawn_and_said


def page_of(run: Run) -> str:
    return html(make_document(report_data(summarize(run), [run]))).decode()


def test_every_chart_is_drawn_and_the_console_is_silent(browse: Browse) -> None:
    page = page_of(runs.everything())
    drawn, said = browse(page)
    assert said == []
    assert list(drawn) == re.findall(r'class="chart" id="([\w-]+)"', page)
    assert len(drawn) > 10
    assert all(drawn.values()), drawn


def test_the_pictures_of_a_search_are_drawn_and_the_console_is_silent(browse: Browse, tmp_path: Path) -> None:
    searched = search(tmp_path / "results", CapacitySettings(objectives=SLO, highest=9.0, within=None, budget_s=300.0))
    page = (searched.folder / "report.html").read_text(encoding="utf-8")
    drawn, said = browse(page)
    assert said == []
    assert list(drawn)[:3] == ["chart-shares-0", "chart-rates-0", "chart-visits-0"]
    assert all(drawn.values()), drawn


def test_the_pictures_of_a_selection_are_drawn_and_the_console_is_silent(browse: Browse, tmp_path: Path) -> None:
    models = [SelectedModel(name="good", points=(4,), e2e_ms=2000), SelectedModel(name="fast", points=(2,), e2e_ms=400)]
    runs_read = read_runs([write_run(tmp_path / "run", models)])
    data = decide(runs_read, policy_of(runs_read[0].manifest.scenario.select))
    drawn, said = browse(html(page_document(data)).decode())
    assert said == []
    assert list(drawn) == ["chart-quality", "chart-bands"]
    assert all(drawn.values()), drawn


def test_the_pictures_of_a_soak_are_drawn_and_the_console_is_silent(browse: Browse, tmp_path: Path) -> None:
    soak = make_soak_reports(write_soak(tmp_path / "run", [INTERRUPTED], INTERRUPTIONS))
    drawn, said = browse((soak.folder / "report.html").read_text(encoding="utf-8"))
    assert said == []
    assert {"chart-ttft-p50-0", "chart-heat-0", "chart-memory-0", "chart-own-memory-0"} <= set(drawn)
    assert all(drawn.values()), drawn


def test_the_pictures_of_a_history_are_drawn_and_the_console_is_silent(browse: Browse, tmp_path: Path) -> None:
    slow = Night(factors={"*": 1.3}, server="b2")
    other = Night(machine="00000001", level="c4", verdict="invalid")
    write_nights(tmp_path / "x", [*[QUIET] * 12, *[slow] * 6, None, *[other] * 3])
    read = read_answer("x", HistoryRequest(machine="all"), tmp_path)
    drawn, said = browse(html(history_document(read.answer, read.remarks, lambda night: night.run_id)).decode())
    assert said == []
    assert list(drawn) == [f"chart-history-{number}" for number in range(8)]
    assert all(drawn.values()), drawn


def test_a_run_of_which_nothing_was_played_has_no_chart_and_a_silent_console(browse: Browse) -> None:
    skipped = runs.run([runs.stage("c4", runs.closed(4), 40, skipped="no server")])
    drawn, said = browse(page_of(skipped))
    assert (drawn, said) == ({}, [])


def test_a_script_that_the_policy_does_not_know_is_not_run_and_the_console_says_so(browse: Browse) -> None:
    page = page_of(runs.everything())
    changed = page.replace('"use strict";', '"use strict"; ', 1)
    assert changed != page
    drawn, said = browse(changed)
    assert not any(drawn.values())
    assert any("Content Security Policy" in line for line in said)
