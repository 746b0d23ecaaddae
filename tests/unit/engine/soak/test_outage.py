"""Servers that are gone, in virtual time: who asks them meanwhile, what counts as an outage, what brings them back,
and that every request has one record."""

from pathlib import Path

import pytest

from loadgen.engine.servers import is_answer, is_unanswered
from loadgen.engine.soak.outage import OutageRules
from loadgen.record import Reply
from loadgen.scenario import Closed, Constant, Retries, ThinkTime
from tests.soak_device import Device, Night, S, play_night

pytestmark = pytest.mark.slow  # minutes of virtual time

USERS = Closed(concurrency=(4,), duration_s=36_000.0, ramp_in_s=0.0)
RATE = Constant(rates_per_s=(2.0,), duration_s=120.0)


def assert_each_request_has_one_record(night: Night) -> None:
    assert sorted(record.index for record in night.records) == list(range(len(night.records)))


def test_a_server_that_is_gone_for_five_seconds_is_waited_for_by_one_probe_and_that_is_no_outage(
    tmp_path: Path,
) -> None:
    device = Device()
    disturbances = [(10.1, device.become("refusing")), (15.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=60.0)
    # Each user was refused once, after the answer that was under way; then they waited together.
    assert night.outcomes()["connect_error"] == 4
    assert device.probes_s == pytest.approx([11.41, 13.41, 17.41])
    assert [at_s for at_s in night.sent_s if 10.5 < at_s < 17.41] == []
    assert sum(at_s == pytest.approx(17.41) for at_s in night.sent_s) == 4
    assert night.events == ()
    assert_each_request_has_one_record(night)


def test_a_server_that_answers_nothing_for_ten_seconds_is_an_outage_from_the_first_request_on(tmp_path: Path) -> None:
    device = Device()
    disturbances = [(10.1, device.become("refusing")), (100.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=200.0)
    # After 1, 2, 4 s, once more when the outage begins, and then after 16 and 30 s.
    assert device.probes_s == pytest.approx([11.41, 13.41, 17.41, 20.4, 36.4, 66.4, 96.4, 126.4], abs=0.02)
    assert night.happened() == [
        ("server_gone", 10.4, None),
        ("server_back", pytest.approx(126.4), pytest.approx(116.0)),
    ]
    assert [event.model for event in night.events] == ["m", "m"]
    assert night.events[0].detail == "Connection refused"
    assert night.events[1].detail == "it was gone for 116.0 s"
    assert night.outcomes()["connect_error"] == 4
    assert night.watch.gave_up is None
    assert_each_request_has_one_record(night)


def test_a_server_that_is_back_after_nine_seconds_is_no_outage_although_nobody_asked_it_then(tmp_path: Path) -> None:
    device = Device()
    disturbances = [(10.1, device.become("refusing")), (19.5, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=60.0)
    assert device.probes_s[-1] == pytest.approx(20.4, abs=0.02)
    assert night.events == ()


def test_a_server_that_ends_its_answers_before_it_goes_is_gone_from_the_last_of_them_on(tmp_path: Path) -> None:
    device = Device(answer_s=8.0)
    load = Closed(concurrency=(4,), duration_s=36_000.0, ramp_in_s=6.0)
    disturbances = [(20.0, device.become("refusing")), (100.0, device.become("up"))]
    night = play_night(device, load, tmp_path, disturbances, ends_at_s=200.0)
    last_s = max(record.end_ns or 0 for record in night.records if (record.end_ns or 0) < 50 * S) / S
    assert [event.kind for event in night.events] == ["server_gone", "server_back"]
    assert night.events[0].at_ns / S == pytest.approx(last_s, abs=0.02)


def test_users_who_think_when_the_server_goes_do_not_ask_it_either(tmp_path: Path) -> None:
    device = Device()
    load = Closed(concurrency=(8,), duration_s=36_000.0, think_time=ThinkTime(mean_s=5.0))
    disturbances = [(100.0, device.become("refusing")), (200.0, device.become("up"))]
    night = play_night(device, load, tmp_path, disturbances, ends_at_s=300.0)
    # Those who were in flight then, and the first who asked; the others wait with them.
    assert 1 <= night.outcomes()["connect_error"] <= 2
    back_s = device.probes_s[-1]
    assert [at_s for at_s in night.sent_s if 102.0 < at_s < back_s] == []


def test_the_wait_for_a_server_is_no_lateness_of_the_harness(tmp_path: Path) -> None:
    device = Device()
    disturbances = [(10.1, device.become("refusing")), (100.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=200.0)
    assert max((record.dispatched_ns or 0) - record.intended_ns for record in night.records) < S // 100


@pytest.mark.parametrize("retries", [Retries(), Retries(attempts=3, backoff_s=0.1, jitter=0.0)])
def test_retries_wait_with_the_users(tmp_path: Path, retries: Retries) -> None:
    device = Device()
    disturbances = [(10.1, device.become("refusing")), (60.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=100.0, retries=retries)
    back_s = device.probes_s[-1]
    assert [at_s for at_s in night.sent_s if 11.0 < at_s < back_s] == []
    assert night.outcomes()["connect_error"] == (0 if retries.attempts else 4)
    assert_each_request_has_one_record(night)


def test_an_open_loop_records_each_due_request_of_an_outage_as_it_ends(tmp_path: Path) -> None:
    device = Device()
    disturbances = [(30.2, device.become("refusing")), (70.2, device.become("up"))]
    night = play_night(device, RATE, tmp_path, disturbances)
    assert night.outcomes() == {"ok": 160, "connect_error": 80}
    assert [record.intended_ns for record in sorted(night.records, key=lambda record: record.index)] == [
        index * S // 2 for index in range(240)
    ]
    # Back by the first request that was answered, which no probe had to wait for.
    assert night.happened() == [
        ("server_gone", 30.5, None),
        ("server_back", pytest.approx(70.9), pytest.approx(40.4)),
    ]


@pytest.mark.parametrize("state", ["loading", "silent"])
def test_a_server_that_is_loading_or_silent_is_gone_too(tmp_path: Path, state: str) -> None:
    device = Device()
    disturbances = [(10.1, lambda: setattr(device, "state", state)), (200.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=300.0)
    assert [event.kind for event in night.events] == ["server_gone", "server_back"]
    assert night.events[0].at_ns == pytest.approx(10.4 * S, abs=0.1 * S)
    assert night.outcomes()["http_error" if state == "loading" else "timeout"] == 4
    assert_each_request_has_one_record(night)


def test_a_slow_server_is_not_gone(tmp_path: Path) -> None:
    device = Device(answer_s=50.0)
    night = play_night(device, USERS, tmp_path, ends_at_s=500.0)
    assert night.events == ()
    assert device.probes_s == []


def test_one_request_that_times_out_beside_others_is_no_outage(tmp_path: Path) -> None:
    device = Device()
    disturbances = [(10.1, device.become("silent")), (10.3, device.become("up"))]
    load = Constant(rates_per_s=(5.0,), duration_s=60.0)
    night = play_night(device, load, tmp_path, disturbances)
    assert night.outcomes() == {"ok": 299, "timeout": 1}
    assert night.events == ()


def test_chats_that_fail_behind_a_probe_that_is_answered_are_tried_ever_less_often(tmp_path: Path) -> None:
    class Gateway(Device):
        async def answers(self, served: object) -> bool:
            await super().answers(served)  # type: ignore[arg-type]
            return True

    device = Gateway()
    night = play_night(device, USERS, tmp_path, [(10.1, device.become("refusing"))], ends_at_s=200.0)
    assert len([at_s for at_s in night.sent_s if at_s > 11.0]) == 4 * 10
    assert_each_request_has_one_record(night)


# The end of a soak


def test_a_server_that_stays_away_ends_the_soak(tmp_path: Path) -> None:
    device = Device()
    rules = OutageRules(give_up_ns=1_800 * S)
    night = play_night(device, USERS, tmp_path, [(10.1, device.become("refusing"))], rules=rules)
    assert night.watch.gave_up == "m has answered nothing for 30 min: Connection refused"
    assert 1_800 <= night.lasted_s - 10.4 <= 1_830
    assert [event.kind for event in night.events] == ["server_gone"]
    assert_each_request_has_one_record(night)


def test_the_deadline_ends_a_soak_whose_server_is_gone(tmp_path: Path) -> None:
    device = Device()
    night = play_night(device, USERS, tmp_path, [(10.1, device.become("refusing"))], ends_at_s=100.0)
    assert night.lasted_s == pytest.approx(100.0)
    assert night.watch.gave_up is None


def test_the_duration_of_the_stage_ends_it_although_every_user_waits(tmp_path: Path) -> None:
    device = Device()
    load = Closed(concurrency=(4,), duration_s=100.0, ramp_in_s=0.0)
    night = play_night(device, load, tmp_path, [(10.1, device.become("refusing"))])
    assert night.lasted_s == pytest.approx(100.0)
    assert_each_request_has_one_record(night)


# Servers of ours


def test_a_server_of_ours_that_ends_is_started_again_with_its_last_words_in_the_event(tmp_path: Path) -> None:
    device = Device(own_process=True)
    night = play_night(
        device, USERS, tmp_path, [(10.1, lambda: device.crash("has died (ended by SIGSEGV)"))], ends_at_s=60
    )
    assert [(event.kind, event.detail) for event in night.events] == [
        ("server_restarted", "the embedded server has died (ended by SIGSEGV); started again in 3.0 s")
    ]
    life = night.context.lives.of(0)
    assert (life.number, life.pid) == (1, 101)
    assert device.probes_s == []
    assert night.outcomes()["connect_error"] == 4
    assert min(at_s for at_s in night.sent_s if at_s > 11.0) == pytest.approx(13.41, abs=0.02)


def test_a_server_of_ours_that_ends_while_nobody_asks_is_started_again(tmp_path: Path) -> None:
    device = Device(own_process=True)
    load = Constant(rates_per_s=(0.01,), duration_s=300.0)
    night = play_night(device, load, tmp_path, [(110.0, device.crash)])
    assert [event.kind for event in night.events] == ["server_restarted"]
    assert night.outcomes() == {"ok": 3}


def test_a_slow_restart_is_an_outage_and_a_restart(tmp_path: Path) -> None:
    device = Device(own_process=True)
    device.restart_s = 25.0
    night = play_night(device, USERS, tmp_path, [(10.1, device.crash)], ends_at_s=60)
    assert [event.kind for event in night.events] == ["server_restarted", "server_gone", "server_back"]
    assert night.events[2].for_s == pytest.approx(25.0, abs=0.1)


def test_a_server_is_started_again_ten_times_an_hour_and_not_more(tmp_path: Path) -> None:
    device = Device(own_process=True, answer_s=10.0)
    crashes = [(100.0 * number, device.crash) for number in range(1, 13)]
    night = play_night(device, USERS, tmp_path, crashes, ends_at_s=2_000, rules=OutageRules(give_up_ns=10**14))
    assert [event.kind for event in night.events] == ["server_restarted"] * 10 + ["server_gone"]
    assert night.events[-1].detail.endswith("it is not started again, after 10 times within an hour")


def test_an_hour_after_the_first_restart_there_may_be_another(tmp_path: Path) -> None:
    device = Device(own_process=True, answer_s=10.0)
    crashes = [(100.0 * number, device.crash) for number in range(1, 12)]
    night = play_night(device, USERS, tmp_path, crashes, ends_at_s=4_000, rules=OutageRules(give_up_ns=10**14))
    kinds = [event.kind for event in night.events]
    assert kinds == ["server_restarted"] * 10 + ["server_gone", "server_restarted", "server_back"]
    assert night.events[11].at_ns >= 3_700 * S


def test_a_restart_that_fails_is_tried_again_ever_less_often(tmp_path: Path) -> None:
    device = Device(own_process=True)
    device.cannot_restart = True
    disturbances = [(10.1, device.crash), (50.0, lambda: setattr(device, "cannot_restart", False))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=150)
    kinds = [event.kind for event in night.events]
    assert kinds == ["server_gone", "server_restarted", "server_back"]
    assert night.events[0].detail.endswith("it cannot be started again: no memory left")


# Servers of others


def test_another_process_that_serves_is_a_restart_also_when_no_request_failed(tmp_path: Path) -> None:
    device = Device()
    night = play_night(device, USERS, tmp_path, [(10.1, lambda: device.replace_process(200))], ends_at_s=30)
    assert [(event.kind, event.detail) for event in night.events] == [
        ("server_restarted", "process 200 serves in place of 100")
    ]
    assert (night.context.lives.of(0).number, night.context.lives.of(0).pid) == (1, 200)
    assert set(night.outcomes()) == {"ok"}


def test_a_server_that_comes_back_as_another_process_was_restarted(tmp_path: Path) -> None:
    device = Device()
    disturbances = [
        (10.1, device.become("refusing")),
        (39.9, lambda: device.replace_process(200)),
        (40.0, device.become("up")),
    ]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=90)
    assert [event.kind for event in night.events] == ["server_gone", "server_restarted", "server_back"]


def test_a_server_on_another_machine_has_no_process_to_look_at(tmp_path: Path) -> None:
    device = Device()
    device.pid = None
    disturbances = [(10.1, device.become("refusing")), (40.0, device.become("up"))]
    night = play_night(device, USERS, tmp_path, disturbances, ends_at_s=90)
    assert [event.kind for event in night.events] == ["server_gone", "server_back"]


def test_a_model_that_its_service_has_unloaded_is_loaded_again(tmp_path: Path) -> None:
    device = Device()
    night = play_night(device, USERS, tmp_path, [(10.1, lambda: setattr(device, "unloaded", True))], ends_at_s=30)
    assert [(event.kind, event.detail) for event in night.events] == [
        ("model_reloaded", "it was loaded again in 2.5 s")
    ]
    assert night.outcomes()["http_error"] > 0


# Which replies are answers


@pytest.mark.parametrize(
    ("reply", "answered", "unanswered"),
    [
        (Reply(outcome="ok", status=200, stamps_ns=(1,)), True, False),
        (Reply(outcome="connect_error"), False, True),
        (Reply(outcome="truncated"), False, True),
        (Reply(outcome="truncated", status=200, stamps_ns=(1,)), True, False),
        (Reply(outcome="timeout"), False, True),
        (Reply(outcome="timeout", status=200), True, False),
        (Reply(outcome="http_error", status=503), False, True),
        (Reply(outcome="http_error", status=502), False, True),
        (Reply(outcome="http_error", status=500), True, False),
        (Reply(outcome="http_error", status=429), True, False),
        (Reply(outcome="malformed"), True, False),
        (Reply(outcome="cancelled"), False, False),
        (Reply(outcome="shed"), False, False),
    ],
)
def test_an_answer_is_whatever_a_server_says_except_that_it_does_not_serve(
    reply: Reply, answered: bool, unanswered: bool
) -> None:
    assert (is_answer(reply), is_unanswered(reply)) == (answered, unanswered)
