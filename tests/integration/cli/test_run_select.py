"""`run --select` plays a scenario and then chooses one of its models; what cannot be chosen from is refused before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.analysis import validity
from loadgen.analysis.validity import Judgment
from loadgen.cli import run as run_verb
from tests.command_line import run_command, without_settings
from tests.integration.server import Script, Served, Server, streamed

OWNERS = ("Ana", "Ben", "Cleo", "Dov", "Edna", "Finn", "Gita", "Hugo")
POINTS = {f"m{i}": f"{owner} pays {100 + 7 * i} euros by {i + 2} April" for i, owner in enumerate(OWNERS)}
TEXTS = {f"Meeting {key}. Chair: {point}, agreed. All: Yes.": point for key, point in POINTS.items()}


def answer(request: Served) -> Script:
    """The model `good` says what was decided, and `bad` says nothing of it. Both stream a few tokens."""
    point = TEXTS.get(request.says, "Hello.")
    words = point.split() if request.model == "good" else ["It", "was", "a", "long", "and", "quiet", "meeting."]
    return streamed(*(f"{word} " for word in words))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(answer) as server:
        yield server


@pytest.fixture(autouse=True)
def _in_an_empty_folder_with_every_stage_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    monkeypatch.setattr(validity, "judge", lambda _: Judgment("valid", ()))


def play(server: Server, *arguments: object, table: str = "", keep_text: bool = True) -> Any:
    """The command `run --select` of both models on the server."""
    prompts = ", ".join(
        f'{{ id = "m{i}", text = "{text}", key_points = ["{point}"] }}' for i, (text, point) in enumerate(TEXTS.items())
    )
    models = ", ".join(f'{{ name = "{name}", url = "{server.url}" }}' for name in ("bad", "good"))
    Path("minutes.toml").write_text(
        f"""
name = "minutes"
keep_text = {str(keep_text).lower()}
warmup_requests = 0
prompts = [{prompts}]
models = [{models}]
load = {{ mode = "closed", requests = {len(POINTS)} }}
[select]
{table}
""",
        encoding="utf-8",
    )
    return run_command("run", "minutes.toml", "--select", *arguments)


def test_the_better_model_is_recommended_after_the_table_of_the_run(server: Server) -> None:
    done = play(server)
    assert done.returncode == 0, done.stderr
    table, _, choice = done.stdout.partition("report: ")
    assert "tok/s" in table
    assert "good@" in choice
    assert "is recommended" in choice
    (folder,) = Path("results/selections").iterdir()
    assert f"selection: {folder / 'selection.html'}" in choice
    selection = json.loads((folder / "selection.json").read_text(encoding="utf-8"))
    assert selection["decision"]["recommended"].startswith("good@")
    report = (folder / "benchmark_report.md").read_text(encoding="utf-8")
    assert f"\nRun `{selection['runs'][0]}`, " in report


def test_json_is_the_selection_alone(server: Server) -> None:
    done = play(server, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "loadgen.selection/1"


def test_repeated_runs_are_chosen_from_together(server: Server) -> None:
    selection = json.loads(play(server, "--repeats", 2, "--json").stdout)
    assert len(selection["runs"]) == 2


def test_where_nobody_meets_what_is_required_the_exit_code_is_1(server: Server) -> None:
    done = play(server, table='require = { license = "commercial" }')
    assert done.returncode == 1
    assert "license unknown" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "table", "line"),
    [
        (
            ("--versus", "sampling.max_tokens=4"),
            "",
            "--select with --versus: two variants of a scenario are compared; "
            "leave one of them out, or choose with `loadgen select` afterwards",
        ),
        ((), 'level = "c4"', "--select: select.level: c4 is not played; choose from c1"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused_before_anything_is_sent(
    server: Server, arguments: tuple[str, ...], table: str, line: str
) -> None:
    done = play(server, *arguments, table=table)
    assert (done.returncode, done.stderr) == (2, f"loadgen: {line}\n")
    assert server.served == []


def test_weights_that_are_all_0_are_refused_before_anything_is_sent(server: Server) -> None:
    names = ("quality", "latency", "memory", "throughput", "cost", "disk")
    done = play(server, table=f"weights = {{ {', '.join(f'{name} = 0' for name in names)} }}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert server.served == []


def test_a_run_that_keeps_no_texts_says_before_it_begins_that_quality_will_be_missing(server: Server) -> None:
    done = play(server, keep_text=False)
    assert "keep_text is off, so the choice leaves quality out; --set keep_text=true" in done.stderr
    assert "--set" not in play(server, "--set", "keep_text=true", keep_text=False).stderr


def test_of_a_run_that_was_stopped_nothing_is_chosen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    play_plan = run_verb._play_repeats

    async def stopped(*arguments: Any) -> Any:
        return msgspec.structs.replace(await play_plan(*arguments), interrupted=True)

    monkeypatch.setattr(run_verb, "_play_repeats", stopped)
    done = play(server, "--json")
    assert done.returncode == 130
    assert json.loads(done.stdout)["schema"] == "loadgen.summary/1"
    assert "nothing was chosen, because the run was stopped" in done.stderr
    assert not Path("results/selections").exists()


def test_where_no_model_can_be_used_nothing_is_chosen() -> None:
    with Server(answer) as server:
        pass
    done = play(server, "--ready", "0")
    assert done.returncode == 3
    assert "chosen" not in done.stderr
    assert not Path("results/selections").exists()
