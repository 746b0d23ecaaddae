"""The recipes for every night: what docs/nightly.md shows is what is printed, and words with signs stay one word."""

import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from loadgen.cli.units import Nightly, UnitKind, nightly_here, parse_kind, units_text
from loadgen.errors import ExitCode, InputError
from tests.command_line import run_command
from tests.sources import PACKAGE

KINDS: Final[tuple[UnitKind, ...]] = get_args(UnitKind)
PAGE: Final = PACKAGE.parent / "docs" / "nightly.md"
LINUX: Final = Nightly(
    loadgen=("/opt/loadgen/bin/loadgen",),
    arguments=("summarizer", "--duration", "8h"),
    scenario="summarizer",
    out=None,
    folder="/srv/bench",
    user="bench",
)
PLACES: Final = {
    "systemd": LINUX,
    "cron": LINUX,
    "launchd": msgspec.structs.replace(LINUX, folder="/Users/bench/soak"),
    "schtasks": msgspec.structs.replace(LINUX, loadgen=(r"C:\loadgen\Scripts\loadgen.exe",), folder=r"C:\bench"),
}
"""The machines of the examples in the docs."""
AWKWARD: Final = Nightly(
    loadgen=("/opt/load gen/100%/py'thon", "-m", "loadgen"),
    arguments=("my scenario.toml", "--set", 'system="50% of $HOME \\ & <b>"', "--out", "/data/a %h b"),
    scenario="my scenario.toml",
    out="/data/a %h b",
    folder="/srv/bench 100%",
    user="bench",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_what_is_printed(kind: UnitKind) -> None:
    blocks = re.findall(r"^```\w+\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert units_text(kind, PLACES[kind]) in blocks


def test_an_unknown_kind_is_one_line_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"--print-units upstart: no such kind; write .*systemd, cron, schtasks or launchd"
    ):
        parse_kind("upstart")
    assert [parse_kind(kind) for kind in KINDS] == list(KINDS)


def test_what_is_printed_is_the_command_line_without_what_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["loadgen", "soak", "chat", "--print-units", "cron", "--rate", "2", "--json", "--out", "x y"]
    nightly = nightly_here(line, "chat", Path("x y"))
    assert nightly.arguments == ("chat", "--rate", "2", "--out", "x y")
    assert nightly.history[len(nightly.loadgen) :] == ("history", "chat", "--out", "x y")
    assert nightly.folder == str(tmp_path)
    assert nightly_here(["loadgen", "soak", "--print-units=cron"], None, None).arguments[0] == "summarizer"
    by_url = nightly_here(["loadgen", "soak", "--url", "8080", "--print-units", "cron"], None, None)
    assert (by_url.arguments, by_url.scenario) == (("--url", "8080"), "adhoc")


def test_the_verb_prints_a_recipe_and_plays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("night.toml").write_text('name = "night"\nprompts = ["Say hello."]\nsoak = { duration_s = 600 }\n', "utf-8")
    result = run_command("soak", "night.toml", "--print-units", "cron")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert "soak night.toml >> loadgen-soak.log" in result.stdout and "history night.toml" in result.stdout
    assert "summarizer --duration 8h" in run_command("soak", "--print-units", "systemd").stdout
    for words, line in (
        (
            ("--print-units", "upstart"),
            "--print-units upstart: no such kind; write --print-units systemd, cron, schtasks or ",
        ),
        (("gone", "--print-units", "cron"), "gone: no such scenario"),
        (("--duration", "8h", "--print-units", "cron"), "neither SCENARIO nor --url was given"),
        (("night.toml", "--concurrency", "1,2", "--print-units", "cron"), "--concurrency 1,2: a soak plays one level"),
        (("--resume", "x", "--print-units", "cron"), "--print-units with --resume: "),
    ):
        refused = run_command("soak", *words)
        assert (refused.returncode, refused.stdout) == (ExitCode.BAD_INPUT, "")
        assert refused.stderr.startswith(f"loadgen: {line}")
    assert [path.name for path in tmp_path.iterdir()] == ["night.toml"]


def test_the_program_is_named_by_an_absolute_path(tmp_path: Path) -> None:
    own = tmp_path / "loadgen"
    own.write_text("#!/bin/sh\n", "utf-8")
    own.chmod(0o755)
    assert nightly_here([str(own), "soak", "x"], "x", None).loadgen == (str(own),)
    assert nightly_here([str(tmp_path / "gone" / "loadgen"), "soak"], None, None).loadgen == (
        sys.executable,
        "-m",
        "loadgen",
    )
    assert nightly_here([str(PACKAGE / "__main__.py"), "soak"], None, None).loadgen[1:] == ("-m", "loadgen")


def systemd_files(nightly: Nightly) -> dict[str, str]:
    parts = re.split(r"^# /etc/systemd/system/(\S+)\n", units_text("systemd", nightly), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_systemd_takes_each_word_as_it_is() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", systemd_files(AWKWARD)["loadgen-soak.service"], re.MULTILINE)
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    assert tuple(words) == AWKWARD.soak
    assert not re.search(r"(?<!%)%(?!%)", line.replace("%%", "")), "a specifier"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("nightly", [LINUX, AWKWARD], ids=["usual", "awkward"])
def test_systemd_accepts_the_units(tmp_path: Path, nightly: Nightly) -> None:
    program = tmp_path / "a 50% place" / "loadgen"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n", "utf-8")
    program.chmod(0o755)
    here = msgspec.structs.replace(nightly, loadgen=(str(program), *nightly.loadgen[1:]), user="root")
    paths = []
    for name, text in systemd_files(here).items():
        paths.append(tmp_path / name)
        paths[-1].write_text(text, "utf-8")
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in result.stderr.splitlines() if "loadgen-" in line]
    assert complaints == []


def test_cron_and_its_shell_take_each_word_as_it_is() -> None:
    lines = units_text("cron", AWKWARD).splitlines()
    fields = lines[-1].split(" ", 5)
    assert fields[:5] == ["0", "22", "*", "*", "*"]
    assert not re.search(r"(?<!\\)%", fields[5]), "a line end to cron"
    words = shlex.split(fields[5].replace(r"\%", "%"))
    assert words[:3] == ["cd", AWKWARD.folder, "&&"]
    inner = shlex.split(words[-1], posix=True)
    assert tuple(inner[: len(AWKWARD.soak)]) == AWKWARD.soak
    assert "--quiet" in inner


@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
def test_the_line_of_cron_plays_a_soak_and_prints_a_history_that_failed(tmp_path: Path) -> None:
    program = tmp_path / "load gen 100%"
    program.write_text('#!/bin/sh\necho "$1 $2"\ncase $1 in history) exit 1;; esac\n', "utf-8")
    program.chmod(0o755)
    nightly = msgspec.structs.replace(AWKWARD, loadgen=(str(program),), folder=str(tmp_path))
    line = units_text("cron", nightly).splitlines()[-1].split(" ", 5)[5].replace(r"\%", "%")
    if shutil.which("flock") is None:
        line = line.replace("flock -n .loadgen-soak.lock ", "")
    result = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout == "history my scenario.toml\n"
    assert (tmp_path / "loadgen-soak.log").read_text("utf-8") == "soak my scenario.toml\n"


def test_the_task_of_windows_is_xml_with_each_word_as_it_is() -> None:
    task = ET.fromstring(units_text("schtasks", AWKWARD))
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    actions = [
        (action.findtext("t:Command", "", space), action.findtext("t:Arguments", "", space))
        for action in task.findall(".//t:Exec", space)
    ]
    assert actions == [(words[0], subprocess.list2cmdline(words[1:])) for words in (AWKWARD.soak, AWKWARD.history)]
    assert task.findtext(".//t:StopIfGoingOnBatteries", "", space) == "false"
    assert task.findtext(".//t:WakeToRun", "", space) == "true"


def test_the_job_of_launchd_is_a_property_list_with_each_word_as_it_is() -> None:
    job = plistlib.loads(units_text("launchd", AWKWARD).encode())
    assert job["ProgramArguments"][:2] == ["/bin/sh", "-c"]
    words = shlex.split(job["ProgramArguments"][2])
    assert words[:2] == ["caffeinate", "-i"]
    assert tuple(words[2 : 2 + len(AWKWARD.soak)])[:-1] == AWKWARD.soak[:-1]
    assert job["StartCalendarInterval"] == {"Hour": 22, "Minute": 0}
    assert job["WorkingDirectory"] == AWKWARD.folder
