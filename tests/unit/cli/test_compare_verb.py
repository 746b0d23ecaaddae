"""The verb compare: its exit codes, what it prints and writes, and what it does with wrong flags."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.cli.compare import parse_percent
from loadgen.decisions.compare.comparison import CompareSettings, Comparison, compare_sides
from loadgen.decisions.compare.document import comparison_document
from loadgen.decisions.compare.markdown import MAX_CHARACTERS, comparison_markdown
from loadgen.decisions.compare.sides import read_sides
from loadgen.decisions.compare.words import change_text, figure_name, level_text, metric_text, verdict_line
from loadgen.errors import ExitCode, InputError
from loadgen.report.html import html
from tests.command_line import run_command
from tests.compared_runs import write_run, write_side

FILES = ("comparison.html", "comparison.json", "comparison.md")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs of BASE, then three of NEW that take 20 % longer."""
    folder = tmp_path_factory.mktemp("results")
    spread = (0.99, 1.0, 1.01)
    slow = [1.2 * factor for factor in spread]
    return [*write_side(folder, spread, first=0), *write_side(folder, slow, first=10)]


def arguments(base: list[Path], new: list[Path]) -> list[object]:
    more = [word for flag, side in (("--base", base), ("--new", new)) for run in side[1:] for word in (flag, run)]
    return ["compare", base[0], new[0], *more]


def comparison_of(sides: list[Path], **asked: Any) -> Comparison:
    both = read_sides(sides[:3], sides[3:], results=sides[0].parent)
    return compare_sides(both, CompareSettings(**asked), results=sides[0].parent)


def test_a_regression_that_is_shown_ends_with_1_and_is_named_first(sides: list[Path]) -> None:
    result = run_command(*arguments(sides[:3], sides[3:]))
    assert (result.returncode, result.stderr) == (ExitCode.GATE_FAILED, "")
    first, *rest = result.stdout.splitlines()
    assert re.fullmatch(
        r"worse: TTFT p50 \+\d+\.\d % \(\+\d+\.\d to \+\d+\.\d\), over all levels; 3 runs against 3", first
    )
    assert rest[-1] == f"comparison: {sides[3] / 'comparison.html'} (and comparison.md, comparison.json)"
    assert all((sides[3] / name).is_file() for name in FILES)


def test_what_is_better_ends_with_0(sides: list[Path]) -> None:
    result = run_command(*arguments(sides[3:], sides[:3]))
    assert result.returncode == ExitCode.DONE
    assert result.stdout.startswith("better: ")


def test_json_alone_is_printed_and_is_the_file(sides: list[Path]) -> None:
    result = run_command(*arguments(sides[:3], sides[3:]), "--json")
    data = json.loads(result.stdout)
    assert data == json.loads((sides[3] / "comparison.json").read_text("utf-8"))
    assert (data["schema"], data["verdict"], data["design"]) == ("loadgen.comparison/1", "worse", "runs")
    assert {"what", "base", "new", "allowed"} == set(data["differences"][0]) if data["differences"] else True
    assert msgspec.json.decode(result.stdout.encode(), type=Comparison).verdict == "worse"


