"""A stage divided among workers: together they hold each request once, as it was planned, and nothing else."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.plan.plan import Level, Planned, Stage, part_size, parts

S = 1_000_000_000
law = settings(derandomize=True, deadline=None, max_examples=200)


def closed(users: int, count: int | None, **rest: object) -> Stage:
    blank = Stage(
        level=Level(f"c{users}", "closed", concurrency=users),
        models=(0,),
        warmup=1,
        prompts=3,
        count=count,
        duration_ns=None if count is not None else 10 * S,
        ramp_in_ns=np.arange(users, dtype=np.int64) * 7,
    )
    return replaced(blank, rest)


def opened(count: int, **rest: object) -> Stage:
    blank = Stage(
        level=Level("r1", "constant", rate_per_s=1.0),
        models=(0,),
        warmup=1,
        prompts=3,
        count=count,
        duration_ns=None,
        due_ns=np.arange(count, dtype=np.int64) * 11,
    )
    return replaced(blank, rest)


def replaced(stage: Stage, changes: dict[str, object]) -> Stage:
    return msgspec.structs.replace(stage, **changes)


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """Any stage: open or closed, of several models, with or without limits and think times."""
    models = tuple(range(draw(st.integers(1, 3))))
    rest: dict[str, object] = {"models": models, "warmup": draw(st.integers(0, 5)), "prompts": draw(st.integers(1, 4))}
    if draw(st.booleans()):
        limit = draw(st.none() | st.integers(1, 9))
        return opened(draw(st.integers(0, 40)), max_in_flight=limit, **rest)
    thinks = draw(st.none() | st.lists(st.integers(0, S), min_size=1, max_size=7))
    return closed(
        draw(st.integers(1, 12)),
        draw(st.none() | st.integers(0, 40)),
        max_requests_per_s=draw(st.none() | st.integers(1, 9)),
        min_count=draw(st.integers(0, 9)),
        think_ns=None if thinks is None else np.array(thinks, dtype=np.int64),
        **rest,
    )


def first(stage: Stage, count: int) -> list[Planned]:
    return [stage.request(position) for position in range(count)]


def by_place(requests: list[Planned]) -> list[Planned]:
    return sorted(requests, key=lambda request: (request.model, request.index))


@pytest.mark.slow
@law
@given(stages(), st.integers(1, 8))
def test_the_parts_together_are_exactly_the_whole(stage: Stage, workers: int) -> None:
    divided = parts(stage, workers)
    assert len(divided) <= workers
    if stage.count is not None:
        dealt = [request for part in divided for request in first(part, part.count or 0)]
        assert by_place(dealt) == by_place(first(stage, stage.count))
        assert sum(part.count or 0 for part in divided) == stage.count
    warm = [part.warmup_request(position) for part in divided for position in range(part.warmup_count)]
    assert by_place(warm) == by_place([stage.warmup_request(position) for position in range(stage.warmup_count)])
    assert sum(part.warmup_count for part in divided) == stage.warmup * len(stage.models)


@pytest.mark.slow
@law
@given(stages(), st.integers(1, 8))
def test_users_limits_and_beginnings_are_dealt_out_and_nobody_gets_none(stage: Stage, workers: int) -> None:
    divided = parts(stage, workers)
    assert sum(part.min_count for part in divided) == stage.min_count
    for name in ("users", "max_in_flight", "max_requests_per_s"):
        whole, shares = getattr(stage, name), [getattr(part, name) for part in divided]
        if whole is None:
            assert set(shares) == {None}
        else:
            assert sum(shares) == whole
            assert min(shares) >= 1
            assert max(shares) - min(shares) <= 1
    for name in ("due_ns", "ramp_in_ns"):
        whole, shares = getattr(stage, name), [getattr(part, name) for part in divided]
        assert whole is not None or set(map(type, shares)) == {type(None)}
        if whole is not None:
            assert sorted(np.concatenate(shares)) == list(whole)


@pytest.mark.slow
@law
@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 60))
def test_where_time_bounds_a_closed_loop_the_parts_go_on_for_ever_without_meeting(
    users: int, workers: int, rounds: int
) -> None:
    stage = closed(users, None)
    dealt = [r.index for part in parts(stage, workers) for r in first(part, rounds * (part.users or 0))]
    assert sorted(dealt) == list(range(rounds * users))


@pytest.mark.slow
@law
@given(st.integers(1, 12), st.integers(0, 60), st.integers(1, 8))
def test_in_a_closed_loop_a_part_has_work_as_it_has_users(users: int, count: int, workers: int) -> None:
    for part in parts(closed(users, count), workers):
        mine = part.users or 0
        assert mine * (count // users) <= (part.count or 0) <= mine * -(-count // users)


def test_with_fewer_users_than_workers_only_so_many_have_work() -> None:
    assert [part.users for part in parts(closed(3, 30), 8)] == [1, 1, 1]
    assert [part.count for part in parts(closed(8, 2), 4)] == [1, 1]
    assert len(parts(opened(0), 4)) == 1


@pytest.mark.parametrize(
    ("stage", "dealt"),
    [
        (opened(7), [[0, 2, 4, 6], [1, 3, 5]]),
        (closed(3, 7), [[0, 2, 3, 5, 6], [1, 4]]),  # users 0 and 2, and user 1
        (closed(4, 7), [[0, 2, 4, 6], [1, 3, 5]]),
    ],
)
def test_who_plays_what(stage: Stage, dealt: list[list[int]]) -> None:
    assert [[r.index for r in first(part, part.count or 0)] for part in parts(stage, 2)] == dealt


def test_one_worker_plays_the_stage_itself() -> None:
    stage = closed(3, 7)
    assert parts(stage, 1) == (stage,)
    assert [part_size(7, part, 3) for part in range(3)] == [3, 2, 2]


def test_a_part_is_not_divided_again() -> None:
    with pytest.raises(ValueError, match="part"):
        parts(parts(opened(7), 2)[0], 2)
