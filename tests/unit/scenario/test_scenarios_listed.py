"""What there is to play, and a scenario to begin with."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadgen import api
from loadgen.cli import app
from loadgen.cli.scenarios import scenarios_text
from loadgen.errors import InputError
from loadgen.report.text_table import Screen
from loadgen.scenario.file import ScenarioEntry, find_scenario, list_scenarios, load_scenario
from loadgen.scenario.starter import starter_text, write_starter

OURS = Path(__file__).parents[3] / "scenarios"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(*words: str) -> str:
    answer = CliRunner().invoke(app.app, words, prog_name="loadgen")
    assert answer.exit_code == 0, answer.output
    return answer.output


def complaint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["loadgen", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_every_scenario_that_comes_along_is_listed_with_its_description() -> None:
    entries = {entry.name: entry for entry in list_scenarios()}
    assert set(entries) == {path.stem for path in OURS.glob("*.toml")}
    assert all(entry.description and entry.problem is None for entry in entries.values())
    assert len({entry.description for entry in entries.values()}) == len(entries)


def test_a_scenario_of_the_current_folder_goes_before_one_that_comes_along() -> None:
    Path("scenarios").mkdir()
    Path("scenarios/smoke.toml").write_text('description = "Mine"', encoding="utf-8")
    (smoke,) = (entry for entry in list_scenarios() if entry.name == "smoke")
    assert smoke == ScenarioEntry("smoke", "scenarios/smoke.toml", "Mine")


def test_a_file_that_is_no_toml_is_listed_with_what_is_wrong() -> None:
    Path("scenarios").mkdir()
    Path("scenarios/broken.toml").write_text("name =", encoding="utf-8")
    (broken,) = (entry for entry in list_scenarios() if entry.name == "broken")
    assert broken.problem is not None
    assert broken.problem.startswith("scenarios/broken.toml: line 1")
    assert re.search("^broken +scenarios/broken.toml: line 1", printed("scenarios"), re.MULTILINE)


def test_the_list_is_as_wide_as_the_terminal_and_no_control_character_reaches_it() -> None:
    entries = [ScenarioEntry("a", "a.toml", "word " * 40), ScenarioEntry("long-name", "b.toml", "\x1b[31mred")]
    lines = scenarios_text(entries, Screen(60)).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("a          word")
    assert lines[1].startswith("           word")
    assert lines[-1] == "long-name  \ufffd[31mred"


def test_the_list_as_json_has_names_files_and_descriptions() -> None:
    data = json.loads(printed("scenarios", "--json"))
    smoke = next(entry for entry in data if entry["name"] == "smoke")
    assert smoke["description"] == "A few very short answers, to see that everything works"
    assert Path(smoke["path"]).is_file()


def test_a_name_that_is_none_is_guessed_and_the_list_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = complaint(capsys, monkeypatch, "run", "smok")
    assert said == "loadgen: smok: no such scenario; did you mean smoke? `loadgen scenarios` lists all scenarios\n"


@pytest.mark.parametrize("folder", [None, "scenarios"])
def test_a_scenario_to_begin_with_loads_and_plans_by_its_name(folder: str | None) -> None:
    if folder:
        Path(folder).mkdir()
    path = Path(folder or ".") / "my-first.toml"
    assert printed("init", "my-first") == f"wrote {path}; `loadgen plan my-first` shows what it sends\n"
    loaded = load_scenario("my-first")
    assert (loaded.path, loaded.scenario.name) == (path, "my-first")
    assert [stage.count for stage in api.plan_of(loaded).stages] == [12, 12, 12]
    assert "36 requests in 3 stages" in printed("plan", "my-first")


def test_every_key_of_it_is_explained_beside_it() -> None:
    keys = [line for line in starter_text("x").splitlines() if " = " in line and not line.startswith("#")]
    assert len(keys) > 10
    assert [line for line in keys if "#" not in line] == []


def test_what_it_only_suggests_is_right_too() -> None:
    text = starter_text("x")
    text = text.replace('mode = "closed" ', 'mode = "poisson" ').replace("concurrency = ", "# ")
    for key in ("system", "rates_per_s", "stream", "request_s", "attainment"):
        text = text.replace(f"# {key} = ", f"{key} = ")
    text = text.replace("# [[models]]", "[[models]]").replace('# name = "my-model"', 'name = "my-model"')
    text = text.replace("# url = ", "url = ").replace("stream = false", "stream = true")
    Path("all.toml").write_text(text, encoding="utf-8")
    assert len(api.plan_of(load_scenario("all.toml")).stages) == 4


def test_no_file_is_written_over(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my.toml").write_text("mine", encoding="utf-8")
    said = complaint(capsys, monkeypatch, "init", "my")
    assert said == "loadgen: init: my.toml already exists; choose another name\n"
    assert Path("my.toml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["../x", "a b", "", "con", "x" * 200])
def test_a_name_that_cannot_be_one_writes_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^init: name: "):
        write_starter(name)
    assert list(tmp_path.iterdir()) == []


def test_every_name_that_is_listed_can_be_played_also_one_that_ends_like_a_file() -> None:
    Path("scenarios").mkdir()
    for name in ("a.toml", "b.c", "d e", "f\udcff", "smoke"):
        Path(f"scenarios/{name}.toml").write_text(starter_text("x"), encoding="utf-8")
        assert str(find_scenario(name)) == f"scenarios/{name}.toml"
    assert all(find_scenario(entry.name) == Path(entry.path) for entry in list_scenarios())
    Path("here.toml.toml").write_text(starter_text("x"), encoding="utf-8")
    assert find_scenario("here.toml") == Path("here.toml.toml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_or_a_folder_is_no_scenario_and_is_not_waited_for() -> None:
    Path("scenarios/folder.toml").mkdir(parents=True)
    os.mkfifo("scenarios/pipe.toml")
    Path("scenarios/link.toml").symlink_to("nothing")
    listed = {entry.name: entry.problem for entry in list_scenarios()}
    assert {"folder", "pipe"}.isdisjoint(listed)
    assert "No such file" in (listed["link"] or "")


def test_a_name_that_is_no_utf_8_is_listed_as_json_too() -> None:
    Path("scenarios").mkdir()
    try:
        Path("scenarios/f\udcff.toml").write_text('description = "é"', encoding="utf-8")
    except OSError:
        pytest.skip("this system takes no such name")
    assert "f\udcff" in [entry["name"] for entry in json.loads(printed("scenarios", "--json"))]
    assert "f\ufffd" in printed("scenarios")


def test_a_long_name_has_a_line_to_itself_and_moves_no_other_description() -> None:
    entries = [
        ScenarioEntry("n" * 200, "p", "Long"),
        ScenarioEntry("short", "p", "Short"),
        ScenarioEntry("m" * 99, "p", ""),
    ]
    assert scenarios_text(entries, Screen(80)).splitlines() == [
        "n" * 200,
        " " * 34 + "Long",
        "short".ljust(34) + "Short",
        "m" * 99,
    ]


def test_a_starter_may_be_named_as_its_file_is_and_the_command_that_is_shown_plays_it() -> None:
    said = printed("init", "mine.toml")
    assert Path("mine.toml").is_file()
    command = said.split("`")[1].split()
    assert command == ["loadgen", "plan", "mine"]
    assert "digest" in printed(*command[1:])
