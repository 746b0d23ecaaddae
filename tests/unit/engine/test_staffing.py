"""How many processes play a plan, and how many open files each of them needs."""

import pytest

from loadgen.engine.workers.sizing import (
    DESCRIPTORS_PER_WORKER,
    LEAST_DESCRIPTORS,
    RESERVED_DESCRIPTORS,
    STREAMS_PER_WORKER,
    Descriptors,
    Workers,
    descriptors_of,
    parse_workers,
    soft_limit_for,
    worker_count,
)
from loadgen.errors import ExitCode, InputError
from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.scenario import Closed, Load, Model, Poisson, Scenario

ADAPTER = Model(name="mine", target="python:package.module:Adapter")


def plan_of(load: Load, *models: Model) -> Plan:
    scenario = Scenario(
        name="x", prompts="Say hello.", load=load, models=models or (Model(name="m", url="http://h/v1"),)
    )
    return make_plan(scenario, (Prompt("a", "Say hello."),))


@pytest.mark.parametrize(("text", "meant"), [("1", 1), ("16", 16), ("auto", "auto")])
def test_workers_are_a_number_or_auto(text: str, meant: Workers) -> None:
    assert parse_workers(text) == meant


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many", "Auto", "²", "1025"])
def test_anything_else_is_said_to_be_none(text: str) -> None:
    with pytest.raises(InputError, match="--workers") as caught:
        parse_workers(text)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("users", "cores", "workers"),
    [
        (1, 8, 1),
        (STREAMS_PER_WORKER, 8, 1),
        (STREAMS_PER_WORKER + 1, 8, 2),
        (2 * STREAMS_PER_WORKER, 8, 2),
        (4_000, 2, 2),
        (4_000, 64, 8),
        (4_000, 1, 1),
    ],
)
def test_auto_takes_a_process_for_so_many_streams_and_no_more_than_there_are_cores(
    users: int, cores: int, workers: int
) -> None:
    load = Closed(concurrency=(1, users), requests=4)
    assert worker_count(plan_of(load), "auto", cores) == workers
    assert worker_count(plan_of(Poisson((5.0,), requests=4, max_in_flight=users)), "auto", cores) == workers


def test_auto_heeds_what_was_calibrated() -> None:
    assert worker_count(plan_of(Closed(concurrency=(400,), requests=4)), "auto", 8, streams_per_worker=100) == 4


def test_an_open_loop_without_a_limit_is_played_by_one() -> None:
    assert worker_count(plan_of(Poisson((5_000.0,), requests=100_000)), "auto", 8) == 1


def test_a_number_is_taken_as_it_is() -> None:
    assert worker_count(plan_of(Closed(concurrency=(1, 4))), 3, 1) == 3


def test_no_more_are_started_than_some_stage_can_be_divided_among() -> None:
    assert worker_count(plan_of(Closed(concurrency=(1, 4))), 999, 2) == 4


def test_a_model_in_this_process_is_not_shared() -> None:
    plan = plan_of(Closed(concurrency=(4_000,), requests=4), ADAPTER)
    assert worker_count(plan, "auto", 8) == worker_count(plan, 1, 8) == 1
    with pytest.raises(InputError, match=r"--workers 2: mine .*python:package\.module:Adapter"):
        worker_count(plan, 2, 8)


# --- open files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "workers", "required", "wished"),
    [
        (Closed(concurrency=(1, 4_000, 8), requests=9_000), 1, 4_000, 4_000),
        (Closed(concurrency=(1, 4_001, 8), requests=9_000), 2, 2_001, 2_001),
        (Poisson((5.0,), requests=9_000, max_in_flight=700), 2, 350, 350),
        (Poisson((5.0,), requests=9_000), 2, 0, 4_500),
    ],
)
def test_what_the_busiest_process_must_hold(load: Load, workers: int, required: int, wished: int) -> None:
    assert descriptors_of(plan_of(load), workers) == Descriptors(
        required, max(required, pipes(workers)) + LEAST_DESCRIPTORS, wished + RESERVED_DESCRIPTORS
    )


def pipes(workers: int) -> int:
    return DESCRIPTORS_PER_WORKER * workers if workers > 1 else 0


def test_the_process_that_starts_many_workers_must_hold_their_pipes() -> None:
    needs = descriptors_of(plan_of(Closed(concurrency=(1_000,), requests=4_000)), 1_000)
    assert (needs.streams, needs.required) == (1, 4_000 + LEAST_DESCRIPTORS)
    with pytest.raises(InputError, match=r"starts the workers needs 4,064 open files.* start fewer \(--workers\)"):
        soft_limit_for(needs, 1_024, 4_063)


def test_a_run_of_one_stream_needs_no_more_than_any_system_gives() -> None:
    assert descriptors_of(plan_of(Closed(concurrency=(1,), requests=4)), 1).required < 256


@pytest.mark.parametrize(
    ("soft", "hard", "limit"),
    [
        (1_024, 1 << 20, 4_256),  # raised as far as is wished, and no further
        (1_024, 4_000, 4_000),  # as far as the system lets us, where that is enough
        (8_192, 1 << 20, 8_192),  # never lowered
    ],
)
def test_the_limit_is_raised_as_far_as_it_helps(soft: int, hard: int, limit: int) -> None:
    assert soft_limit_for(Descriptors(1_000, 1_256, 4_256), soft, hard) == limit


def test_a_hard_limit_that_is_too_low_is_named_with_the_need_and_the_mend() -> None:
    with pytest.raises(InputError) as caught:
        soft_limit_for(Descriptors(4_000, 4_064, 4_256), 1_024, 4_063)
    told = str(caught.value)
    assert all(word in told for word in ("4,000", "4,064", "4,063", "ulimit -Hn", "--workers", "load.concurrency"))
    assert soft_limit_for(Descriptors(4_000, 4_064, 4_256), 1_024, 4_064) == 4_064


def test_one_stream_is_singular() -> None:
    with pytest.raises(InputError, match="1 stream in one process needs"):
        soft_limit_for(Descriptors(1, 65, 257), 20, 20)
