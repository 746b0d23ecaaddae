"""Stages that end when enough is known, and runs that are repeated: over loopback, in one process and in two."""

from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import StageSummary, Until, summary_from
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Silence
from loadgen.live.sink import NullSink, StageStart
from loadgen.record import Record
from loadgen.report.files import write_merged
from loadgen.scenario import Closed, Constant, Load, Timeouts
from loadgen.store import run_folder
from loadgen.store.run_folder import Run
from tests.command_line import run_command
from tests.integration.engine.test_session import closed, counted, measured, scenario
from tests.integration.server import BEGIN, END, Script, Served, Server, Wait, say, streamed

BUDGET = 2_000
"""So many that they are never played, however busy the machine."""


def slow(wait_s: float) -> Script:
    return (BEGIN, Wait(wait_s), *say("a", "b"), END)


def stage_of(run: Run) -> tuple[StageSummary, Until]:
    (stage,) = summarize(run).stages
    assert stage.until is not None
    return stage, stage.until


@pytest.mark.asyncio
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("load", [closed(4, BUDGET), Constant((100.0,), requests=BUDGET)], ids=["closed", "open"])
async def test_a_stage_ends_as_soon_as_enough_is_known(load: Load, workers: int, tmp_path: Path) -> None:
    heard = Knowing()
    with Server(slow(0.02)) as server:
        asked = scenario(tmp_path, {"m": server.url}, load, until="e2e_p50:60%")
        run = await api.run(asked, results=tmp_path, workers=workers, progress=heard)
    stage, until = stage_of(run)
    played = len(measured(run))
    assert 38 <= played < BUDGET
    assert len({record.index for record in measured(run)}) == played
    assert counted(stage) == {"ok": played}, "what was not begun is not missed"
    assert not stage.incomplete
    assert run.manifest.state == "complete"
    assert [planned.planned for planned in run.manifest.stages] == [None]
    assert run.manifest.scenario.until == "e2e_p50:60%"
    assert [seen.ended_early for seen in run.facts] == [True]
    assert (until.early, until.requests, until.needed) == (True, played, None)
    assert until.reached is not None
    assert heard.words
    assert heard.words[-1].startswith("e2e p50 ±")
    assert len([chat for chat in server.chats if chat.says != "Say hello."]) == played + 1, "and a warm-up"


@pytest.mark.asyncio
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stage_in_which_it_is_hopeless_spends_its_budget(workers: int, tmp_path: Path) -> None:
    turns = count()

    def choose(_: Served) -> Script:
        return slow(0.06) if next(turns) % 2 else streamed("a", "b")

    with Server(choose) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(8, 100), until="e2e_p50:1%")
        run = await api.run(asked, results=tmp_path, workers=workers)
    stage, until = stage_of(run)
    assert counted(stage) == {"ok": 100}
    assert [seen.ended_early for seen in run.facts] == [False]
    assert (until.early, until.reached, until.requests) == (False, None, 100)
    assert until.needed is not None
    assert until.needed > 100


@pytest.mark.asyncio
async def test_each_level_ends_on_its_own_and_one_that_was_stopped_misses_nothing(tmp_path: Path) -> None:
    stop = StopSignal()
    with Server(slow(0.01)) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed((4, 3), BUDGET), until="ttft_p50:80%")
        run = await api.run(asked, results=tmp_path, progress=SecondStage(stop), stop=stop)
    first, second = summarize(run).stages
    assert first.until is not None
    assert first.until.early
    assert second.incomplete
    assert set(counted(second)) == {"ok"}
    assert sum(counted(second).values()) < BUDGET


class Knowing(Silence):
    """Keeps what was said of how well it is known."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def known(self, text: str) -> None:
        self.words.append(text)


class SecondStage(Silence):
    """Wants an end in the second stage."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._stages = 0

    def start(self, stage: StageStart) -> None:
        self._stages += 1

    def record(self, record: Record) -> None:
        if self._stages == 2 and record.phase == "measured":
            self._stop.drain()


