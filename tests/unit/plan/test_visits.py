"""Visits: stages that are chosen while a run goes, each from the scenario's seed, its level and its number alone."""

import numpy as np
import pytest

from loadgen.plan.plan import Plan, StageLoad, digest, parts
from loadgen.plan.prompts import Prompt
from loadgen.plan.visits import Visits, visit_label, visit_number
from loadgen.plan.workload import workload_of
from loadgen.scenario import Closed, Constant, Gamma, Load, Poisson, Ramp, Scenario, ThinkTime

PROMPTS = 7


def visits_of(load: Load, seed: int = 1) -> Visits:
    return Visits(Scenario(name="x", prompts="Hello.", load=load, seed=seed, until="ttft_p50:5%"), PROMPTS, 0)


@pytest.mark.parametrize(
    ("load", "level", "labels"),
    [
        (Closed(), 6, ["c6", "c6.2", "c6.12"]),
        (Poisson((1.0,)), 1.25, ["r1.25", "r1.25.2", "r1.25.12"]),
        (Poisson((1.0,)), 1.0, ["r1", "r1.0.2", "r1.0.12"]),
    ],
)
def test_a_visit_is_named_by_its_level_and_its_number(load: Load, level: float, labels: list[str]) -> None:
    assert [visit_label(load, level, number) for number in (1, 2, 12)] == labels
    played = visits_of(load).visit(level, 1, seconds=60).level.load()
    assert [visit_number(played, label) for label in labels] == [1, 2, 12]


def test_the_number_of_a_visit_can_be_read_from_any_name() -> None:
    for rate in [number / 100 for number in range(1, 1000)]:
        played = StageLoad("poisson", rate_per_s=rate)
        labels = {number: visit_label(Poisson((1.0,)), rate, number) for number in (1, 2, 3, 25, 100)}
        assert {number: visit_number(played, label) for number, label in labels.items()} == {n: n for n in labels}


def test_no_two_visits_have_one_name() -> None:
    rates = [number / 100 for number in range(1, 1000)]
    labels = [visit_label(Poisson((1.0,)), rate, number) for rate in rates for number in range(1, 30)]
    assert len(set(labels)) == len(labels)


def test_a_visit_lasts_as_long_as_it_is_told_and_every_request_may_be_missing() -> None:
    stage = visits_of(Closed(concurrency=(1, 2), requests=4, min_requests=4)).visit(6, 1, seconds=90, warmup=2)
    assert (stage.level.label, stage.level.concurrency, stage.users) == ("c6", 6, 6)
    assert (stage.count, stage.duration_ns, stage.min_count, stage.warmup) == (None, 90_000_000_000, 0, 2)
    assert stage.until is None
    assert not stage.promised
    assert stage.planned_of(0) is None


def test_equal_visits_are_equal_and_others_have_other_prompts_think_times_and_arrivals() -> None:
    thinking = Closed(think_time=ThinkTime(10.0, "exponential"))
    for load, level in ((thinking, 6.0), (Poisson((1.0,)), 1.25), (Gamma((1.0,), burstiness=0.5), 1.25)):
        first, again = (visits_of(load).visit(level, 1, seconds=60) for _ in range(2))
        others = [
            visits_of(load).visit(level, 2, seconds=60),
            visits_of(load).visit(2 * level, 1, seconds=60),
            visits_of(load, seed=2).visit(level, 1, seconds=60),
        ]
        drawn = [
            (stage.think_ns if stage.due_ns is None else stage.due_ns)[:50].tolist()  # type: ignore[index]
            for stage in (first, again, *others)
        ]
        assert drawn[0] == drawn[1]
        assert drawn[0] not in drawn[2:]
        assert first.first_prompt == again.first_prompt
    numbered = [visits_of(thinking).visit(6, number, seconds=60).first_prompt for number in range(1, 30)]
    assert set(numbered) == set(range(PROMPTS))


def test_the_requests_of_a_visit_go_round_from_its_first_prompt() -> None:
    stage = visits_of(Closed()).visit(3, 2, seconds=60)
    prompts = [stage.request(position).prompt for position in range(2 * PROMPTS)]
    assert prompts == [(stage.first_prompt + index) % PROMPTS for index in range(2 * PROMPTS)]
    by_index = {
        request.index: request.prompt for part in parts(stage, 2) for request in map(part.request, range(PROMPTS))
    }
    assert all(prompt == (stage.first_prompt + index) % PROMPTS for index, prompt in by_index.items())


def test_a_burst_comes_due_at_the_beginning_before_the_arrivals_of_the_rate() -> None:
    plain, full = (visits_of(Poisson((1.0,))).visit(2.0, 1, seconds=30, burst=burst) for burst in (0, 12))
    assert plain.due_ns is not None and full.due_ns is not None
    assert full.due_ns[:12].tolist() == [0] * 12
    assert np.array_equal(full.due_ns[12:], plain.due_ns)
    assert full.count == len(full.due_ns)
    assert full.level == plain.level


def test_constant_arrivals_stay_constant() -> None:
    stage = visits_of(Constant((1.0,))).visit(4.0, 2, seconds=1)
    assert stage.due_ns is not None
    assert stage.due_ns.tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


def test_a_load_without_levels_has_no_visits() -> None:
    with pytest.raises(ValueError, match="Ramp"):
        visits_of(Ramp(0.0, 1.0, 10.0)).visit(1.0, 1, seconds=10)


def test_the_digests_tell_visits_apart() -> None:
    visits = visits_of(Constant((1.0,)))
    prompts = tuple(Prompt(f"p{number}", f"Prompt {number}") for number in range(PROMPTS))
    scenario = Scenario(name="x", prompts="Hello.")
    plans = [Plan(scenario, prompts, (visits.visit(4.0, number, seconds=1),)) for number in (1, 2)]
    assert digest(plans[0]) != digest(plans[1])
    assert workload_of(plans[0]).digest != workload_of(plans[1]).digest


def test_a_rate_that_a_fast_server_carries_is_planned_for_as_long_as_memory_lasts() -> None:
    stage = visits_of(Constant((1.0,))).visit(100_000.0, 1, seconds=3600)
    assert stage.count == 1_000_000
    assert stage.duration_ns == 10_000_000_000
