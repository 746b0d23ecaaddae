"""The answer: capacity.json from the records of visits."""

import msgspec
import pytest

from benchmarks.queues import Queue
from loadgen.decisions.capacity.answer import CapacityFile, ModelAnswer, answer_of, share_interval
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.visit_data import VisitData
from loadgen.record import MachineFacts, Record
from loadgen.scenario.objective import objective_of
from tests.capacity_visits import of_queue, played
from tests.records import MS, facts, record

SETTINGS = SearchSettings(objectives=(objective_of("ttft_p95=2500ms"), objective_of("ok=90%")))
QUEUE = Queue()


def answer(visits: list[VisitData], settings: SearchSettings = SETTINGS) -> ModelAnswer:
    return answer_of(visits, settings, "within", model="m", target="t")


@pytest.fixture(scope="module")
def visits() -> list[VisitData]:
    return of_queue(SETTINGS, QUEUE, [1, 2, 4, 5, 7, 8])


def test_levels_come_in_order_with_their_counts_and_what_is_shown(visits: list[VisitData]) -> None:
    result = answer(visits[::-1])
    assert [level.level for level in result.levels] == [1, 2, 4, 5, 7, 8]
    assert [level.visits for level in result.levels] == [("c1",), ("c2",), ("c4",), ("c5",), ("c7",), ("c8",)]
    assert [level.requests for level in result.levels] == [200] * 6
    assert (result.holds, result.fails) == (5, 7)
    assert result.capacity in {5, 6}
    assert [level.state for level in result.levels] == ["holds"] * 4 + ["fails"] * 2
    held = result.levels[3].objectives[0]
    assert held.met + held.missed == 200
    assert held.share == pytest.approx(held.met / 200)
    assert held.share_ci is not None
    assert 0.9 < held.share_ci[0] < held.met / 200 <= held.share_ci[1]
    assert held.log_holds > 3.6 > 0 > held.log_fails


def test_throughput_saturates_where_the_slots_are_full(visits: list[VisitData]) -> None:
    result = answer(visits)
    assert result.throughput.saturates_at == 4
    assert result.throughput.knee == pytest.approx(3.5, abs=0.6)
    assert result.throughput.usl is not None
    rates = [level.requests_per_s for level in result.levels]
    assert all(rate is not None and rate > 0 for rate in rates)
    assert result.limited_by == "queue"
    assert result.limit.served_at_once == 4
    assert result.limit.binding == "ttft_p95=2500ms"


def test_where_nothing_is_shown_neither_saturation_nor_knee_is_computed() -> None:
    result = answer(of_queue(SETTINGS, QUEUE, [1, 2, 4, 8], 10))
    assert (result.holds, result.fails) == (None, None)
    assert (result.throughput.saturates_at, result.throughput.knee) == (None, None)
    assert all(level.requests_per_s for level in result.levels)


def test_capacity_json_has_its_keys_and_reads_back(visits: list[VisitData]) -> None:
    model = answer(visits)
    file = CapacityFile(run_id="capacity-x", confidence=0.95, budget_s=480.0, spent_s=1.0, models=(model,))
    data = msgspec.json.decode(msgspec.json.encode(file))
    assert data["schema"] == "loadgen.capacity/1"
    assert data["resumed"] == []
    of_model = data["models"][0]
    for key in ("model", "target", "search", "think_s", "objectives", "capacity", "holds", "fails", "stopped"):
        assert key in of_model
    for key in ("limited_by", "limit", "levels", "throughput", "forecasts"):
        assert key in of_model
    assert of_model["objectives"][0] == {
        "objective": "ttft_p95=2500ms",
        "metric": "ttft",
        "limit_ms": 2500.0,
        "share": 0.95,
    }
    for key in ("level", "state", "visits", "requests", "seconds", "inflation", "requests_per_s"):
        assert key in of_model["levels"][0]
    for key in ("objective", "met", "missed", "share", "share_ci", "log_holds", "log_fails"):
        assert key in of_model["levels"][0]["objectives"][0]
    assert msgspec.json.decode(msgspec.json.encode(file), type=CapacityFile) == file


def test_a_search_of_which_nothing_was_played_has_an_answer() -> None:
    result = answer([])
    assert (result.capacity, result.holds, result.fails, result.limited_by) == (None, None, None, None)
    assert result.levels == ()
    assert result.throughput.saturates_at is None


