"""`judges.jsonl`: nothing is lost when the program is killed, and what it says in words."""

from pathlib import Path

import msgspec
import pytest

from loadgen.decisions.grade.judge_exam import JudgeTest
from loadgen.decisions.grade.judges_file import (
    JUDGES,
    Judging,
    PairResults,
    PairScore,
    append_judging,
    judge_of,
    judging_lines,
    read_judgings,
)
from loadgen.errors import InputError

TEST = JudgeTest(passed=True, right={"other": 8, "figures": 7}, pairs=8)
JUDGING = Judging(
    by="j (notes/1)",
    model="j",
    url="http://localhost:8080/v1",
    response_format="json_object",
    version="notes/1",
    votes=3,
    test=TEST,
    asked=192,
    without_verdict=4,
    answers=16,
    notes=63,
    pairs=None,
    self_judged=False,
    at="2026-01-02T00:00:00Z",
)
PAIRS = PairResults(
    scores=(PairScore(first="a", second="b", first_better=5, second_better=1, ties=1, without_verdict=1),),
    pairs=7,
    position_consistency=6 / 7,
    first_place_share=0.5,
)


def test_the_latest_judging_of_each_judge_is_read_back(tmp_path: Path) -> None:
    later = msgspec.structs.replace(JUDGING, at="2026-01-03T00:00:00Z", notes=64)
    other = msgspec.structs.replace(JUDGING, by="k (notes/1)", pairs=PAIRS)
    for judging in (later, other, JUDGING):
        append_judging(judging, [tmp_path])
    assert read_judgings([tmp_path]) == {"j (notes/1)": later, "k (notes/1)": other}
    assert read_judgings([tmp_path / "nowhere"]) == {}


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_line_that_was_cut_off_does_not_take_the_next_one_with_it(tmp_path: Path, cut: int) -> None:
    append_judging(JUDGING, [tmp_path])
    path = tmp_path / JUDGES
    path.write_bytes(path.read_bytes()[:-cut])
    append_judging(msgspec.structs.replace(JUDGING, by="k (notes/1)"), [tmp_path])
    assert set(read_judgings([tmp_path])) == ({"j (notes/1)", "k (notes/1)"} if cut == 1 else {"k (notes/1)"})


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    append_judging(JUDGING, [tmp_path])
    with (tmp_path / JUDGES).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(InputError, match=r"judges\.jsonl, line 2: not a judging"):
        read_judgings([tmp_path])


def test_a_judging_in_words() -> None:
    assert judging_lines(JUDGING) == [
        "j (notes/1) at http://localhost:8080/v1: 63 notes on 16 answers, each the median of 3 votes (JSON object)",
        "its test: it put the good answer above one to another prompt in 8 of 8, and above the same with its figures "
        "mixed up in 7 of 8",
        "without a verdict: 4 of 192 questions",
    ]


def test_one_vote_is_no_median_and_a_candidate_is_marked() -> None:
    lines = judging_lines(msgspec.structs.replace(JUDGING, votes=1, self_judged=True))
    assert lines[0].endswith("each one vote (JSON object)")
    assert lines[-1] == "it is one of the candidates: loadgen select does not use its notes"


def test_pairs_in_words_have_no_share_without_a_verdict() -> None:
    lines = judging_lines(msgspec.structs.replace(JUDGING, pairs=PAIRS))
    assert "a against b: better on 5 prompts, worse on 1, 1 tie, 1 without a verdict" in lines
    assert lines[-1].endswith("of 7 pairs; the answer in the first place is preferred in 50 % (50 % without a bias)")
    ties = msgspec.structs.replace(PAIRS, first_place_share=None)
    assert judging_lines(msgspec.structs.replace(JUDGING, pairs=ties))[-1].endswith("of 7 pairs")
    none = msgspec.structs.replace(PAIRS, pairs=0, position_consistency=None, first_place_share=None)
    assert "no pair of different answers" in judging_lines(msgspec.structs.replace(JUDGING, pairs=none))[-1]


@pytest.mark.parametrize("by", ["j (notes/1)", "j (x) (notes/1)", "j"])
def test_the_model_of_a_judge_is_in_its_name(by: str) -> None:
    assert judge_of(by) == by.removesuffix(" (notes/1)")
