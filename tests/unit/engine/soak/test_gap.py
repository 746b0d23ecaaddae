"""What a stage does when this process was not run for a while, in virtual time: what was in flight, what came due, and
what is measured."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen.engine.soak.outage import OutageRules
from loadgen.scenario import Closed, Constant, Retries, ThinkTime
from tests.soak_device import Device, Night, S, play_night

USERS = Closed(concurrency=(4,), duration_s=36_000.0, ramp_in_s=0.0)
LONG_NS = 3 * S
"""No request takes this long."""


def suspend(device: Device, for_s: float = 3600.0) -> Callable[[], None]:
    return lambda: device.boot.suspend(round(for_s * S))


def stop(device: Device, for_s: float = 20.0) -> Callable[[], None]:
    return lambda: device.boot.stop(round(for_s * S))


def longest_ok_ns(night: Night) -> int:
    """The longest time of a request that was answered, or by which it was late."""
    spans = [
        (record.end_ns or 0) - min(record.intended_ns, record.dispatched_ns or 0)
        for record in night.records
        if record.outcome == "ok"
    ]
    return max(spans)


@pytest.mark.parametrize(("happen", "words"), [(suspend, "the machine was suspended"), (stop, "loadgen was stopped")])
def test_what_was_in_flight_is_cancelled_and_not_asked_again(
    tmp_path: Path, happen: Callable[[Device], Callable[[], None]], words: str
) -> None:
    device = Device(answer_s=2.0)
    retries = Retries(attempts=3, on=("timeout", "truncated", "connect_error"))
    night = play_night(device, USERS, tmp_path, [(10.7, happen(device))], ends_at_s=100.0, retries=retries)
    cut = [record for record in night.records if record.outcome == "cancelled"]
    assert [record.detail for record in cut] == [words] * 4
    assert [record.attempt for record in cut] == [0] * 4
    assert set(night.outcomes()) == {"ok", "cancelled"}
    assert longest_ok_ns(night) < LONG_NS
    assert [event.kind for event in night.events] == [words.rpartition(" ")[2]]
    assert sorted(record.index for record in night.records) == list(range(len(night.records)))
    # The load goes on at once.
    assert len([at_s for at_s in night.sent_s if 31.0 < at_s < 33.5]) >= 4


@pytest.mark.parametrize("at_limit", ["shed", "queue"])
def test_what_came_due_while_the_process_was_stopped_is_cancelled_and_not_sent_as_a_burst(
    tmp_path: Path, at_limit: str
) -> None:
    device = Device(answer_s=0.4)
    load = Constant(rates_per_s=(10.0,), duration_s=60.0, max_in_flight=6, at_limit=at_limit)  # type: ignore[arg-type]
    night = play_night(device, load, tmp_path, [(20.55, stop(device))])
    cancelled = [record for record in night.records if record.outcome == "cancelled"]
    assert {record.detail for record in cancelled} == {"loadgen was stopped"}
    # Those of the 20 s, and the four in flight. Each has the moment at which it was due.
    assert len(cancelled) == 204
    assert [record.intended_ns for record in sorted(night.records, key=lambda record: record.index)] == [
        index * S // 10 for index in range(600)
    ]
    assert longest_ok_ns(night) < LONG_NS
    gaps_s = [after - before for before, after in zip(night.sent_s, night.sent_s[1:], strict=False)]
    assert min(gaps_s) == pytest.approx(0.1)
    assert night.outcomes() == {"ok": 396, "cancelled": 204}


def test_a_request_that_came_due_right_before_a_gap_and_was_not_sent_yet_is_not_sent_after_it(tmp_path: Path) -> None:
    device = Device(answer_s=0.4)
    load = Constant(rates_per_s=(10.0,), duration_s=60.0)
    stop_before_it_is_sent = lambda: asyncio.get_running_loop().call_soon(stop(device))  # noqa: E731
    night = play_night(device, load, tmp_path, [(20.5, stop_before_it_is_sent)])
    assert longest_ok_ns(night) < S
    assert night.outcomes()["cancelled"] == pytest.approx(204, abs=1)
    assert len(night.records) == 600


@pytest.mark.slow
def test_the_schedule_of_an_open_loop_is_by_real_time_also_when_the_machine_was_suspended(tmp_path: Path) -> None:
    device = Device(answer_s=0.4)
    load = Constant(rates_per_s=(10.0,), duration_s=600.0)
    night = play_night(device, load, tmp_path, [(20.55, suspend(device, 400.0))])
    # The clock of the run stood still for 400 s; the requests that came due then are lost, and the stage ends in time.
    assert night.lasted_s == pytest.approx(200.3, abs=0.2)
    cancelled = [record for record in night.records if record.outcome == "cancelled"]
    assert {record.detail for record in cancelled} == {"the machine was suspended"}
    assert len(night.records) == 6000
    assert len(cancelled) == pytest.approx(4000, abs=20)
    assert all(20 * S <= record.intended_ns <= 21 * S + 1 for record in cancelled)
    assert longest_ok_ns(night) < LONG_NS
    gaps_s = [after - before for before, after in zip(night.sent_s, night.sent_s[1:], strict=False)]
    assert min(gaps_s) == pytest.approx(0.1)


def test_a_request_that_is_due_long_after_a_suspension_is_sent_by_real_time(tmp_path: Path) -> None:
    device = Device()
    load = Constant(rates_per_s=(0.001,), requests=3)
    night = play_night(device, load, tmp_path, [(20.5, suspend(device, 900.0))])
    assert night.sent_s == pytest.approx([0.0, 100.0, 1100.0])
    assert night.outcomes() == {"ok": 3}


def test_a_second_gap_while_the_requests_of_the_first_are_skipped_sends_no_burst(tmp_path: Path) -> None:
    device = Device(answer_s=0.4)
    load = Constant(rates_per_s=(10.0,), duration_s=120.0)
    night = play_night(device, load, tmp_path, [(20.55, stop(device)), (40.56, stop(device)), (60.57, stop(device))])
    gaps_s = [after - before for before, after in zip(night.sent_s, night.sent_s[1:], strict=False)]
    assert min(gaps_s) == pytest.approx(0.1)
    assert len(night.records) == 1200


def test_a_user_who_thought_meanwhile_is_not_late(tmp_path: Path) -> None:
    device = Device()
    load = Closed(concurrency=(4,), duration_s=36_000.0, think_time=ThinkTime(mean_s=10.0))
    night = play_night(device, load, tmp_path, [(50.0, stop(device, 30.0))], ends_at_s=200.0)
    assert max((record.dispatched_ns or 0) - record.intended_ns for record in night.records) < S // 100


def test_a_request_that_waited_for_its_next_attempt_is_given_up(tmp_path: Path) -> None:
    device = Device()
    retries = Retries(attempts=1, on=("http_5xx",), backoff_s=8.0, jitter=0.0)
    device_fails = lambda: setattr(device, "state", "loading")  # noqa: E731
    load = Constant(rates_per_s=(0.1,), requests=2)
    disturbances = [(9.9, device_fails), (12.0, stop(device, 30.0)), (12.1, device.become("up"))]
    night = play_night(device, load, tmp_path, disturbances, retries=retries)
    assert [(record.outcome, record.attempt, record.detail) for record in night.records] == [
        ("ok", 0, None),
        ("cancelled", 1, "loadgen was stopped before another attempt; the last one: http_error 503"),
    ]


def test_what_was_asked_before_a_gap_is_not_held_against_a_server(tmp_path: Path) -> None:
    device = Device()
    disturbances = [
        (10.1, device.become("refusing")),
        (12.0, suspend(device, 3600.0)),
        (15.0, device.become("up")),
    ]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=60.0, rules=OutageRules(give_up_ns=60 * S))
    assert [event.kind for event in night.events] == ["suspended"]
    assert night.watch.gave_up is None


@pytest.mark.slow
def test_a_night_with_everything_adds_up(tmp_path: Path) -> None:
    device = Device(answer_s=40.0, own_process=True)
    hour = 3600.0
    disturbances = [
        (1 * hour + 1, device.become("refusing")),
        (1 * hour + 301, device.become("up")),
        (2 * hour, suspend(device, 1800.0)),
        (3 * hour + 1, device.crash),
        (4 * hour, stop(device, 60.0)),
        (5 * hour, lambda: device.boot.set_wall_clock(-3600 * S)),
        (6 * hour, device.become("silent")),
        (6 * hour + 400, device.become("up")),
    ]
    load = Closed(concurrency=(4,), duration_s=12 * hour, ramp_in_s=0.0)
    night = play_night(device, load, tmp_path, disturbances, ends_at_s=8 * hour, tick_s=30.0)
    assert [event.kind for event in night.events] == [
        "server_gone",
        "server_back",
        "suspended",
        "server_restarted",
        "stopped",
        "clock_stepped",
        "server_gone",
        "server_back",
    ]
    assert [event.at_ns for event in night.events] == sorted(event.at_ns for event in night.events)
    outcomes = night.outcomes()
    assert outcomes["cancelled"] == 8
    assert outcomes["connect_error"] == 8
    assert outcomes["timeout"] == 4
    assert sum(outcomes.values()) == len(night.records)
    assert sorted(record.index for record in night.records) == list(range(len(night.records)))
    assert longest_ok_ns(night) < 41 * S
    # The load was there for all the rest of the night.
    assert outcomes["ok"] == pytest.approx(4 * (8 * hour - 340 - 60 - 430) / 40, rel=0.01)
