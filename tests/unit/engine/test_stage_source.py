"""A run whose stages are chosen while it goes: in virtual time, from the first choice to the folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.engine.run import play_plan
from loadgen.engine.stage import RunContext, stage_start
from loadgen.engine.stage_source import StageSource
from loadgen.engine.stop import StopSignal
from loadgen.live.sink import NullSink, Sink
from loadgen.plan.plan import Plan, Stage, digest
from loadgen.plan.visits import Visits
from loadgen.plan.workload import workload_of
from loadgen.record import Record, StageFacts
from loadgen.scenario import Closed, Load, Model, Poisson, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run, read
from tests.virtual import run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, no_connection, stream


def plan_of(folder: Path, load: Load, **changes: Any) -> Plan:
    model = Model(name="m", url="http://m.invalid/v1", target="openai")
    scenario = Scenario(**{"name": "chosen", "prompts": ("One.", "Two."), "models": (model,), "load": load, **changes})
    return api.plan_of(LoadedScenario(scenario, None, folder, "the test"))


class Enough(NullSink):
    """Ends its stage after so many measured requests."""

    def __init__(self, count: int, stop: StopSignal) -> None:
        self._left = count
        self._stop = stop
        self.facts: StageFacts | None = None

    def record(self, record: Record) -> None:
        self._left -= record.phase == "measured"
        if self._left == 0:
            self._stop.end_stage()

    def stop(self, facts: StageFacts) -> None:
        self.facts = facts


class Choices:
    """Visits these levels of one model; each ends after `count` requests."""

    def __init__(self, context: RunContext, levels: Sequence[float], count: int, burst: int = 0) -> None:
        self.models = (0,)
        self.lost: list[str] = []
        self.ended: list[Enough] = []
        self._visits = Visits(context.plan.scenario, len(context.plan.prompts), 0)
        self._levels = list(levels)
        self._visited: list[float] = []
        self._count = count
        self._burst = burst

    def next_stage(self) -> Stage | None:
        if not self._levels or self.lost:
            return None
        self._visited.append(self._levels.pop(0))
        level, warmup = self._visited[-1], int(len(self._visited) == 1)
        number = self._visited.count(level)
        return self._visits.visit(level, number, seconds=60.0, warmup=warmup, burst=self._burst)

    def sinks(self, stage: Stage, stop: StopSignal) -> tuple[Sink, ...]:
        self.ended.append(Enough(self._count, stop))
        return (self.ended[-1],)

    def lose_model(self, model: int, reason: str) -> None:
        self.lost.append(reason)


def play(
    plan: Plan, folder: Path, make: Callable[[RunContext], Choices], client: ScriptedClient, **options: Any
) -> tuple[Run, Choices]:
    made: list[Choices] = []

    def make_sources(context: RunContext, _: Path) -> list[StageSource]:
        made.append(make(context))
        return [made[0]]

    played = run(play_plan(plan, folder, clock=CLOCK, client=client, make_sources=make_sources, **options))
    return played, made[0]


def answers(_: dict[str, Any], __: int) -> Answer:
    return stream("a", "b", gap_ns=100 * MS)


def test_stages_are_chosen_while_the_run_goes_and_the_server_is_started_once(tmp_path: Path) -> None:
    client = ScriptedClient(answers)
    plan = plan_of(tmp_path, Closed(concurrency=(8,), ramp_in_s=0.0))
    played, source = play(plan, tmp_path, lambda context: Choices(context, [2, 4, 2], 8), client)
    assert [(stage.level, stage.load.concurrency, stage.planned) for stage in played.manifest.stages] == [
        ("c2", 2, None),
        ("c4", 4, None),
        ("c2.2", 2, None),
    ]
    assert played.manifest.state == "complete"
    assert [facts.level for facts in played.facts] == ["c2", "c4", "c2.2"]
    assert all(facts.ended_early and facts.complete for facts in played.facts)
    measured = [record.level for record in played.records if record.phase == "measured"]
    # What was in flight when the stage was told to end is still played to its end.
    assert [measured.count(level) for level in ("c2", "c4", "c2.2")] == [9, 11, 9]
    assert [record.level for record in played.records if record.phase == "warmup"] == ["c2"]
    assert [body["messages"][-1]["content"] for body in client.bodies].count("Say hello.") == 1
    summary = summarize(played)
    assert [stage.level for stage in summary.stages] == ["c2", "c4", "c2.2"]
    assert not summary.incomplete
    assert [ended.facts is not None for ended in source.ended] == [True] * 3


def test_the_manifest_is_of_the_stages_that_were_chosen(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, Closed(concurrency=(8,), ramp_in_s=0.0))
    played, _ = play(plan, tmp_path, lambda context: Choices(context, [2, 4], 4), ScriptedClient(answers))
    visits = Visits(plan.scenario, 2, 0)
    stages = (visits.visit(2, 1, seconds=60.0, warmup=1), visits.visit(4, 1, seconds=60.0))
    chosen = msgspec.structs.replace(plan, stages=stages)
    assert played.manifest.plan_digest == digest(chosen)
    assert played.manifest.workload == workload_of(chosen)


def test_a_run_that_is_killed_has_the_stages_so_far_in_its_manifest(tmp_path: Path) -> None:
    class Fails(Choices):
        def next_stage(self) -> Stage | None:
            if self.ended:
                raise LookupError("killed")
            return super().next_stage()

    plan = plan_of(tmp_path, Closed(concurrency=(8,), ramp_in_s=0.0))
    with pytest.raises(LookupError):
        play(plan, tmp_path, lambda context: Fails(context, [2, 4], 4), ScriptedClient(answers), folder_prefix="tried-")
    (folder,) = tmp_path.glob("chosen/tried-*")
    left = read(folder)
    assert left.manifest.state == "interrupted"
    assert [stage.level for stage in summarize(left).stages] == ["c2"]
    assert len(left.records) == 6


def test_a_burst_is_sent_at_the_beginning_and_the_rest_when_it_is_due(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, Poisson((4.0,), duration_s=1.0))
    client = ScriptedClient(answers)
    played, _ = play(plan, tmp_path, lambda context: Choices(context, [4.0], 20, burst=6), client)
    due = sorted(record.intended_ns for record in played.records if record.phase == "measured")
    assert due[:6] == [due[0]] * 6
    assert due[6] > due[0]
    assert [facts.ended_early for facts in played.facts] == [True]
    (stage,) = summarize(played).stages
    assert not stage.incomplete


def test_a_stage_without_a_warm_up_has_the_time_limit_of_the_one_before_it(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], number: int) -> Answer:
        return stream("a", gap_ns=(20_000 if number == 1 else 100) * MS)  # the warm-up alone takes 20 s

    plan = plan_of(tmp_path, Closed(concurrency=(8,), ramp_in_s=0.0))
    played, _ = play(plan, tmp_path, lambda context: Choices(context, [1, 2], 4), ScriptedClient(slow))
    assert [stage.request_limit_s for stage in played.manifest.stages] == [200.0, 200.0]


def test_a_model_that_cannot_be_used_is_lost_before_its_first_stage(tmp_path: Path) -> None:
    client = ScriptedClient(lambda _, __: no_connection())
    plan = plan_of(tmp_path, Closed(), timeouts={"ready_s": 0.0})
    plan = msgspec.structs.replace(plan, scenario=msgspec.convert(msgspec.to_builtins(plan.scenario), Scenario))
    played, source = play(plan, tmp_path, lambda context: Choices(context, [1], 4), client)
    assert len(source.lost) == 1
    assert played.manifest.stages == ()
    assert summarize(played).stages == ()


class DrainsRun(NullSink):
    """Ends the run after so many measured requests."""

    def __init__(self, count: int, stop: StopSignal) -> None:
        self._left = count
        self._stop = stop

    def record(self, record: Record) -> None:
        self._left -= record.phase == "measured"
        if self._left == 0:
            self._stop.drain()


def test_a_stop_of_the_run_ends_the_stage_that_is_on(tmp_path: Path) -> None:
    stop = StopSignal()
    plan = plan_of(tmp_path, Closed(concurrency=(8,), ramp_in_s=0.0))
    played, _ = play(
        plan,
        tmp_path,
        lambda context: Choices(context, [2], 8),
        ScriptedClient(answers),
        stop=stop,
        sinks=(DrainsRun(3, stop),),
    )
    assert played.manifest.state == "interrupted"
    assert [facts.complete for facts in played.facts] == [False]
    assert [(record.phase, record.outcome) for record in played.records] == [
        ("warmup", "ok"),
        *[("measured", "ok")] * 4,
    ]


@pytest.mark.parametrize(
    ("load", "level", "number", "words"),
    [
        (Closed(), 1, 1, "1 user"),
        (Closed(), 4, 2, "4 users (visit 2)"),
        (Poisson((1.0,)), 1.25, 1, "1.25 requests per second"),
        (Poisson((1.0,)), 1, 3, "1 request per second (visit 3)"),
    ],
)
def test_progress_names_a_visit_in_words(tmp_path: Path, load: Load, level: float, number: int, words: str) -> None:
    plan = plan_of(tmp_path, load)
    stage = Visits(plan.scenario, len(plan.prompts), 0).visit(level, number, seconds=9.0)
    assert stage_start(plan, stage).title == words
    assert stage_start(plan, msgspec.structs.replace(stage, visit=0)).title == stage.level.label
