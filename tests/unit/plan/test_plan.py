"""The plan: how many requests of what, when and in which turn; and a digest that tells two plans apart."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.plan.arrivals import DEFAULT_REQUESTS
from loadgen.plan.plan import THINK_CYCLE, Level, Plan, Planned, Stage, digest, levels, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.scenario import Closed, Constant, Gamma, Load, Model, Poisson, Ramp, Sampling, Scenario, ThinkTime, Trace
from loadgen.scenario.types import BodyKey
from loadgen.store.manifest import ModelCard
from loadgen.targets.request import body_of
from loadgen.targets.served import Served

S = 1_000_000_000
PROMPTS = (Prompt("a", "Say hello."), Prompt("b", "Name a colour."), Prompt("c", "Count to three."))
TWO = (Model(name="small", target="llamacpp"), Model(name="large", target="llamacpp"))

law = settings(derandomize=True, deadline=None, max_examples=60)
Change = Callable[[Scenario], Scenario]


def scenario(load: Load | None = None, **changes: object) -> Scenario:
    base = Scenario(name="x", prompts="Say hello.", load=load or Closed(concurrency=(2,), requests=4))
    return msgspec.structs.replace(base, **changes)


def planned(load: Load, **changes: object) -> Plan:
    return make_plan(scenario(load, **changes), PROMPTS)


def requests(stage: Stage) -> list[Planned]:
    return [stage.request(position) for position in range(stage.count or 0)]


# --- levels and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "label", "told"),
    [
        (Closed(concurrency=(16,)), "c16", {"mode": "closed", "concurrency": 16}),
        (Constant((0.5,)), "r0.5", {"mode": "constant", "rate_per_s": 0.5}),
        (Poisson((5.0,)), "r5", {"mode": "poisson", "rate_per_s": 5.0}),
        (Gamma((5.0,), burstiness=0.5), "r5", {"mode": "gamma", "rate_per_s": 5.0, "burstiness": 0.5}),
        (Ramp(0.0, 10.0, 60.0), "ramp0-10", {"mode": "ramp", "from_per_s": 0.0, "to_per_s": 10.0}),
        (Trace("t.txt"), "trace", {"mode": "trace"}),
    ],
)
def test_a_level_says_its_mode_and_its_own_numbers_only(load: Load, label: str, told: dict[str, object]) -> None:
    assert [(level.label, msgspec.to_builtins(level.load())) for level in levels(load)] == [(label, told)]


@pytest.mark.parametrize(
    "load", [Closed(concurrency=(4, 1, 16)), Constant((4.0, 1.0, 16.0)), Poisson((4.0, 1.0, 16.0))]
)
def test_levels_are_played_in_the_order_in_which_they_stand(load: Load) -> None:
    assert [level.label[1:] for level in levels(load)] == ["4", "1", "16"]


def test_one_after_another_each_model_plays_all_levels_alone() -> None:
    plan = planned(Closed(concurrency=(1, 4), requests=3), models=TWO)
    assert [(stage.models, stage.level.label) for stage in plan.stages] == [
        ((0,), "c1"),
        ((0,), "c4"),
        ((1,), "c1"),
        ((1,), "c4"),
    ]


def test_interleaved_models_share_each_level() -> None:
    plan = planned(Closed(concurrency=(1, 4), requests=3), models=TWO, order="interleaved")
    assert [(stage.models, stage.level.label) for stage in plan.stages] == [((0, 1), "c1"), ((0, 1), "c4")]


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["one_after_another", "interleaved"])
@pytest.mark.parametrize("load", [Closed(concurrency=(2,), requests=5), Constant((2.0,), requests=5)])
def test_requests_count_per_model_and_level(load: Load, order: str) -> None:
    plan = planned(load, models=TWO, order=order)
    for model in (0, 1):
        assert [stage.planned_of(model) for stage in plan.stages if model in stage.models] == [5]
    assert sum(stage.count or 0 for stage in plan.stages) == 10


@pytest.mark.parametrize("load", [Closed(), Constant((2.0,)), Poisson((2.0,)), Gamma((2.0,), burstiness=2.0)])
def test_without_a_bound_there_are_sixteen(load: Load) -> None:
    (stage,) = planned(load).stages
    assert stage.count == DEFAULT_REQUESTS == 16
    assert stage.duration_ns is None


def test_how_many_a_closed_loop_sends_in_a_time_nobody_knows() -> None:
    (timed,) = planned(Closed(duration_s=1.5)).stages
    (both,) = planned(Closed(duration_s=1.5, requests=7)).stages
    assert (timed.count, timed.duration_ns, timed.planned_of(0)) == (None, 1_500_000_000, None)
    assert (both.count, both.duration_ns, both.planned_of(0)) == (7, 1_500_000_000, None)


def test_how_many_an_open_loop_sends_in_a_time_is_known_beforehand() -> None:
    (stage,) = planned(Constant((2.0,), duration_s=3.0)).stages
    assert (stage.count, stage.planned_of(0)) == (6, 6)
    assert [request.due_ns for request in requests(stage)] == [0, S // 2, S, 3 * S // 2, 2 * S, 5 * S // 2]


def test_an_open_loop_s_rate_is_that_of_all_its_models_together() -> None:
    plan = planned(Constant((2.0,), requests=3), models=TWO, order="interleaved")
    assert [request.due_ns for request in requests(plan.stages[0])] == [turn * S // 2 for turn in range(6)]


def test_a_trace_is_played_at_its_offsets() -> None:
    offsets = np.array([0, 5, 5, 9], dtype=np.int64)
    plan = make_plan(scenario(Trace("t.txt", max_in_flight=3)), PROMPTS, offsets)
    (stage,) = plan.stages
    assert [request.due_ns for request in requests(stage)] == [0, 5, 5, 9]
    assert stage.max_in_flight == 3
    with pytest.raises(ValueError, match="a trace load needs its offsets"):
        make_plan(scenario(Trace("t.txt")), PROMPTS)


def test_a_ramp_is_as_long_as_its_duration() -> None:
    (stage,) = planned(Ramp(0.0, 4.0, 5.0)).stages
    assert stage.count == 10
    assert stage.duration_ns == 5 * S
    assert all(0 <= (request.due_ns or 0) < 5 * S for request in requests(stage))


@law
@given(st.integers(1, 5), st.integers(0, 40))
def test_what_the_models_of_a_stage_send_adds_up(models: int, count: int) -> None:
    stage = Stage(Level("c1", "closed", concurrency=1), tuple(range(models)), 0, 3, count, None)
    sent = [request.model for request in requests(stage)]
    assert [sent.count(model) for model in stage.models] == [stage.planned_of(model) for model in stage.models]


# --- which one --------------------------------------------------------------------------------------------------------


def test_models_take_turns_and_each_counts_its_own_and_goes_round_the_prompts() -> None:
    plan = planned(Closed(requests=4), models=TWO, order="interleaved")
    assert [(request.model, request.index, request.prompt) for request in requests(plan.stages[0])] == [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 1),
        (1, 1, 1),
        (0, 2, 2),
        (1, 2, 2),
        (0, 3, 0),
        (1, 3, 0),
    ]


def test_warm_up_takes_prompts_from_the_end_so_that_the_first_measured_ones_are_not_in_a_cache() -> None:
    (stage,) = planned(Closed(requests=2), warmup_requests=4).stages
    assert [stage.warmup_request(position).prompt for position in range(4)] == [2, 1, 0, 2]


def test_think_times_are_those_of_the_request_and_repeat_where_only_time_bounds_the_load() -> None:
    think = ThinkTime(2.0, "exponential")
    (counted,) = planned(Closed(requests=5, think_time=think)).stages
    (timed,) = planned(Closed(duration_s=60.0, think_time=think)).stages
    assert counted.think_ns is not None and timed.think_ns is not None
    assert [request.think_ns for request in requests(counted)] == counted.think_ns.tolist()
    assert timed.request(THINK_CYCLE + 3).think_ns == timed.request(3).think_ns > 0
    assert len(set(counted.think_ns.tolist())) == 5


def test_users_of_a_closed_loop_begin_over_a_second_or_a_think_time_or_as_asked() -> None:
    def offsets(load: Closed) -> list[int]:
        (stage,) = planned(load).stages
        assert stage.ramp_in_ns is not None
        return [int(offset) for offset in stage.ramp_in_ns]

    assert offsets(Closed(concurrency=(4,))) == [0, S // 4, S // 2, 3 * S // 4]
    assert offsets(Closed(concurrency=(2,), think_time=ThinkTime(10.0))) == [0, 5 * S]
    assert offsets(Closed(concurrency=(2,), ramp_in_s=0.0)) == [0, 0]
    assert offsets(Closed(concurrency=(1,))) == [0]


@pytest.mark.parametrize(
    "load",
    [
        Closed(concurrency=(3,), requests=9, think_time=ThinkTime(1.0, "exponential")),
        Poisson((5.0,), requests=30),
        Gamma((5.0,), burstiness=0.3, requests=30),
        Ramp(1.0, 9.0, 4.0, arrivals="poisson"),
    ],
)
def test_equal_scenarios_make_equal_requests_and_another_seed_makes_others(load: Load) -> None:
    (one,), (same,), (other,) = (planned(load, seed=seed).stages for seed in (1, 1, 2))
    assert requests(one) == requests(same)
    assert requests(one) != requests(other)


# --- the body ---------------------------------------------------------------------------------------------------------


def test_a_body_says_exactly_this_unless_more_is_asked_for() -> None:
    plan = planned(Closed(), models=TWO, sampling=Sampling(max_tokens=9))
    assert body_of(plan, Planned(model=1, index=0, prompt=2)) == {
        "model": "large",
        "messages": [{"role": "user", "content": "Count to three."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 1,
    }


def test_what_is_asked_for_more_is_in_the_body_and_extra_has_the_last_word() -> None:
    sampling = Sampling(seed=None, top_p=0.9, stop=("END",), extra={"temperature": 1.5, "min_p": 0.1})
    plan = planned(Closed(), system="Be brief.", sampling=sampling)
    body = body_of(plan, Planned(model=0, index=0, prompt=0))
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "seed" not in body
    assert (body["top_p"], body["stop"], body["temperature"], body["min_p"]) == (0.9, ["END"], 1.5, 0.1)


def test_what_is_omitted_is_not_in_the_body_and_another_key_may_stand_in_its_place() -> None:
    sampling = Sampling(
        omit=("max_tokens", "seed", "stream_options", "cache_prompt"),
        extra={"max_completion_tokens": 9, "seed": "text"},
    )
    plan = planned(Closed(), models=TWO, sampling=sampling)
    served = Served(
        base_url="", card=ModelCard(alias="small", id="small:1", target="t"), extra={"cache_prompt": False, "slot": 1}
    )
    assert body_of(plan, Planned(model=0, index=0, prompt=0), served) == {
        "model": "small:1",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": True,
        "temperature": 0.0,
        "slot": 1,
        "max_completion_tokens": 9,
        "seed": "text",
    }


@pytest.mark.parametrize("omitted", [key for key in BodyKey.__args__ if key != "stream"])  # type: ignore[attr-defined]
def test_every_key_that_is_sent_can_be_omitted(omitted: str) -> None:
    full = Sampling(top_p=0.9, stop=("END",))
    served = Served(base_url="", card=ModelCard(alias="small", id="small", target="t"), extra={"cache_prompt": False})
    bodies = [
        body_of(planned(Closed(), sampling=sampling), Planned(model=0, index=0, prompt=0), served)
        for sampling in (full, msgspec.structs.replace(full, omit=(omitted,)))
    ]
    assert {*bodies[0]} - {*bodies[1]} == {omitted}


def test_a_chat_outside_of_the_plan_changes_the_limit_under_any_of_its_names() -> None:
    sampling = Sampling(omit=("max_tokens",), extra={"n_predict": 99, "temperature": 1.5})
    body = body_of(
        planned(Closed(), sampling=sampling),
        Planned(model=0, index=0, prompt=0),
        changes={"max_tokens": 1, "temperature": 0.5, "seed": None},
    )
    assert (body["n_predict"], body["temperature"]) == (1, 0.5)
    assert not {"max_tokens", "seed"} & {*body}


# --- the digest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "golden"),
    [
        (
            Closed(concurrency=(1, 2), requests=4, think_time=ThinkTime(0.5)),
            "1b3d46d17a72ab025050a61ef2457e4a6ea818a0f93f8e26d20ea576f3f88103",
        ),
        (
            Constant((2.0, 3.0), requests=8, max_in_flight=4),
            "5c1babff03c8eb8e1125e75c53a42c98c2e71448bbc9f5d4e31fef329474784a",
        ),
        (Poisson((2.0,), requests=8), "2b84ad494ee783a7115eb0c8b30f575c132e156d4029a56cb02087c0d1f88074"),
    ],
)
def test_a_digest_is_the_same_on_every_machine_and_in_every_version(load: Load, golden: str) -> None:
    """A new value here means that runs from before cannot be compared with runs from now on: say so in the log."""
    assert digest(planned(load, models=TWO)) == golden


def change(**changes: object) -> Change:
    return lambda given_: msgspec.structs.replace(given_, **changes)


SAME: dict[str, Change] = {
    "nothing": change(),
    "where it is served": change(models=(Model(name="small", url="http://localhost:1/v1"),)),
    "its name": change(name="y"),
    "its description": change(description="other words"),
    "what is kept of the answers": change(keep_text=True),
}
OTHER: dict[str, Change] = {
    "seed": change(seed=2),
    "rate": change(load=Poisson((6.0,), requests=8)),
    "one more level": change(load=Poisson((5.0, 6.0), requests=8)),
    "mode": change(load=Gamma((5.0,), burstiness=1.0, requests=8)),
    "requests": change(load=Poisson((5.0,), requests=9)),
    "in-flight limit": change(load=Poisson((5.0,), requests=8, max_in_flight=8)),
    "max_tokens": change(sampling=Sampling(max_tokens=129)),
    "temperature": change(sampling=Sampling(temperature=0.1)),
    "extra": change(sampling=Sampling(extra={"min_p": 0.1})),
    "a key that is left out": change(sampling=Sampling(omit=("seed",))),
    "model name": change(models=(Model(name="large", target="llamacpp"),)),
    "one more model": change(models=TWO),
    "system message": change(system="Be brief."),
    "warm-up": change(warmup_requests=2),
}  # fmt: skip


def digest_of(change_: Change, prompts: tuple[Prompt, ...] = PROMPTS) -> str:
    base = scenario(Poisson((5.0,), requests=8), models=(TWO[0],))
    return digest(make_plan(change_(base), prompts))


@pytest.mark.parametrize("what", SAME)
def test_plans_that_send_the_same_have_one_digest(what: str) -> None:
    assert digest_of(SAME[what]) == digest_of(change())


def test_plans_that_differ_in_anything_that_is_sent_have_digests_of_their_own() -> None:
    found = {what: digest_of(changed) for what, changed in OTHER.items()}
    found["prompt text"] = digest_of(change(), (Prompt("a", "Say hello!"), *PROMPTS[1:]))
    found["prompt id"] = digest_of(change(), (Prompt("z", "Say hello."), *PROMPTS[1:]))
    found["prompt order"] = digest_of(change(), PROMPTS[::-1])
    found["as it was"] = digest_of(change())
    found["a text that moves from one prompt to the next"] = digest_of(change(), (Prompt("a", "Say"), Prompt("b", "x")))
    found["and back"] = digest_of(change(), (Prompt("a", "Say x"), Prompt("b", "")))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(("users", "models", "fewest"), [(1, 1, 6), (2, 1, 6), (4, 1, 8), (8, 1, 8), (4, 2, 12)])
def test_the_fewest_requests_are_whole_rounds_of_the_users(users: int, models: int, fewest: int) -> None:
    load = Closed(concurrency=(users,), duration_s=6.0, min_requests=6)
    (stage,) = planned(load, models=TWO[:models], order="interleaved").stages
    assert stage.min_count == fewest
    (bare,) = planned(Closed(concurrency=(users,), duration_s=6.0), models=TWO[:1]).stages
    assert bare.min_count == 0


def test_order_concurrency_think_time_ramp_in_and_ceiling_are_in_the_digest() -> None:
    loads = [
        Closed(concurrency=(2,), requests=4),
        Closed(concurrency=(3,), requests=4),
        Closed(concurrency=(2,), requests=4, think_time=ThinkTime(1.0)),
        Closed(concurrency=(2,), requests=4, ramp_in_s=3.0),
        Closed(concurrency=(2,), requests=4, max_requests_per_s=9),
        Closed(concurrency=(2,), requests=4, min_requests=3),
        Closed(concurrency=(2,), requests=4, duration_s=9.0),
        Closed(concurrency=(2,), duration_s=9.0),
    ]
    digests = {digest(planned(load, models=TWO)) for load in loads}
    digests |= {digest(planned(load, models=TWO, order="interleaved")) for load in loads}
    assert len(digests) == 2 * len(loads)
