"""The answer of a search in words: every case that there is has its own."""

from typing import Any, get_args

import msgspec
import pytest

from loadgen.decisions.capacity.answer import CapacityFile, LevelAnswer, LevelState, ModelAnswer, ObjectiveAnswer
from loadgen.decisions.capacity.document import levels_table, models_table
from loadgen.decisions.capacity.forecast import FleetAnswer, ForecastAnswer
from loadgen.decisions.capacity.limit import LimitedBy, LimitFigures
from loadgen.decisions.capacity.search import StopReason
from loadgen.decisions.capacity.throughput import ThroughputAnswer
from loadgen.decisions.capacity.visit import Doubt
from loadgen.decisions.capacity.words import (
    answer_line,
    forecast_line,
    format_level,
    limit_line,
    lines_of_model,
    remarks_of,
    stopped_words,
    throughput_line,
)
from loadgen.report.format import format_time

HOST = "the host of this virtual machine"


def level(users: float, state: LevelState = "undecided", **changes: Any) -> LevelAnswer:
    met = ObjectiveAnswer("ttft_p95=2s", 54, 4, 0.931034, (0.83, 0.98), -1.0, 0.5)
    made = LevelAnswer(users, state, (f"c{users:g}",), 58, 90.0, 1.0, 1.5, 60.0, (met,))
    return msgspec.structs.replace(made, **changes)


def answer(**changes: Any) -> ModelAnswer:
    keys: dict[str, Any] = {
        "model": "m",
        "target": "t",
        "search": "users",
        "think_s": 0.0,
        "objectives": (),
        "capacity": 5.0,
        "holds": 5.0,
        "fails": 7.0,
        "stopped": "within",
        "limited_by": "queue",
        "limit": LimitFigures(served_at_once=4, binding="ttft_p95=2s"),
        "levels": (level(5.0, "holds"), level(6.0), level(7.0, "fails")),
        "throughput": ThroughputAnswer(4.0, 3.9),
        "spent_s": 250.1,
        **changes,
    }
    return ModelAnswer(**keys)


def test_the_first_two_lines_are_those_of_the_page() -> None:
    assert answer_line(answer(), 0.95) == (
        "5 users: 95 % sure that 5 hold and that 7 do not (6: undecided, 93.1 % of 58 requests within ttft_p95 = 2 s)"
    )
    assert limit_line(answer(limit=LimitFigures(served_at_once=4)), 600.0) == (
        "limited by the queue: 4 streams are served at once. Stopped: within 2 users, after 4 min 10 s"
    )
    assert throughput_line(answer()) == (
        "throughput: up to 1.5 requests/s and 60 output tokens/s; 95 % of it from 4 users on; knee at 3.9 users"
    )


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        ((5.0, 5.0, None), "at least 5 users: 95 % sure that 5 hold"),
        ((None, None, 7.0), "fewer than 7 users: 95 % sure that 7 do not hold"),
        ((None, None, None), "not known: no level was played to the end of a visit"),
        ((1.0, 1.0, 2.0), "1 user: 95 % sure that 1 holds and that 2 do not"),
    ],
)
def test_what_is_not_shown_is_not_said(ends: tuple[float | None, ...], line: str) -> None:
    capacity, holds, fails = ends
    assert answer_line(answer(capacity=capacity, holds=holds, fails=fails, levels=()), 0.95) == line


def test_where_nothing_could_be_judged_it_is_said_why() -> None:
    levels = (level(1.0, "not_judged", doubts=("busy_machine",)), level(2.0, "not_judged", doubts=("client",)))
    assert answer_line(answer(capacity=None, holds=None, fails=None, levels=levels), 0.95) == (
        "not known: no visit could be judged, because other programs were in the way and loadgen itself was in the way"
    )


def test_where_nothing_is_shown_every_level_that_was_played_is_named() -> None:
    bare = level(8.0, objectives=(), requests=0)
    levels = (level(1.0), level(2.0, requests=20), level(4.0, "not_judged", doubts=("client",), objectives=()), bare)
    assert answer_line(answer(capacity=None, holds=None, fails=None, levels=levels), 0.95) == (
        "not known: none of the levels played is decided yet (1: 93.1 % of 58 requests within ttft_p95 = 2 s; "
        "2: 93.1 % of 20 requests within ttft_p95 = 2 s; 4: not judged; 8: no request counts)"
    )


