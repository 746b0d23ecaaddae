"""Files of prompts that are too long to be read at once: the same prompts, row by row, and of too many a part."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import InputError
from loadgen.plan.prompt_sample import PromptSample
from loadgen.plan.prompt_streams import kind_of_long
from loadgen.plan.prompt_tables import rows_of_table
from loadgen.plan.prompts import LoadedPrompts, read_prompts
from loadgen.scenario import Closed, PromptFiles, Scenario

ROWS: list[Any] = [
    {"conversations": [{"from": "human", "value": "Name três rios. 🙂"}, {"from": "gpt", "value": "x" * 300}]},
    {"conversations": [{"from": "gpt", "value": "Nobody asks."}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi", [1, 2].'}]},
    {"id": "own", "prompt": "Why is the\nsky blue? \\ \u2028"},
    *({"prompt": f"Question {at}?", "answer": "y" * at} for at in range(38)),
    {"prompt": "Question 38?", "answer": float("nan")},
    {"prompt": "Question 39?", "answer": [float("inf")]},
]


def as_lines(rows: list[Any]) -> str:
    return "\n".join(map(json.dumps, rows))


def as_list(rows: list[Any]) -> str:
    return json.dumps(rows, ensure_ascii=False)


def as_indented_list(rows: list[Any]) -> str:
    return "\ufeff\r\n" + json.dumps(rows, indent=2, ensure_ascii=False).replace("\n", "\r\n") + "\r\n"


def as_table(rows: list[Any]) -> str:
    cells = (str(row.get("prompt", "")).replace('"', '""') for row in rows)
    return "sep=;\n\nid;Prompt\n" + "".join(f'{at};"{cell}"\n' for at, cell in enumerate(cells))


FILES: dict[str, tuple[str, Callable[[list[Any]], str]]] = {
    "lines": ("f.jsonl", as_lines),
    "lines under another name": ("f.json", as_lines),
    "a list": ("f.json", as_list),
    "an indented list": ("f.json", as_indented_list),
    "a list under another name": ("f.ndjson", as_list),
    "a table": ("f.csv", as_table),
    "one on each line": ("f.txt", as_lines),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is a long one, and comes in small pieces."""
    monkeypatch.setattr("loadgen.plan.prompts.MAX_BYTES", 900)
    monkeypatch.setattr("loadgen.plan.prompts.BEGINNING_BYTES", 700)
    monkeypatch.setattr("loadgen.plan.prompt_streams._PIECE_BYTES", 11)
    monkeypatch.setattr("loadgen.plan.prompt_rows._PIECE_CHARS", 11)


def read(files: str, requests: int | None = 5, **more: Any) -> LoadedPrompts:
    load = Closed(requests=requests, duration_s=None if requests else 9.0)
    prompts = PromptFiles(**{"files": files, "order": "listed", "text_files": "one_per_line", **more})
    return read_prompts(Scenario(name="x", prompts=prompts, load=load), Path(), "x.toml")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("order", ["listed", "shuffled"])
def test_a_long_file_has_the_same_prompts_as_if_it_was_read_at_once(
    kind: str, order: str, request: pytest.FixtureRequest
) -> None:
    name, text_of = FILES[kind]
    Path(name).write_text(text_of(ROWS), encoding="utf-8", newline="")
    at_once = read(name, order=order)
    request.getfixturevalue("small")
    assert read(name, order=order) == at_once
    assert len(at_once.prompts) >= 40


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text_of", [as_lines, json.dumps])
def test_half_a_character_in_a_long_file_is_replaced(text_of: Callable[[list[Any]], str]) -> None:
    rows = [{"prompt": f"{at}, half \ud83d, whole \U0001f600?"} for at in range(40)]
    Path("f.json").write_text(text_of(rows))
    texts = [prompt.text for prompt in read("f.json").prompts]
    assert texts == [f"{at}, half \ufffd, whole \U0001f600?" for at in range(40)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text_of", [as_lines, as_list])
def test_a_long_pipe_has_the_same_prompts(text_of: Callable[[list[Any]], str], monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(text_of(ROWS).encode()))
    monkeypatch.setattr("sys.stdin", piped)
    assert [prompt.text for prompt in read("-").prompts][:2] == ["Name três rios. 🙂", 'Say "hi", [1, 2].']


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "f.json",
            json.dumps({"data": ROWS}),
            "f.json: one JSON object of more than 0 MiB; write its prompts as JSON ",
        ),
        ("f.json", json.dumps({"data": ROWS}, indent=1), "f.json: one JSON object of more than 0 MiB; write its "),
        ("f.json", as_list(ROWS)[:-1], "f.json: prompt 45: not JSON, or too long: "),
        (
            "f.json",
            as_list(ROWS).replace("Question 3?", "Question \x013?"),
            "f.json: prompt 8: not JSON, or too long: ",
        ),
        ("f.json", as_list([*ROWS, 7]), "f.json: prompt 45: neither a text nor an object; write e.g. "),
        ("f.jsonl", as_lines(ROWS) + "\n{", "f.jsonl: line 45: not JSON: "),
        ("f.jsonl", as_lines([*ROWS, {"a": 1}]), "f.jsonl: line 45: text: missing; write it as text, prompt, "),
        ("f.csv", as_table(ROWS) + '8;"a" b\n', "f.csv: line 49: not a table: "),
    ],
)
def test_what_is_wrong_in_a_long_file_is_said_with_its_place(name: str, text: str, said: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(name)
    assert str(caught.value).startswith(said)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "text_of"), [("f.jsonl", as_lines), ("f.json", as_list), ("f.csv", as_table)])
