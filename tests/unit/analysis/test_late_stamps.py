"""What a late event loop does to stamps of user space, and the p99 of our lags: from facts, without a stage played."""

import msgspec
import numpy as np
import pytest

from loadgen.analysis import late_stamps
from loadgen.analysis.lag_percentiles import lag_p99
from loadgen.analysis.late_stamps import BOUNDS, lag_effect
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summary import Effect
from loadgen.record import LAG_PERCENTILES
from loadgen.report.section import SHOWN_PERCENTILES
from loadgen.stats.deconvolve import shares_of, without_error
from tests.records import MS, S, facts, record, run_of


def lagged(
    ttfts_ms: list[float], *, seconds: float = 10.0, stalls: tuple[tuple[int, int], ...] = (), **lags_ms: float
) -> StageData:
    """A closed loop with these TTFTs, whose event loop was so late: p50, p90, p99. stalls: (end, length), ms."""
    moments = [(1000 * index, 1000 * index + ttft, 1000 * index + ttft + 500) for index, ttft in enumerate(ttfts_ms)]
    records = [
        record(
            index=index,
            intended_ns=sent * MS,
            dispatched_ns=sent * MS,
            sent_ns=sent * MS,
            written_ns=sent * MS,
            stamps_ns=(round(first * MS), round(end * MS)),
            first_visible_ns=round(first * MS),
            end_ns=round(end * MS),
            last_byte_ns=round(end * MS),
        )
        for index, (sent, first, end) in enumerate(moments)
    ]
    lags = {"p50": 0.0, "p90": 0.0, "p99": 0.0} | lags_ms
    lags_ns = tuple(round(lags[name] * MS) for name in ("p50",) * 2 + ("p90",) * 4 + ("p99",) * 2)
    seen = facts(
        start_ns=0,
        end_ns=round(seconds * S),
        timer_slack_ns=1 * MS,
        loop_lags_ns=lags_ns,
        loop_stalls_ns=tuple((end * MS, length * MS) for end, length in stalls),
        loop_short_lags_ns=(0,) * len(LAG_PERCENTILES) if stalls else (),
    )
    (stage,) = stages_of(run_of(records, scenario={"load": {"mode": "closed"}}, seen=[seen]))
    return stage


TAILED = [100.0] * 394 + [130.0] * 6


def known(effect: Effect | None) -> Effect:
    assert effect is not None
    return effect


def test_a_loop_that_is_always_late_moves_the_median_and_not_that_of_gaps() -> None:
    assert lag_effect(lagged([100.0] * 400, p50=6.0, p90=6.0, p99=6.0)) == Effect(0.0526, "TTFT p99", 5.0)


def test_a_tail_that_the_loop_s_lateness_explains_is_not_the_server_s() -> None:
    assert lag_effect(lagged(TAILED, p99=31.0)) == Effect(0.3, "TTFT p99", 30.0)
    half = known(lag_effect(lagged(TAILED, p99=19.0)))
    assert half.number == "TTFT p99"
    assert half.by_ms == pytest.approx(18.0, abs=1e-3), "and the rest is"


def test_more_of_a_tail_than_the_loop_s_lateness_explains_is_the_server_s() -> None:
    fat = [100.0] * 370 + [130.0] * 30
    assert known(lag_effect(lagged(fat, p99=31.0))).share == pytest.approx(0.0, abs=1e-4)


def test_lateness_that_is_not_in_the_latencies_is_not_held_against_them() -> None:
    assert known(lag_effect(lagged([100.0] * 400, p99=31.0))).share == pytest.approx(0.0, abs=1e-4)


def test_the_timer_s_own_lateness_is_in_no_stamp() -> None:
    assert known(lag_effect(lagged(TAILED, p50=1.0, p90=1.0, p99=1.0))).share == pytest.approx(0.0, abs=1e-4)


def test_of_twelve_answers_the_two_slowest_are_held_against_lateness_that_hits_two_of_twelve() -> None:
    few = [100.0] * 10 + [130.0] * 2
    by_p90, by_p99 = known(lag_effect(lagged(few, p90=31.0, p99=31.0))), known(lag_effect(lagged(few, p99=31.0)))
    assert (by_p90.number[:4], by_p90.share > 0.03) == ("TTFT", True)
    assert by_p99.share == pytest.approx(0.0, abs=1e-4), "lateness that one answer in sixty has"


