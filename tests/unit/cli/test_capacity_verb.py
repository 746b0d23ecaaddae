"""The verb capacity: its exit codes, what it prints and writes, wrong flags; and two searches compared."""

import json
from pathlib import Path

import msgspec
import pytest

import loadgen
from loadgen.decisions.capacity import forecast
from loadgen.decisions.capacity.answer import CapacityFile
from loadgen.decisions.capacity.files import CAPACITY
from loadgen.decisions.compare.comparison import CompareSettings
from loadgen.decisions.compare.differences import NotAlikeError
from loadgen.store import files
from tests.command_line import run_command
from tests.compared_runs import write_run
from tests.unit.decisions.capacity.test_play import HOLDS, asked, search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that has shown that 8 users hold and that 9 do not: minutes of virtual time, and seconds
    of CPU, so whatever needs it is slow."""
    return search(tmp_path_factory.mktemp("searched"), asked(within=None, highest=9.0)).folder


def other_search(folder: Path, place: Path, **ends: object) -> Path:
    """A copy of a search with another answer."""
    place.mkdir()
    for name in ("manifest.json", "requests.jsonl", "stages.jsonl"):
        (place / name).write_bytes((folder / name).read_bytes())
    capacity = msgspec.json.decode((folder / CAPACITY).read_bytes(), type=CapacityFile)
    (model,) = capacity.models
    models = (msgspec.structs.replace(model, **ends),)
    files.write_json(place / CAPACITY, msgspec.structs.replace(capacity, run_id=place.name, models=models))
    return place


@pytest.mark.slow
def test_a_search_is_shown_again_and_no_line_is_wider_than_the_terminal(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run_command("capacity", "--show", searched)
    lines = shown.stdout.splitlines()
    assert shown.returncode == 0
    assert lines[0] == "8 users: 95 % sure that 8 hold and that 9 do not"
    assert lines[1].startswith("limited by the queue: 4 streams are served at once")
    assert any(line.split()[0] == "8" and line.endswith(" holds") for line in lines)
    assert any(line.split()[0] == "9" and line.endswith(" does not hold") for line in lines)
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1].startswith("report: ")


@pytest.mark.slow
@pytest.mark.parametrize(("required", "code"), [(HOLDS, 0), (HOLDS + 1, 1)])
def test_a_gate_needs_that_it_is_shown(searched: Path, required: int, code: int) -> None:
    shown = run_command("capacity", "--show", searched, "--require", required, "--quiet")
    assert shown.returncode == code
    wanted = "" if code == 0 else "loadgen: exit 1: m on m.invalid: --require 9: it is not shown that 9 users hold\n"
    assert shown.stderr == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("models",), [], "models is empty"),
        (("confidence",), 2, "confidence is 2"),
        (("models", 0, "objectives"), [], "m has no objectives"),
        (("models", 0, "objectives", 0, "objective"), "zzz", '"zzz": unknown metric "zzz"'),
    ],
)
def test_a_capacity_json_that_no_search_writes_is_refused_in_one_line(
    searched: Path, tmp_path: Path, path: tuple[str | int, ...], value: object, message: str
) -> None:
    folder = other_search(searched, tmp_path / "capacity-copy")
    data = place = json.loads((folder / CAPACITY).read_bytes())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / CAPACITY).write_text(json.dumps(data), encoding="utf-8")
    shown = run_command("capacity", "--show", folder)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert shown.stderr.startswith(f"loadgen: {folder / CAPACITY}: cannot be read ({message}")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [0, 1, -1])
def test_a_search_that_lost_visits_is_not_shown_again_and_keeps_its_answer(
    searched: Path, tmp_path: Path, lines: int
) -> None:
    folder = other_search(searched, tmp_path / "capacity-copy")
    stages = (folder / "stages.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "stages.jsonl").write_bytes(b"".join(stages[:lines]))
    before = (folder / CAPACITY).read_bytes()
    shown = run_command("capacity", "--show", folder)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"loadgen: {folder}: the visits c")
    assert shown.stderr.endswith("of capacity.json are missing; is the folder damaged? Nothing was changed\n")
    assert shown.stderr.count("\n") == 1
    assert (folder / CAPACITY).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut off", "cut in a line", "a line is gone"])
def test_a_search_that_lost_requests_is_not_shown_again_and_keeps_its_answer(
    searched: Path, tmp_path: Path, damage: str
) -> None:
    folder = other_search(searched, tmp_path / "capacity-copy")
    lines = (folder / "requests.jsonl").read_bytes().splitlines(keepends=True)
    left = {
        "cut off": lines[:-20],
        "cut in a line": [*lines[:-12], lines[-12][:40]],
        "a line is gone": lines[:30] + lines[31:],
    }
    (folder / "requests.jsonl").write_bytes(b"".join(left[damage]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shown = run_command("capacity", "--show", folder, "--forecast", "10s")
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert shown.stderr.startswith(f"loadgen: {folder}: ")
    assert "requests of the visits c" in shown.stderr
    assert shown.stderr.endswith("are missing; is requests.jsonl damaged? Nothing was changed\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_json_is_the_file_and_nothing_else(searched: Path) -> None:
    shown = run_command("capacity", "--show", searched, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == json.loads((searched / CAPACITY).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_new_forecasts_are_answered_and_kept(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rough forecasts: how good they are is tested where they are made.
    monkeypatch.setattr(forecast, "REQUESTS", 2_000)
    monkeypatch.setattr(forecast, "REQUESTS_ROUGH", 1_000)
    folder = other_search(searched, tmp_path / "capacity-copy")
    shown = run_command("capacity", "--show", folder, "--forecast", "10s", "--fleet", "200")
    assert shown.returncode == 0
    assert "forecast for users who think 10 s" in shown.stdout
    before = (folder / CAPACITY).read_bytes()
    (answered,) = json.loads(before)["models"][0]["forecasts"]
    assert answered["think_s"] == 10.0
    assert run_command("capacity", "--show", folder).returncode == 0
    assert (folder / CAPACITY).read_bytes() == before
    assert run_command("capacity", "--show", folder, "--fleet", "300").returncode == 0
    both = json.loads((folder / CAPACITY).read_bytes())["models"][0]["forecasts"]
    assert both[0] == answered, "the earlier answer stays"
    assert (both[1]["think_s"], both[1]["users_ci"], both[1]["fleet"]["devices"]) == (0.0, [8, 8], 38)


@pytest.mark.slow
def test_the_reports_of_a_search_are_made_again_as_those_of_any_run(searched: Path) -> None:
    before = (searched / "report.md").read_bytes()
    made = run_command("report", searched)
    assert made.returncode == 0
    assert "8 users" in made.stdout
    assert (searched / "report.md").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slo", "ok=99%", "--from", "9", "--to", "3"], "--from 9 --to 3: nothing lies between them"),
        (["--slo", "ok=99%", "--budget", "10s"], "--budget 10s: nothing can be shown in less than 30 s"),
        (["--slo", "ok=99%", "--users", "--rate"], "--users and --rate: a search has levels of one kind"),
        (["--slo", "ok=99%", "--rate", "5"], "--rate 5: --rate of capacity takes no number, because a search chooses"),
        (["--slo", "ok=99%", "--rate", "5"], "its levels; use --from 5"),
        (["--slo", "ok=99%", "--rate=0.5"], "use --from 0.5"),
        (["--slo", "ok=99%", "--users", "1,4,2"], "use --from 1 --to 4"),
        (["--slo", "ok=99%", "--exact", "5"], "--exact 5: --exact takes no value; leave 5 out"),
        (["--slo", "ok=99%", "more"], "unexpected extra argument"),
        (["--slo", "ok=99%", "--user"], "No such option: --user (Possible options: --users, "),
        (["--slo", "ok=99%", "--exact", "--within", "5%"], "--exact and --within 5%: they contradict each other"),
        (["--slo", "ok=99%", "--confidence", "70%"], "--confidence 70%: not from 80 % to 99.9 %"),
        (["--slo", "ok=99%", "--require", "many"], "--require many: not a level above 0"),
        (["--slo", "ok=99%", "--require", "8", "--to", "4"], "--require 8 --to 4: no level above --to is played"),
        (["--slo", "ok=99%", "--from", "2.5"], "--from 2.5: the number of users must be whole"),
        (["--slo", "ok=99%", "--rate", "--think", "5s"], "--think: a search of rates has no users who could think"),
        (["--slo", ""], "capacity: --slo: is empty; write e.g. ttft_p95=2s or ok=99%"),
        (["--slo", "ok=99%", "--slo", " "], "capacity: --slo: is empty; write e.g. ttft_p95=2s or ok=99%"),
        (["--slo", "ok=100%"], "ok=100% can be missed but never shown; use ok=99%"),
        (["--slo", "ttft_p95=2"], "the time has no unit"),
        (["--slo", "speed_p95=2s"], 'unknown metric "speed"'),
        ([], "capacity: there is no objective"),
        (["--slo", "ok=99%", "--resume", "nowhere"], "nowhere: not a search; give a folder that has a capacity.json"),
        (["--show", "nowhere"], "--show plays nothing; leave SCENARIO and --resume out"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_begun(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = tmp_path / "asks.toml"
    scenario.write_text('name = "asks"\nprompts = ["Hi."]\n', encoding="utf-8")
    refused = run_command("capacity", scenario, *flags)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["asks.toml"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "5", "--slo", "ok=99%"], "--rate 5: --rate of capacity takes no number, because a search chooses"),
        (["--users", "4", "--slo", "ok=99%"], "its levels; use --from 4"),
        ([], "capacity: there is no objective; add --slo ttft_p95=2s, or search a scenario file that has [slo]"),
        (["--slo", "goodput=95%"], "but [slo] has no limits; name the limit here, as in --slo ttft_p95=2s"),
    ],
)
def test_what_is_wrong_with_a_search_of_an_address_has_advice_that_can_be_followed(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run_command("capacity", "--url", "http://127.0.0.1:9/v1", "--model", "m", *flags)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert message in line


def test_what_is_no_search_cannot_be_shown(tmp_path: Path) -> None:
    refused = run_command("capacity", "--show", tmp_path)
    assert refused.returncode == 2
    assert "not a search; give a folder that has a capacity.json" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "verdict", "code"),
    [
        ({"holds": 5.0, "fails": 8.0}, "worse: NEW is shown not to hold 8 users, which BASE is shown to hold", 1),
        ({"holds": 9.0, "fails": 12.0}, "better: NEW is shown to hold 9 users, which BASE is shown not to hold", 0),
        ({"holds": 7.0, "fails": 9.0}, "no difference detectable", 0),
        ({"holds": None, "fails": None}, "no difference detectable", 0),
    ],
)
def test_two_searches_are_compared_by_what_they_show(
    searched: Path, tmp_path: Path, ends: dict[str, float | None], verdict: str, code: int
) -> None:
    new = other_search(searched, tmp_path / "capacity-new", **ends)
    compared = run_command("compare", searched, new)
    assert compared.returncode == code
    assert compared.stdout.startswith(f"{verdict}: m: BASE (8 holds, 9 does not); NEW ")
    kept = json.loads((new / "comparison.json").read_text(encoding="utf-8"))
    assert kept["verdict"] == verdict.partition(":")[0].replace("no difference detectable", "unknown")
    assert (new / "comparison.md").read_text(encoding="utf-8").startswith(f"**{verdict}")


@pytest.mark.slow
def test_searches_about_different_things_are_not_compared_unless_anyway(searched: Path, tmp_path: Path) -> None:
    new = other_search(searched, tmp_path / "capacity-new", holds=5.0, fails=8.0, think_s=3.0)
    refused = run_command("compare", searched, new)
    assert refused.returncode == 2
    assert "think time: 0 s in BASE, 3 s in NEW" in refused.stderr
    anyway = run_command("compare", searched, new, "--anyway", "--markdown", "-")
    assert anyway.returncode == 1
    assert "think time: 0 s in BASE, 3 s in NEW" in anyway.stdout


@pytest.mark.slow
def test_searches_are_compared_as_searches_from_python_and_by_scenario(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "scenario").mkdir()
    new = other_search(searched, tmp_path / "scenario" / "capacity-new", holds=5.0, fails=8.0)
    comparison = loadgen.compare(searched, new)
    assert isinstance(comparison, loadgen.SearchComparison)
    assert comparison.verdict == "worse"
    assert comparison == loadgen.compare([searched], tmp_path / "scenario")
    assert run_command("compare", searched, tmp_path / "scenario").returncode == 1
    assert json.loads((new / "comparison.json").read_text(encoding="utf-8")) == json.loads(
        msgspec.json.encode(comparison)
    )


@pytest.mark.slow
def test_unlike_searches_are_refused_from_python_unless_anyway(searched: Path, tmp_path: Path) -> None:
    new = other_search(searched, tmp_path / "capacity-new", holds=5.0, fails=8.0, think_s=3.0)
    with pytest.raises(NotAlikeError, match="think time"):
        loadgen.compare(searched, new)
    assert loadgen.compare(searched, new, settings=CompareSettings(unlike="accept")).verdict == "worse"


@pytest.mark.slow
def test_a_search_is_compared_with_one_other_search_alone(searched: Path, tmp_path: Path) -> None:
    new = other_search(searched, tmp_path / "capacity-new", holds=5.0, fails=8.0)
    refused = run_command("compare", searched, new, "--new", searched)
    assert (refused.returncode, refused.stderr) == (
        2,
        f"loadgen: {new}: a search is compared with one other search alone; leave {searched} out\n",
    )


@pytest.mark.slow
def test_a_search_killed_in_its_first_visit_shows_nothing_and_is_no_lost_target(searched: Path, tmp_path: Path) -> None:
    killed = other_search(searched, tmp_path / "capacity-killed", stopped="interrupted", levels=())
    (killed / "stages.jsonl").unlink()
    shown = run_command("capacity", "--show", killed)
    assert shown.returncode == 1
    assert shown.stdout.startswith("not known: no level was played to the end of a visit\nStopped: interrupted")
    assert "no level is shown to hold" in shown.stderr
    assert run_command("report", killed).returncode == 0
    assert "no level was played to the end of a visit" in (killed / "report.html").read_text(encoding="utf-8")
    assert run_command("compare", killed, searched).stdout.startswith("no difference detectable: m: BASE (nothing is")


@pytest.mark.slow
@pytest.mark.parametrize("side", ["BASE", "NEW", "--base", "--new"])
def test_a_search_is_compared_with_no_run_and_one_line_says_so(searched: Path, tmp_path: Path, side: str) -> None:
    first, second = (write_run(tmp_path / f"run{number}", number) for number in (1, 2))
    sides = {"BASE": (searched, first), "NEW": (first, searched)}
    words = sides.get(side, (first, second, side, searched))
    refused = run_command("compare", *words)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr == (
        f"loadgen: {searched}: a search for the capacity can be compared with another search alone, and {first} is "
        "none; give two searches, or two runs\n"
    )
