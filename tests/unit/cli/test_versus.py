"""The flags of `--versus`: what is refused, and what `plan` shows of it. Nothing is sent."""

import io
import json
import sys
from pathlib import Path

import pytest

from loadgen.decisions.versus.order import block_orders
from loadgen.errors import ExitCode
from tests.command_line import run_command, without_settings

SCENARIO = """
name = "two"
prompts = ["Say hello.", "Count."]
[[models]]
name = "m"
url = "http://127.0.0.1:9/v1"
[load]
mode = "closed"
requests = 3
"""
OTHER = "models[0].name=n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("two.toml").write_text(SCENARIO, encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--versus", "speed"], "--versus speed: not a setting"),
        (["--versus", ""], "--versus : not a setting"),
        (["--versus"], "--versus"),
        (["--versus", OTHER, "--repeats", 1], "--repeats 1 with --versus: "),
        (["--versus", OTHER, "--baseline", "x"], "--baseline x with --versus: a baseline is one run"),
        (["--versus-url", "http://127.0.0.1:9", "--baseline", "x"], "--baseline x with --versus: "),
        (["--versus", "sampling.max_tokens=7"], "sampling.max_tokens is 128 in A and 7 in B; "),
        (["--versus", "warmup_requests=7"], "warmup_requests is 1 in A and 7 in B; "),
        (["--versus", "prompts=['Stop.']"], "prompts is "),
        (["--versus", "slo.ttft_ms=7"], "slo.ttft_ms is not set in A and 7.0 in B; "),
        (["--versus", "name=y"], "--versus name=y: "),
        (["--versus", "models[0].target=llamacpp"], 'target "llamacpp" starts a server of its own'),
        (["--versus", OTHER, "--rest", "soon"], "--rest soon: not a time above 0"),
        (["--rest", "5s"], "--rest 5s: there is one run alone; add --repeats N"),
        (["--anyway"], "--anyway: there is one variant alone; add --versus KEY=VALUE"),
        (["--repeats", 3, "--baseline", "x"], "--baseline x with --repeats 3: a baseline is one run"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_one_line_and_nothing_is_played(flags: list[str | int], words: str) -> None:
    result = run_command("run", "two.toml", *flags)
    assert (result.returncode, result.stdout) == (ExitCode.BAD_INPUT, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("results").exists()


def test_plan_shows_the_order_of_the_blocks_and_what_is_otherwise_in_b() -> None:
    result = run_command("plan", "two.toml", "--versus", OTHER)
    assert result.returncode == ExitCode.DONE
    assert result.stdout.splitlines()[-2:] == [
        f"6 blocks of two runs, A (unchanged) and B (the variant), in this order: {' '.join(block_orders(6, 1))}",
        "B: models[0].name is n",
    ]
    few = run_command("plan", "two.toml", "--versus-model", "n", "--repeats", 4)
    assert few.stdout.splitlines()[-1] == "4 blocks cannot show a regression; --repeats 5 can"
    data = json.loads(run_command("plan", "two.toml", "--versus", OTHER, "--repeats", 5, "--json").stdout)
    assert data["versus"] == {"order": list(block_orders(5, 1)), "keys": {"models[0].name": "n"}}
    assert "versus" not in json.loads(run_command("plan", "two.toml", "--json").stdout)


def test_plan_says_how_often_it_would_be_played() -> None:
    assert run_command("plan", "two.toml", "--repeats", 3).stdout.splitlines()[-1] == "all of it 3 times"


def test_other_work_is_planned_anyway() -> None:
    result = run_command("plan", "two.toml", "--versus", "sampling.max_tokens=7", "--anyway")
    assert result.stdout.splitlines()[-1] == "B: sampling.max_tokens is 7"


def test_prompts_that_are_piped_in_are_read_once_for_both_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b'["First?", "Second?", "Third?"]'))
    monkeypatch.setattr(sys, "stdin", piped)
    result = run_command("plan", "two.toml", "--prompts-file", "-", "--versus", OTHER)
    assert result.returncode == ExitCode.DONE, result.stderr
    assert "3 prompts" in result.stdout