def test_lags_of_too_few_ticks_are_not_held_against_a_percentile() -> None:
    assert lag_effect(lagged(TAILED, p99=31.0, seconds=0.7)) is None
    assert lag_effect(lagged(TAILED, p99=31.0, seconds=0.72)) is not None


def test_a_stage_without_an_answer_has_no_number_that_is_off() -> None:
    assert lag_effect(msgspec.structs.replace(lagged([100.0] * 6), measured=())) is None


def test_a_stall_is_held_against_what_was_stamped_at_its_end_and_against_nothing_else() -> None:
    # The first tokens of all but one answer came at the end of a stall of 60 ms.
    hit = tuple((1000 * index + 100, 60) for index in range(11))
    effect = known(lag_effect(lagged([100.0] * 12, stalls=hit, seconds=12)))
    assert effect.number.startswith("TTFT")
    assert 0.2 < effect.share < 1.0, "up to 60 ms of 100, plus the tick before"
    missed = tuple((1000 * index + 300, 60) for index in range(11))
    assert known(lag_effect(lagged([100.0] * 12, stalls=missed, seconds=12))).share == pytest.approx(0.0, abs=1e-4)


def test_what_stalls_do_in_a_quarter_of_the_draws_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = lagged([100.0] * 12, stalls=tuple((1000 * index + 100, 60) for index in range(11)), seconds=12)
    of_a_quarter = known(lag_effect(stage))
    monkeypatch.setattr(late_stamps, "OFF_BY_STALLS", 0.5)
    of_half = known(lag_effect(stage))
    assert of_a_quarter.share > 1.02 * of_half.share
    assert of_a_quarter.by_ms > 1.02 * of_half.by_ms


def test_one_long_stall_of_a_long_stage_is_in_no_percentile() -> None:
    effect = known(lag_effect(lagged([100.0] * 400, stalls=((200_100, 5_000),), seconds=400)))
    assert effect.share == pytest.approx(0.0, abs=1e-4)


SHORT = (1 * MS,) * 6
LATE = (200 * MS,) * 2


def test_the_p99_of_a_lag_has_an_interval_from_its_floor_on() -> None:
    lags_ns = [round(p * 0.01 * MS) for p in LAG_PERCENTILES]
    assert lag_p99(lags_ns, 1 * MS, 367, ()).value is None
    p99 = lag_p99(lags_ns, 1 * MS, 4000, ())
    assert p99.low is not None
    assert p99.high is not None
    assert p99.low < 0.99 * MS < p99.high
    twelve = lag_p99(lags_ns, 1 * MS, 12, ())
    assert twelve.low is not None
    assert twelve.low < 1 * MS, "not the largest of twelve"
    assert lag_p99(lags_ns, 1 * MS, 0, ()).low is None


def test_what_one_stall_made_late_is_one_misfortune_and_what_many_made_late_is_as_many() -> None:
    one = lag_p99([*SHORT, *LATE], 2 * S, 3000, [2 * S])
    assert one.value is None
    assert one.low is not None
    assert one.low < 100 * MS
    many = lag_p99([*SHORT, *LATE], 300 * MS, 30_000, [250 * MS] * 60)
    assert many.value is not None
    assert many.low is not None
    assert many.low > 100 * MS


def test_an_error_that_was_added_is_taken_out_again() -> None:
    chance = np.random.default_rng(5)
    value, error = chance.normal(100, 10, 20_000), chance.exponential(8, 20_000)
    shares = shares_of(400)
    observed, errors = np.quantile(value + error, shares), np.quantile(error, shares_of(100))
    again = without_error(observed, errors)
    true = np.quantile(value, shares)
    inner = (shares > 0.02) & (shares < 0.98)
    assert np.abs(again - true)[inner].mean() < 1.5
    assert np.abs(observed - true)[inner].mean() > 7.5


def test_the_same_error_everywhere_is_taken_off_everywhere() -> None:
    assert without_error(np.full(12, 100.0), np.full(100, 5.0)) == pytest.approx(np.full(12, 95.0))


def test_a_bound_is_judged_of_each_percentile_that_reports_show() -> None:
    assert tuple(f"p{p:g}" for p in BOUNDS) == SHOWN_PERCENTILES