def test_a_long_file_that_is_not_utf8_is_refused_with_the_line(name: str, text_of: Callable[[list[Any]], str]) -> None:
    data = text_of(ROWS).encode().replace(b"Question 39?", b"Question \xff?")
    Path(name).write_bytes(data)
    line = data[: data.index(b"\xff")].count(b"\n") + 1
    with pytest.raises(InputError, match=rf"^{name}: line {line}: not UTF-8 \(byte 0xff\); save it as UTF-8$"):
        read(name)


@pytest.mark.usefixtures("small")
def test_a_line_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.plan.prompt_streams.LONGEST_LINE", 2000)
    Path("f.jsonl").write_text(as_lines(ROWS) + "\n" + json.dumps({"prompt": "a" * 3000}))
    with pytest.raises(InputError, match=r"^f.jsonl: line 45: more than 0 MiB on one line; split it"):
        read("f.jsonl")


# Too many to be held in memory


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.plan.prompts.SAMPLE_BYTES", 300)
    monkeypatch.setattr("loadgen.plan.prompts.LEAST_SAMPLE", 1)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("requests", [5, None, 1000])
def test_of_too_many_listed_prompts_the_first_ones_are_used_and_the_rest_is_not_read(requests: int | None) -> None:
    Path("f.jsonl").write_text(as_lines(ROWS) + "\nnot JSON")
    loaded = read("f.jsonl", requests)
    texts = [prompt.text for prompt in loaded.prompts]
    assert texts[:2] == ["Name três rios. 🙂", 'Say "hi", [1, 2].']
    fit = len(texts)
    assert fit == 6 if requests == 5 else 6 < fit < 30
    assert loaded.remarks == (f"f.jsonl: more than 0 MiB of prompts; uses the first {fit}",)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("requests", [5, None, 1000])
def test_of_too_many_shuffled_prompts_the_seed_draws_some_of_all_files(requests: int | None) -> None:
    Path("f.jsonl").write_text(as_lines(ROWS[:20]))
    Path("g.jsonl").write_text(as_lines(ROWS[20:]))
    loaded = read("*.jsonl", requests, order="shuffled")
    drawn = [prompt.id for prompt in loaded.prompts]
    assert loaded == read("*.jsonl", requests, order="shuffled"), "the same seed draws the same"
    assert {name[0] for name in drawn} >= {"f", "g"}
    assert len(drawn) == len(set(drawn))
    assert len(drawn) == 6 if requests == 5 else 6 < len(drawn) < 30
    assert loaded.remarks[-1] == (
        f"*.jsonl: more than 0 MiB of prompts; uses {len(drawn)} of {len(ROWS) - 1}, drawn by the seed"
    )


@pytest.mark.slow
def test_every_prompt_has_the_same_chance_to_be_drawn() -> None:
    counts = dict.fromkeys(range(30), 0)
    for seed in range(2000):
        sample = PromptSample[int]("shuffled", needed=6, max_bytes=20, seed=seed)
        for prompt in counts:
            sample.take(prompt, 1)
        for prompt in sample.prompts():
            counts[prompt] += 1
    assert sum(counts.values()) == 12_000
    assert all(abs(count - 400) < 5 * 18 for count in counts.values()), "five deviations of the binomial distribution"


def test_a_sample_holds_no_more_than_its_limit_whatever_comes() -> None:
    sample = PromptSample[int]("shuffled", needed=None, max_bytes=1000, seed=1)
    for prompt in range(10_000):
        sample.take(prompt, 1 + prompt % 400)
        if prompt % 97 == 0:
            assert sum(1 + kept % 400 for kept in sample.prompts()) <= 1000


@pytest.mark.parametrize(
    ("beginning", "suffix", "kind"),
    [
        ('"Say hello."\n"Say bye."\n', "", "lines"),
        ("Say hello.\nSay bye.\n", ".jsonl", "lines"),
        ("id,prompt\n1,Say hello.\n", "", "table"),
        ("Say hello.\nSay bye.\n", "", "text"),
        ("[1,\n2]", "", "list"),
        ('{"data": [\n', ".json", "object"),
    ],
)
def test_the_kind_of_a_long_text_is_known_by_its_beginning(beginning: str, suffix: str, kind: str) -> None:
    assert kind_of_long(beginning, suffix) == kind


def test_a_table_may_begin_with_rows_of_blank_cells_and_may_be_empty() -> None:
    rows = [row for row, _, _ in rows_of_table(iter([" , \n", "id,prompt\n", "1,Say hello.\n"]), "x.csv")]
    assert [row.text for row in rows] == ["Say hello."]
    assert list(rows_of_table(iter([]), "x.csv")) == []


@pytest.mark.usefixtures("small")
def test_a_long_table_is_read_row_by_row() -> None:
    Path("f.csv").write_text("id,prompt\n" + "".join(f"{at},Question {at}?\n" for at in range(90)), encoding="utf-8")
    table = read_prompts(
        Scenario(name="x", prompts=PromptFiles(files="f.csv", order="listed"), load=Closed(requests=5)), Path(), "x"
    )
    assert [prompt.text for prompt in table.prompts][:2] == ["Question 0?", "Question 1?"]
