"""A soak in virtual time: how long its stages are, and what its manifest says."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.engine import stage as stage_module
from loadgen.engine.soak import session as session_module
from loadgen.engine.soak.in_flight import IN_FLIGHT, Begun, read_in_flight
from loadgen.engine.soak.lock import LOCK, Holder, folder_lock
from loadgen.engine.soak.outage import SUPPORT
from loadgen.engine.soak.play import play_soak
from loadgen.engine.soak.session import SoakMachine
from loadgen.engine.stop import StopSignal
from loadgen.errors import InputError
from loadgen.plan.plan import Plan
from loadgen.plan.soak import SoakPlan, soak_of
from loadgen.scenario import Closed, Constant, Load, Model, Scenario, SoakTable
from loadgen.scenario.file import LoadedScenario
from loadgen.store.events import read_events
from loadgen.store.folder_size import measured_bytes
from loadgen.store.run_folder import Run, read
from loadgen.targets.served import Served
from loadgen.telemetry import observer
from tests.virtual import START_NS, VirtualBootClock, run
from tests.virtual_client import CLOCK, MS, Answer, ScriptedClient, no_connection, stream

SECOND = 1_000 * MS
DURATION_S = 1_200.0
DURATION_NS = 1_200 * SECOND


def look_rarely(patch: pytest.MonkeyPatch) -> None:
    """Looks each second, or more often, take most of the CPU time of a soak that is played at once."""
    patch.setattr(observer, "TICK_NS", 10 * SECOND)
    patch.setattr(stage_module, "TICK_S", 10.0)
    patch.setattr(session_module, "CHECK_NS", 10 * SECOND)


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_rarely(monkeypatch)


def soak_plan(folder: Path, load: Load, models: int = 1, **changes: Any) -> tuple[SoakPlan, Plan]:
    names = tuple(
        Model(name=f"m{number}", url=f"http://m{number}.invalid/v1", target="openai") for number in range(models)
    )
    table = SoakTable(duration_s=changes.pop("duration_s", DURATION_S), window_s=60.0)
    scenario = Scenario(name="night", prompts=("One.", "Two."), models=names, load=load, soak=table, **changes)
    planned = soak_of(LoadedScenario(scenario, None, folder, "the test"))
    return planned, api.soak_plan_of(planned)


def answer(_: dict[str, Any], __: int) -> Answer:
    return stream("One", " two", gap_ns=2 * SECOND)


def virtual_machine(
    boot: VirtualBootClock | None = None, answers: Callable[[Served], Awaitable[bool]] | None = None
) -> SoakMachine:
    boot = boot or VirtualBootClock()
    servers = SUPPORT if answers is None else msgspec.structs.replace(SUPPORT, answers=answers)
    return SoakMachine(CLOCK, boot, boot.wall_ns, servers)


def play(
    folder: Path,
    planned: SoakPlan,
    plan: Plan,
    boot: VirtualBootClock | None = None,
    stop: StopSignal | None = None,
    client: ScriptedClient | None = None,
    answers: Callable[[Served], Awaitable[bool]] | None = None,
) -> Run:
    client = client or ScriptedClient(answer)
    folder = run(
        play_soak(plan, planned.settings, folder, machine=virtual_machine(boot, answers), client=client, stop=stop)
    )
    return read(folder)


def test_requests_start_until_the_deadline_and_the_last_one_is_waited_for(tmp_path: Path) -> None:
    played = play(tmp_path, *soak_plan(tmp_path, Closed()))
    measured = [record for record in played.records if record.phase == "measured"]
    (stage,) = played.manifest.soak.stages if played.manifest.soak else ()
    assert played.manifest.state == "complete"
    assert {record.outcome for record in measured} == {"ok"}
    assert len(measured) == 300  # one every four seconds
    assert [record.index for record in measured] == list(range(300))
    assert max(record.intended_ns for record in measured) < stage.start_ns + DURATION_NS
    assert (stage.models, stage.targets, stage.level) == (("m0",), ("m0.invalid",), "c1")


def test_models_that_play_one_after_another_share_the_time_and_end_with_the_soak(tmp_path: Path) -> None:
    played = play(tmp_path, *soak_plan(tmp_path, Closed(), models=2))
    soak = played.manifest.soak
    assert soak is not None and soak.deadline_utc is not None
    first, second = (
        [record for record in played.records if (record.model, record.phase) == (model, "measured")]
        for model in ("m0", "m1")
    )
    assert [stage.models for stage in soak.stages] == [("m0",), ("m1",)]
    assert 148 <= len(second) <= len(first) == 150
    # The warm-up of the second model is within the soak, which ends when it was to end.
    assert second[-1].intended_ns - first[0].intended_ns <= DURATION_NS
    assert (
        abs(datetime.fromisoformat(soak.stages[1].deadline_utc) - datetime.fromisoformat(soak.deadline_utc)).seconds
        < 10
    )


def test_models_that_take_turns_share_one_stage(tmp_path: Path) -> None:
    played = play(tmp_path, *soak_plan(tmp_path, Closed(), models=2, order="interleaved"))
    counts = [sum((r.model, r.phase) == (model, "measured") for r in played.records) for model in ("m0", "m1")]
    assert counts == [150, 150]
    assert played.manifest.soak is not None
    assert [stage.models for stage in played.manifest.soak.stages] == [("m0", "m1")]


def test_a_suspended_machine_ends_the_soak_when_it_was_to_end_and_what_was_in_flight_is_cancelled(
    tmp_path: Path,
) -> None:
    boot = VirtualBootClock()

    def suspending(body: dict[str, Any], count: int) -> Answer:
        if count == 100:
            asyncio.get_running_loop().call_later(1.0, boot.suspend, DURATION_NS // 2)
        return answer(body, count)

    played = play(tmp_path, *soak_plan(tmp_path, Closed()), boot=boot, client=ScriptedClient(suspending))
    measured = [record for record in played.records if record.phase == "measured"]
    assert played.manifest.state == "complete"
    assert DURATION_NS // 2 - 10 * SECOND < measured[-1].intended_ns - measured[0].intended_ns <= DURATION_NS // 2
    (event,) = read_events(played.folder)
    assert event.kind == "suspended"
    assert event.for_s == pytest.approx(600.0, abs=5)
    assert [record.detail for record in measured if record.outcome != "ok"] == ["the machine was suspended"]


def test_the_requests_of_an_open_loop_that_come_due_in_a_gap_are_cancelled_and_none_is_missing(tmp_path: Path) -> None:
    boot = VirtualBootClock()

    def suspending(body: dict[str, Any], count: int) -> Answer:
        if count == 33:
            asyncio.get_running_loop().call_later(1.0, boot.suspend, DURATION_NS // 2)
        return answer(body, count)

    planned, plan = soak_plan(tmp_path, Constant(rates_per_s=(0.1,)))
    played = play(tmp_path, planned, plan, boot=boot, client=ScriptedClient(suspending))
    measured = [record for record in played.records if record.phase == "measured"]
    assert plan.stages[0].count == 120
    assert plan.stages[0].planned_of(0) is None
    assert sorted(record.index for record in measured) == list(range(120))
    assert 60 <= sum(record.outcome == "cancelled" for record in measured) <= 61
    assert played.manifest.state == "complete"


def test_a_server_that_is_gone_for_minutes_is_waited_for(tmp_path: Path) -> None:
    def gone(body: dict[str, Any], count: int) -> Answer:
        return (
            no_connection()
            if START_NS + 600 * SECOND < CLOCK.now_ns() < START_NS + 900 * SECOND
            else answer(body, count)
        )

    async def answers(_: object) -> bool:
        return CLOCK.now_ns() >= START_NS + 900 * SECOND

    played = play(tmp_path, *soak_plan(tmp_path, Closed()), client=ScriptedClient(gone), answers=answers)
    events = read_events(played.folder)
    assert [event.kind for event in events] == ["server_gone", "server_back"]
    assert events[1].for_s == pytest.approx(300, abs=35)
    assert played.manifest.state == "complete"
    outcomes = Counter(record.outcome for record in played.records)
    assert set(outcomes) == {"ok", "connect_error"}
    assert outcomes["connect_error"] == 1  # everybody else waits for the one probe
    assert outcomes["ok"] > 218


def test_a_stop_ends_an_open_loop_without_a_record_of_each_request_that_never_came_due(tmp_path: Path) -> None:
    stop = StopSignal()

    def stopping(body: dict[str, Any], count: int) -> Answer:
        if count == 10:
            stop.drain()
        return answer(body, count)

    planned, plan = soak_plan(tmp_path, Constant(rates_per_s=(0.1,)))
    played = play(tmp_path, planned, plan, stop=stop, client=ScriptedClient(stopping))
    assert played.manifest.state == "interrupted"
    assert len(played.records) < 12


def test_a_server_that_stays_away_ends_the_soak_which_says_why(tmp_path: Path) -> None:
    planned, plan = soak_plan(tmp_path, Closed(), models=2, duration_s=3_600.0)

    async def never(_: Served) -> bool:
        return False

    def until_gone(body: dict[str, Any], count: int) -> Answer:
        return answer(body, count) if count < 10 else no_connection()

    client = ScriptedClient(until_gone)
    settings = msgspec.structs.replace(planned.settings, give_up_s=600.0)
    folder = run(play_soak(plan, settings, tmp_path, client=client, machine=virtual_machine(answers=never)))
    played = read(folder)
    assert played.manifest.soak is not None
    assert played.manifest.soak.gave_up == "m0 has answered nothing for 10 min: Connection refused"
    assert played.manifest.state == "complete"
    # The other model is not even started.
    assert [stage.models for stage in played.manifest.soak.stages] == [("m0",)]
    assert {record.model for record in played.records} == {"m0"}
    assert [event.kind for event in read_events(folder)] == ["server_gone"]
    assert client.sent_at_ns[-1] - client.sent_at_ns[0] < 60 * SECOND


def test_the_lock_is_gone_when_a_soak_has_ended_and_says_who_plays_while_it_is_on(tmp_path: Path) -> None:
    holders: list[Holder] = []

    def looking(body: dict[str, Any], count: int) -> Answer:
        if count == 3:
            holders.extend(msgspec.json.decode(path.read_bytes(), type=Holder) for path in tmp_path.rglob(LOCK))
        return answer(body, count)

    played = play(tmp_path, *soak_plan(tmp_path, Closed()), client=ScriptedClient(looking))
    assert [holder.is_alive for holder in holders] == [True]
    assert not (played.folder / LOCK).exists()


def test_a_lock_of_a_living_process_is_refused_and_one_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(InputError, match="is playing this soak"), folder_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
    for left in (msgspec.json.encode(Holder(1 << 22, 1.0)), b'{"pid"'):
        (tmp_path / LOCK).write_bytes(left)
        with folder_lock(tmp_path):
            assert msgspec.json.decode((tmp_path / LOCK).read_bytes(), type=Holder).is_alive
    assert list(tmp_path.iterdir()) == []


def test_the_requests_in_flight_are_on_disk_while_a_soak_is_played(tmp_path: Path) -> None:
    begun: list[Begun] = []

    def looking(body: dict[str, Any], count: int) -> Answer:
        if count == 10:
            begun.append(read_in_flight(tmp_path.rglob(IN_FLIGHT), "c2"))
        return answer(body, count)

    played = play(tmp_path, *soak_plan(tmp_path, Closed(concurrency=(2,))), client=ScriptedClient(looking))
    # Ten chats before this one: the test chat, one of the warm-up, and the measured ones with the indices 0 to 7.
    assert [(sorted(r.index for r in each.in_flight), each.last_index) for each in begun] == [([7, 8], 8)]
    assert not (played.folder / IN_FLIGHT).exists()


def test_the_manifest_keeps_the_size_of_what_was_measured(tmp_path: Path) -> None:
    played = play(tmp_path, *soak_plan(tmp_path, Closed(), duration_s=60.0))
    assert played.manifest.soak
    size = played.manifest.soak.run_folder_bytes
    assert size is not None
    assert abs(size - measured_bytes(played.folder)) < 20  # the digits of the size itself
    (played.folder / "requests.jsonl").unlink()
    assert measured_bytes(played.folder) < size
