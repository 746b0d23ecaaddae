"""Comparisons of two variants that were played in blocks: what drifts from block to block is no difference."""

import json
import shutil
from pathlib import Path

import pytest
from msgspec import structs

from loadgen.decisions.compare.comparison import CompareSettings
from loadgen.decisions.compare.differences import Difference
from loadgen.decisions.compare.verdict import Limits
from loadgen.decisions.compare.words import context_lines, difference_lines, more_lines, verdict_line
from loadgen.errors import ExitCode, InputError
from tests.command_line import run_command
from tests.compared_runs import compare_runs, write_blocks, write_run

DRIFT = (1.0, 1.05, 1.1, 1.2, 1.3, 1.4)
"""How slow the machine is in each block."""
SPREAD = (1.0, 1.003, 0.998, 1.002, 0.997, 1.001)


@pytest.mark.slow
def test_drift_that_both_runs_of_a_block_have_hides_no_regression_and_makes_none(tmp_path: Path) -> None:
    new = [drift * spread for drift, spread in zip(DRIFT, SPREAD, strict=True)]
    equal = compare_runs(write_blocks(tmp_path / "equal", DRIFT, new), results=tmp_path)
    assert (equal.design, equal.verdict) == ("blocks", "same")
    slower = compare_runs(write_blocks(tmp_path / "slower", DRIFT, [1.06 * each for each in new]), results=tmp_path)
    assert (slower.design, slower.verdict) == ("blocks", "worse")
    ttft = next(each for each in slower.figures if (each.metric, each.level) == ("ttft_p50", None))
    assert ttft.p_worse == pytest.approx(1 / 64)
    assert ttft.ratio_ci is not None and 1.04 < ttft.ratio_ci[0] < 1.06 < ttft.ratio_ci[1] < 1.08
    assert verdict_line(slower).endswith("; 6 blocks of two runs")
    apart = compare_runs(
        [tmp_path / "slower" / each for each in slower.base],
        [tmp_path / "slower" / each for each in slower.new],
        results=tmp_path,
    )
    assert (apart.design, apart.verdict) == ("runs", "unknown"), "by runs, the drift is noise"


def test_noise_is_that_within_blocks(tmp_path: Path) -> None:
    noise = compare_runs(write_blocks(tmp_path, DRIFT, DRIFT), results=tmp_path).noise
    assert (noise.source, noise.degrees) == ("repeats", 5)
    assert noise.sd is not None and noise.sd < 0.03


def test_four_blocks_show_nothing_and_say_so(tmp_path: Path) -> None:
    comparison = compare_runs(write_blocks(tmp_path, [1.0] * 4, [2.0] * 4), results=tmp_path)
    assert (comparison.design, comparison.verdict) == ("blocks", "unknown")
    assert min(figure.p_worse for figure in comparison.figures) == pytest.approx(1 / 16)
    assert "4 blocks of two runs cannot show worse or better at --alpha 5 %; 5 can" in context_lines(comparison)
    assert verdict_line(comparison) == "too few blocks to show a difference; 4 blocks of two runs"
    (line,) = (line for line in context_lines(comparison) if line.startswith("differs"))
    why = "too few to show a difference at --alpha 5 % (5 blocks would be enough)"
    assert line.startswith(f"differs in these blocks, which are {why}: ")
    assert "TTFT p50, over all levels +100.0 % (" in line or "TTFT p50, over all levels +100 % (" in line
    assert not any("TTFT p50" in line for line in context_lines(comparison) if line.startswith("not known"))
    strict = CompareSettings(limits=Limits(alpha=0.01))
    six = compare_runs(write_blocks(tmp_path / "six", [1.0] * 6, [2.0] * 6), settings=strict, results=tmp_path)
    assert "6 blocks of two runs cannot show worse or better at --alpha 1 %; 7 can" in context_lines(six)


def test_how_many_blocks_would_tell_is_said_in_blocks(tmp_path: Path) -> None:
    spread = (1.0, 1.12, 0.93, 1.08, 0.9, 1.05)
    comparison = compare_runs(write_blocks(tmp_path, [1.0] * 6, spread), results=tmp_path)
    line = next(line for line in context_lines(comparison) if line.startswith("not known: "))
    assert line.endswith(" blocks would be enough to show a change of 5 %")
    assert not any(line.startswith("differs") for line in context_lines(comparison)), "six blocks can show worse"
    needed = [each.runs_needed for each in comparison.figures if isinstance(each.runs_needed, int)]
    assert all(each >= 5 for each in needed)


def test_a_single_block_is_one_run_against_one(tmp_path: Path) -> None:
    comparison = compare_runs(write_blocks(tmp_path, [1.0], [1.0]), results=tmp_path)
    assert (comparison.design, comparison.noise.source) == ("few", "assumed")


