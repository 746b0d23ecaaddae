"""Models whose names no table and no log was made for: each is asked for by its own name, and stands in every file."""

import csv
import html
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from loadgen.store.hlog import read_interval_log
from tests.command_line import run_command, without_settings
from tests.integration.server import Server, streamed, whole

NAMES: Final = (
    "/models/Qwen2.5-0.5B-Instruct",
    r"C:\models\phi 4\model.gguf",
    "a b, c;d",
    "[bold]x[/bold]",
    "#1 | two | three",
    "模型-7b",
    "llama 🦙 \"quoted\" 'once' `twice`",
    "<img src=x onerror=alert(1)>&amp;",
    "=1+1",
    "-x",
    "%20 ${HOME} {0}",
    "openai/*",
    "me@host:pw@x",
    "n" * 600,
)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The names by which a server was asked, and the folder of the run."""
    folder = tmp_path_factory.mktemp("names")
    listed = whole("200 OK", json.dumps({"data": [{"id": name} for name in NAMES]}).encode())
    with pytest.MonkeyPatch.context() as patch, Server(streamed("a", "b"), get=lambda _: listed) as server:
        without_settings(patch)
        patch.setenv("LOADGEN_CACHE_DIR", str(folder / "cache"))
        models = [f"--model={name}" for name in NAMES]
        flags = ("--requests", "1", "--warmup", "0", "--set", "probe=false", "--out", folder)
        ended = run_command("run", "--url", server.url, *models, *flags)
        assert ended.returncode in {0, 1}, ended.stderr  # on a busy machine a stage may be invalid
        assert "Traceback" not in ended.stderr
    (manifest,) = folder.rglob("manifest.json")
    return [request.model for request in server.chats], manifest.parent


def test_each_is_asked_for_by_its_name(played: tuple[list[str], Path]) -> None:
    asked, folder = played
    assert asked == [name for name in NAMES for _ in range(2)]
    records = [json.loads(line) for line in (folder / "requests.jsonl").read_text("utf-8").splitlines()]
    assert [(record["model"], record["outcome"]) for record in records] == [(name, "ok") for name in NAMES]
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert [stage["model"] for stage in summary["stages"]] == list(NAMES)


def test_each_has_tags_of_its_own_that_readers_take_whole(played: tuple[list[str], Path]) -> None:
    text = (played[1] / "histograms.hlog").read_text("utf-8")
    tags = [interval.tag for interval in read_interval_log(text) if interval.tag.endswith("/ttft")]
    assert len(set(tags)) == len(NAMES)
    lines = [line for line in text.splitlines() if line.startswith("Tag=")]
    assert {len(line.split(",")) for line in lines} == {5}
    assert all(len(line.split()) == 1 for line in lines)


def test_each_is_one_cell_of_the_tables(played: tuple[list[str], Path]) -> None:
    folder = played[1]
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        assert [row["model"].removeprefix("'") for row in csv.DictReader(file)] == list(NAMES)
    lines = (folder / "report.md").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(("|:---", "|---")))
    bars = [line.replace("\\|", "").count("|") for line in lines[start - 1 : start + 1 + len(NAMES)]]
    assert len(set(bars)) == 1
    page = (folder / "report.html").read_text("utf-8")
    assert "<img src=x" not in page
    assert all(name in html.unescape(page) for name in NAMES)


def test_a_report_of_them_is_the_same_again(played: tuple[list[str], Path]) -> None:
    folder = played[1]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_command("report", folder).returncode == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


ASCII: Final = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
"""Variables with which the interpreter takes arguments and file names for ASCII."""


@pytest.mark.skipif(sys.platform == "win32", reason="the locales of POSIX")
def test_names_and_paths_of_any_script_are_usable_where_the_locale_is_ascii(tmp_path: Path) -> None:
    folder = tmp_path / "出力"
    (tmp_path / "質問.jsonl").write_text('{"prompt": "日本"}\n', encoding="utf-8")
    listed = whole("200 OK", json.dumps({"data": [{"id": "模型-7b"}]}).encode())
    variables = {**os.environ, **ASCII, "PYTHONPATH": str(Path(__file__).parents[3])}
    with Server(streamed("a", "b"), get=lambda _: listed) as server:
        words = ["run", "--url", server.url, "--model", "模型-7b", "--prompts-file", tmp_path / "質問.jsonl"]
        words += ["--requests", "1", "--warmup", "0", "--out", folder]
        command = [sys.executable, "-m", "loadgen", *map(str, words)]
        ended = subprocess.run(command, env=variables, capture_output=True, timeout=60, check=False)
    assert ended.returncode in {0, 1}, ended.stderr
    assert {chat.model for chat in server.chats} == {"模型-7b"}
    (manifest,) = folder.rglob("manifest.json")
    assert "模型-7b" in manifest.read_text("utf-8")
    assert (ended.stdout + ended.stderr).isascii()


@pytest.mark.skipif(sys.platform == "win32", reason="the locales of POSIX")
@pytest.mark.parametrize("option", ["utf8=0", "utf8=1"])
def test_an_interpreter_with_a_mode_of_its_own_is_left_as_it_is(option: str) -> None:
    command = [sys.executable, "-X", option, "-m", "loadgen", "--version"]
    variables = {**os.environ, **ASCII, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(command, env=variables, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0 and ended.stdout.startswith(b"loadgen ")
