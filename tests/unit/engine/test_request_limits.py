"""How long a request may take where the scenario does not say: by what the warm-up and the test chat showed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.engine.request_limits import WarmUpTimes
from loadgen.engine.workers.messages import Go, decode_command, line_of
from loadgen.plan.plan import digest
from loadgen.scenario import Closed, Model, Retries, Scenario, Slo, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store.manifest import ModelCard
from loadgen.store.run_folder import Run
from loadgen.targets.served import Served
from tests.records import record
from tests.virtual import run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, refuse, stream

S = 1_000 * MS


def scenario_of(folder: Path, **changes: Any) -> LoadedScenario:
    keys: dict[str, Any] = {
        "models": (Model(name="m", url="http://m.invalid/v1", target="openai"),),
        "load": Closed(requests=2, ramp_in_s=0.0),
        **changes,
    }
    return LoadedScenario(Scenario(name="limits", prompts=("Count.",), **keys), None, folder, "the test")


def play(client: ScriptedClient, folder: Path, **changes: Any) -> Run:
    return run(api.run(scenario_of(folder, **changes), results=folder, clock=CLOCK, client=client))


def limits_of(played: Run) -> list[float | None]:
    return [stage.request_limit_s for stage in played.manifest.stages]


def taking(*seconds: float) -> ScriptedClient:
    """A server whose answers take so long, the last of them always."""
    return ScriptedClient(lambda _, number: stream("a", gap_ns=round(seconds[min(number, len(seconds) - 1)] * S)))


def test_a_device_of_two_tokens_a_second_has_the_time_that_it_needs(tmp_path: Path) -> None:
    client = ScriptedClient(lambda body, _: stream(*["word "] * body["max_tokens"], gap_ns=S // 2))
    played = play(client, tmp_path)
    assert [record.outcome for record in played.records] == ["ok"] * 3
    assert limits_of(played) == [640.0]
    assert [request.deadlines.request_ns for request in client.requests] == [600 * S, 640 * S, 640 * S, 640 * S]


@pytest.mark.parametrize(
    ("changes", "seconds", "limit_s"),
    [
        ({}, (1.0, 20.0), 200.0),
        ({}, (20.0, 1.0), 60.0),  # the warm-up is of the stage, and the test chat is not
        ({"warmup_requests": 0}, (20.0, 1.0), 200.0),
        ({"warmup_requests": 0, "preflight": False}, (1.0,), 600.0),
        ({"preflight": False}, (30.0, 1.0), 300.0),
        ({"timeouts": Timeouts(request_s=7.5)}, (1.0, 5.0), 7.5),
        ({"warmup_requests": 3}, (1.0, 2.0, 30.0, 3.0), 300.0),
        ({"slo": Slo(objectives=("ttft_p95=90s", "e2e_p99=2min", "ok=99%"))}, (1.0,), 240.0),
        ({"slo": Slo(ttft_ms=45_000.0, tpot_ms=50.0)}, (1.0,), 90.0),
        ({"slo": Slo(e2e_ms=45_000.0, objectives=("ttft_p95=2s",))}, (1.0, 20.0), 200.0),
        ({"slo": Slo(objectives=("ttft_p95=2s",))}, (1.0,), 60.0),
        ({"slo": Slo(objectives=("e2e_p95=7m",)), "warmup_requests": 0, "preflight": False}, (1.0,), 840.0),
        ({"slo": Slo(objectives=("e2e_p95=7m",)), "timeouts": Timeouts(request_s=7.5)}, (1.0,), 7.5),
    ],
)
def test_the_limit_is_ten_times_what_was_shown_and_a_minute_and_twice_the_slo_at_least(
    tmp_path: Path, changes: dict[str, Any], seconds: tuple[float, ...], limit_s: float
) -> None:
    client = taking(*seconds)
    played = play(client, tmp_path, **changes)
    assert limits_of(played) == [limit_s]
    assert client.requests[-1].deadlines.request_ns == limit_s * S


def test_a_warm_up_without_an_answer_shows_nothing(tmp_path: Path) -> None:
    def choose(_: dict[str, Any], number: int) -> Answer:
        return refuse(500, b"no") if number == 1 else stream("a", gap_ns=9 * S)

    assert limits_of(play(ScriptedClient(choose), tmp_path)) == [90.0]


def test_every_level_and_every_model_has_a_limit_by_its_own_warm_up(tmp_path: Path) -> None:
    gaps = {"slow": 20 * S, "fast": 7 * S}
    models = tuple(Model(name=name, url=f"http://{name}.invalid/v1", target="openai") for name in gaps)

    def choose(body: dict[str, Any], number: int) -> Answer:
        return stream("a", gap_ns=gaps[body["model"]] * (2 if number > 7 else 1))

    load = Closed(concurrency=(1, 2), requests=2, ramp_in_s=0.0)
    played = play(ScriptedClient(choose), tmp_path, models=models, load=load, order="interleaved")
    limits = {(stage.model, stage.level): stage.request_limit_s for stage in played.manifest.stages}
    assert limits == {("slow", "c1"): 200.0, ("fast", "c1"): 70.0, ("slow", "c2"): 400.0, ("fast", "c2"): 140.0}


def test_a_limit_is_of_an_attempt_and_shown_by_one(tmp_path: Path) -> None:
    def choose(_: dict[str, Any], number: int) -> Answer:
        return refuse(500, b"no") if number in (1, 3) else stream("a", gap_ns=9 * S)

    retries = Retries(attempts=1, on=("http_500",), backoff_s=80.0, max_backoff_s=80.0, jitter=0.0)
    played = play(ScriptedClient(choose), tmp_path, retries=retries)
    assert limits_of(played) == [90.0]
    assert [record.outcome for record in played.records] == ["http_error", "ok", "http_error", "ok", "ok"]


def test_what_takes_longer_than_the_limit_is_a_timeout(tmp_path: Path) -> None:
    played = play(taking(1.0, 1.0, 100.0), tmp_path)
    assert [record.outcome for record in played.records] == ["ok", "timeout", "timeout"]


def test_the_limit_is_no_part_of_the_digest(tmp_path: Path) -> None:
    timeouts = (Timeouts(), Timeouts(request_s=3.0))
    plans = [api.plan_of(scenario_of(tmp_path, timeouts=of_plan)) for of_plan in timeouts]
    assert digest(plans[0]) == digest(plans[1])
    assert play(taking(1.0), tmp_path).manifest.plan_digest == digest(plans[0])


def test_a_worker_is_told_the_limits_when_it_is_to_play() -> None:
    go = Go(5, {0: 60 * S, 3: 90 * S})
    assert decode_command(line_of(go)) == go


def test_only_answers_of_a_warm_up_count() -> None:
    times = WarmUpTimes()
    answered = record(phase="warmup", model="m", target="m.invalid", level="c1", dispatched_ns=0, end_ns=70 * S)
    for other in (
        answered,
        msgspec.structs.replace(answered, end_ns=9 * S),
        msgspec.structs.replace(answered, end_ns=500 * S, phase="measured"),
        msgspec.structs.replace(answered, end_ns=500 * S, outcome="timeout"),
        msgspec.structs.replace(answered, end_ns=500 * S, level="c2"),
        msgspec.structs.replace(answered, end_ns=500 * S, model="n"),
        msgspec.structs.replace(answered, end_ns=None),
    ):
        times.record(other)
    plan = api.plan_of(scenario_of(Path()))
    (stage,) = plan.stages
    served = {0: Served(base_url="http://m.invalid/v1", card=ModelCard(alias="m", id="m", target="m.invalid"))}
    assert times.limits(plan, stage, served) == {0: 700 * S}
    assert WarmUpTimes().limits(plan, stage, served) == {0: 600 * S}