def test_quiet_prints_nothing_and_says_it_by_its_exit_code(sides: list[Path]) -> None:
    result = run_command(*arguments(sides[:3], sides[3:]), "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (ExitCode.GATE_FAILED, "", "")


def test_markdown_goes_to_a_file_or_alone_to_standard_output(sides: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "comment.md"
    run_command(*arguments(sides[:3], sides[3:]), "--markdown", place, "--quiet")
    printed = run_command(*arguments(sides[:3], sides[3:]), "--markdown", "-").stdout
    assert printed.startswith("## ❌ worse: TTFT p50")
    assert place.read_text("utf-8").partition("```sh")[0] == printed.partition("```sh")[0]
    assert str(sides[0].parent) not in printed.partition("```sh")[0]
    assert run_command(*arguments(sides[:3], sides[3:]), "--markdown", tmp_path).returncode == ExitCode.BAD_INPUT


def test_what_is_not_alike_is_listed_a_line_each_and_ends_with_2(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", 0)
    new = write_run(tmp_path / "b", 1, workers=2, scenario={"sampling": {"max_tokens": 7}})
    result = run_command("compare", base, new)
    assert (result.returncode, result.stdout) == (ExitCode.BAD_INPUT, "")
    assert result.stderr.splitlines() == [
        "loadgen: BASE and NEW are not alike; make them alike, or compare them with --anyway:",
        "loadgen: sampling.max_tokens: 128 in BASE, 7 in NEW",
        "loadgen: workers: 1 in BASE, 2 in NEW",
    ]
    assert not (new / "comparison.json").exists()
    anyway = run_command("compare", base, new, "--anyway")
    assert anyway.returncode == ExitCode.DONE
    assert anyway.stdout.startswith("not alike: sampling.max_tokens: 128 in BASE, 7 in NEW\n")
    assert "**not alike**" in (new / "comparison.md").read_text("utf-8")
    assert "should be alike" in (new / "comparison.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--margin", "big"], "--margin big: not from"),
        (["--margin", "0%"], "--margin 0%: not from"),
        (["--alpha", "90%"], "--alpha 90%: not from"),
        (["--noise", "-3%"], "--noise -3%: not from"),
        (["--min-effect", "200%"], "--min-effect 200%: not from"),
        (["--metrics", "ttft_p50,speed"], "--metrics ttft_p50,speed: 'speed' is not a metric"),
        (["--metrics", "ttft_p51"], "'ttft_p51' is not a metric"),
        (["--metrics", "itl_p99.9"], "not every run shows one of itl_p99.9"),
        (["--stage", "c9"], "--stage c9: no run has it"),
        (["--pair", "tiny"], "--pair tiny: not two models"),
        (["--pair", "tiny=huge"], "--pair: huge was not played in NEW"),
        (["--base", "nowhere"], "nowhere: not a run folder"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_one_line(sides: list[Path], flags: list[str], words: str) -> None:
    result = run_command("compare", sides[0], sides[3], *flags)
    assert (result.returncode, result.stdout) == (ExitCode.BAD_INPUT, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_percentage_may_be_written_in_several_ways() -> None:
    assert [parse_percent(text, "--margin") for text in ("5%", "5 %", "5", "2.5%")] == [0.05, 0.05, 0.05, 0.025]
    with pytest.raises(InputError, match=r"^--margin 5%%: "):
        parse_percent("5%%", "--margin")


def test_metrics_that_are_named_are_compared_and_no_others(sides: list[Path]) -> None:
    comparison = comparison_of(sides, metrics=("ttft_p90", "rss"))
    assert {figure.metric for figure in comparison.figures} == {"ttft_p90", "rss"}


def test_markdown_of_many_figures_fits_a_comment_and_keeps_its_command(sides: list[Path]) -> None:
    comparison = comparison_of(sides)
    many = msgspec.structs.replace(comparison, figures=comparison.figures * 60)
    text = comparison_markdown(many, "loadgen compare a b")
    assert len(text) <= MAX_CHARACTERS
    assert text.endswith("\n```sh\nloadgen compare a b\n```\n")
    assert text.count("<details>") == text.count("</details>") == 1
    assert "more rows, which are in comparison.json" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the gate is a script of bash")
def test_the_gate_of_the_page_works_as_it_stands(sides: list[Path], tmp_path: Path) -> None:
    """Its second step, by bash: whose arrays it uses."""
    page = (Path(__file__).parents[3] / "docs" / "compare.md").read_text("utf-8")
    steps = re.findall(r"  - run: \|\n((?:      .*\n)+)", page)
    for number, run in enumerate(sides):
        place = tmp_path / "results" / ("base" if number < 3 else "new") / "summarizer"
        shutil.copytree(run, place / f"run{number}")
    command = tmp_path / "loadgen"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m loadgen "$@"\n')
    command.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", textwrap.dedent(steps[1])],
        cwd=tmp_path,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (ExitCode.GATE_FAILED, "")
    assert "3 runs against 3" in (tmp_path / "comment.md").read_text("utf-8")


def test_names_that_somebody_chose_are_escaped_everywhere(sides: list[Path]) -> None:
    hostile = "</script><img src=x>|`**`\n# x"
    comparison = comparison_of(sides)
    figures = tuple(msgspec.structs.replace(each, model=(hostile, f"{hostile}2")) for each in comparison.figures)
    two = (*figures, *comparison.figures)
    named = msgspec.structs.replace(comparison, figures=two, scenario=hostile)
    text = comparison_markdown(named, f"loadgen compare '{hostile}' ```` b")
    assert re.search(r"(?<!\\)<img", text.partition("`````sh")[0]) is None
    assert "\n# x" not in text
    page = html(comparison_document(named, read_sides(sides[:3], sides[3:], results=sides[0].parent))).decode()
    assert "<img src=x>" not in page.partition("<script>")[0]


def test_equal_comparisons_give_equal_bytes(sides: list[Path]) -> None:
    both = read_sides(sides[:3], sides[3:], results=sides[0].parent)
    pages = {
        html(comparison_document(compare_sides(both, CompareSettings(), results=sides[0]), both)) for _ in range(2)
    }
    assert len(pages) == 1


def test_metrics_and_levels_are_named_in_words(sides: list[Path]) -> None:
    assert [metric_text(name) for name in ("ttft_p50", "ttft_from_send_p50", "itl_p99.9", "goodput", "ok", "rss")] == [
        *("TTFT p50", "TTFT from send p50", "ITL p99.9", "SLO met", "answered", "memory"),
    ]
    assert [level_text(level) for level in ("c1", "c8", "r0.5", "ramp1-5", "trace")] == [
        *("1 user", "8 users", "0.5 /s", "ramp1-5", "trace"),
    ]
    comparison = comparison_of(sides)
    rate = next(figure for figure in comparison.figures if figure.metric == "output_tokens_per_s")
    assert change_text(rate).startswith("−")
    assert figure_name(comparison, rate) == "tok/s at 1 user"
    same = msgspec.structs.replace(comparison, verdict="unknown")
    assert verdict_line(same) == "no difference detectable; 3 runs against 3"
