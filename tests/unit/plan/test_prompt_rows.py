"""Files of prompts as other programs write them: the same rows in .json and .jsonl, and from a pipe."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen import api
from loadgen.errors import InputError
from loadgen.plan.plan import digest, make_plan
from loadgen.plan.prompts import Prompt, load_prompts, messages, read_prompts
from loadgen.scenario import PromptFiles, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.resolve import resolve_scenario
from loadgen.targets.request import body_of

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Why is the sky blue?"}
PARTS = {
    "role": "user",
    "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ],
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "42"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scenario(files: str, **more: Any) -> Scenario:
    return Scenario(name="x", prompts=PromptFiles(files=files, order="listed", **more))


def listed(files: str, **more: Any) -> tuple[Prompt, ...]:
    return load_prompts(scenario(files, **more), Path(), "x.toml")


def written(rows: list[Any], kind: str) -> str:
    """The rows as a file of a kind, from Windows (BOM, CRLF, an empty line)."""
    lines = (
        json.dumps(rows) if kind == "json" else "\r\n".join([json.dumps(rows[0]), "", *map(json.dumps, rows[1:]), ""])
    )
    Path(f"f.{kind}").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return f"f.{kind}"


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_text_goes_by_several_names_and_other_columns_are_passed_over(kind: str) -> None:
    rows = [
        {"prompt": "One?", "output_tokens": 64, "category": None, "nested": {"a": [1]}},
        {"text": " Two? ", "id": 1000, "source": "faq", "expected_aspects": "k"},
        {"text": "Three?", "prompt": "Three?", "id": "a b", "tools": TOOLS},
        "Four?",
        {"id": None, "text": None, "prompt": "Five?", "messages": None, "aspects": ""},
    ]
    prompts = listed(written(rows, kind))
    assert [prompt.text for prompt in prompts] == ["One?", "Two?", "Three?", "Four?", "Five?"]
    assert [prompt.id for prompt in prompts][1:3] == ["1000", "a-b"]
    assert prompts[1].key_points == ("k",)
    assert prompts[4].key_points == ()
    assert all(prompt.messages == () for prompt in prompts)


@pytest.mark.parametrize("name", ["f.json", "f.jsonl"])
def test_what_python_writes_beside_json_is_read(name: str) -> None:
    rows = [
        {"prompt": "One?", "score": float("nan"), "limits": [float("inf"), -float("inf")]},
        {"prompt": "Cut \ud83d here?", "tail": "\ude00"},
        {"messages": [{"role": "user", "content": "Whole \U0001f600, half \ude00?"}], "score": float("nan")},
    ]
    as_list = json.dumps(rows)
    assert "NaN" in as_list and "Infinity" in as_list and "\\ud83d here" in as_list
    for text in (as_list, "\n".join(map(json.dumps, rows))):
        Path(name).write_text(text)
        prompts = listed(name)
        assert [prompt.text for prompt in prompts] == ["One?", "Cut \ufffd here?", "Whole \U0001f600, half \ufffd?"]
        assert prompts[2].messages[0]["content"] == prompts[2].text


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_recorded_chat_is_sent_as_it_was(kind: str) -> None:
    older = [{"role": "assistant", "function_call": {"name": "f"}}, {"role": "function", "name": "f", "content": "42"}]
    chats = [[SYSTEM, USER], [USER, {"role": "assistant", "content": "Rayleigh."}, PARTS], [USER, CALL, TOOL, *older]]
    rows: list[Any] = [
        {"messages": chats[0], "model": "x"},
        {"messages": chats[1]},
        {"messages": chats[2], "tools": TOOLS},
    ]
    made = scenario(written([*rows, {"prompt": chats[0]}], kind))
    plan = make_plan(made, load_prompts(made, Path(), "x.toml"))
    bodies = [body_of(plan, plan.stages[0].request(i)) for i in range(4)]
    assert [body["messages"] for body in bodies] == [*chats, chats[0]]
    assert [body.get("tools") for body in bodies] == [None, None, TOOLS, None]
    assert [prompt.text for prompt in plan.prompts][:2] == ["Why is the sky blue?", "What is this?"]


def test_a_system_message_comes_before_a_recorded_chat_without_one() -> None:
    with_own, without = listed(written([{"messages": [SYSTEM, USER]}, {"messages": [USER]}], "jsonl"))
    assert messages(with_own, "Be kind.") == [SYSTEM, USER]
    assert messages(without, "Be kind.") == [{"role": "system", "content": "Be kind."}, USER]


@pytest.mark.parametrize("chat", [[{**SYSTEM, "role": "developer"}, USER], [USER, SYSTEM, USER]])
def test_a_system_message_under_its_newer_name_or_at_a_later_place_is_one(chat: list[Any]) -> None:
    (prompt,) = listed(written([{"messages": chat}], "jsonl"))
    assert messages(prompt, "Be kind.") == chat


def test_what_a_chat_says_is_in_the_digest() -> None:
    plans = []
    for first in ("a", "b"):
        made = scenario(written([{"messages": [{"role": "assistant", "content": first}, USER]}], "jsonl"))
        plans.append(make_plan(made, load_prompts(made, Path(), "x.toml")))
    assert digest(plans[0]) != digest(plans[1])


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_of_a_chat_and_its_first_question_in_columns_of_their_own_the_chat_is_sent(kind: str) -> None:
    rows = [
        {"prompt": "Why?", "prompt_id": "f0e3", "messages": [USER]},
        {"text": "Why? Because.", "prompt": "Why?", "conversations": [{"from": "human", "value": "Why not?"}]},
    ]
    chat, conversation = listed(written(rows, kind))
    assert chat.messages == (USER,)
    assert (conversation.text, conversation.messages) == ("Why not?", ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("f.json", '{"prompt": "One?"}\n{"prompt": "Two?"}\n', id="rows a line in .json"),
        pytest.param("f.json", '"One?"\n"Two?"', id="texts a line in .json"),
        pytest.param("f.jsonl", '[{"prompt": "One?"}, {"prompt": "Two?"}]\n', id="a list in .jsonl"),
        pytest.param("f.jsonl", '[\n  "One?",\n  "Two?"\n]\n', id="a list over several lines in .jsonl"),
        pytest.param("f.jsonl", '{\n  "prompts": ["One?", "Two?"]\n}\n', id="an object with a list in .jsonl"),
        pytest.param("f.jsonl", '{"data": ["One?", "Two?"]}', id="a list under data in .jsonl"),
        pytest.param(
            "f.json", '{"version": "1", "data": [{"prompt": "One?"}, {"prompt": "Two?"}]}', id="a list under data"
        ),
        pytest.param(
            "f.json",
            '{"features": [], "rows": [{"row_idx": 0, "row": {"prompt": "One?"}}, {"row": {"prompt": "Two?"}}]}',
            id="the dataset viewer's rows",
        ),
        pytest.param("f.JSON", '["One?", "Two?"]', id="capital letters"),
    ],
)
def test_whether_json_is_a_list_or_rows_is_seen_from_the_text(name: str, text: str) -> None:
    Path(name).write_text(text, "utf-8")
    assert [prompt.text for prompt in listed(name)] == ["One?", "Two?"]


def test_one_row_alone_is_a_list_of_one() -> None:
    Path("f.json").write_text('{\n  "prompt": "One?",\n  "id": "a"\n}\n', "utf-8")
    assert listed("f.json") == (Prompt("a", "One?"),)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("f.json", '["One?",]', "f.json: not JSON: "),
        ("f.json", '{"prompt": "One?"}\n{"prompt": "Tw', "f.json: line 2: not JSON: "),
        ("f.jsonl", '{"prompt": "One?"},\n{"prompt": "Two?"},\n', "f.jsonl: line 1: not JSON: "),
        ("f.jsonl", '[\n"One?",\n', "f.jsonl: line 1: not JSON: "),
        ("f.json", "null", "f.json: it has no list of prompts; "),
        ("f.json", "5", "f.json: it has no list of prompts; "),
        ("f.json", "{}", "f.json: it has no list of prompts; "),
        ("f.json", '{"prompts": null}', "f.json: it has no list of prompts; "),
        ("f.json", '{"data": ["One?"], "rows": ["Two?"]}', "f.json: it has no list of prompts; "),
        ("f.jsonl", "null", "f.jsonl: line 1: not an object; "),
    ],
)
def test_json_that_breaks_off_or_has_no_rows_is_named_with_its_place(name: str, text: str, says: str) -> None:
    Path(name).write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        listed(name)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_of_a_conversation_the_first_human_turn_is_asked(kind: str) -> None:
    turns = [("system", "S"), ("gpt", "Hi"), ("user", "Two?"), ("human", "No.")]
    rows = [
        {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}]},
        {"id": "x", "conversations": [{"from": name, "value": value} for name, value in turns]},
        {"conversations": [{"role": "user", "content": "Three?"}]},
    ]
    assert [prompt.text for prompt in listed(written(rows, kind))] == ["One?", "Two?", "Three?"]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"title": "a"}, "text: missing; write it as text, prompt, messages or conversations"),
        ({"body": "a"}, "text: missing; write it as text, prompt, messages or conversations"),
        ({"body": {"model": "m"}}, "text: missing; write it as text, prompt, messages or conversations"),
        ({"prompt": 3}, 'text: 3 is a whole number, not a text; write e.g. text = "Say hello."'),
        ({"question": 3}, 'text: 3 is a whole number, not a text; write e.g. text = "Say hello."'),
        ({"prompt": "a", "text": "b"}, "text and prompt are both given; leave one out"),
        (
            {"prompt": "a", "key_points": ["x"], "aspects": ["y"]},
            "key_points and aspects are both given; leave one out",
        ),
        ({"prompt": "a", "key_points": ["x", " "]}, "key_points[1]: no text in it; write a point, or leave it out"),
        ({"turns": "a"}, "turns: not a list of turns; write e.g. [{"),
        ({"turns": [3]}, "turns: not a list of turns; write e.g. [{"),
        ({"messages": "a"}, "messages: not a list of messages; write e.g. [{"),
        ({"messages": [USER, "a"]}, "messages[1]: not a message with a role; write e.g. {"),
        ({"messages": [{"content": "a"}]}, "messages[0]: not a message with a role; write e.g. {"),
        ({"messages": [{"role": "user"}]}, "messages[0]: neither content nor tool_calls in it; write e.g. {"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: neither a text nor a list of parts;"),
        ({"messages": [USER], "tools": "f"}, "tools: not a list of objects;"),
        ({"conversations": ["a"]}, "conversations: not a list of turns; write e.g. [{"),
        ({"conversations": [{"from": "human"}]}, "text: "),
        (3, "write"),
    ],
)
def test_a_row_that_cannot_be_asked_is_one_line_with_its_place(kind: str, row: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        listed(written(["a", row], kind))
    line = str(caught.value)
    assert line.startswith("f.json: prompt 2: " if kind == "json" else "f.jsonl: line 3: ")
    assert says in line
    assert "; " in line
    assert "\n" not in line


def test_a_recorded_chat_takes_no_template() -> None:
    with pytest.raises(
        InputError, match="a recorded chat is sent unchanged, so no template can wrap it; leave the template"
    ):
        listed(written([{"messages": [USER]}], "jsonl"), template="Say: {text}")


# --- rows as data sets have them --------------------------------------------------------------------------------------

PARTS_ROW = {"content": PARTS["content"]}
SHAPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "MT-bench": ({"question_id": 81, "category": "writing", "turns": ["One?", "Two?"], "reference": []}, "One?", "81"),
    "turns with roles": (
        {"turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "One?"}]},
        "One?",
        "",
    ),
    "Alpaca": ({"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}, "Sort.\n\n3 1 2", ""),
    "Alpaca without an input": ({"instruction": "Sort.", "input": "", "output": "x"}, "Sort.", ""),
    "Alpaca with the text of the training": (
        {"instruction": "Sort.", "input": " ", "output": "x", "text": "Below is an instruction: Sort. x"},
        "Sort.",
        "",
    ),
    "Dolly": ({"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}, "Who?\n\nAda wrote it.", ""),
    "SQuAD": ({"id": "5733", "question": "Who?", "context": "Ada.", "answers": {"text": []}}, "Who?\n\nAda.", "5733"),
    "HotpotQA": ({"question": "Who?", "context": {"title": []}, "answer": "Ada"}, "Who?", ""),
    "GSM8K": ({"question": "How many?", "answer": "3"}, "How many?", ""),
    "OpenOrca": ({"system_prompt": "S", "question": "Why?", "response": "R"}, "Why?", ""),
    "a prompt beside the question that it was made of": (
        {"prompt": "Answer: why?", "question": "Why?"},
        "Answer: why?",
        "",
    ),
    "MS MARCO": ({"query_id": 1, "query": "Why?", "passages": []}, "Why?", ""),
    "LongBench": ({"input": "Why?", "length": 3}, "Why?", ""),
    "evals": ({"input": [SYSTEM, USER], "ideal": "Rayleigh."}, "Why is the sky blue?", ""),
    "content": ({"content": "One?", "source": "x"}, "One?", ""),
    "content in parts": (PARTS_ROW, "What is this?", ""),
    "a message": ({"role": "user", "content": "One?"}, "One?", ""),
    "OASST": ({"conversation": [{"role": "prompter", "content": "One?"}]}, "One?", ""),
    "a batch for OpenAI": (
        {
            "custom_id": "r-1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "x", "messages": [USER]},
        },
        "Why is the sky blue?",
        "r-1",
    ),
    "a batch of completions": ({"custom_id": "r-2", "body": {"prompt": "One?", "max_tokens": 3}}, "One?", "r-2"),
    "a batch of responses": ({"custom_id": "r-3", "body": {"input": "One?"}}, "One?", "r-3"),
}


@pytest.mark.parametrize("kind", ["json", "jsonl", "ndjson"])
@pytest.mark.parametrize(("row", "text", "name"), SHAPES.values(), ids=SHAPES)
def test_a_row_of_a_data_set_asks_what_a_person_asks_in_it(
    row: dict[str, Any], text: str, name: str, kind: str
) -> None:
    (prompt, _) = listed(written([row, "Last?"], kind))
    assert prompt.text == text
    assert prompt.id == (name or "f-1")


def test_the_request_of_a_batch_is_sent_with_its_tools() -> None:
    body = {"messages": [SYSTEM, USER], "tools": TOOLS}
    (prompt,) = listed(written([{"custom_id": "r", "body": body}], "json"))
    assert (prompt.messages, prompt.tools) == ((SYSTEM, USER), tuple(TOOLS))


def test_a_content_in_parts_is_sent_in_parts() -> None:
    (prompt,) = listed(written([PARTS_ROW], "json"))
    assert prompt.messages == (PARTS,)


NOTHING_ASKED: list[Any] = [
    {"conversations": [{"from": "gpt", "value": "a"}]},
    {"conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "a"}]},
    {"conversations": []},
    {"messages": []},
    {"turns": []},
    {"turns": ["", "Two?"]},
    {"prompt": " "},
    {"prompt": None, "text": None},
    {"instruction": "", "input": "3 1 2"} | {"input": ""},
    {"role": "assistant", "content": "a"},
    {"body": {"messages": []}},
    "",
]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("row", NOTHING_ASKED, ids=json.dumps)
def test_a_row_in_which_nobody_asks_anything_is_skipped_and_counted(kind: str, row: Any) -> None:
    asked = scenario(written([row, "Two?"], kind))
    read = read_prompts(asked, Path(), "x.toml")
    assert [(prompt.id, prompt.text) for prompt in read.prompts] == [("f-3" if kind == "jsonl" else "f-2", "Two?")]
    place = "line 1" if kind == "jsonl" else "prompt 1"
    assert read.remarks == (f"f.{kind}: 1 of 2 rows is skipped, because they have no question ({place})",)
    with pytest.raises(InputError, match=rf"f\.{kind}: there is no question in its only row; write a text into it"):
        listed(written([row], kind))


def test_of_several_skipped_rows_the_first_is_named_and_without_any_nothing_is_said() -> None:
    files = scenario(written(["One?", *NOTHING_ASKED], "json"))
    (note,) = read_prompts(files, Path(), "x.toml").remarks
    assert note == "f.json: 12 of 13 rows are skipped, because they have no question (the first: prompt 2)"
    assert read_prompts(scenario(written(["One?"], "json")), Path(), "x.toml").remarks == ()
    with pytest.raises(InputError, match=r"f\.json: there is no question in any of its 12 rows"):
        listed(written(NOTHING_ASKED, "json"))


def test_the_plan_carries_what_was_skipped_and_its_digest_does_not() -> None:
    files = [scenario(written(rows, "json")) for rows in (["One?", ""], ["One?"])]
    Path("f.json").write_text('["One?", ""]', "utf-8")
    with_blank = api.plan_of(LoadedScenario(files[0], None, Path(), "x.toml"))
    Path("f.json").write_text('["One?"]', "utf-8")
    without = api.plan_of(LoadedScenario(files[1], None, Path(), "x.toml"))
    assert (len(with_blank.remarks), without.remarks) == (1, ())
    assert digest(with_blank) == digest(without)


# --- tables -----------------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "a comma between cells": ("f.csv", "id,prompt\n7,One?\n8,Two?\n", [("7", "One?"), ("8", "Two?")]),
    "a byte-order mark and Windows line ends": (
        "f.csv",
        "\ufeffprompt\r\nOne?\r\n\r\nTwo?\r\n",
        [("f-2", "One?"), ("f-4", "Two?")],
    ),
    "semicolons": ("f.csv", "act;Prompt\nPoet;Write, and sing.\n", [("f-2", "Write, and sing.")]),
    "tabs": ("f.tsv", 'prompt\tanswer\nSay "hello".\tHi\n', [("f-2", 'Say "hello".')]),
    "tabs in .csv": ("f.csv", "prompt\tn\nOne, two?\t1\n", [("f-2", "One, two?")]),
    "quotes, and a text of several lines": (
        "f.csv",
        'n,prompt\n1,"Say ""hello"",\nthen stop."\n2,Two?\n',
        [("f-2", 'Say "hello",\nthen stop.'), ("f-4", "Two?")],
    ),
    "an instruction and its input": ("f.csv", "instruction,input,output\nSort.,3 1,x\n", [("f-2", "Sort.\n\n3 1")]),
    "a column that no cell can hold": ("f.csv", 'question,messages\nWhy?,"[{}]"\n', [("f-2", "Why?")]),
    "rows that end early, and cells too many that are empty": (
        "f.csv",
        "prompt,n,m\nOne?\nTwo?,2,3,,\n",
        [("f-2", "One?"), ("f-3", "Two?")],
    ),
    "a first line in which Excel names the separator": (
        "f.csv",
        "\ufeffsep=;\r\nprompt;a,b,c\r\nOne?;1\r\n",
        [("f-3", "One?")],
    ),
    "such a line alone for a tab": ("f.csv", "sep=\t\nprompt\tn\nOne?\t1\n", [("f-3", "One?")]),
    "an empty line first": ("f.csv", "\nprompt\nOne?\n", [("f-3", "One?")]),
    "capital letters": ("F.CSV", "PROMPT\nOne?\n", [("F-2", "One?")]),
}


@pytest.mark.parametrize(("name", "text", "prompts"), TABLES.values(), ids=TABLES)
def test_a_table_has_a_prompt_a_row(name: str, text: str, prompts: list[tuple[str, str]]) -> None:
    Path(name).write_bytes(text.encode())
    assert [(prompt.id, prompt.text) for prompt in listed(name)] == prompts


def test_a_cell_may_hold_key_points_and_an_empty_one_is_skipped() -> None:
    Path("f.csv").write_text("prompt,aspects\nOne?,memory\n ,speed\n", "utf-8")
    read = read_prompts(scenario("f.csv"), Path(), "x.toml")
    assert read.prompts == (Prompt("f-2", "One?", ("memory",)),)
    assert read.remarks == ("f.csv: 1 of 2 rows is skipped, because they have no question (line 3)",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,n\na,1\n", "f.csv: the first line names no column of prompts; name one prompt, instruction, question, "),
        ("One?\nTwo?\n", "f.csv: the first line names no column of prompts; "),
        ("prompt,n\nOne, two?,1\n", "f.csv: line 2: 3 cells, and the first line names 2 columns; put a text that has"),
        ("prompt,prompt\na,b\n", "f.csv: two columns are called prompt; rename one of them"),
        ('n,prompt\n1,a\n2,"b\n', "f.csv: line 3: not a table: unexpected end of data; put a text with a quote into"),
        ('prompt\n"a" b\n', "f.csv: line 2: not a table: "),
        ("prompt\n", "f.csv: there is no question below its first line; write a text into it"),
        ("prompt,n\n,1\n", "f.csv: there is no question in its only row; write a text into it"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(text: str, says: str) -> None:
    Path("f.csv").write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        listed("f.csv")
    assert str(caught.value).startswith(says), str(caught.value)
    assert "\n" not in str(caught.value)


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["f.txt", "f.md"])
def test_a_text_file_is_one_prompt_or_holds_one_per_line(name: str) -> None:
    Path(name).write_bytes("\ufeffOne?\r\n\r\n  Two?\u2028\r\n".encode())
    assert [prompt.text for prompt in listed(name)] == ["One?\r\n\r\n  Two?"]
    prompts = listed(name, text_files="one_per_line")
    assert [(prompt.id, prompt.text) for prompt in prompts] == [("f-1", "One?"), ("f-3", "Two?")]


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        pytest.param(["a", {"text": "b", "id": "f-1"}, "c"], ["f-1-2", "f-1", "f-3"], id="an id like a generated one"),
        pytest.param([{"text": "a", "id": "a b"}, {"text": "b", "id": "a/b"}], ["a-b", "a-b-2"], id="alike once made"),
        pytest.param([{"text": "a", "id": "a b"}, {"text": "b", "id": "a-b"}], ["a-b-2", "a-b"], id="alike as given"),
        pytest.param(
            [{"text": "a", "id": "é"}, {"text": "b", "id": "ue9"}, {"text": "c", "id": "ue9-2"}],
            ["ue9-3", "ue9", "ue9-2"],
            id="a letter by number",
        ),
        pytest.param(
            [{"text": "a", "id": "x" * 90 + "1"}, {"text": "b", "id": "x" * 90 + "2"}],
            ["x" * 80, "x" * 78 + "-2"],
            id="alike for 80 characters",
        ),
        pytest.param([{"text": "a", "id": 1}, {"text": "b", "id": "1 "}], ["1", "1-2"], id="a number and a text"),
        pytest.param(["a", "a"], ["f-1", "f-2"], id="the same text twice"),
    ],
)
def test_no_two_prompts_share_an_id(rows: list[Any], ids: list[str]) -> None:
    assert [prompt.id for prompt in listed(written(rows, "json"))] == ids


def test_rows_of_a_file_with_a_long_name_have_ids_of_their_own() -> None:
    name = f"{'x' * 100}.json"
    Path(name).write_text('["a", "b", "c"]', "utf-8")
    ids = [prompt.id for prompt in listed(name)]
    assert (len(set(ids)), {len(each) for each in ids}) == (3, {80})


def test_the_id_of_a_file_goes_before_that_of_a_row_in_another() -> None:
    Path("a.json").write_text('["One?", "Two?"]', "utf-8")
    Path("a-2.txt").write_text("Three?", "utf-8")
    assert [(prompt.id, prompt.text) for prompt in listed("a*")] == [
        ("a-2", "Three?"),
        ("a-1", "One?"),
        ("a-2-2", "Two?"),
    ]


# --- from a pipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ('{"prompt": "One?"}\n{"messages": [{"role": "user", "content": "Two?"}]}\n', ["One?", "Two?"]),
        ('{"prompt": "One?"}', ["One?"]),
        ('["One?", "Two?"]', ["One?", "Two?"]),
        ('{"prompts": ["One?"]}', ["One?"]),
        ('{\n"version": 1, "data": [{"question": "One?"}, "Two?"]\n}', ["One?", "Two?"]),
        ("One?\nOr two?\n", ["One?\nOr two?"]),
        ("id,prompt\n7,One?\n8,Two?\n", ["One?", "Two?"]),
        ("prompt\tn\r\nOne?\t1\r\n", ["One?"]),
        ("sep=;\nprompt;n\nOne?;1\n", ["One?"]),
        ("A question, or two:\nOne?\n", ["A question, or two:\nOne?"]),
        ("Hello, prompt\n", ["Hello, prompt"]),
    ],
)
@pytest.mark.parametrize("path", ["-", "/dev/stdin"])
def test_prompts_are_piped_in(path: str, data: str, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + data.encode())))
    else:
        if not hasattr(os, "mkfifo"):
            pytest.skip("needs pipes with names")
        reading, writing = os.pipe()
        os.write(writing, data.encode())
        os.close(writing)
        path = f"/dev/fd/{reading}"
    overrides = Overrides(urls=("http://h/v1",), models=("m",))
    loaded, _ = resolve_scenario(None, overrides, prompts_file=Path(path), variables={})
    prompts = load_prompts(loaded.scenario, loaded.folder, loaded.where)
    assert [prompt.text for prompt in prompts] == texts
    assert len({prompt.id for prompt in prompts}) == len(texts)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "standard input: empty"),
        (b'{"prompt": "a"}\n{"x": 1}', "standard input: line 2: text: missing"),
        (b"\xff\xfea", "standard input: line 1: not UTF-8"),
        (b'[{"prompt": "a"}', "standard input: .*(line 1|not JSON)"),
        (b'{"prompt": "a"', "standard input: .*line 1"),
    ],
)
def test_what_cannot_be_asked_is_named_as_standard_input(
    data: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(InputError, match=says):
        listed("-")


def test_without_a_pipe_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input: nothing is piped in; pipe a file into it, or name one"):
        listed("-")
