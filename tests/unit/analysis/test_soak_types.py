"""A summary with the keys of a soak comes back from its JSON as it was."""

import json

import msgspec

from loadgen.analysis.soak_types import DRIFT_METRICS, DRIFT_VERDICTS, Drift, DriftMetric, Outages, SoakSummary
from loadgen.analysis.summary import SCHEMA, Metric, Percentile, StageSummary, Summary, summary_data, summary_from
from loadgen.plan.plan import StageLoad

METRIC = DriftMetric(
    verdict="degrading",
    change=0.123,
    change_ci=(0.071, 0.166),
    p=0.0004,
    p_adjusted=0.003,
    matters=0.05,
    start=212.0,
    end=238.1,
    unit="ms",
    since_utc="2026-11-30T02:14:00+00:00",
    since_between_utc=("2026-11-30T01:50:00+00:00", "2026-11-30T02:31:00+00:00"),
)
SOAK = SoakSummary(
    windows=480,
    valid_windows=479,
    outages=Outages(1, 192.5),
    suspended_s=0.0,
    stopped_s=0.0,
    resumed=0,
    server_restarts=0,
    records_dropped_windows=0,
    own_memory_mib_per_h=0.1,
    run_folder_bytes=11_873_412,
)
DRIFT = Drift(verdict="degrading", windows=460, left_out=20, warm_up=19, since_utc=None, metrics={"ttft_p50": METRIC})


def summary(stage: StageSummary) -> Summary:
    return Summary(
        schema=SCHEMA,
        scenario="x",
        run_id="r",
        started_utc="2026-11-29T22:00:00+00:00",
        incomplete=False,
        stages=(stage,),
        plan_digest="d",
    )


def stage(**more: object) -> StageSummary:
    blank = StageSummary(model="m", target="t", load=StageLoad("closed", 2), level="c2")
    return msgspec.structs.replace(blank, **more)


def test_a_summary_of_a_soak_comes_back_from_its_json_as_it_was() -> None:
    metric = Metric(2, 1.0, 0.5, 1.5, {"p50": Percentile(1.0, 0.9, 1.1)}, exact=False)
    written = summary(stage(soak=SOAK, drift=DRIFT, metrics={"ttft_ms": metric}))
    assert summary_from(msgspec.json.encode(summary_data(written))) == written


def test_the_keys_of_the_file_are_those_that_users_rely_on() -> None:
    data = json.loads(msgspec.json.encode(summary_data(summary(stage(soak=SOAK, drift=DRIFT)))))["stages"][0]
    assert data["drift"]["metrics"]["ttft_p50"] == {
        "verdict": "degrading",
        "change": 0.123,
        "change_ci": [0.071, 0.166],
        "p": 0.0004,
        "p_adjusted": 0.003,
        "matters": 0.05,
        "from": 212.0,
        "to": 238.1,
        "unit": "ms",
        "from_ns": None,
        "to_ns": None,
        "within": None,
        "could_show": None,
        "since_utc": "2026-11-30T02:14:00+00:00",
        "since_between_utc": ["2026-11-30T01:50:00+00:00", "2026-11-30T02:31:00+00:00"],
    }
    assert data["soak"]["outages"] == {"count": 1, "s": 192.5}


def test_a_run_that_is_no_soak_has_none_of_the_keys() -> None:
    metric = Metric(0, percentiles={"p50": Percentile(None)})
    data = summary_data(summary(stage(metrics={"ttft_ms": metric})))["stages"][0]
    assert not {"soak", "drift"} & set(data)
    assert "exact" not in data["metrics"]["ttft_ms"]


def test_words_and_metrics_are_in_the_order_of_every_report() -> None:
    assert DRIFT_VERDICTS == ("degrading", "not enough data", "improving", "stable")
    assert DRIFT_METRICS[0] == "ttft_p50"
    assert len(DRIFT_METRICS) == 8
