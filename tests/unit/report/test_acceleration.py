"""The ratios between the variants of one model for different devices: of what, with which interval, and where none."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loadgen.analysis.summarize import merged, summarize
from loadgen.record import ServerFacts
from loadgen.report.document import report_data
from loadgen.report.section import Table
from loadgen.report.sections.acceleration import ONE_RUN, SEVERAL_RUNS, acceleration
from loadgen.stats.permutation import effects_of_blocks
from loadgen.store.run_folder import Run
from tests.records import MS, facts, planned, run_of, turn

REQUESTS = 40
CPU_WAIT_MS, CPU_GAP_MS = 400, 60
CPU: dict[str, Any] = {"wait_ms": CPU_WAIT_MS, "gap_ms": CPU_GAP_MS, "mib": 1000, "cold_ms": 3000.0}
GPU: dict[str, Any] = {"wait_ms": 100, "gap_ms": 30, "mib": 1500, "cold_ms": 6000.0}


def played(*variants: tuple[str, dict[str, Any]], model: str = "m", number: int = 1) -> Run:
    """A run that played a model on each target, one after another. Each answer has three tokens."""
    records, stages, seen, cards = [], [], [], []
    for i, (target, of) in enumerate(variants):
        level = of.get("level", "c1")
        stages.append(planned(REQUESTS, model=model, target=target, level=level, skipped=of.get("skipped")))
        if "skipped" in of:
            continue
        first = (102 + of["wait_ms"]) * MS
        stamps = tuple(first + of["gap_ms"] * step * MS for step in range(3))
        moments = {"stamps_ns": stamps, "first_visible_ns": first, "end_ns": stamps[-1], "last_byte_ns": stamps[-1]}
        start_s = i * 2 * REQUESTS
        for at in range(REQUESTS):
            records.append(turn(at + start_s, model=model, target=target, level=level, **moments))
            records[-1] = msgspec.structs.replace(records[-1], index=at)
        process = ServerFacts(1, cpu_share=1.0, rss_start_bytes=2**20, rss_peak_bytes=of.get("mib", 100) * 2**20)
        about = {"start_ns": start_s * 1000 * MS, "end_ns": (start_s + 2 * REQUESTS) * 1000 * MS}
        seen.append(
            facts(models=(model,), targets=(target,), level=level, servers=(process,), **(about | of.get("facts", {})))
        )
        card = {"alias": model, "target": target, "id": f"{model}-{i}", "device": of.get("device")}
        if card not in cards:
            cards.append(card | {"cold_start_ms": of.get("cold_ms")})
    run = run_of(records, stages, seen=seen, models=cards, run_id=f"20260102T03040{number}Z-0123abcd")
    return msgspec.structs.replace(run, folder=Path(f"run-{number}"))


def table_of(*runs: Run) -> Table | None:
    summary = summarize(runs[0]) if len(runs) == 1 else merged(runs)
    section = acceleration(report_data(summary, runs))
    return None if section is None else section.tables[0]


def rows_of(*runs: Run) -> list[dict[str, str]]:
    table = table_of(*runs)
    assert table is not None
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, row.cells, strict=True)) for row in table.rows]


def number_of(cell: str) -> float:
    return float(cell.partition(" ")[0])


def test_each_ratio_is_that_of_the_accelerated_variant_to_the_one_on_the_cpu() -> None:
    (row,) = rows_of(played(("foundry/gpu", GPU), ("foundry/cpu", CPU)))
    assert (row["model"], row["devices"], row["load"]) == ("m", "GPU / CPU", "1 user")
    assert row["memory"] == "1.5"
    assert row["cold start"] == "2"
    assert row["TPOT p50"] == "0.5"
    assert row["TTFT p50"] == "0.25"
    assert row["E2E p50"] == f"{160 / 520:.3g}"
    assert number_of(row["tok/s"]) > 0


def test_one_run_has_no_intervals_and_says_so() -> None:
    table = table_of(played(("foundry/cpu", CPU), ("foundry/gpu", GPU)))
    assert table is not None
    assert not [cell for row in table.rows for cell in row.cells if "(" in cell]
    assert ONE_RUN in table.remarks
    assert SEVERAL_RUNS not in table.remarks


def test_several_runs_have_the_interval_that_a_comparison_of_blocks_has() -> None:
    waits = [(100, 400), (120, 380), (90, 420)]
    runs = [
        played(("foundry/cpu", CPU | {"wait_ms": cpu}), ("foundry/gpu", GPU | {"wait_ms": gpu}), number=number)
        for number, (gpu, cpu) in enumerate(waits, start=1)
    ]
    table = table_of(*runs)
    assert table is not None
    assert SEVERAL_RUNS in table.remarks
    assert ONE_RUN not in table.remarks
    logs = [math.log(gpu / cpu) for gpu, cpu in waits]
    effects = effects_of_blocks(np.array(logs)[:, None])
    mean, reach = float(effects.mean[0]), float(effects.reach(0.95)[0])
    value, low, high = (f"{math.exp(end):.3g}" for end in (mean, mean - reach, mean + reach))
    (row,) = rows_of(*runs)
    assert row["TTFT p50"] == f"{value} ({low} – {high})"
    assert row["memory"] == "1.5 (1.5 – 1.5)"


def test_a_run_that_was_cut_short_is_left_out_if_two_are_complete() -> None:
    cut = GPU | {"mib": 9000, "facts": {"complete": False}}
    runs = [
        played(("foundry/cpu", CPU), ("foundry/gpu", gpu), number=number)
        for number, gpu in enumerate((GPU, cut, GPU), start=1)
    ]
    (row,) = rows_of(*runs)
    assert row["memory"] == "1.5 (1.5 – 1.5)"


def test_a_run_that_was_cut_short_counts_if_no_two_are_complete() -> None:
    cut = GPU | {"mib": 6000, "facts": {"complete": False}}
    runs = [
        played(("foundry/cpu", CPU), ("foundry/gpu", gpu), number=number) for number, gpu in enumerate((GPU, cut), 1)
    ]
    (row,) = rows_of(*runs)
    assert number_of(row["memory"]) == pytest.approx(math.sqrt(1.5 * 6), rel=0.01)


@pytest.mark.parametrize(
    "run",
    [
        played(("foundry/cpu", CPU)),
        played(("foundry", CPU | {"device": "CPU"}), ("llamacpp", GPU | {"device": "GPU"})),
        played(("foundry/cpu", CPU), ("foundry/gpu", {"skipped": "no variant for GPU"})),
        played(("foundry", CPU), ("foundry/gpu", GPU)),
        played(("foundry", CPU | {"device": "GPU"}), ("foundry/gpu", GPU)),
        run_of([]),
    ],
    ids=[
        "one device",
        "another runtime",
        "a variant that is not there",
        "a device that is not known",
        "the same device twice",
        "nothing",
    ],
)
def test_where_no_two_devices_were_played_there_is_no_table(run: Run) -> None:
    assert table_of(run) is None


def test_without_a_cpu_the_first_device_is_the_base() -> None:
    (row,) = rows_of(played(("foundry/npu", CPU), ("foundry/gpu", GPU)))
    assert row["devices"] == "GPU / NPU"


def test_a_variant_without_an_asked_device_counts_by_its_card() -> None:
    (row,) = rows_of(played(("foundry", GPU | {"device": "NPU"}), ("foundry/cpu", CPU)))
    assert row["devices"] == "NPU / CPU"


def test_each_level_is_compared_with_the_same_level() -> None:
    rows = rows_of(
        played(
            ("foundry/cpu", CPU),
            ("foundry/cpu", CPU | {"level": "c2", "mib": 2000}),
            ("foundry/gpu", GPU),
            ("foundry/gpu", GPU | {"level": "c2", "mib": 1000}),
            ("foundry/npu", GPU | {"level": "c4"}),
        )
    )
    assert [(row["devices"], row["memory"]) for row in rows] == [("GPU / CPU", "1.5"), ("GPU / CPU", "0.5")]


def test_what_one_side_does_not_know_is_a_dash() -> None:
    (row,) = rows_of(played(("foundry/cpu", CPU | {"cold_ms": None}), ("foundry/gpu", GPU)))
    assert row["cold start"] == "–"
    assert row["memory"] == "1.5"


def test_what_one_of_several_runs_does_not_know_is_a_dash() -> None:
    runs = [
        played(("foundry/cpu", CPU), ("foundry/gpu", GPU | {"cold_ms": cold}), number=number)
        for number, cold in enumerate((6000.0, None), start=1)
    ]
    (row,) = rows_of(*runs)
    assert row["cold start"] == "–"


def test_a_ratio_to_an_invalid_stage_is_not_to_be_believed() -> None:
    table = table_of(played(("foundry/cpu", CPU | {"facts": {"clock_steps": 1}}), ("foundry/gpu", GPU)))
    assert table is not None
    assert [row.invalid for row in table.rows] == [True]
