"""The plan of a soak: its one level, how long each model is played, its settings, and what is refused."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.errors import InputError
from loadgen.plan.soak import SoakPlan, SoakSettings, level_of, model_share_s, soak_of
from loadgen.scenario import Closed, Constant, Gamma, Load, Model, Poisson, Ramp, Scenario, SoakTable, Trace
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.soak import parse_bytes

TWO = (Model(name="a"), Model(name="b"))


def planned(table: SoakTable, load: Load | None = None, **changes: Any) -> SoakPlan:
    scenario = Scenario(name="night", prompts="p", soak=table, load=load or Closed(), **changes)
    return soak_of(LoadedScenario(scenario, None, Path(), "night.toml"))


@pytest.mark.parametrize(
    ("table", "load", "level"),
    [
        ({}, Closed(), Closed(concurrency=(1,))),
        ({"concurrency": 4}, Closed(concurrency=(1, 2), ramp_in_s=0.0), Closed(concurrency=(4,), ramp_in_s=0.0)),
        ({"concurrency": 4}, Constant(rates_per_s=(2.0,)), Closed(concurrency=(4,))),
        ({"rate_per_s": 0.5}, Closed(), Poisson(rates_per_s=(0.5,))),
        ({"rate_per_s": 0.5}, Gamma(rates_per_s=(2.0,), burstiness=0.1), Gamma(rates_per_s=(0.5,), burstiness=0.1)),
        ({"rate_per_s": 0.5}, Ramp(from_per_s=0, to_per_s=1, duration_s=9), Poisson(rates_per_s=(0.5,))),
        ({"concurrency": 3}, Trace(file="x"), Closed(concurrency=(3,))),
        ({}, Poisson(rates_per_s=(2.0, 3.0), requests=8), Poisson(rates_per_s=(2.0,))),
        ({}, Closed(concurrency=(2, 1), requests=9, duration_s=9.0, min_requests=3), Closed(concurrency=(2,))),
    ],
)
def test_one_level_is_played_that_of_the_table_or_the_first_of_the_load(
    table: dict[str, Any], load: Load, level: Load
) -> None:
    soak = planned(SoakTable(duration_s=3_600.0, **table), load)
    (stage,) = api.soak_plan_of(soak).stages
    assert stage.duration_ns == 3_600 * 10**9
    assert stage.open_ended
    assert soak.loaded.scenario.load == msgspec.structs.replace(level, duration_s=3_600.0)
    assert (soak.loaded.scenario.soak.concurrency, soak.loaded.scenario.soak.rate_per_s) == (None, None)
    assert soak_of(soak.loaded) == msgspec.structs.replace(
        soak, remarks=()
    )  # what a resumed soak makes of the scenario in its manifest


def test_a_level_that_was_chosen_among_several_is_noted() -> None:
    note = planned(SoakTable(duration_s=3_600.0), Closed(concurrency=(1, 2))).remarks[0]
    assert note.startswith("a soak plays one level: c1, the first of c1, c2;")
    assert planned(SoakTable(duration_s=3_600.0, concurrency=2), Closed(concurrency=(1, 2))).remarks == ()


def test_models_share_the_time_equally_unless_they_take_turns() -> None:
    table = SoakTable(duration_s=7_200.0)
    for order, share_s, stages in (("one_after_another", 3_600.0, 2), ("interleaved", 7_200.0, 1)):
        soak = planned(table, models=TWO, order=order)
        assert model_share_s(soak.loaded.scenario, soak.settings) == share_s
        assert [stage.duration_ns for stage in api.soak_plan_of(soak).stages] == [share_s * 1e9] * stages


def test_the_settings_are_those_of_the_table() -> None:
    table = SoakTable(duration_s=7_200.0, window_s=30.0, disk="512MiB", matters=0.1)
    assert planned(table).settings == SoakSettings(
        duration_s=7_200.0, window_s=30.0, disk_bytes=512 << 20, matters=0.1, give_up_s=1_800.0
    )


@pytest.mark.parametrize(("models", "has_note"), [((), False), (TWO, True)])
def test_windows_longer_than_a_fiftieth_of_the_time_of_a_model_are_noted(models: Any, has_note: bool) -> None:
    changes = {"models": models} if models else {}
    notes = planned(SoakTable(duration_s=3_000.0), **changes).remarks
    assert [note.split(":")[0] for note in notes] == (
        ["a window of 60 s is longer than a fiftieth of 1500 s"] if has_note else []
    )


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ({}, {}, "night.toml: soak.duration_s: missing; add --duration 8h, or write duration_s = 28800 in [soak]"),
        ({"duration_s": 9.0}, {"until": "ttft_p99:5%"}, "night.toml: until: a soak ends by its duration alone; "),
        ({"duration_s": 9.0}, {"load": Trace(file="x")}, 'night.toml: load.mode: a "trace" load has no level'),
        (
            {"duration_s": 28_800.0, "disk": "10MiB"},
            {},
            "night.toml: a run folder of 10MiB (--disk, or soak.disk) is too small, "
            "because 480 windows alone may need 11 MiB; ",
        ),
        (
            {"duration_s": 28_800.0, "disk": "12 MiB"},
            {"models": TWO, "order": "interleaved"},
            "night.toml: a run folder of 12 MiB (--disk, or soak.disk) is too small, "
            "because 960 windows alone may need 20 MiB; ",
        ),
    ],
)
def test_what_cannot_be_soaked_is_refused_in_one_line(
    table: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        planned(SoakTable(**table), **changes)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("1.5 MiB", 3 << 19),
        ("900KiB", 900 << 10),
        *((text, None) for text in ("", "2", "2GB", "0MiB", "-1GiB", "2gib", "1e3MiB", "GiB", "٣GiB", "2GiB\n")),
    ],
)
def test_a_size_has_a_unit(text: str, size: int | None) -> None:
    assert parse_bytes(text) == size


def test_a_load_without_levels_has_no_first_level() -> None:
    with pytest.raises(ValueError, match="Ramp has no levels"):
        level_of(Ramp(from_per_s=0, to_per_s=1, duration_s=9))
