"""The remarks of a selection about facts that a person gives."""

from collections.abc import Sequence
from pathlib import Path

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.select.decide import decide
from loadgen.decisions.select.given import GivenFacts
from loadgen.decisions.select.policy import PolicyFlags, policy_of
from loadgen.scenario import SelectTable
from tests.selected_runs import SelectedModel, write_run

MODELS = (SelectedModel(name="good", points=(4,)), SelectedModel(name="poor", points=(1,)))


def remarks(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    flags = PolicyFlags(given=tuple(GivenFacts(name=name, memory_mib=800.0) for name in names))
    return decide(
        read_runs([write_run(folder / "run", MODELS)]), policy_of(SelectTable(), None, flags)
    ).selection.remarks


def test_facts_under_a_name_that_no_candidate_has_are_named(tmp_path: Path) -> None:
    assert remarks(tmp_path, ["good", "godo", "poor@ulr"]) == (
        "no candidate has these facts: godo, poor@ulr; the names of candidates are good@url, poor@url",
    )


def test_of_many_such_names_five_are_shown(tmp_path: Path) -> None:
    (remark,) = remarks(tmp_path, [f"m{number}" for number in range(9)])
    assert remark.startswith("no candidate has these facts: m0, m1, m2, m3, m4 and 4 more; ")


def test_facts_of_every_candidate_need_no_remark(tmp_path: Path) -> None:
    assert remarks(tmp_path, ["good", "poor@url"]) == ()
