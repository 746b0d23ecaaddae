"""The definitions, each on records made by hand."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Window
from loadgen.analysis.summary import METRICS
from loadgen.record import LatencyOrigin, Record, ServerTimings
from loadgen.scenario import Slo
from tests.records import MS, S, record, turn, unsent

law = settings(derandomize=True, deadline=None, max_examples=60)


def only(name: str, *, origin: LatencyOrigin = "sent", **changes: Any) -> list[int]:
    return [int(value) for value in metrics.of_requests([record(**changes)], origin=origin)[name]]


# --- one value a request ----------------------------------------------------------------------------------------------


def test_ttft_counts_from_the_sending_in_a_closed_loop_and_from_the_due_time_in_an_open_one() -> None:
    assert only("ttft", origin="sent") == [98 * MS]
    assert only("ttft", origin="intended") == [100 * MS]


def test_e2e_counts_from_where_ttft_does_to_the_orderly_end_and_not_to_the_last_byte() -> None:
    assert only("e2e", origin="sent") == [208 * MS]
    assert only("e2e", origin="intended") == [210 * MS]


@pytest.mark.parametrize("origin", ["sent", "intended"])
def test_service_ttft_counts_from_the_last_byte_written(origin: LatencyOrigin) -> None:
    assert only("service_ttft", origin=origin) == [90 * MS]


@pytest.mark.parametrize("origin", ["sent", "intended"])
def test_queue_is_what_lies_between_the_due_time_and_the_sending(origin: LatencyOrigin) -> None:
    assert only("queue", origin=origin) == [2 * MS]


def test_connect_is_there_only_where_a_connection_was_opened() -> None:
    assert only("connect", connect_ns=7 * MS) == [7 * MS]
    assert only("connect") == []


def test_the_first_visible_content_is_not_the_first_token_of_a_model_that_reasons() -> None:
    assert only("ttfc", first_visible_ns=290 * MS) == [188 * MS]
    assert only("ttfc", first_visible_ns=290 * MS, origin="intended") == [190 * MS]
    assert only("ttfc", first_visible_ns=None) == []
    assert only("ttft", first_visible_ns=290 * MS) == [98 * MS]


def test_a_request_that_got_nowhere_has_no_value_and_is_not_counted_as_zero() -> None:
    found = metrics.of_requests([unsent("connect_error")], origin="sent")
    assert {name: list(values) for name, values in found.items()} == {name: [] for name in {*METRICS, "ttfc"} - {"itl"}}


@pytest.mark.parametrize(
    ("stamps_ns", "tokens", "tpot_ns"),
    [
        ((10, 20, 30), 3, 10),
        ((10, 20, 30), 5, 5),  # several tokens in an event
        ((10, 20, 30), 2, 20),  # more events than tokens
        ((10, 13), 3, 2),  # 1.5, rounded to even
        ((10, 20), 1, None),
        ((10, 20), 0, None),
        ((10, 20), None, None),
        ((10,), 2, None),  # one event: no gap to divide
        ((), 2, None),
    ],
)
def test_tpot_leaves_the_first_token_out_and_is_unknown_below_two(
    stamps_ns: tuple[int, ...], tokens: int | None, tpot_ns: int | None
) -> None:
    assert metrics.tpot_ns(record(stamps_ns=stamps_ns, output_tokens=tokens)) == tpot_ns


# --- gaps -------------------------------------------------------------------------------------------------------------


def test_itl_is_every_gap_pooled_with_whose_it_is_and_none_between_requests() -> None:
    gaps = metrics.gaps_of(
        [record(stamps_ns=(10, 20, 50)), record(stamps_ns=(1000,)), record(stamps_ns=()), record(stamps_ns=(7, 7))]
    )
    assert gaps.values.tolist() == [10, 30, 0]
    assert gaps.owners.tolist() == [0, 0, 3]


def test_without_gaps_there_are_none() -> None:
    gaps = metrics.gaps_of([record(stamps_ns=(1,))])
    assert gaps.values.tolist() == gaps.owners.tolist() == []


def test_the_share_of_gaps_that_one_read_hides() -> None:
    assert metrics.shared_share([record(stamps_ns=(1, 1, 5), shared_reads=1), record(stamps_ns=(1, 2, 3))]) == 0.25
    assert metrics.shared_share([record(stamps_ns=(1,))]) is None


# --- steady window ----------------------------------------------------------------------------------------------------


def span(start_ms: int, end_ms: int | None, **changes: Any) -> Record:
    end_ns = None if end_ms is None else end_ms * MS
    moments = {"intended_ns": start_ms * MS, "dispatched_ns": start_ms * MS, "end_ns": end_ns, "last_byte_ns": end_ns}
    return record(**{**moments, **changes})


def test_in_a_closed_loop_the_window_runs_from_the_last_user_s_coming_to_the_first_one_s_leaving() -> None:
    records = [span(0, 100), span(50, 200), span(100, 300), span(200, 260)]
    assert metrics.steady_window(records, concurrency=2) == Window(50 * MS, 260 * MS)
    assert metrics.steady_window(records[::-1], concurrency=2) == Window(50 * MS, 260 * MS)


def test_a_quick_first_user_is_not_taken_for_the_others_who_are_still_to_come() -> None:
    # Users begin at 0 and 500 ms. The first has asked five times before the second comes.
    first = [span(start, start + 100) for start in range(0, 1000, 100)]
    second = [span(start, start + 100) for start in range(500, 1000, 100)]
    assert metrics.steady_window(first + second, concurrency=2, ramp_in_ns=500 * MS) == Window(500 * MS, 1000 * MS)
    assert metrics.steady_window(first[:5], concurrency=2, ramp_in_ns=500 * MS) is None


def test_a_window_is_as_long_as_one_user_works() -> None:
    assert metrics.steady_window([span(0, 100), span(100, 250)], concurrency=1) == Window(0, 250 * MS)
    assert metrics.steady_window([span(10, 100)], concurrency=1) == Window(10 * MS, 100 * MS)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [span(0, 100)],  # one of two users
        [span(0, 100), span(10, 100)],  # each asked once: no turn of the loop
        [span(0, 100), span(10, 100), span(200, None)],  # nobody ended after the last dispatch
        [unsent("cancelled"), unsent("cancelled"), unsent("cancelled")],
    ],
)
def test_where_two_users_were_never_in_force_there_is_no_window(records: list[Record]) -> None:
    assert metrics.steady_window(records, concurrency=2) is None


def test_a_request_that_failed_was_load_all_the_same() -> None:
    records = [span(0, 100), span(0, 100), span(100, 180, outcome="timeout"), span(100, 200)]
    assert metrics.steady_window(records, concurrency=2) == Window(0, 180 * MS)


def test_in_an_open_loop_the_window_runs_from_the_first_to_the_last_due_time() -> None:
    records = [span(100, 9_000), span(700, 750), span(300, None), unsent("shed", intended_ns=900 * MS)]
    assert metrics.steady_window(records, concurrency=None) == Window(100 * MS, 900 * MS)


def test_what_came_due_after_a_stop_is_outside_the_window() -> None:
    given_up = span(500, 510, outcome="cancelled")
    records = [span(100, 150), given_up, unsent("cancelled", intended_ns=60 * S)]
    assert metrics.steady_window(records, concurrency=None) == Window(100 * MS, 500 * MS)


@pytest.mark.parametrize("records", [[], [span(100, 200)], [span(100, 200), span(100, 300)]])
def test_a_single_moment_is_no_window(records: list[Record]) -> None:
    assert metrics.steady_window(records, concurrency=None) is None


def test_a_window_holds_both_its_ends() -> None:
    window = Window(10, 20)
    assert [window.holds(moment) for moment in (9, 10, 20, 21)] == [False, True, True, False]
    assert Window(0, 1_500 * MS).length_s == 1.5


# --- tokens, SLOs, fluidity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens_per_event", "output_tokens", "inside"),
    [
        ((1, 2, 4), 7, 6.0),  # the server says which event had how many
        (None, 3, 2.0),
        (None, 6, 4.0),  # two tokens an event
        (None, None, 2.0),  # an event is a token
        ((1, 2), 6, 4.0),  # of another length than the events: not to be believed
    ],
)
def test_tokens_inside_a_window(
    tokens_per_event: tuple[int, ...] | None, output_tokens: int | None, inside: float
) -> None:
    told = record(tokens_per_event=tokens_per_event, output_tokens=output_tokens)
    assert metrics.tokens_inside([told, unsent("shed")], Window(250 * MS, 300 * MS)) == inside


@law
@given(st.lists(st.integers(0, 100), max_size=20).map(sorted), st.integers(0, 40), st.integers(0, 100))
def test_tokens_of_windows_side_by_side_add_up(stamps: list[int], tokens: int, cut: int) -> None:
    told = [record(stamps_ns=tuple(stamps), output_tokens=tokens)]
    parts = metrics.tokens_inside(told, Window(0, cut)) + metrics.tokens_inside(told, Window(cut + 1, 100))
    assert math.isclose(parts, metrics.tokens_inside(told, Window(0, 100)), abs_tol=1e-9)


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft_ms=98.0), True),  # at the line
        (Slo(ttft_ms=97.9), False),
        (Slo(tpot_ms=50.0), True),
        (Slo(tpot_ms=49.9), False),
        (Slo(e2e_ms=208.0), True),
        (Slo(e2e_ms=207.9), False),
        (Slo(ttft_ms=98.0, tpot_ms=49.9), False),  # every one of them
    ],
)
def test_a_request_is_good_when_it_met_every_slo(slo: Slo, met: bool) -> None:
    assert metrics.meets(record(), slo, origin="sent") is met


def test_in_an_open_loop_a_late_sending_is_the_user_s_wait_too() -> None:
    assert metrics.meets(record(), Slo(ttft_ms=98.0), origin="sent")
    assert not metrics.meets(record(), Slo(ttft_ms=98.0), origin="intended")


def test_what_was_not_answered_met_nothing_and_one_token_has_no_tpot_to_miss() -> None:
    assert not metrics.meets(record(outcome="truncated"), Slo(ttft_ms=1e9), origin="sent")
    assert not metrics.meets(unsent("shed"), Slo(), origin="intended")
    assert metrics.meets(record(stamps_ns=(200 * MS,), output_tokens=1), Slo(tpot_ms=0.001), origin="sent")


def test_fluidity_is_the_share_of_tokens_by_their_deadlines() -> None:
    # From 102 ms on, deadlines at 200, 245 and 290 ms; tokens at 200, 250 and 300.
    assert metrics.fluidity([record()], Slo(ttft_ms=98.0, tpot_ms=45.0), origin="sent") == [pytest.approx(1 / 3)]
    assert metrics.fluidity([record()], Slo(ttft_ms=98.0, tpot_ms=50.0), origin="sent") == [1.0]
    # From the due time on, 2 ms earlier.
    assert metrics.fluidity([record()], Slo(ttft_ms=98.0, tpot_ms=50.0), origin="intended") == [0.0]


@pytest.mark.parametrize("slo", [Slo(), Slo(ttft_ms=1.0), Slo(tpot_ms=1.0)])
def test_fluidity_takes_both_slos(slo: Slo) -> None:
    assert metrics.fluidity([record()], slo, origin="sent") == []


def test_fluidity_takes_tokens() -> None:
    slo = Slo(ttft_ms=1.0, tpot_ms=1.0)
    assert metrics.fluidity([record(stamps_ns=())], slo, origin="sent") == []
    assert metrics.fluidity([unsent("shed")], slo, origin="sent") == []


# --- load -------------------------------------------------------------------------------------------------------------


def test_in_flight_by_the_records_is_the_time_that_requests_took_of_the_window() -> None:
    records = [span(0, 100), span(50, 150), span(900, 1200), span(100, None), unsent("shed")]
    assert metrics.in_flight_recorded(records, Window(0, 1000 * MS)) == pytest.approx(0.3)
    assert metrics.in_flight_recorded(records, Window(75 * MS, 100 * MS)) == pytest.approx(2.0)
    assert metrics.in_flight_recorded(records, Window(300 * MS, 400 * MS)) == 0.0


def test_a_request_is_in_flight_until_its_last_byte() -> None:
    assert metrics.in_flight_recorded([span(0, 100, last_byte_ns=250 * MS)], Window(0, 1000 * MS)) == pytest.approx(
        0.25
    )


def test_a_slip_is_our_lateness_and_not_the_wait_at_the_plan_s_limit() -> None:
    late = record(intended_ns=0, dispatched_ns=5 * MS)
    held = record(intended_ns=0, dispatched_ns=905 * MS, held_ns=902 * MS)
    assert metrics.slips([late, held, unsent("shed")]).tolist() == [3 * MS, 5 * MS]


def test_in_an_open_loop_latencies_from_the_send_stand_beside_those_from_the_intended_time() -> None:
    held = [record(intended_ns=0, sent_ns=150 * MS)]
    found = metrics.of_requests(held, origin="intended")
    assert (found["ttft"].tolist(), found["ttft_from_send"].tolist()) == ([200 * MS], [50 * MS])
    assert (found["e2e"].tolist(), found["e2e_from_send"].tolist()) == ([310 * MS], [160 * MS])
    assert not set(metrics.FROM_SEND) & set(metrics.of_requests(held, origin="sent"))


def test_a_schedule_that_was_kept_was_achieved_and_so_was_one_that_was_late_throughout() -> None:
    kept = [span(due, due + 10) for due in (0, 100, 200)]
    late = [record(intended_ns=due * MS, dispatched_ns=(due + 50) * MS) for due in (0, 100, 200)]
    assert metrics.achieved_share(kept) == metrics.achieved_share(late) == 1.0


def test_falling_behind_is_a_rate_that_was_not_achieved() -> None:
    behind = [record(intended_ns=due * MS, dispatched_ns=2 * due * MS) for due in (0, 100, 200)]
    assert metrics.achieved_share(behind[::-1]) == 0.5


@pytest.mark.parametrize("records", [[], [span(0, 1)], [span(0, 1), unsent("shed", intended_ns=S)]])
def test_of_less_than_two_requests_no_rate_is_known(records: list[Record]) -> None:
    assert metrics.achieved_share(records) is None


def test_the_server_s_rates_stand_beside_ours_as_sums_over_sums() -> None:
    quick = record(timings=ServerTimings(prompt_n=90, prompt_ms=90.0, predicted_n=3, predicted_ms=100.0))
    slow = turn(1, timings=ServerTimings(prompt_n=10, prompt_ms=10.0, predicted_n=3, predicted_ms=200.0))
    rates = metrics.server_rates([quick, slow, record()])
    assert rates is not None
    assert msgspec.structs.asdict(rates) == pytest.approx(
        {
            "server_prefill_tokens_per_s": 1000.0,  # 100 tokens in 100 ms
            "client_prefill_tokens_per_s": 100 / 0.180,  # twice 90 ms from the last byte written to the first token
            "server_decode_tokens_per_s": 20.0,  # 6 tokens in 300 ms
            "client_decode_tokens_per_s": 20.0,  # twice 2 gaps in 100 ms
        }
    )


@pytest.mark.parametrize(
    "timings",
    [None, ServerTimings(0, 0.0, 3, 100.0), ServerTimings(10, 10.0, 0, 0.0)],
)
def test_without_timings_there_are_no_server_s_rates(timings: ServerTimings | None) -> None:
    assert metrics.server_rates([record(timings=timings)]) is None
    assert metrics.server_rates([]) is None