@pytest.mark.parametrize("end", [{"stopped": "nothing_closer"}, {"stopped": "budget"}])
def test_a_search_of_rates_without_a_claim_says_how_two_hundred_requests_fit(end: dict[str, Any]) -> None:
    slow = answer(search="rate", holds=None, fails=None, levels=(level(1.0, requests=16),), **end)
    claim = "a claim takes 200 requests: use "
    from_rate = "--from 4.5, so that they fit, or a longer --budget, such as 7m"
    assert stopped_words(slow, 90.0).endswith(f"; {claim}{from_rate}")
    fast = msgspec.structs.replace(slow, levels=(level(1.0, requests=16), level(8.0, requests=40)))
    assert stopped_words(fast, 90.0).endswith(f"; {claim}a longer --budget, such as 7m"), "a faster rate was played"
    long = msgspec.structs.replace(slow, levels=(level(1.0, requests=200),))
    assert "a claim takes" not in stopped_words(long, 600.0)
    shown = msgspec.structs.replace(slow, holds=1.0)
    assert "a claim takes" not in stopped_words(shown, 90.0)
    assert "a claim takes" not in stopped_words(msgspec.structs.replace(slow, search="users"), 90.0)


def test_the_table_explains_its_inflation() -> None:
    table = levels_table(answer())
    assert "inflation" in [column.title for column in table.columns]
    assert table.remarks[0] == "inflation: how many neighboring requests count as one independent request"
    assert not levels_table(answer(levels=())).remarks, "no table, no legend"


def test_of_many_undecided_levels_the_two_nearest_to_the_capacity_are_named() -> None:
    levels = tuple(level(users) for users in (6.0, 7.0, 8.0, 9.0))
    line = answer_line(answer(capacity=7.0, fails=10.0, levels=levels), 0.95)
    assert line.startswith("7 users: ")
    assert line.count("undecided") == 2
    assert "(6: undecided" in line
    assert "; 7: undecided" in line


@pytest.mark.parametrize("reason", get_args(StopReason))
def test_every_end_has_words(reason: StopReason) -> None:
    assert stopped_words(answer(stopped=reason), 600.0).startswith("Stopped: ")


@pytest.mark.parametrize(
    ("doubts", "who", "remedy"),
    [
        (("busy_machine",), "other programs", "close the other programs, and search again"),
        (("busy_host",), HOST, "search again later, or on a machine of your own"),
        (
            ("busy_machine", "busy_host"),
            f"other programs and {HOST}",
            "close the other programs, and search again later, or on a machine of your own",
        ),
    ],
)
def test_who_kept_the_machine_busy_is_named_with_what_helps(doubts: tuple[Doubt, ...], who: str, remedy: str) -> None:
    busy = answer(stopped="busy_machine", holds=None, fails=None, levels=(level(1.0, "not_judged", doubts=doubts),))
    assert stopped_words(busy, 600.0) == (
        f"Stopped: {who} kept this machine too busy to judge a visit, after 4 min 10 s; {remedy} "
        "(--resume continues this search)"
    )
    spent = msgspec.structs.replace(busy, stopped="budget")
    assert stopped_words(spent, 600.0) == f"Stopped: the budget is spent, after 4 min 10 s; {remedy}"
    assert ("other programs" in answer_line(busy, 0.95)) == ("busy_machine" in doubts)
    assert (HOST in answer_line(busy, 0.95)) == ("busy_host" in doubts)


def test_more_time_is_advised_only_where_it_would_show_more() -> None:
    busy, judged = level(1.0, "not_judged", doubts=("busy_machine",)), level(2.0, doubts=("busy_machine",))
    ends = [stopped_words(answer(stopped="budget", levels=levels), 600.0) for levels in ((busy,), (busy, judged), ())]
    assert [end.partition("; ")[2] for end in ends] == [
        "close the other programs, and search again",
        "more time (--resume) would show more",
        "more time (--resume) would show more",
    ]


@pytest.mark.parametrize("limit", get_args(LimitedBy))
def test_every_limit_has_words(limit: LimitedBy) -> None:
    figures = LimitFigures(outcome="http_error", status=503, share=0.9, detail="full", reason="why")
    assert limit_line(answer(limited_by=limit, limit=figures), 600.0).startswith("limited by ")


