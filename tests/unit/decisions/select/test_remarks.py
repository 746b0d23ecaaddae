"""The remarks of a selection: about facts that a person gives, and about stages that do not count."""

import json
from collections.abc import Sequence
from pathlib import Path

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.select.decide import decide
from loadgen.decisions.select.given import GivenFacts
from loadgen.decisions.select.policy import PolicyFlags, policy_of
from loadgen.scenario import SelectTable
from loadgen.store.run_folder import REQUESTS
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


def test_an_invalid_stage_at_the_higher_level_is_named_and_why_throughput_is_of_a_lower_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", MODELS)
    lines = (folder / REQUESTS).read_text("utf-8").splitlines(keepends=True)
    silent = [{**json.loads(line), "outcome": "http_error", "status": 500} for line in lines]
    is_silent = [record["model"] == "poor" and record["level"] == "c4" for record in silent]
    changed = [
        json.dumps(record) + "\n" if is_so else line
        for record, line, is_so in zip(silent, lines, is_silent, strict=True)
    ]
    (folder / REQUESTS).write_text("".join(changed), "utf-8")
    selection = decide(read_runs([folder]), policy_of(SelectTable(), None, PolicyFlags())).selection
    assert (selection.level, selection.throughput_level) == ("c1", "c1")
    assert selection.remarks[:2] == (
        "throughput is that at c1, because not all candidates have a valid stage at c4",
        "poor@url: c4 does not count: no request was answered",
    )


def test_where_all_levels_are_valid_none_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", MODELS)
    assert decide(read_runs([folder]), policy_of(SelectTable(), None, PolicyFlags())).selection.remarks == ()
