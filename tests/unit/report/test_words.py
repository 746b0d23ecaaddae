"""Numbers as people read them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.analysis.metric_flags import COUNTED
from loadgen.analysis.stage import LATENCIES
from loadgen.analysis.summary import Metric, Percentile
from loadgen.plan.plan import StageLoad
from loadgen.report.format import (
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_load,
    format_minutes,
    format_number,
    format_percent,
    format_percentile,
    format_signed,
)
from loadgen.report.metric_names import metric_title


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0001, "0.0001 ms"),
        (0.042, "0.042 ms"),
        (8.4, "8.4 ms"),
        (99.94, "99.9 ms"),
        (99.96, "100 ms"),
        (177.3, "177 ms"),
        (999.0, "999 ms"),
        (1000.0, "1 s"),
        (1620.4, "1.62 s"),
        (62_000.0, "62 s"),
        (123_456.0, "123 s"),
        (3_600_000.0, "3600 s"),
        (-8.4, "-8.4 ms"),
    ],
)
def test_a_duration_has_three_significant_digits(ms: float | None, told: str) -> None:
    assert format_duration(ms) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.38, "0.38"),
        (47.91, "47.9"),
        (99.96, "100"),
        (1234.5, "1234"),
        (1_234_567.0, "1234567"),
        (0.00001234, "0.0000123"),
        (1e-7, "0.0000001"),
        (-3.14159, "-3.14"),
    ],
)
def test_a_number_has_three_significant_digits_and_no_exponent(value: float | None, told: str) -> None:
    assert format_number(value) == told


@given(st.floats(-1e12, 1e12))
def test_a_number_can_be_read_back_to_three_digits(value: float) -> None:
    told = format_number(value)
    assert "e" not in told and not told.endswith(".")
    assert float(told) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "–"), (0.0, "0 %"), (0.08, "8 %"), (0.9876, "98.8 %"), (1.0, "100 %"), (1.5, "150 %"), (19.14, "1914 %")],
)
def test_a_share_is_percent(value: float | None, told: str) -> None:
    assert format_percent(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.04, "0"), (9.84, "+9.8"), (-2.1, "−2.1"), (277.4, "+277"), (1914.0, "+1914"), (-1e6, "−1000000")],
)
def test_a_change_has_its_sign_and_no_exponent(value: float, told: str) -> None:
    assert format_signed(value) == told


def known(**percentiles: Percentile) -> Metric:
    return Metric(count=400, percentiles=percentiles)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (known(p99=Percentile(1620.0)), "1.62 s"),
        (known(p99=Percentile(0.0)), "0 ms"),
        (known(p99=Percentile(None, 1620.0)), "≥ 1.62 s"),
        (known(p99=Percentile(None)), "–"),
        (Metric(), "–"),
    ],
)
def test_a_percentile_is_a_number_or_a_bound_or_not_known(metric: Metric, told: str) -> None:
    assert format_percentile(metric, "p99") == told


def test_an_interval_stands_where_there_is_one() -> None:
    assert format_interval(known(p50=Percentile(500.0, 98.0, 1010.0)), "p50") == "98 ms – 1.01 s"
    assert format_interval(known(p50=Percentile(None)), "p50") == ""


@pytest.mark.parametrize(
    ("load", "told"),
    [
        ({"mode": "closed", "concurrency": 1}, "1 user"),
        ({"mode": "closed", "concurrency": 16}, "16 users"),
        ({"mode": "poisson", "rate_per_s": 0.5}, "0.5 /s poisson"),
        ({"mode": "constant", "rate_per_s": 10.0}, "10 /s constant"),
        ({"mode": "gamma", "rate_per_s": 5.0, "burstiness": 0.25}, "5 /s gamma 0.25"),
        ({"mode": "ramp", "from_per_s": 0.0, "to_per_s": 10.0}, "0 → 10 /s"),
        ({"mode": "trace"}, "trace"),
    ],
)
def test_a_load_is_told_in_a_few_words(load: dict[str, Any], told: str) -> None:
    assert format_load(msgspec.convert(load, StageLoad)) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [(None, "–"), (0, "0 MiB"), (145 * 2**20, "145 MiB"), (2**30, "1.00 GiB"), (5 * 2**29, "2.50 GiB")],
)
def test_a_size_is_in_mib_or_gib(count: int | None, told: str) -> None:
    assert format_bytes(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "about 1 s"),
        (40.0, "about 40 s"),
        (89.9, "about 90 s"),
        (90.0, "about 2 min"),
        (360.0, "about 6 min"),
        (5_399.0, "about 90 min"),
        (9_000.0, "about 2.5 h"),
    ],
)
def test_a_length_is_told_about(seconds: float, told: str) -> None:
    assert format_minutes(seconds) == told


def test_a_count_of_one_is_singular() -> None:
    assert [format_count(number, "stage") for number in (0, 1, 2_000)] == ["0 stages", "1 stage", "2,000 stages"]


@pytest.mark.parametrize(
    "metric", [*(f"{name}_ms" for name in LATENCIES), *COUNTED, "goodput_requests_per_s", "prompt_tokens", "slo"]
)
def test_a_metric_is_called_by_words_and_not_by_its_key(metric: str) -> None:
    assert "_" not in metric_title(metric)


def test_the_service_ttft_is_called_so() -> None:
    assert metric_title("service_ttft_ms") == metric_title("service_ttft") == "service TTFT"
