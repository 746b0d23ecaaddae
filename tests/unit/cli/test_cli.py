"""The command line as a whole: its verbs, and the options that they share."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loadgen.cli import options
from loadgen.cli.app import VERBS, app
from loadgen.cli.options import OutputOptions, ScenarioOptions, expand_options
from loadgen.scenario.overrides import Overrides
from tests.cli_page import PAGE, help_of, page_text

CLI = Path(options.__file__).parent
NO_VERBS = {
    *("__init__", "app", "before_run", "interrupt", "options", "run_versus", "signals", "streams", "terminal"),
    *("grade_judge", "units", "usage", "versus_plans"),
}


def test_every_verb_has_the_file_of_its_name_and_every_other_file_is_known() -> None:
    assert {path.stem for path in CLI.glob("*.py")} == set(VERBS) | NO_VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_is_listed_with_is_how_its_own_help_begins(verb: str) -> None:
    function = getattr(importlib.import_module(f"loadgen.cli.{verb}"), verb)
    assert (function.__doc__ or "").partition("\n")[0] == VERBS[verb]
    assert VERBS[verb].rstrip(".") in " ".join(help_of(verb).split())
    assert f"  {verb} " in help_of()


def test_without_a_verb_the_help_is_printed() -> None:
    answer = CliRunner().invoke(app, [], prog_name="loadgen", terminal_width=80)
    assert (answer.exit_code, answer.output) == (2, help_of())


def test_a_verb_that_is_misspelt_is_guessed() -> None:
    answer = CliRunner().invoke(app, ["rum"], prog_name="loadgen")
    assert answer.exit_code == 2
    assert "Did you mean 'run'?" in answer.output


def test_every_flag_of_a_scenario_becomes_what_it_changes() -> None:
    flags = ScenarioOptions(
        url=["http://h/v1"],
        model=["a", "b"],
        concurrency="1,2",
        rate="0.5",
        arrivals="poisson",
        max_tokens=7,
        requests=8,
        duration="2m",
        warmup=0,
        seed=3,
        timeout="5s",
        until="ttft_p99:5%",
        settings=["keep_text=true"],
        probe=True,
    )
    assert flags.with_setting("strict=true").overrides() == Overrides(
        urls=("http://h/v1",),
        models=("a", "b"),
        concurrency=(1, 2),
        rates_per_s=(0.5,),
        arrivals="poisson",
        max_tokens=7,
        requests=8,
        duration_s=120.0,
        warmup=0,
        seed=3,
        timeout_s=5.0,
        until="ttft_p99:5%",
        set=("keep_text=true", "strict=true", "probe=true"),
    )
    assert ScenarioOptions().overrides() == Overrides()


def test_json_goes_before_quiet() -> None:
    modes = [OutputOptions(quiet, as_json).output for quiet, as_json in ((False, False), (True, False), (True, True))]
    assert modes == ["text", "nothing", "json"]


def test_a_struct_of_options_becomes_a_parameter_a_field_and_is_whole_in_the_verb() -> None:
    received: list[object] = []

    @expand_options
    def verb(*, times: int = 1, printing: OutputOptions) -> None:
        """Do it."""
        received.extend((times, printing))

    alone = typer.Typer(rich_markup_mode=None)
    alone.command()(verb)
    answer = CliRunner().invoke(alone, ["--times", "2", "--json"])
    assert answer.exit_code == 0, answer.output
    assert received == [2, OutputOptions(as_json=True)]


def test_the_page_of_the_command_line_is_what_help_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_text(), "run `python -m tests.cli_page`"


def test_the_version_is_that_of_the_package() -> None:
    answer = CliRunner().invoke(app, ["--version"])
    assert (answer.exit_code, answer.output) == (0, f"loadgen {importlib.metadata.version('loadgen')}\n")


def test_the_completion_that_is_shown_is_of_loadgen_however_it_was_called(tmp_path: Path) -> None:
    # `complete … python -m loadgen` would take the place of what the shell completes for python.
    words = [sys.executable, "-m", "loadgen", "--show-completion", "bash"]
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=True)
    assert shown.stdout.splitlines()[-1] == "complete -o default -F _loadgen_completion loadgen"


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("loadgen re", ["report"]),
        ("loadgen run --re", ["--requests", "--ready", "--repeats", "--rest"]),
        ("loadgen s", ["scenarios", "soak", "select", "serve"]),
    ],
)
def test_a_shell_completes_verbs_and_flags(words: str, completions: list[str]) -> None:
    asked = {"_LOADGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    answer = CliRunner().invoke(app, [], prog_name="loadgen", env=asked)
    assert answer.output.split() == completions
