"""Prompts: from the scenario or from files beside it, as they are sent, in an order that the seed fixes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import ExitCode, InputError
from loadgen.plan.prompts import Prompt, load_prompts, messages, text_of
from loadgen.scenario import InlinePrompt, PromptFiles, Scenario

Prompts = str | tuple[str | InlinePrompt, ...] | PromptFiles


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(prompts: Prompts, seed: int = 1) -> tuple[Prompt, ...]:
    return load_prompts(Scenario(name="x", prompts=prompts, seed=seed), Path("s"), "s/x.toml")


def listed(files: str, template: str = "{text}") -> tuple[Prompt, ...]:
    return loaded(PromptFiles(files=files, template=template, order="listed"))


def write(files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = Path("s") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def complaint_about(prompts: Prompts) -> str:
    with pytest.raises(InputError) as caught:
        loaded(prompts)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


# --- in the scenario --------------------------------------------------------------------------------------------------


def test_a_text_is_one_prompt() -> None:
    assert loaded("Say hello.") == (Prompt("p1", "Say hello."),)


def test_a_list_is_sent_as_it_stands_and_numbered() -> None:
    given_ = (" a ", InlinePrompt(text="b", id="bee", key_points=("k",)), "{text}")
    assert loaded(given_) == (Prompt("p1", " a "), Prompt("bee", "b", ("k",)), Prompt("p3", "{text}"))


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        (" \n", 's/x.toml: prompts: no text in it; write a prompt, such as "Say hello."'),
        (("a", " "), 's/x.toml: prompts[1]: no text in it; write a prompt, such as "Say hello."'),
        (
            ("a", InlinePrompt(text="\t")),
            's/x.toml: prompts[1].text: no text in it; write a prompt, such as "Say hello."',
        ),
        (
            (InlinePrompt(text="a", id="x"), InlinePrompt(text="b", id="x")),
            's/x.toml: prompts[1].id: the id "x" stands at prompts[0] too; give each its own id',
        ),
        (
            (InlinePrompt(text="a", id="p2"), "b"),
            's/x.toml: prompts[1].id: the id "p2" stands at prompts[0] too; give each its own id',
        ),
    ],
)
def test_a_mistake_in_the_scenario_names_the_prompt(prompts: Prompts, line: str) -> None:
    assert complaint_about(prompts) == line


# --- in files ---------------------------------------------------------------------------------------------------------


def test_each_kind_of_file_gives_its_prompts() -> None:
    write(
        {
            "p/a.txt": "\nText.\n",
            "p/b.md": "# Title\n\nText.\n",
            "p/c.toml": 'text = """\nText.\n"""\nid = "sea"\nkey_points = ["k"]\n',
            "p/d.jsonl": '{"text": "One."}\n\n{"text": "Two.", "id": "two", "key_points": ["k"]}\r\n',
        }
    )
    assert listed("p/*") == (
        Prompt("a", "Text."),
        Prompt("b", "# Title\n\nText."),
        Prompt("sea", "Text.", ("k",)),
        Prompt("d-1", "One."),
        Prompt("two", "Two.", ("k",)),
    )


def test_one_file_may_be_named_without_a_glob() -> None:
    write({"a[1].txt": "Text."})
    assert listed("a[1].txt") == (Prompt("a-1", "Text."),)


def test_an_absolute_path_is_taken_as_it_is() -> None:
    write({"p/a.txt": "Text."})
    assert listed(str(Path("s/p/*.txt").absolute())) == (Prompt("a", "Text."),)


def test_a_glob_reaches_into_folders_and_passes_hidden_files_over() -> None:
    write({"p/a.txt": "A", "p/q/b.txt": "B", "p/.c.txt": "C", "p/._a.txt": b"\xff"})
    assert [prompt.id for prompt in listed("p/**/*.txt")] == ["a", "b"]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    write({"a.txt": b"\xef\xbb\xbfText."})
    assert listed("*.txt")[0].text == "Text."


def test_the_template_wraps_the_text_and_leaves_other_braces_alone() -> None:
    write({"a.txt": "{x} {text}"})
    assert listed("*.txt", 'Say {} in {"json"}: {text}!')[0].text == 'Say {} in {"json"}: {x} {text}!'


@pytest.mark.parametrize(
    ("name", "made"),
    [("A b (1).txt", "A-b-1"), (".x/-_a.txt", "a"), ("会議.txt", "u4f1a-8b70"), ("é.txt", "ue9"), ("a.b.txt", "a.b")],
)
def test_a_files_name_becomes_an_id(name: str, made: str) -> None:
    write({name: "Text."})
    assert listed(name)[0].id == made


def test_an_id_made_of_a_long_name_is_short_enough() -> None:
    write({f"{'x' * 120}.txt": "Text."})
    assert listed("*.txt")[0].id == "x" * 80


def test_listed_is_by_name_and_shuffled_is_by_the_seed() -> None:
    write({f"p/{letter}.txt": letter for letter in "hgfedcba"})
    by_name = listed("p/*.txt")
    assert [prompt.id for prompt in by_name] == list("abcdefgh")
    shuffled = [loaded(PromptFiles(files="p/*.txt"), seed) for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1]
    assert len({by_name, *shuffled}) == 3
    assert all(sorted(order, key=lambda prompt: prompt.id) == list(by_name) for order in shuffled)


MISTAKES: list[tuple[dict[str, str | bytes], str, str]] = [
    (
        {},
        "p/*.toml",
        's/x.toml: prompts.files: no file matches "p/*.toml" in s/; paths are relative to the scenario\'s own folder',
    ),
    ({"p/a.txt": "A"}, "p", 's/x.toml: prompts.files: "p" is a folder; write "p/*.txt"'),
    (
        {"a.yaml": "A"},
        "a.yaml",
        's/x.toml: prompts.files: "a.yaml" is not of a kind that holds prompts; use .toml, .txt, .md, .jsonl, .ndjson, '
        ".jsonlines, .json, .csv, .tsv",
    ),
    (
        {"a.jsonl.gz": b"\x1f\x8b\x08"},
        "a.jsonl.gz",
        's/x.toml: prompts.files: "a.jsonl.gz" is not of a kind that holds prompts; unpack it first, or pipe what it '
        "holds to --prompts-file -",
    ),
    (
        {"a.parquet": b"PAR1"},
        "a.parquet",
        's/x.toml: prompts.files: "a.parquet" is not of a kind that holds prompts; save it as .csv or .jsonl',
    ),
    ({"a.jsonl": b"\x1f\x8b\x08\x00"}, "a.jsonl", "{s}a.jsonl: compressed with gzip; unpack it first"),
    ({"a.txt": "Hi.".encode("utf-16")}, "a.txt", "{s}a.txt: line 1: not UTF-8 but UTF-16; save it as UTF-8"),
    ({"a.txt": " \n"}, "a.txt", "{s}a.txt: empty; write a prompt into it, or leave it out"),
    ({"a.jsonl": "\n"}, "a.jsonl", "{s}a.jsonl: empty; write a prompt into it, or leave it out"),
    ({"a.txt": b"x\n\nca\xe9"}, "a.txt", "{s}a.txt: line 3: not UTF-8 (byte 0xe9); save it as UTF-8"),
    (
        {"a.toml": 'id = "a"\ntext = hi'},
        "a.toml",
        "{s}a.toml: line 2, column 8: not TOML: not a value (put text in double quotes); fix `text = hi`",
    ),
    (
        {"a.toml": 'text = "a"\nkeypoints = []'},
        "a.toml",
        "{s}a.toml: keypoints: unknown key `keypoints`; did you mean `key_points`?",
    ),
    (
        {"a.toml": 'text = "a"\ntemplate = "b"'},
        "a.toml",
        "{s}a.toml: template: unknown key `template`; the keys here are text, id, key_points",
    ),
    ({"a.toml": 'id = "a"'}, "a.toml", '{s}a.toml: text: missing; add text = "Say hello."'),
    ({"a.toml": 'text = " "'}, "a.toml", '{s}a.toml: text: no text in it; write a prompt, such as "Say hello."'),
    (
        {"a.toml": 'text = "a"\nid = "a b"'},
        "a.toml",
        '{s}a.toml: id: "a b" has a character that is not allowed; use letters, digits and . _ -, beginning with a '
        'letter or a digit, e.g. id = "hello"',
    ),
    (
        {"a.jsonl": '{"text": "a"}\n{"text": 3}'},
        "a.jsonl",
        '{s}a.jsonl: line 2: text: 3 is a whole number, not a text; write e.g. text = "Say hello."',
    ),
    (
        {"a.jsonl": '{"text": "a"}\n["b"]'},
        "a.jsonl",
        '{s}a.jsonl: line 2: not an object; write one per line, such as {"text": "Say hello."}',
    ),
    (
        {"a.jsonl": '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}'},
        "a.jsonl",
        '{s}a.jsonl: line 2: the id "x" is also that of {s}a.jsonl: line 1; give each its own id',
    ),
    (
        {"p/x.txt": "A", "q/x.txt": "B"},
        "*/x.txt",
        '{s}q/x.txt: the id "x" is also that of {s}p/x.txt; give each its own id',
    ),
]


@pytest.mark.parametrize(("files", "pattern", "line"), MISTAKES, ids=[line[:50] for _, _, line in MISTAKES])
def test_a_mistake_in_a_file_names_the_file_and_the_place(
    files: dict[str, str | bytes], pattern: str, line: str
) -> None:
    write(files)
    real = complaint_about(PromptFiles(files=pattern)).replace("\\", "/")
    assert real == line.replace("{s}", "s/")


def test_a_line_that_is_not_json_is_named() -> None:
    write({"a.jsonl": '{"text": "a"}\n{"text": "b"'})
    line = complaint_about(PromptFiles(files="a.jsonl")).replace("\\", "/")
    assert line.startswith("s/a.jsonl: line 2: not JSON: ")
    assert line.endswith('; write one object per line, such as {"text": "Say hello."}')


def test_a_template_must_say_where_the_text_goes() -> None:
    write({"a.txt": "A"})
    line = complaint_about(PromptFiles(files="a.txt", template="Summarize: {txt}"))
    assert line == "s/x.toml: prompts.template: does not say where the text goes; put {text} into it"


@pytest.mark.parametrize("pattern", ["**a", "\0", "..", "/", "~", "a" * 5000, "["])
def test_an_odd_pattern_is_an_input_error(pattern: str) -> None:
    write({"a.txt": "A"})
    assert complaint_about(PromptFiles(files=pattern)).startswith("s/x.toml: prompts.files: ")


def test_a_jsonl_line_ends_at_a_line_feed_only() -> None:
    write({"a.jsonl": '{"text": "one\u2028two\x85three"}\n'})
    assert listed("a.jsonl")[0].text == "one\u2028two\x85three"


@pytest.mark.slow
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives_a_jsonl_file(texts: list[str]) -> None:
    Path("s").mkdir(exist_ok=True)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    Path("s/a.jsonl").write_bytes(lines.encode())
    assert [prompt.text for prompt in listed("a.jsonl")] == [text.strip() for text in texts]


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_chat_is_the_system_message_and_the_prompt() -> None:
    prompt = Prompt("p1", "Say hello.")
    user = {"role": "user", "content": "Say hello."}
    assert messages(prompt, None) == [user]
    assert messages(prompt, "Be brief.") == [{"role": "system", "content": "Be brief."}, user]


def test_the_text_of_a_recorded_chat_is_all_its_messages_with_their_roles() -> None:
    chat = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": ""},
    )
    assert text_of(Prompt("p", "Hi.", messages=chat)) == "system: Be brief.\n\nuser: Hi."
    assert text_of(Prompt("p", "Hi.")) == "Hi."