# Repeated runs


class Second(Silence):
    """Wants an end in the second run."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self.notes: list[str] = []

    def begin_run(self, title: str) -> None:
        self.notes.append(title)

    def record(self, record: Record) -> None:
        if "run 2 of 3" in self.notes and record.phase == "measured":
            self._stop.drain()


class Starts(NullSink):
    def __init__(self) -> None:
        self.levels: list[str] = []

    def start(self, stage: StageStart) -> None:
        self.levels.append(stage.level)


@pytest.mark.asyncio
async def test_a_person_who_stops_the_second_run_has_the_two(tmp_path: Path) -> None:
    stop, ended = StopSignal(), list[Run]()
    heard, starts = Second(stop), Starts()
    with Server(streamed("a", "b")) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(2, 20))
        runs = await api.repeat(
            asked, 3, results=tmp_path, progress=heard, stop=stop, sinks=(starts,), ended=ended.append
        )
    assert [run.manifest.state for run in runs] == ["complete", "interrupted"]
    assert list(runs) == ended
    assert starts.levels == ["c2", "c2"]
    assert [note for note in heard.notes if note.startswith("run ")] == ["run 1 of 3", "run 2 of 3"]
    summary, folder = write_merged([run.folder for run in runs])
    assert folder.name == f"{runs[0].folder.name}-x2"
    assert summary.incomplete
    assert sum(counted(summary.stages[0]).values()) == 40


@pytest.mark.asyncio
async def test_without_a_model_that_can_be_used_there_is_one_run(tmp_path: Path) -> None:
    runs = await api.repeat(
        scenario(tmp_path, {"m": "http://127.0.0.1:9/v1"}, Closed(requests=2), timeouts=Timeouts(ready_s=0.0)),
        3,
        results=tmp_path,
    )
    assert len(runs) == 1


SCENARIO = """
name = "again"
probe = false
prompts = ["First question.", "Second question."]
[[models]]
name = "m"
url = "{url}"
[load]
mode = "closed"
concurrency = [2]
requests = 20
ramp_in_s = 0.0
"""


def test_two_runs_of_the_command_are_two_folders_and_a_merged_report_beside_them(tmp_path: Path) -> None:
    path, out = tmp_path / "again.toml", tmp_path / "results"
    with Server(streamed("a", "b", gap_s=0.002)) as server:
        path.write_text(SCENARIO.format(url=server.url), encoding="utf-8")
        played = run_command("run", path, "--repeats", 2, "--rest", "200ms", "--out", out)
    merged, *runs = sorted(out.glob("again/*"), key=lambda folder: (not folder.name.endswith("-x2"), folder.name))
    assert len(runs) == 2
    assert all((run / "report.html").exists() for run in runs)
    read = [run_folder.read(run) for run in runs]
    assert len({run.manifest.plan_digest for run in read}) == 1
    first, second = sorted((run.manifest for run in read), key=lambda manifest: manifest.started_utc)
    rest = datetime.fromisoformat(second.started_utc) - datetime.fromisoformat(first.ended_utc or "")
    assert rest >= timedelta(milliseconds=200)
    summary = summary_from((merged / "summary.json").read_bytes())
    assert summary.runs == tuple(run.name for run in sorted(runs, key=lambda run: run.stat().st_mtime_ns))
    assert counted(summary.stages[0]) == {"ok": 40}
    assert "40/40" in played.stdout
    assert "2 runs of one plan" in played.stdout
    assert played.stdout.rstrip().endswith(f"report: {merged / 'report.html'} (and report.md)")
    assert played.returncode in {0, 1}, "1: this machine was too busy to be believed"

    again = run_command("report", "--merge", *(runs[0].parent / name for name in summary.runs))
    assert (again.returncode, again.stdout) == (0, played.stdout)
    refused = run_command("report", "--merge", runs[0])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "give two or more" in refused.stderr
