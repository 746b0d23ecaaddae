"""Standard streams of any kind: no command ends with a traceback, and what was measured and the exit code stay."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.server import Server, streamed, whole

KEPT: Final = Path(__file__).parents[2] / "data" / "runs"
PLAY: Final = """
import json, sys
from loadgen.cli.app import main
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["loadgen", *words]
    try:
        main()
    except SystemExit as end:
        codes.append(int(end.code))
open("codes.json", "w").write(json.dumps(codes))
"""
STATES: Final = {
    "utf-8": {},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "a dumb terminal's width": {"TERM": "dumb", "COLUMNS": "40"},
    "full": {},
    "closed": {},
    "left by its reader": {},
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    models = json.dumps({"data": [{"id": "m", "object": "model"}]}).encode()
    with Server(streamed("a", "b", "c"), get=lambda _: whole("200 OK", models)) as server:
        yield server.url


def commands(url: str) -> list[list[str]]:
    """Each verb that ends by itself, and each kind of output that it has; a run last."""
    run = ["run", "--url", url, "--model", "m", "--requests", "3", "--warmup", "0", "--set", "probe=false"]
    return [
        ["--help"],
        ["run", "--help"],
        ["--version"],
        ["plan", "summarizer"],
        ["plan", "summarizer", "--json"],
        ["scenarios"],
        ["scenarios", "--json"],
        ["init", "mine"],
        ["calibrate", "--show"],
        ["models", "--url", url],
        ["run", "nothing-of-this-name"],
        ["run", "--no-such-flag"],
        ["report", "played"],
        ["report", "played", "--json"],
        [*run, "--set", "slo.ttft_ms=2000", "--out", "results"],
    ]


def environment(**more: str) -> dict[str, str]:
    names = ("BENCH_", "FOUNDRY_", "OPENAI_", "LOADGEN_", "COLUMNS", "NO_COLOR", "FORCE_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | more


def play(state: str, url: str, folder: Path) -> tuple[list[int], str, str]:
    """The exit code of each command, and what standard output and error hold."""
    out, err = folder / "out.txt", folder / "err.txt"
    shutil.copytree(KEPT / "closed", folder / "played")
    words = [sys.executable, "-c", PLAY, json.dumps(commands(url))]
    if state == "closed":
        words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(err.open("wb"))
        output: Any
        match state:
            case "full":
                output = stack.enter_context(Path("/dev/full").open("wb", buffering=0))
            case "left by its reader":
                reader, writer = os.pipe()
                os.close(reader)
                output = stack.enter_context(os.fdopen(writer, "wb"))
            case _:
                output = stack.enter_context(out.open("wb"))
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        subprocess.run(words, cwd=folder, env=environment(**STATES[state]), timeout=120, check=True, **streams)
    printed = out.read_text("latin-1") if out.exists() else ""
    return json.loads((folder / "codes.json").read_text()), printed, err.read_text("latin-1")


@pytest.fixture(scope="module")
def usual(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], str, str]:
    return play("utf-8", url, tmp_path_factory.mktemp("usual"))


def test_each_command_does_what_it_is_for(usual: tuple[list[int], str, str]) -> None:
    codes, out, err = usual
    assert codes[:-1] == [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0]
    assert codes[-1] in {0, 1}, "1 where the machine was too busy to believe it"
    assert "Traceback" not in out + err
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
@pytest.mark.parametrize("state", [state for state in STATES if state != "utf-8"])
def test_whatever_the_streams_are_all_commands_do_the_same(
    state: str, url: str, usual: tuple[list[int], str, str], tmp_path: Path
) -> None:
    if state == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    codes, out, err = play(state, url, tmp_path)
    assert "Traceback" not in out + err
    assert "Exception ignored" not in err
    (run,) = (tmp_path / "results").glob("*/*/manifest.json")
    assert json.loads(run.read_text("utf-8"))["state"] == "complete"
    assert (run.parent / "report.html").is_file()
    if state == "full":
        assert err.count("the output is incomplete (No space left on device)") == len(codes) - 3
        assert set(codes[:-1]) == {2}
    else:
        assert codes[:-1] == usual[0][:-1]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_the_signs_that_an_encoding_lacks_are_spelled(encoding: str, tmp_path: Path) -> None:
    shutil.copytree(KEPT / "closed", tmp_path / "played")
    words = [sys.executable, "-m", "loadgen", "report", "played"]
    text = subprocess.run(
        words, cwd=tmp_path, env=environment(PYTHONIOENCODING=encoding), timeout=60, check=True, capture_output=True
    ).stdout.decode(encoding)
    assert "TTFT <= 60 ms" in text
    assert "\\u" not in text
