"""What a calibration comes to, when it holds, and what a plan is warned of."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from loadgen import api
from loadgen.calibrate.conclude import conclude, crossed, is_disturbed, is_too_much
from loadgen.calibrate.loads import QUICK, USUAL, LoadStep, at_most
from loadgen.calibrate.observation import PlayedStep, ReceivedAnswer, compare, events_per_s, observe, spread
from loadgen.calibrate.text import calibration_text, conclusion
from loadgen.cli import calibrate
from loadgen.cli.app import app
from loadgen.errors import InputError
from loadgen.mock import Truth
from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.record import StageFacts
from loadgen.report.text_table import Screen
from loadgen.scenario import Closed, Load, Model, Poisson, Ramp, Sampling, Scenario, Trace
from loadgen.store import calibration
from loadgen.store.calibration import (
    SCHEMA,
    Budget,
    Calibration,
    ErrorSpread,
    Limit,
    Machine,
    Step,
    Stored,
    beyond,
    stored,
    warnings_for,
)

MS = 1_000_000
MACHINE = Machine(
    cpu="A CPU", cores_usable=4, machine="x", kernel="6.1", python="3.11.1", loadgen="1.0", aiohttp="3.14"
)


def step(**given: Any) -> Step:
    """A step within all lines, but for what is given."""
    usual: dict[str, Any] = {
        "series": "streams",
        "streams": 64,
        "pace": "staggered",
        "itl_ms": 50.0,
        "answers": 64,
        "wrong": 0,
        "events": 1280,
        "events_per_s": 1280.0,
        "kernel": ErrorSpread(2.0, 10.0, 90.0),
        "user": ErrorSpread(50.0, 2_000.0, 5_000.0),
        "service_ttft": None,
        "itl": None,
        "shared_share": 0.0,
        "cpu_us_per_event": 20.0,
        "cpu_share": 0.1,
        "loop_lag_p99_ms": 2.0,
        "stretch": 1.0,
    }
    return Step(**usual | given)


def rate(events: float, cpu: float, **given: Any) -> Step:
    return step(series="rates", events_per_s=events, cpu_share=cpu, cpu_us_per_event=cpu / events * 1e6, **given)


def made(*steps: Step) -> Calibration:
    return conclude(steps, MACHINE, "2026-11-24T00:00:00+00:00")


# The lines


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, ()),
        ({"cpu_share": 0.5, "loop_lag_p99_ms": 20.0, "shared_share": 0.1, "kernel": ErrorSpread(1, 1000, 9e6)}, ()),
        ({"cpu_share": 0.51}, ("cpu",)),
        ({"loop_lag_p99_ms": 20.1}, ("lag",)),
        ({"shared_share": 0.11}, ("shared",)),
        ({"kernel": ErrorSpread(1, 1000.1, 2000)}, ("stamps",)),
        ({"wrong": 1}, ("answers",)),
        ({"events": 0}, ("answers",)),
        ({"kernel": None}, ("stamps",)),
        ({"kernel": None, "user": ErrorSpread(1, 900, 9000), "loop_lag_p99_ms": 5.1}, ("lag",)),
    ],
)
def test_a_step_is_held_to_the_lines_of_a_valid_stage(given: dict[str, Any], lines: tuple[str, ...]) -> None:
    assert crossed(step(**given)) == lines


def test_the_band_is_the_worst_of_the_steps_within_the_budget_and_of_no_other() -> None:
    found = made(
        step(kernel=ErrorSpread(9.0, 10.0, 20.0)),
        step(kernel=ErrorSpread(2.0, 90.0, 15.0)),
        step(kernel=ErrorSpread(500.0, 5_000.0, 90_000.0), cpu_share=0.95),
    )
    assert found.band.kernel == ErrorSpread(9.0, 90.0, 20.0)
    assert found.band.user == ErrorSpread(50.0, 2_000.0, 5_000.0)


def test_without_kernel_stamps_the_user_stamps_have_to_hold() -> None:
    found = made(step(kernel=None, user=ErrorSpread(10, 800, 900)), step(kernel=None, streams=200))
    assert (found.band.kernel, found.band.user) == (None, ErrorSpread(10, 800, 900))
    assert found.budget.streams == 64


def test_the_budget_of_streams_is_what_held_at_either_pace() -> None:
    found = made(
        *(step(streams=streams) for streams in (1, 64, 200, 500)),
        step(streams=64, pace="together"),
        step(streams=200, pace="together"),
        step(streams=500, pace="together", loop_lag_p99_ms=30.0),
    )
    assert found.budget.streams == 200
    assert found.ceiling.streams == Limit(500, at_least=True)


def test_a_load_that_held_when_it_was_played_again_has_held() -> None:
    assert made(step(streams=64), step(streams=200, loop_lag_p99_ms=90.0), step(streams=200)).budget.streams == 200


def test_nothing_that_held_is_a_budget_of_nothing() -> None:
    found = made(step(cpu_share=0.99), rate(100.0, 0.99))
    assert found.budget == Budget(events_per_s=0, streams=0)
    assert found.cpu_us_per_event is None
    assert found.band == calibration.ErrorBand(None, None)


def test_between_a_rate_that_held_and_one_that_cpu_alone_stopped_the_budget_is_where_cpu_meets_its_line() -> None:
    assert made(rate(10_000, 0.4), rate(20_000, 0.8)).budget.events_per_s == 12_500
    assert made(rate(10_000, 0.4), rate(20_000, 0.8, shared_share=0.2)).budget.events_per_s == 10_000
    assert made(rate(10_000, 0.4)).budget.events_per_s == 10_000  # never more than was seen
    assert made(rate(12_345.6, 0.4)).budget.events_per_s == 12_300
    assert made(rate(5_000, 0.1), step(events_per_s=9_999.0)).budget.events_per_s == 9_900


def test_the_ceiling_is_at_least_what_was_seen_unless_we_were_spent() -> None:
    assert made(rate(10_000, 0.4), rate(20_000, 0.8)).ceiling.events_per_s == Limit(20_000, at_least=True)
    assert made(rate(10_000, 0.4), rate(20_000, 0.95)).ceiling.events_per_s == Limit(20_000, at_least=False)
    assert made(rate(20_000, 0.3, shared_share=0.3)).ceiling.events_per_s == Limit(20_000, at_least=False)
    spent = made(step(streams=64), step(streams=200, cpu_share=0.95))
    assert spent.ceiling.streams == Limit(64, at_least=False)


def test_answers_that_were_not_what_was_sent_are_told_and_count_for_nothing() -> None:
    found = made(rate(10_000, 0.1), rate(20_000, 0.2, wrong=3))
    assert found.ceiling.events_per_s.value == 10_000
    assert "3 of 128 answers were not what was sent" in conclusion(found)[-1]


def test_three_lines_say_what_it_comes_to() -> None:
    band, ceiling, budget = conclusion(made(step(streams=64), rate(6_400, 0.2)))
    assert "kernel stamps 2.0 / 10.0 / 90.0 µs; user stamps 50.0 / 2,000 / 5,000 µs" in band
    assert "at least 6,400 token events a second, at least 64 streams at once" in ceiling
    assert "6,400 token events a second, at 31.2 µs of CPU each; 64 streams at once" in budget


def test_a_machine_that_was_not_quiet_is_told_of() -> None:
    assert len(conclusion(conclude([step()], MACHINE, "", 0.1))) == 3
    assert "kept the machine 35% busy" in conclusion(conclude([step()], MACHINE, "", 0.35))[-1]


@pytest.mark.parametrize("width", [80, 150])
def test_the_table_has_a_row_a_step_with_what_is_beyond_and_keeps_to_the_width(width: int) -> None:
    text = calibration_text(made(step(), step(cpu_share=0.99), step(stretch=1.5)), Screen(width))
    table = text.partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= width
    assert [line.split()[-1] for line in table[2:]] == ["2.0", "CPU", "late"]
    assert all(line.split()[:2] == ["64", "staggered"] for line in table[2:])


def test_where_nothing_held_the_lines_say_so() -> None:
    assert "not known" in conclusion(made(step(cpu_share=0.99)))[0]


# Comparing


def heard(number: int | None, stamps_ms: list[float], **given: Any) -> ReceivedAnswer:
    stamps = np.array([round(ms * MS) for ms in stamps_ms], dtype=np.int64)
    usual: dict[str, Any] = {
        "number": number,
        "ok": True,
        "source": "kernel",
        "stamps_ns": stamps,
        "user_ns": stamps + 7 * MS,
        "reads": np.arange(len(stamps)),
        "written_ns": 0,
        "text_sha256": "same",
    }
    return ReceivedAnswer(**usual | given)


def truth(number: int, sent_ms: list[float]) -> Truth:
    return Truth(
        number=number,
        connection=0,
        nth=0,
        arrived_ns=1 * MS,
        read_ns=1 * MS,
        stamps_ns=[round(ms * MS) for ms in sent_ms],
        text_sha256="same",
    )


def played(*answers: ReceivedAnswer, itl_ms: float = 10.0, lag_ms: float = 3.0) -> PlayedStep:
    facts = StageFacts(
        models=("mock-0",),
        targets=("openai",),
        level="c1",
        start_ns=0,
        end_ns=100 * MS,
        complete=True,
        cpu_share=0.1,
        loop_lag_p99_ns=round(lag_ms * MS),
    )
    return PlayedStep(LoadStep(series="streams", streams=(1,), itl_ms=itl_ms), 1, (answers,), facts)


def test_every_token_is_held_against_the_moment_it_was_sent() -> None:
    late = heard(1, [21.002, 31.002, 41.004, 51.002])
    found = compare(played(late), [{1: truth(1, [21.0, 31.0, 41.0, 51.0])}])
    assert (found.answers, found.wrong, found.events) == (1, 0, 4)
    assert found.kernel == ErrorSpread(2.0, 4.0, 4.0)
    assert found.user == ErrorSpread(7002.0, 7004.0, 7004.0)
    assert found.itl == ErrorSpread(2.0, 2.0, 2.0)  # 0, +2 and −2 µs
    assert found.service_ttft == ErrorSpread(1002.0, 1002.0, 1002.0)  # its request had 1 ms on its way
    assert found.shared_share == 0
    assert found.cpu_us_per_event == 2_500


def test_an_answer_that_is_not_what_was_sent_is_wrong_and_not_compared() -> None:
    sent = {number: truth(number, [20.0, 30.0]) for number in range(1, 5)}
    answers = [
        heard(1, [20.0, 30.0]),
        heard(2, [20.0, 30.0], text_sha256="other"),
        heard(3, [20.0]),
        heard(4, [20.0, 30.0], ok=False),
        heard(9, [20.0, 30.0]),
        heard(None, []),
    ]
    found = compare(played(*answers), [sent])
    assert (found.answers, found.wrong, found.events) == (6, 5, 2)


def test_tokens_in_one_read_are_shared_only_where_the_server_had_sent_them_apart() -> None:
    sent = {1: truth(1, [20.0, 30.0, 30.1, 40.0, 50.0])}
    answer = heard(1, [20.0, 30.1, 30.1, 50.0, 50.0], reads=np.array([0, 1, 1, 2, 2]))
    found = compare(played(answer), [sent])
    assert found.shared_share == pytest.approx(1 / 3, abs=1e-4)  # of three that were sent apart, one
    assert found.itl is None  # no two neighbors had a read of their own
    assert observe(played(answer)).merged_share == pytest.approx(2 / 5)


def test_an_itl_counts_only_where_both_of_its_tokens_had_a_read_of_their_own() -> None:
    sent = {1: truth(1, [20.0, 30.0, 40.0, 50.0, 60.0])}
    answer = heard(1, [20.0, 40.0, 40.0, 50.005, 60.001], reads=np.array([0, 1, 1, 2, 3]))
    assert compare(played(answer), [sent]).itl == ErrorSpread(4.0, 4.0, 4.0)


def test_without_any_errors_there_is_no_spread() -> None:
    assert spread([]) is None
    assert spread([np.array([-3_000, 1_000, 2_000], dtype=np.int64)]) == ErrorSpread(2.0, 3.0, 3.0)


def test_the_rate_is_that_of_the_time_in_which_all_streams_were_there() -> None:
    streams = [heard(user, [500 * user + 100 * token + 50 for token in range(30)]) for user in range(2)]
    assert events_per_s(streams, 0.5) == pytest.approx(20.0, abs=1.0)
    assert events_per_s([], 0.5) == events_per_s([heard(1, [1.0])], 0.5) == 0.0


def test_a_server_that_cannot_keep_up_or_a_loop_that_is_late_ends_the_climb() -> None:
    good = heard(1, [20.0, 30.0, 40.0])
    assert not is_too_much(observe(played(good)))
    assert is_too_much(observe(played(good, lag_ms=101)))
    slow = observe(played(heard(1, [20.0, 32.0, 44.0])))
    assert slow.stretch == pytest.approx(1.2)
    assert is_too_much(slow)
    assert not is_disturbed(observe(played(good)))
    assert is_disturbed(observe(played(good, lag_ms=21)))
    assert is_disturbed(observe(played(heard(1, [20.0, 40.0, 40.0], reads=np.array([0, 1, 1])))))


# What is played


def test_the_loads_grow_within_each_course_and_what_cannot_be_held_is_left_out() -> None:
    for course in (*USUAL, *QUICK):
        assert list(course.streams) == sorted(course.streams)
        assert all(course.tokens_of(count) <= course.script().tokens.value for count in course.streams)  # type: ignore[union-attr]
    assert [course.streams for course in at_most(USUAL, 64)] == [(1, 16, 64), (64,), *[(64,)] * 5]
    assert at_most(USUAL, 16) == (msgspec.structs.replace(USUAL[0], streams=(1, 16)),)


def test_users_begin_over_the_ramp_in_and_not_in_step_with_their_tokens() -> None:
    course = LoadStep(series="streams", streams=(200,), ramp_in_s=0.5)
    begins = np.array(course.begins_ns(200))
    assert begins.min() == 0
    assert begins.max() <= 0.55e9
    phases = np.sort(begins % round(0.05e9))
    assert np.diff(phases).max() < 0.001e9  # of 200 in 50 ms, evenly spread: 0.25 ms
    assert phases.max() > 0.049e9


@pytest.mark.parametrize(("cores", "servers"), [(1, 1), (2, 1), (3, 2), (64, 4)])
def test_servers_are_as_many_as_the_pace_needs_and_leave_us_a_core(cores: int, servers: int) -> None:
    assert LoadStep(series="rates", streams=(64,), itl_ms=1.25).servers(cores) == servers
    assert LoadStep(series="rates", streams=(64,), itl_ms=50.0).servers(cores) == 1


# Keeping


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calibration.json"
    kept = made(step(), rate(6_400, 0.2))
    calibration.keep(kept, path)
    assert stored(path, MACHINE) == calibration.Stored(calibration=kept)


def test_where_there_never_was_one_nothing_is_said(tmp_path: Path) -> None:
    assert stored(tmp_path / "none.json", MACHINE) == calibration.Stored()


@pytest.mark.parametrize("name", Machine.__struct_fields__)
def test_a_calibration_of_anything_else_does_not_hold_and_says_why(tmp_path: Path, name: str) -> None:
    path = tmp_path / "calibration.json"
    calibration.keep(made(step()), path)
    found = stored(path, msgspec.structs.replace(MACHINE, **{name: "else"}))
    assert found.calibration is None
    assert found.remark is not None
    assert f"another {name.replace('_', ' ')} ({getattr(MACHINE, name)}, now else)" in found.remark
    assert "run `loadgen calibrate` again" in found.remark


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[]", b'{"schema": "loadgen.calibration/1"}'])
def test_a_damaged_one_does_not_hold_and_is_no_crash(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(raw)
    found = stored(path, MACHINE)
    assert found.calibration is None
    assert found.remark is not None
    assert "damaged" in found.remark
    assert stored(tmp_path, MACHINE).remark is not None  # a folder in its place


def test_one_of_a_later_schema_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.keep(msgspec.structs.replace(made(step()), schema="loadgen.calibration/9"), path)
    assert "loadgen.calibration/9" in (stored(path, MACHINE).remark or "")


def test_where_nothing_can_be_kept_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="LOADGEN_CACHE_DIR"):
        calibration.keep(made(step()), tmp_path / "file" / "calibration.json")


def test_the_usual_place_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path))
    assert calibration.usual_place() == tmp_path / "calibration.json"
    calibration.keep(made(step()), calibration.usual_place())
    assert "another cpu" in (stored().remark or "")


def test_a_manifest_quotes_all_but_the_machine_and_the_steps() -> None:
    told = msgspec.to_builtins(calibration.quote_of(made(step(), rate(6_400, 0.2))))
    assert set(told) == {"schema", "made_utc", "band", "ceiling", "budget", "cpu_us_per_event", "busy_share"}
    assert told["schema"] == SCHEMA
    assert told["budget"] == {"events_per_s": 6_400.0, "streams": 64}


# Warnings


def plan_of(load: Load, *, tokens: int = 100, stream: bool = True, target: str | None = None) -> Plan:
    model = Model(name="m", url=None if target else "http://h/v1", target=target)
    sampling = Sampling(max_tokens=tokens, stream=stream)
    scenario = Scenario(name="x", prompts="Say hello.", load=load, models=(model,), sampling=sampling)
    times = np.array([0, 900 * MS, 1_000 * MS, 1_100 * MS, 5_000 * MS], dtype=np.int64)
    return make_plan(scenario, (Prompt("a", "Say hello."),), times if isinstance(load, Trace) else None)


BOUND = msgspec.structs.replace(made(step()), budget=Budget(events_per_s=6_400, streams=200))


def test_a_plan_within_the_budget_is_not_warned_of() -> None:
    assert warnings_for(plan_of(Closed(concurrency=(1, 200), requests=4)), BOUND, 1) == []
    assert warnings_for(plan_of(Poisson((64.0,), requests=4)), BOUND, 1) == []


def test_a_machine_that_was_not_calibrated_is_not_nagged() -> None:
    assert warnings_for(plan_of(Closed(concurrency=(9_999,), requests=4)), None, 1) == []


def test_more_streams_than_the_budget_are_told_with_what_would_do() -> None:
    (line,) = warnings_for(plan_of(Closed(concurrency=(1, 500), requests=4)), BOUND, 1)
    assert line == (
        "500 streams at once; this machine was calibrated for 200: lower concurrency or max_in_flight, divide the load "
        "with --workers 3, or calibrate again"
    )
    assert warnings_for(plan_of(Closed(concurrency=(500,), requests=4)), BOUND, 3) == []
    (line,) = warnings_for(plan_of(Poisson((1.0,), requests=4, max_in_flight=401)), BOUND, 2)
    assert "401 streams at once; 2 processes of this machine were calibrated for 400" in line
    assert "--workers 3" in line


def test_more_workers_than_there_are_cores_are_not_advised() -> None:
    (line,) = warnings_for(plan_of(Closed(concurrency=(2_000,), requests=4)), BOUND, 1)
    assert "--workers" not in line
    none = msgspec.structs.replace(BOUND, budget=Budget(events_per_s=0, streams=0))
    (line,) = warnings_for(plan_of(Closed(concurrency=(1,), requests=4)), none, 1)
    assert "--workers" not in line


@pytest.mark.parametrize(
    ("load", "events"),
    [
        (Poisson((1.0, 65.0), requests=4), "6,500"),
        (Ramp(from_per_s=1.0, to_per_s=65.0, duration_s=1.0), "6,500"),
        (Ramp(from_per_s=65.0, to_per_s=1.0, duration_s=1.0), "6,500"),
    ],
)
def test_an_open_loop_is_warned_of_by_its_rate_and_its_tokens(load: Load, events: str) -> None:
    (line,) = warnings_for(plan_of(load), BOUND, 1)
    assert line.startswith(f"up to {events} token events a second; this machine was calibrated for 6,400: lower the ")
    assert "--workers 2" in line
    assert warnings_for(plan_of(load), BOUND, 2) == []
    assert warnings_for(plan_of(load, stream=False), BOUND, 1) == []  # whole answers have no token events


def test_a_trace_is_taken_at_its_busiest_second() -> None:
    (line,) = warnings_for(plan_of(Trace(file="x"), tokens=3_000), BOUND, 1)
    assert "up to 9,000 token events a second" in line


def test_models_in_this_process_take_no_streams() -> None:
    plan = plan_of(Closed(concurrency=(500,), requests=4), target="python:package.module:Adapter")
    assert warnings_for(plan, BOUND, 1) == []


def test_what_was_beyond_the_budget_is_a_phrase() -> None:
    assert beyond(BOUND.budget, 6_400.0, 200, 1) is None
    assert beyond(BOUND.budget, None, None, 1) is None
    assert beyond(None, 1e9, 9_999, 1) is None
    assert beyond(BOUND.budget, 12_800.0, 200, 1) == "12,800 token events a second (calibrated for 6,400)"
    assert beyond(BOUND.budget, 12_800.0, 200, 2) is None
    assert beyond(BOUND.budget, 12_801.0, 500, 2) == (
        "12,801 token events a second (calibrated for 12,800) and 500 streams at once (calibrated for 400)"
    )


# The verb


def run(*args: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["calibrate", *args])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path))
    return tmp_path / "calibration.json"


def test_what_is_kept_is_shown_without_measuring(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "calibrate_machine", None)  # to call it would be an error
    kept = conclude([step()], calibration.this_machine(), "2026-11-24T00:00:00+00:00")
    calibration.keep(kept, place)
    assert msgspec.json.decode(run("--show", "--json").stdout, type=Calibration) == kept
    assert conclusion(kept)[-1] in run("--show").stdout


def test_where_nothing_is_kept_there_is_nothing_to_show(place: Path) -> None:
    assert "no calibration is stored; run `loadgen calibrate`" in str(run("--show").exception)
    place.write_text("{")
    assert "damaged" in str(run("--show").exception)
    assert "so --quick does not apply" in str(run("--show", "--quick").exception)


@pytest.mark.parametrize(("args", "courses"), [((), USUAL), (("--quick",), QUICK)])
def test_what_was_measured_is_printed_and_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], courses: tuple[LoadStep, ...]
) -> None:
    found = conclude([step()], calibration.this_machine(), "2026-11-24T00:00:00+00:00")
    monkeypatch.setattr(calibrate, "calibrate_machine", lambda asked, _: found if asked == courses else None)
    told = run(*args).stdout
    assert conclusion(found)[-1] in told
    assert f"stored in {place}" in told
    assert stored() == calibration.Stored(calibration=found)


def test_after_an_interruption_what_was_kept_before_is_as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Calibration:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "calibrate_machine", interrupted)
    calibration.keep(made(step()), place)
    before = place.read_bytes()
    told = run()
    assert told.exit_code != 0
    assert "the stored calibration is unchanged" in told.stderr
    assert place.read_bytes() == before


@pytest.mark.parametrize(("streams", "processes"), [(None, 2), (300, 2), (200, 3), (0, 2), (1_000, 1)])
def test_auto_trusts_a_process_with_what_this_machine_was_calibrated_for(
    monkeypatch: pytest.MonkeyPatch, streams: int | None, processes: int
) -> None:
    held = None if streams is None else msgspec.structs.replace(BOUND, budget=Budget(events_per_s=1e4, streams=streams))
    monkeypatch.setattr(api, "usable_cores", lambda: 8)
    monkeypatch.setattr(api, "stored", lambda: Stored(held, None))
    plan = plan_of(Closed(concurrency=(600,)))
    assert api.processes_of(plan, "auto") == processes
    assert api.processes_of(plan, 4) == 4
