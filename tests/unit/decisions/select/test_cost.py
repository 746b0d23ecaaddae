"""The cost of a request: by hand, from one source of power, and unknown rather than guessed."""

from pathlib import Path

import msgspec
import pytest

from loadgen.analysis.summary import Requests, StageSummary, Throughput, Tokens
from loadgen.decisions.candidates.power import Power, measured_powers
from loadgen.decisions.select.cost import Cost, cost_of, not_comparable
from loadgen.plan.plan import StageLoad
from loadgen.record import StageFacts, StageKey
from loadgen.scenario.cost import CostSettings, cost_mismatch
from loadgen.store.run_folder import Run, read


def stage(rate: float | None = 0.5, output: int = 800, ok: int = 10) -> StageSummary:
    return StageSummary(
        model="m",
        target="t",
        load=StageLoad("closed", concurrency=1),
        level="c1",
        requests=Requests(planned=12, ok=ok, failed=12 - ok, by_outcome={}),
        tokens=Tokens(None, output, "usage"),
        throughput=Throughput(40.0, rate, 50.0, None, e2e_tokens_per_s=20.0),
    )


ENERGY = CostSettings(watts=15.0, price_per_kwh=0.30)


def test_the_energy_and_the_cost_of_a_request_are_those_by_hand() -> None:
    cost = cost_of([stage()], [None], ENERGY)
    assert cost.source == "given"
    assert cost.joules_per_request == pytest.approx(15 / 0.5)
    assert cost.joules_per_token == pytest.approx(30 / 80)
    assert cost.per_1000 == pytest.approx(1000 * 30 / 3.6e6 * 0.30)
    assert cost.unknown is None


def test_the_device_is_paid_by_the_time_in_which_it_answers() -> None:
    settings = CostSettings(
        watts=15.0, price_per_kwh=0.0, device_price=600.0, lifetime_years=4.0, utilization=0.1, currency="EUR"
    )
    cost = cost_of([stage()], [None], settings)
    assert cost.per_1000 == pytest.approx(1000 * 2 * 600 / (4 * 365.25 * 86400 * 0.1))
    assert cost.currency == "EUR"


def test_a_measured_power_counts_before_a_given_one() -> None:
    cost = cost_of([stage()], [Power("rapl-package", 20.0, 8.0)], ENERGY)
    assert cost.source == "rapl-package"
    assert cost.joules_per_request == pytest.approx(40.0)
    assert cost.joules_per_request_beyond_idle == pytest.approx(16.0)
    assert cost.joules_per_token_beyond_idle == pytest.approx(0.2)


def test_twice_as_fast_at_the_same_power_costs_half_and_by_the_formula_of_the_workshop_twice() -> None:
    settings = CostSettings(watts=15.0, price_per_kwh=0.30, energy_factor=1.0)
    rates = Throughput(80.0, 1.0, 100.0, None, e2e_tokens_per_s=40.0)
    slow, fast = stage(0.5), msgspec.structs.replace(stage(), throughput=rates)
    costs = [cost_of([each], [None], settings) for each in (slow, fast)]
    assert costs[0].per_1000 == pytest.approx(2 * (costs[1].per_1000 or 0))
    assert costs[0].workshop_cost == pytest.approx(20 * 80)
    assert costs[1].workshop_cost == pytest.approx(2 * (costs[0].workshop_cost or 0))


def test_without_a_factor_the_formula_of_the_workshop_is_left_out() -> None:
    assert cost_of([stage()], [None], ENERGY).workshop_cost is None


@pytest.mark.parametrize(
    ("measured", "settings", "why"),
    [
        (stage(), CostSettings(price_per_kwh=0.3), "no power was measured; give watts, e.g. --cost watts=15"),
        (stage(), CostSettings(watts=15.0), "no price of energy; give it, e.g. --cost price_per_kwh=0.30"),
        (stage(None), ENERGY, "its stage has no steady window, so no rate of requests"),
        (stage(0.0), ENERGY, "its stage has no steady window, so no rate of requests"),
    ],
)
def test_a_cost_of_which_a_part_is_missing_is_unknown_and_says_why(
    measured: StageSummary, settings: CostSettings, why: str
) -> None:
    cost = cost_of([measured], [None], settings)
    assert (cost.per_1000, cost.unknown) == (None, why)


