"""Progress without a terminal: what its line says, and that one comes however long nothing else happens."""

import io
import sys
import threading

import pytest
from msgspec import structs

from loadgen.cli.terminal import progress_on_terminal
from loadgen.live.lines import ProgressLines, progress_lines
from loadgen.live.sink import EndedCounts, StageStart
from tests.records import turn

STAGE = StageStart(models=("m",), targets=("t",), level="c4", latency_origin="sent", count=12, duration_s=None)


def test_a_line_says_what_is_played_and_how_far_it_is() -> None:
    lines = ProgressLines(lambda _: None)
    assert lines.line(1) == "1 min: starting"
    lines.start(STAGE)
    lines.record(turn(0, phase="warmup"))
    assert lines.line(2) == "2 min: m, c4: 0 of 12, 1 in the warm-up"
    for record in (turn(0), turn(1), turn(2, outcome="timeout", detail="first token")):
        lines.record(record)
    assert lines.line(3) == "3 min: m, c4: 3 of 12, 1 failed"
    lines.known("±12 %")
    assert lines.line(4) == "4 min: m, c4: 3 of 12, 1 failed, ±12 %"


def test_what_ends_in_workers_is_counted_without_its_records() -> None:
    lines = ProgressLines(lambda _: None)
    lines.start(STAGE)
    lines.take_counts(EndedCounts(3, 1))
    lines.take_counts(EndedCounts(2))
    assert lines.line(5) == "5 min: m, c4: 5 of 12, 1 failed"


def test_a_line_names_a_visit_of_a_search_in_words() -> None:
    lines = ProgressLines(lambda _: None)
    lines.start(structs.replace(STAGE, level="c4.2", count=None, visit="4 users (visit 2)"))
    for number in range(20):
        lines.record(turn(number))
    lines.known("95 % met ttft_p95=2s")
    assert lines.line(3) == "3 min: m, 4 users (visit 2): 20 requests, 95 % met ttft_p95=2s"


def test_a_line_says_which_of_several_runs_is_played() -> None:
    lines = ProgressLines(lambda _: None)
    lines.begin_run("run 2 of 3")
    lines.announce("starting m on t")
    assert lines.line(1) == "1 min: run 2 of 3: starting m on t"
    lines.start(STAGE)
    assert lines.line(2) == "2 min: run 2 of 3: m, c4: 0 of 12"
    lines.begin_run("run 3 of 3")
    lines.work("loading m", 0.5)
    assert lines.line(3) == "3 min: run 3 of 3: loading m: 50%"


def test_a_line_says_how_much_of_other_work_is_done() -> None:
    lines = ProgressLines(lambda _: None)
    lines.work("downloading m", 0.25)
    assert lines.line(2) == "2 min: downloading m: 25%"
    lines.begin("calibrating: streams", 3, None)
    assert lines.line(5) == "5 min: calibrating: streams: 3"


def test_what_is_not_counted_is_named_alone() -> None:
    lines = ProgressLines(lambda _: None)
    lines.announce("starting m on t")
    assert lines.line(1) == "1 min: starting m on t"
    lines.work("waiting for the server", None)
    assert lines.line(2) == "2 min: waiting for the server"


def test_a_line_a_period_is_written_while_nothing_else_happens() -> None:
    written: list[str] = []
    two = threading.Event()

    def write(line: str) -> None:
        written.append(line)
        if len(written) == 2:
            two.set()

    with progress_lines(write, period_s=0.001) as lines:
        lines.begin("waiting", 0, 1)
        assert two.wait(60)
    assert [line.split(":")[0] for line in written[:2]] == ["1 min", "2 min"]


def test_a_warning_does_not_wait_for_the_minute() -> None:
    written: list[str] = []
    with progress_lines(written.append) as lines:
        lines.warn("this machine is already busy")
        assert written == ["this machine is already busy"]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS"])
def test_a_build_server_that_asks_for_colors_is_no_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress_on_terminal("text") as progress:
        assert isinstance(progress, ProgressLines)