def test_a_level_visited_twice_adds_up() -> None:
    first, second = (of_queue(SETTINGS, QUEUE, [level], 40)[0] for level in (5, 5))
    level = answer([first, second]).levels[0]
    assert level.requests == 80
    assert level.seconds == pytest.approx(2 * first.visit.seconds, abs=0.01)
    assert level.visits == ("c5", "c5")


def test_visits_of_which_the_client_was_the_limit_are_not_judged() -> None:
    records = [record for visit in of_queue(SETTINGS, QUEUE, [4]) for record in visit.stage.measured]
    ours = facts(level="c4", cpu_share=0.7, end_ns=10**12)
    limited = [played(SETTINGS, 4, records, seen=ours) for _ in range(2)]
    assert limited[0].visit.doubt == "client"
    result = answer([*of_queue(SETTINGS, QUEUE, [1, 2, 8]), *limited])
    assert [level.state for level in result.levels] == ["holds", "holds", "not_judged", "not_judged"]
    assert (result.holds, result.fails, result.limited_by) == (2, None, "client")
    assert result.limit.reason is not None
    assert result.limit.reason.endswith("because loadgen used 70% of a core")
    assert result.levels[2].doubts == ("client",)


def short_answers(*, late_ms: float = 3.0, once_ms: float = 0.0, gap_ms: float = 1.0) -> list[Record]:
    """Answers of one user, each late by so many ms, and one of them by so many more. The first token takes 5 ms."""
    records, free_ns = [], 0
    for index in range(100):
        sent_ns = free_ns + int((late_ms + (once_ms if index == 50 else 0.0)) * MS)
        stamps = tuple(sent_ns + int((5 + gap_ms * token) * MS) for token in range(3))
        moments = {"dispatched_ns": sent_ns, "sent_ns": sent_ns, "written_ns": sent_ns, "first_visible_ns": stamps[0]}
        ends = {"end_ns": stamps[-1], "last_byte_ns": stamps[-1], "stamps_ns": stamps}
        records.append(record(index=index, level="c1", intended_ns=free_ns, **moments, **ends))
        free_ns = stamps[-1]
    return records


@pytest.mark.parametrize(
    ("objectives", "answers", "doubt"),
    [
        (("ttft_p95=2s", "ok=99%"), {}, None),
        (("ttft_p95=2s", "tpot_p95=60ms"), {}, None),
        (("e2e_p95=350ms",), {}, None),
        (("e2e_p95=250ms",), {}, "client"),
        (("ttft_p95=20ms",), {}, "client"),
        (("ttft_p95=2s", "ttft_p99=20ms"), {}, "client"),
        (("ttft_p95=2s",), {"once_ms": 150.0}, None),
        (("ttft_p95=2s",), {"once_ms": 300.0}, "client"),
        (("tpot_p95=60ms",), {"gap_ms": 20.0}, None),
        (("tpot_p95=60ms",), {"gap_ms": 50.0, "late_ms": 10.0}, "client"),
        (("ok=99%",), {}, None),
    ],
)
def test_a_lag_that_is_short_beside_every_limit_is_no_doubt(
    objectives: tuple[str, ...], answers: dict[str, float], doubt: str | None
) -> None:
    settings = SearchSettings(objectives=tuple(map(objective_of, objectives)))
    assert played(settings, 1, short_answers(**answers)).visit.doubt == doubt


@pytest.mark.parametrize(
    ("slowdown", "host_slowdown", "doubt"),
    [(0.2, None, "busy_machine"), (0.2, 0.4, "busy_machine"), (0.01, 0.4, "busy_host")],
)
def test_a_visit_on_a_busy_machine_is_not_judged(slowdown: float, host_slowdown: float | None, doubt: str) -> None:
    records = [record for visit in of_queue(SETTINGS, QUEUE, [4]) for record in visit.stage.measured]
    machine = MachineFacts(cores=2, slowdown=slowdown, host_slowdown=host_slowdown, steal_share=host_slowdown)
    busy = played(SETTINGS, 4, records, seen=facts(level="c4", cpu_share=0.7, end_ns=10**12, machine=machine))
    assert busy.visit.doubt == doubt
    result = answer([*of_queue(SETTINGS, QUEUE, [1, 2]), busy])
    assert [level.state for level in result.levels] == ["holds", "holds", "not_judged"]


def test_shares_have_the_interval_of_clopper_and_pearson() -> None:
    assert share_interval(45, 5) == pytest.approx((0.7819, 0.9667), abs=1e-3)
    assert share_interval(20, 0)[1] == 1.0
    assert share_interval(0, 20)[0] == 0.0