@pytest.mark.parametrize("limit", get_args(LimitedBy))
def test_a_limit_is_only_probable_while_no_level_is_shown_not_to_hold(limit: LimitedBy) -> None:
    asked = answer(limited_by=limit, limit=LimitFigures(outcome="http_error", status=503, share=0.9), fails=None)
    is_observed = limit in {"client", "memory"}
    assert limit_line(asked, 480.0).startswith("limited by " if is_observed else "probably limited by ")
    capacity = CapacityFile(run_id="r", confidence=0.95, budget_s=1.0, spent_s=1.0, models=(asked,))
    (row,) = models_table(capacity).rows
    assert (limit if is_observed else f"probably {limit}") in row.cells


@pytest.mark.parametrize("doubt", get_args(Doubt))
def test_every_doubt_has_words(doubt: Doubt) -> None:
    levels = (level(5.0, "not_judged", doubts=(doubt,)),)
    assert any(note.startswith("5 users: not judged: ") for note in remarks_of(answer(levels=levels)))


@pytest.mark.parametrize("state", get_args(LevelState))
def test_every_state_has_its_cell(state: LevelState) -> None:
    (row,) = levels_table(answer(levels=(level(5.0, state, objectives=()),))).rows
    assert row.cells[-1]


def test_a_level_that_is_shown_above_one_that_is_not_is_named() -> None:
    (note,) = [each for each in remarks_of(answer(not_monotone=(9.0,))) if each.startswith("not monotone")]
    assert note == "not monotone: shown to hold above 7, which is shown not to: 9; the lower claim counts"


def test_how_rare_a_stall_may_be_is_said() -> None:
    assert "once in 30 s may not have been seen" in remarks_of(answer())[0]


def test_a_forecast_says_from_what_or_why_there_is_none() -> None:
    fleet = FleetAnswer(200, 6, 5, 8)
    assert forecast_line(ForecastAnswer(30.0, 41, (38, 43), None, fleet)) == (
        "forecast for users who think 30 s: 41 users a device (95 % interval 38 to 43); devices for 200 users: "
        "6 for sure, 5 at best, 8 with random routing"
    )
    unknown = FleetAnswer(200, None, None, None)
    assert forecast_line(ForecastAnswer(30.0, None, None, "play up to 12", unknown)) == (
        "forecast for users who think 30 s: play up to 12; devices for 200 users: not known"
    )
    assert forecast_line(ForecastAnswer(0.0, 6, (5, None))) == (
        "forecast for users who do not think: 6 users a device (95 % interval from 5 on)"
    )
    assert forecast_line(ForecastAnswer(30.0, None, None, "play up to 12")) == (
        "forecast for users who think 30 s: play up to 12"
    )


def test_what_is_said_of_users_as_they_were_played_has_the_confidence_of_the_search() -> None:
    forecasts = (ForecastAnswer(0.0, 6, (5, 7)), ForecastAnswer(30.0, 41, (38, 43)))
    played, thinking = lines_of_model(answer(forecasts=forecasts), 0.8, 600.0)[-2:]
    assert "(80 % interval 5 to 7)" in played
    assert "(95 % interval 38 to 43)" in thinking


def test_the_time_of_a_resumed_search_is_its_own_and_that_of_all_is_beside_it() -> None:
    assert stopped_words(answer(earlier_s=190.1), 600.0) == (
        "Stopped: within 2 users, after 1 min (4 min 10 s with the earlier searches)"
    )


def test_levels_and_times_as_people_say_them() -> None:
    assert [format_level(users, "users") for users in (1.0, 12.0)] == ["1 user", "12 users"]
    assert [format_level(rate, "rate") for rate in (1.0, 1.25)] == ["1 request per second", "1.25 requests per second"]
    assert [format_time(s) for s in (42.0, 60.0, 250.1, 4800.0)] == ["42 s", "1 min", "4 min 10 s", "1 h 20 min"]


def test_a_model_that_was_skipped_lost_no_server() -> None:
    skipped = answer(
        stopped="target_lost", levels=(), holds=None, fails=None, capacity=None, limited_by=None, spent_s=0.0
    )
    assert limit_line(skipped, 600.0) == "Stopped: the model could not be served, so nothing was played"
    lost = answer(stopped="target_lost")
    assert limit_line(lost, 600.0).endswith(
        "Stopped: the server was lost, after 4 min 10 s; --resume continues the search"
    )
