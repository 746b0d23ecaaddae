"""Files of prompts as other programs write them: the same rows in .json and .jsonl, and from a pipe."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import InputError
from loadgen.plan.plan import digest, make_plan
from loadgen.plan.prompts import Prompt, load_prompts, messages
from loadgen.scenario import PromptFiles, Scenario
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
        {"id": None, "text": None, "prompt": "Five?", "messages": None},
    ]
    prompts = listed(written(rows, kind))
    assert [prompt.text for prompt in prompts] == ["One?", "Two?", "Three?", "Four?", "Five?"]
    assert [prompt.id for prompt in prompts][1:3] == ["1000", "a-b"]
    assert prompts[1].key_points == ("k",)
    assert all(prompt.messages == () for prompt in prompts)


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
    ],
)
def test_json_that_breaks_off_is_named_with_its_place(name: str, text: str, says: str) -> None:
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
        ({"question": "a"}, "text: missing; write it as text, prompt, messages or conversations"),
        ({"prompt": 3}, 'text: 3 is a whole number, not a text; write e.g. text = "Say hello."'),
        ({"prompt": " "}, 'text: no text in it; write a prompt, such as "Say hello."'),
        ({"prompt": "a", "text": "b"}, "text and prompt are both given; leave one out"),
        ({"messages": []}, "messages: no list of messages; write e.g. [{"),
        ({"messages": "a"}, "messages: no list of messages; write e.g. [{"),
        ({"messages": [USER, "a"]}, "messages[1]: no message with a role; write e.g. {"),
        ({"messages": [{"content": "a"}]}, "messages[0]: no message with a role; write e.g. {"),
        ({"messages": [{"role": "user"}]}, "messages[0]: neither content nor tool_calls in it; write e.g. {"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: neither a text nor a list of parts;"),
        ({"messages": [USER], "tools": "f"}, "tools: no list of objects;"),
        (
            {"conversations": [{"from": "gpt", "value": "a"}]},
            "conversations: no turn of a human in it; leave this row out",
        ),
        ({"conversations": ["a"]}, "conversations: no list of turns; write e.g. [{"),
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
        InputError, match="a recorded chat is sent as it is, and has no text to wrap; leave the template"
    ):
        listed(written([{"messages": [USER]}], "jsonl"), template="Say: {text}")


# --- from a pipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ('{"prompt": "One?"}\n{"messages": [{"role": "user", "content": "Two?"}]}\n', ["One?", "Two?"]),
        ('{"prompt": "One?"}', ["One?"]),
        ('["One?", "Two?"]', ["One?", "Two?"]),
        ('{"prompts": ["One?"]}', ["One?"]),
        ("One?\nOr two?\n", ["One?\nOr two?"]),
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
