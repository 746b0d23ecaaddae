"""A browser draws the report: every chart, under its own content policy, and without a word in the console."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
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
from tests.night_folders import QUIET, Night, write_nights
from tests.selected_runs import SelectedModel, write_run
from tests.soak_folder import INTERRUPTED, INTERRUPTIONS, write_soak
from tests.unit.decisions.capacity.test_play import SLO, search

pytestmark = pytest.mark.e2e

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--window-size=1280,2400",
)


class Drawn(HTMLParser):
    """The charts of a page as a browser left it, and how many drawings each holds."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.svgs: dict[str, int] = {}
        self._chart = ""
        self.feed(dom)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        classes = (told.get("class") or "").split()
        if "chart" in classes:
            self._chart = told["id"] or ""
            self.svgs[self._chart] = 0
        elif tag == "svg" and "main-svg" in classes:
            self.svgs[self._chart] += 1


def browse(page: str, folder: Path) -> tuple[Drawn, list[str]]:
    """What a browser makes of a page, and the lines that it wrote to its console."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no browser is on the PATH: install chromium, chromium-browser or google-chrome")
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8", newline="\n")
    run = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return Drawn(run.stdout), [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def page_of(run: Run) -> str:
    return html(make_document(report_data(summarize(run), [run]))).decode()


def test_every_chart_is_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    page = page_of(runs.everything())
    drawn, said = browse(page, tmp_path)
    assert said == []
    assert list(drawn.svgs) == re.findall(r'class="chart" id="([\w-]+)"', page)
    assert len(drawn.svgs) > 10
    assert all(drawn.svgs.values()), drawn.svgs


def test_the_pictures_of_a_search_are_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    searched = search(tmp_path / "results", CapacitySettings(objectives=SLO, highest=9.0, within=None, budget_s=300.0))
    page = (searched.folder / "report.html").read_text(encoding="utf-8")
    drawn, said = browse(page, tmp_path)
    assert said == []
    assert list(drawn.svgs)[:3] == ["chart-shares-0", "chart-rates-0", "chart-visits-0"]
    assert all(drawn.svgs.values()), drawn.svgs


def test_the_pictures_of_a_selection_are_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    models = [SelectedModel(name="good", points=(4,), e2e_ms=2000), SelectedModel(name="fast", points=(2,), e2e_ms=400)]
    runs_read = read_runs([write_run(tmp_path / "run", models)])
    data = decide(runs_read, policy_of(runs_read[0].manifest.scenario.select))
    drawn, said = browse(html(page_document(data)).decode(), tmp_path)
    assert said == []
    assert list(drawn.svgs) == ["chart-quality", "chart-bands"]
    assert all(drawn.svgs.values()), drawn.svgs


def test_the_pictures_of_a_soak_are_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    soak = make_soak_reports(write_soak(tmp_path / "run", [INTERRUPTED], INTERRUPTIONS))
    drawn, said = browse((soak.folder / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert said == []
    assert {"chart-ttft-p50-0", "chart-heat-0", "chart-memory-0", "chart-own-memory-0"} <= set(drawn.svgs)
    assert all(drawn.svgs.values()), drawn.svgs


def test_the_pictures_of_a_history_are_drawn_and_the_console_is_silent(tmp_path: Path) -> None:
    slow = Night(factors={"*": 1.3}, server="b2")
    other = Night(machine="00000001", level="c4", verdict="invalid")
    write_nights(tmp_path / "x", [*[QUIET] * 12, *[slow] * 6, None, *[other] * 3])
    read = read_answer("x", HistoryRequest(machine="all"), tmp_path)
    drawn, said = browse(
        html(history_document(read.answer, read.remarks, lambda night: night.run_id)).decode(), tmp_path
    )
    assert said == []
    assert list(drawn.svgs) == [f"chart-history-{number}" for number in range(8)]
    assert all(drawn.svgs.values()), drawn.svgs


def test_a_run_of_which_nothing_was_played_has_no_chart_and_a_silent_console(tmp_path: Path) -> None:
    skipped = runs.run([runs.stage("c4", runs.closed(4), 40, skipped="no server")])
    drawn, said = browse(page_of(skipped), tmp_path)
    assert (drawn.svgs, said) == ({}, [])


def test_a_script_that_the_policy_does_not_know_is_not_run_and_the_console_says_so(tmp_path: Path) -> None:
    page = page_of(runs.everything())
    changed = page.replace('"use strict";', '"use strict"; ', 1)
    assert changed != page
    drawn, said = browse(changed, tmp_path)
    assert not any(drawn.svgs.values())
    assert any("Content Security Policy" in line for line in said)