def test_energy_needs_no_price() -> None:
    assert cost_of([stage()], [None], CostSettings(watts=15.0)).joules_per_request == pytest.approx(30.0)


def test_answers_without_tokens_have_no_joules_a_token() -> None:
    for silent in (stage(output=0), stage(ok=0)):
        assert cost_of([silent], [None], ENERGY).joules_per_token is None


def test_runs_are_averaged_and_a_run_that_does_not_know_is_left_out() -> None:
    cost = cost_of([stage(0.5), stage(0.25), stage(None)], [None, None, None], ENERGY)
    assert cost.joules_per_request == pytest.approx((30 + 60) / 2)
    assert cost_of([], [], ENERGY).unknown == "it has no valid stage"


def test_sources_of_energy_are_never_mixed() -> None:
    mixed = cost_of([stage(), stage()], [Power("nvml", 20.0), None], ENERGY)
    assert mixed.joules_per_request is None
    assert mixed.unknown is not None and "different sources (given, nvml)" in mixed.unknown


def test_costs_of_candidates_compare_only_from_one_source() -> None:
    given, measured = cost_of([stage()], [None], ENERGY), cost_of([stage()], [Power("nvml", 20.0)], ENERGY)
    assert not_comparable({"a": given, "b": given}) is None
    assert (
        not_comparable({"b": measured, "a": given})
        == "energy from different sources is not compared (given for a, nvml for b)"
    )
    assert not_comparable({"b": Cost(unknown="no watts"), "a": Cost(unknown="no watts"), "c": given}) == (
        "unknown for a, b: no watts"
    )


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (CostSettings(device_price=600.0), "device_price"),
        (CostSettings(device_price=600.0, lifetime_years=4.0), "device_price"),
        (CostSettings(lifetime_years=4.0), "lifetime_years"),
        (CostSettings(utilization=0.1), "utilization"),
    ],
)
def test_the_price_of_a_device_needs_its_life_and_its_use(settings: CostSettings, key: str) -> None:
    wrong = cost_mismatch(settings)
    assert wrong is not None and wrong[0] == key


def test_settings_that_go_together_have_no_mismatch() -> None:
    assert cost_mismatch(CostSettings()) is None
    assert cost_mismatch(CostSettings(device_price=600.0, lifetime_years=4.0, utilization=1.0)) is None


# Measured energy, as a summary has it

RUNS = Path(__file__).parents[3] / "data" / "runs"


def run_with(tmp_path: Path, summary: str) -> Run:
    run = read(RUNS / "closed")
    (tmp_path / "summary.json").write_text(summary)
    facts = StageFacts(
        models=("m",), targets=("t",), level="c1", start_ns=5, end_ns=10_000_000_005, complete=True, cpu_share=0.1
    )
    return Run(tmp_path, run.manifest, (), (facts,))


def test_the_power_is_the_energy_by_the_time_of_the_measured_part(tmp_path: Path) -> None:
    energy = '{"source": "rapl-package", "joules": 150.0, "joules_beyond_idle": 50.0, "idle_watts": 10}'
    run = run_with(tmp_path, f'{{"stages": [{{"model": "m", "target": "t", "level": "c1", "energy": {energy}}}]}}')
    assert measured_powers(run) == {StageKey("t", "m", "c1"): Power("rapl-package", 15.0, 5.0)}


@pytest.mark.parametrize(
    "energy",
    [
        "null",
        '{"source": null, "reason": "no meter"}',
        '{"source": "nvml", "joules": 0}',
        '{"source": "nvml", "joules": -1}',
    ],
)
def test_what_measured_no_energy_has_no_power(tmp_path: Path, energy: str) -> None:
    run = run_with(tmp_path, f'{{"stages": [{{"model": "m", "target": "t", "level": "c1", "energy": {energy}}}]}}')
    assert measured_powers(run) == {}


def test_a_run_without_a_summary_has_no_measured_energy(tmp_path: Path) -> None:
    assert measured_powers(run_with(tmp_path, "{")) == {}
    (tmp_path / "summary.json").unlink()
    assert measured_powers(Run(tmp_path, read(RUNS / "closed").manifest, (), ())) == {}
    assert measured_powers(read(RUNS / "closed")) == {}