def test_models_of_two_variants_correspond_by_their_place(tmp_path: Path) -> None:
    comparison = compare_runs(write_blocks(tmp_path, [1.0] * 5, [1.0] * 5, model="other"), results=tmp_path)
    assert {each.model for each in comparison.figures} == {("tiny", "other")}


def test_beside_what_should_be_alike_nothing_else_differs(tmp_path: Path) -> None:
    comparison = compare_runs(write_blocks(tmp_path, [1.0] * 5, [1.0] * 5), results=tmp_path)
    assert more_lines(comparison)[-1] == "nothing differs: NEW is the same as BASE"
    heat = Difference("sampling.temperature", "0", "1", allowed=False)
    unlike = structs.replace(comparison, differences=(heat,))
    assert difference_lines(unlike) == ["not alike: sampling.temperature: 0 in BASE, 1 in NEW"]
    assert more_lines(unlike)[-1] == "nothing else differs"
    threads = Difference("threads", "2", "1", allowed=True)
    both = structs.replace(comparison, differences=(heat, threads))
    assert more_lines(both)[-1] == "what else differs: threads (2 in BASE, 1 in NEW)"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_compares_a_folder_alone_and_keeps_the_comparison_in_it(tmp_path: Path) -> None:
    both = write_blocks(tmp_path, DRIFT, [1.1 * each for each in DRIFT])
    result = run_command("compare", both)
    assert result.returncode == ExitCode.GATE_FAILED
    first, *rest = result.stdout.splitlines()
    assert first.startswith("worse: TTFT p50 +1")
    assert first.endswith("; 6 blocks of two runs")
    assert rest[-1] == f"comparison: {both / 'comparison.html'} (and comparison.md, comparison.json)"
    assert rest[-2] == "nothing differs: NEW is the same as BASE"
    kept = json.loads((both / "comparison.json").read_text("utf-8"))
    assert (kept["design"], kept["verdict"], len(kept["base"]), len(kept["new"])) == ("blocks", "worse", 6, 6)
    assert "6 blocks of two runs" in (both / "comparison.md").read_text("utf-8")
    better = run_command("compare", write_blocks(tmp_path / "x", DRIFT, [each / 1.1 for each in DRIFT]), "--json")
    assert (better.returncode, json.loads(better.stdout)["verdict"]) == (ExitCode.DONE, "better")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "run: only one side, because it has no pairs.json; give NEW too, or a folder of --versus"),
        (["both", "run"], "both: it has both sides; give it alone"),
        (["run", "both"], "both: it has both sides"),
        (["both", "--base", "run"], "a further run of BASE, but none of NEW; give NEW"),
        (["both", "--new", "run"], "both: it has both sides"),
        (["empty"], "empty: no block was completed, so there is nothing to compare; play it again"),
        (["gone"], ", a run of its blocks, is missing; put it back"),
        (["far"], ", a run of its blocks, is missing; put it back"),
        (["torn"], "pairs.json: not the blocks of two variants ("),
        (["other"], "pairs.json: schema is 'loadgen.pairs/9', this loadgen reads 'loadgen.pairs/1'"),
        (["nowhere"], "nowhere: only one side"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_run(tmp_path / "run", 30)
    write_blocks(tmp_path, [1.0], [1.0]).rename(tmp_path / "both")
    text = (tmp_path / "both" / "pairs.json").read_text("utf-8")
    pairs = json.loads(text)
    for name, changed in (
        ("empty", json.dumps(pairs | {"blocks": []})),
        ("gone", text.replace("Z-0123abcd", "Z-gone")),
        ("far", text.replace("Z-0123abcd", "Z" * 5000)),
        ("torn", text[: len(text) // 2]),
        ("other", text.replace("pairs/1", "pairs/9")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.json").write_text(changed, "utf-8")
    result = run_command("compare", *(each if each.startswith("--") else tmp_path / each for each in arguments))
    assert (result.returncode, result.stdout) == (ExitCode.BAD_INPUT, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_was_moved_with_its_runs_is_compared_where_it_is(tmp_path: Path) -> None:
    write_blocks(tmp_path / "before", [1.0] * 2, [1.0] * 2)
    shutil.move(tmp_path / "before", tmp_path / "after")
    (both,) = (tmp_path / "after").glob("*-ab2")
    assert len(compare_runs(both, results=tmp_path).base) == 2


def test_a_run_that_lost_its_requests_is_named(tmp_path: Path) -> None:
    both = write_blocks(tmp_path, [1.0] * 2, [1.0] * 2)
    run = next(path for path in tmp_path.iterdir() if path != both)
    (run / "requests.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=rf"{run.name}: none of its requests was answered"):
        compare_runs(both, results=tmp_path)
