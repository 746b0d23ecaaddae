"""What `loadgen report` prints of a soak, and which soaks make the exit code 1."""

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from loadgen.analysis.summary import Requests
from loadgen.cli.app import app
from loadgen.cli.run import failures
from loadgen.cli.soak import FailOn, soak_failures
from loadgen.decisions.drift.files import Soak, make_soak_reports
from tests.soak_folder import QUIET, ScriptedNight, event, write_soak

pytestmark = pytest.mark.slow  # nights

KEPT_RUNS = Path(__file__).parents[2] / "data" / "runs"


@pytest.fixture(scope="module")
def soaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Soak]:
    at = tmp_path_factory.mktemp("soaks")
    gone = [event("server_gone", 5, model="m"), event("server_back", 6, model="m", for_s=60.0)]
    return {
        "stable": make_soak_reports(write_soak(at / "stable", [QUIET])),
        "degrading": make_soak_reports(write_soak(at / "degrading", [ScriptedNight(windows=60, change=0.5)])),
        "short": make_soak_reports(write_soak(at / "short", [ScriptedNight(windows=20)])),
        "outage": make_soak_reports(write_soak(at / "outage", [ScriptedNight(windows=60)], gone)),
        "invalid": make_soak_reports(
            write_soak(at / "invalid", [ScriptedNight(windows=120, invalid=(1, *range(0, 120, 2)))])
        ),
    }


@pytest.mark.parametrize(
    ("name", "fails_on", "allowed", "expected"),
    [
        ("stable", "unsure", 0, []),
        ("degrading", "degrading", 0, ["the verdict is degrading (--fail-on degrading)"]),
        ("degrading", "never", 0, []),
        ("short", "degrading", 0, []),
        ("short", "unsure", 0, ["the verdict is not enough data (--fail-on unsure)"]),
        ("outage", "never", 0, ["1 outage (--allow-outages 0)"]),
        ("outage", "never", 1, []),
    ],
)
def test_the_reasons_for_exit_code_1(
    name: str, fails_on: FailOn, allowed: int, expected: list[str], soaks: dict[str, Soak]
) -> None:
    assert soak_failures(soaks[name], fails_on, allowed) == expected


def test_a_soak_that_gave_up_fails_whatever_its_verdict_is(soaks: dict[str, Soak]) -> None:
    gave_up = msgspec.structs.replace(soaks["stable"], gave_up="m has answered nothing for 30 min: refused")
    assert soak_failures(gave_up, "never", 9) == [
        "it ended early: m has answered nothing for 30 min: refused (--give-up)"
    ]


def test_what_loadgen_gave_up_in_a_soak_is_no_failed_request(soaks: dict[str, Soak]) -> None:
    """Requests that came due while the machine was suspended, or that were in flight when loadgen ended."""
    (stage,) = soaks["stable"].summary.stages
    assert isinstance(stage.requests, Requests)

    def lines_of(**by_outcome: int) -> list[str]:
        failed = sum(by_outcome.values()) - by_outcome["ok"]
        requests = Requests(failed + by_outcome["ok"], by_outcome["ok"], failed, by_outcome)
        of_stage = msgspec.structs.replace(stage, requests=requests)
        return failures(msgspec.structs.replace(soaks["stable"].summary, stages=(of_stage,)))

    assert lines_of(ok=900, cancelled=1031) == []
    assert lines_of(ok=100, cancelled=1031, timeout=100) == []
    (line,) = lines_of(ok=100, cancelled=1031, timeout=101)
    assert line.endswith("101 of 201 requests failed (101 timeout)")


def test_an_invalid_soak_fails_whatever_its_verdict_is(soaks: dict[str, Soak]) -> None:
    (line,) = soak_failures(soaks["invalid"], "never", 0)
    assert "invalid: 61 of 120 windows are not valid" in line
    assert "other work on the machine slowed the server in 61" in line


def test_report_prints_a_soak_with_its_verdict_as_the_last_line(soaks: dict[str, Soak]) -> None:
    printed = CliRunner().invoke(app, ["report", str(soaks["degrading"].folder)])
    assert printed.exit_code == 0
    lines = printed.stdout.splitlines()
    assert lines[-1] == soaks["degrading"].sentence
    assert lines[-1].startswith("degrading: ")
    assert any(line.startswith("report: ") for line in lines)


def test_report_prints_the_summary_of_a_soak_as_json(soaks: dict[str, Soak]) -> None:
    printed = CliRunner().invoke(app, ["report", str(soaks["stable"].folder), "--json"])
    assert json.loads(printed.stdout)["stages"][0]["drift"]["verdict"] == "stable"


def test_strict_reaches_the_reports_of_a_soak(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=10)])
    CliRunner().invoke(app, ["report", str(folder), "--strict"])
    assert json.loads((folder / "summary.json").read_bytes())["floor"] == "strict"


def test_soaks_are_not_merged(soaks: dict[str, Soak]) -> None:
    folders = [str(soaks[name].folder) for name in ("stable", "short")]
    printed = CliRunner().invoke(app, ["report", "--merge", *folders])
    assert printed.exit_code != 0
    assert "a soak is not merged" in str(printed.exception)


def test_a_page_that_is_left_out_is_named_with_what_writes_it(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=20)], disk_bytes=4 << 20)
    printed = CliRunner().invoke(app, ["report", str(folder)])
    assert printed.exit_code == 0
    assert f"report: {folder / 'report.md'}\n" in printed.stdout
    assert "report.html" not in printed.stdout
    assert "report.html is left out" in printed.stderr
    assert "`loadgen report RUN --html PATH`" in printed.stderr
    CliRunner().invoke(app, ["report", str(folder), "--html", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_html_is_for_one_soak(soaks: dict[str, Soak], tmp_path: Path) -> None:
    folders = [str(soaks[name].folder) for name in ("stable", "short")]
    printed = CliRunner().invoke(app, ["report", *folders, "--html", str(tmp_path / "page.html")])
    assert "one file for the pages of 2 soaks; give one RUN" in str(printed.exception)
    run = next(KEPT_RUNS.glob("*/manifest.json")).parent
    printed = CliRunner().invoke(app, ["report", str(run), "--html", str(tmp_path / "page.html")])
    assert "is not a soak" in str(printed.exception)
