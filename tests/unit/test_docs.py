"""Facts about README.md and docs/: the flags, verbs, paths, links, keys and lines that they name are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import typer.main
from msgspec import Struct

from loadgen import record, scenario
from loadgen.analysis import busy_machine, summary, validity
from loadgen.analysis.metrics import FROM_SEND
from loadgen.analysis.quality import SCORES
from loadgen.analysis.quality_types import Quality, ScoredAnswer, UnderLoad
from loadgen.analysis.reason_codes import Code
from loadgen.analysis.soak_types import Drift, DriftMetric, Outages, SoakSummary
from loadgen.cli.app import app
from loadgen.errors import ExitCode
from loadgen.plan.workload import Workload
from loadgen.report.files import write_reports
from loadgen.scenario import Scenario
from loadgen.stats.quantile import MIN_CLUSTERS, samples_needed
from loadgen.store import files, run_folder
from loadgen.store.calibration import CalibrationQuote
from loadgen.store.manifest import (
    SCHEMA,
    Build,
    Manifest,
    ModelCard,
    PlannedStage,
    Probe,
    PromptFacts,
    ServedModel,
    SoakFacts,
    SoakStage,
)
from loadgen.telemetry import observer, wall_clock
from loadgen.telemetry.host import ClockFacts, Host

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
DOCS: Final = ROOT / "docs"
GROUP: Final[Any] = typer.main.get_command(app)
COMMANDS: Final[dict[str, Any]] = GROUP.commands
FLAGS: Final = {
    verb: {"--help", *(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))}
    for verb, command in {**COMMANDS, "": GROUP}.items()
}
OTHERS: Final = {
    *("apt", "cp", "curl", "docker", "foundry", "git", "make"),
    *("node", "npm", "pip", "pytest", "python", "uv", "winget"),
    *("rsync", "sudo", "systemctl"),
}
"""Programs whose flags are not ours."""

FOREIGN: Final = {"ini", "xml", "crontab"}
"""Languages of blocks that are files of other programs; tests/unit/cli/test_units.py holds them to what is printed."""

FENCE: Final = re.compile(r"^( *)(```+|~~~+)(.*?)^ *\2[ \t]*$", re.DOTALL | re.MULTILINE)
SPAN: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
FLAG: Final = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
VERB: Final = re.compile(r"(?<![\w./:-])(?:\S*/bin/)?loadgen ([a-z]+)\b")
REPO_PATH: Final = re.compile(r"(?<![\w./<>-])(?:loadgen|scenarios|tests|docs|benchmarks)/[\w./*-]*[\w/*]")
LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def code_of(text: str) -> Iterator[str]:
    """What a page shows as code: each span, and each line of a fenced or indented block."""
    for fence in FENCE.finditer(text):
        language, *lines = fence[3].splitlines()
        yield from () if language in FOREIGN else lines
    prose = FENCE.sub("", text)
    yield from (line.strip() for line in prose.splitlines() if line.startswith("    "))
    yield from (" ".join(span[2].split()) for span in SPAN.finditer(prose))


def program_of(code: str) -> str:
    """The program that a line of code runs, past a prompt and variables: `X=1 pip install y` runs pip."""
    try:
        words = shlex.split(code.removeprefix("$ "), comments=True)
    except ValueError:
        words = code.split()
    names = (word.rpartition("/")[2] for word in words if "=" not in word)
    return next(names, "").rstrip("0123456789.")


def wrong_flags(code: str) -> set[str]:
    """Flags in a piece of code that no verb has; with a verb in front, that this verb has not."""
    if program_of(code) in OTHERS:
        return set()
    verbs = [verb for verb in VERB.findall(code) if verb in FLAGS]
    known = set().union(*(FLAGS[verb] for verb in verbs or FLAGS))
    return set(FLAG.findall(code)) - known


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


def is_there(path: str) -> bool:
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


def broken_links(page: Path) -> set[str]:
    broken = set()
    for link in LINK.findall(SPAN.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            broken.add(link)
    return broken


def keys(*types: type[Struct]) -> list[str]:
    return [field for kind in types for field in kind.__struct_encode_fields__]


def spans_of(page: Path) -> set[str]:
    return {span[2] for span in SPAN.finditer(FENCE.sub("", page.read_text(encoding="utf-8")))}


def rows_of(heading: str) -> dict[str, str]:
    """Rows of the tables in the sections of docs/ that have this heading, by the code that is their first cell."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)$", section_of(heading), re.MULTILINE)
    assert rows
    return dict(rows)


def section_of(heading: str) -> str:
    """The text under a heading, whichever page of docs/ has it; a section that moved has a stub as well."""
    texts = [page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))]
    pattern = rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)"
    return "\n".join(match[2] for text in texts for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@every_page
def test_every_flag_is_one_of_the_command_line(page: Path) -> None:
    wrong = {code: wrong_flags(code) for code in code_of(page.read_text(encoding="utf-8"))}
    assert {code: flags for code, flags in wrong.items() if flags} == {}


@every_page
def test_every_verb_is_one_of_the_command_line(page: Path) -> None:
    named = {verb for code in code_of(page.read_text(encoding="utf-8")) for verb in VERB.findall(code)}
    assert named - set(COMMANDS) == set()


@every_page
def test_every_path_into_the_repository_exists(page: Path) -> None:
    named = {path for code in code_of(page.read_text(encoding="utf-8")) for path in REPO_PATH.findall(code)}
    assert {path for path in named if not is_there(path)} == set()


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == set()


@every_page
def test_every_module_that_is_named_exists(page: Path) -> None:
    named = {
        name for code in code_of(page.read_text(encoding="utf-8")) for name in re.findall(r"-m (loadgen[\w.]*)", code)
    }
    missing = {
        name for name in named if not (is_there(f"{name.replace('.', '/')}.py") or is_there(name.replace(".", "/")))
    }
    assert missing == set()


def test_every_outcome_has_its_row_and_no_other_has() -> None:
    assert tuple(rows_of("Outcomes")) == record.OUTCOMES


def test_every_reason_of_a_verdict_has_its_row_and_no_other_has() -> None:
    assert set(rows_of("Validity")) == set(get_args(Code))


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (
            "dispatch_slip",
            (f"{validity.OFF * 100:g} %", f"{validity.OFF_INVALID * 100:g} %", f"{validity.OFF_INVALID_MS:g} ms"),
        ),
        (
            "loop_lag",
            (f"{validity.OFF * 100:g} %", f"{validity.OFF_INVALID * 100:g} %", f"{validity.OFF_INVALID_MS:g} ms"),
        ),
        (
            "busy_machine",
            tuple(
                f"{line * 100:g} %" for line in (busy_machine.BUSY, busy_machine.BUSY_HOST, busy_machine.BUSY_INVALID)
            ),
        ),
        ("stamp_lag", (f"{validity.LATE_READ_MS:g} ms",)),
        ("achieved_users", (f"{validity.USERS * 100:g} %", f"{validity.USERS_INVALID * 100:g} %")),
        ("own_cpu", (f"{validity.OWN_CPU * 100:g} %", f"{validity.OWN_CPU_INVALID * 100:g} %")),
        ("gc_pause", (f"{validity.GC_PAUSE_MS:g} ms", f"{validity.OFF * 100:g} %")),
        ("clock_step", (f"{wall_clock.STEP_NS / 1e6:g} ms",)),
        ("achieved_rate", (f"{validity.ACHIEVED * 100:g} %", f"{validity.ACHIEVED_INVALID * 100:g} %")),
        (
            "littles_law",
            (f"{observer.TICK_NS / 1e6:g} ms", f"{validity.LITTLE * 100:g} %", f"{validity.LITTLE_INVALID * 100:g} %"),
        ),
        ("shared_reads", (f"{validity.SHARED * 100:g} %",)),
    ],
)
def test_the_lines_of_a_verdict_are_those_of_the_program(code: str, lines: tuple[str, ...]) -> None:
    row = rows_of("Validity")[code]
    assert [line for line in lines if line not in row] == []


def test_every_key_of_the_run_folder_is_explained() -> None:
    types = (
        *(record.Record, record.ServerTimings, record.StageFacts, record.ServerFacts, Manifest, PlannedStage),
        *(summary.Summary, summary.StageSummary, summary.Requests, summary.Throughput, summary.Tokens),
        *(summary.Until, summary.AcrossRuns, summary.Runs),
        *(Quality, UnderLoad, ScoredAnswer, run_folder.SentPrompt),
        *(SoakSummary, Outages, Drift, DriftMetric),
        *(
            summary.Validity,
            summary.Self,
            summary.Effect,
            record.MachineFacts,
            record.Neighbor,
            summary.Attainment,
            summary.Reason,
            Probe,
            ModelCard,
            ServedModel,
            PromptFacts,
            Workload,
            SoakFacts,
            SoakStage,
            CalibrationQuote,
            Host,
            Build,
            ClockFacts,
        ),
    )
    assert set(keys(*types)) - set().union(*map(spans_of, DOCS.glob("*.md"))) == set()


def test_the_files_of_a_run_folder_are_those_that_a_run_leaves(tmp_path: Path) -> None:
    empty = Manifest(
        schema=SCHEMA,
        run_id="x",
        started_utc="2026-11-24T00:00:00+00:00",
        plan_digest="x",
        stages=(),
        prompts=(),
        stamp_source="user",
        scenario=Scenario(name="x", prompts="p"),
        clock=ClockFacts(),
        versions={},
        host=Host(),
    )
    files.write_json(tmp_path / run_folder.MANIFEST, empty)
    write_reports(tmp_path)
    written = {path.name for path in tmp_path.iterdir()} | {run_folder.REQUESTS, run_folder.STAGES}
    written |= {run_folder.PROMPTS, SCORES}  # only if the run keeps its texts
    section = section_of("The run folder")
    assert set(re.findall(r"^ {6}(\S+)", section, re.MULTILINE)) == written


def test_every_metric_is_defined() -> None:
    assert set(rows_of("Metrics")) == {f"{name}_ms" for name in (*summary.METRICS, *FROM_SEND, "ttfc")}
    assert set(rows_of("Throughput")) == set(keys(summary.Throughput))


def test_the_floors_of_percentiles_are_those_of_the_program() -> None:
    text = section_of("Percentiles")
    floors = " | ".join(f"{samples_needed(p):,}" for p in (50, 90, 95, 99, 99.9))
    assert f"| samples needed | {floors} |" in text
    assert f"fewer than {MIN_CLUSTERS} requests" in text


def test_every_exit_code_has_its_row_and_no_other_has() -> None:
    section = section_of("Exit codes")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == [
        code.value for code in ExitCode
    ]


def test_every_key_of_a_scenario_is_explained() -> None:
    tables = [kind for kind in vars(scenario).values() if isinstance(kind, type) and issubclass(kind, Struct)]
    page = ROOT / "docs" / "scenarios.md"
    assert set(keys(*tables)) - spans_of(page) == set()


def test_a_flag_a_verb_a_path_or_a_link_that_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A head: two\n\n`--nope` [a](missing.md) [b](#a-head-two) [c](#elsewhere)\n\n"
        "```sh\n$ X=1 loadgen report --rate 1\npip install --no-deps x\n```\n\n    loadgen dance\n\n`loadgen/nope.py`\n"
    )
    codes = list(code_of(page.read_text()))
    assert [flags for code in codes if (flags := wrong_flags(code))] == [{"--rate"}, {"--nope"}]
    assert [verb for code in codes for verb in VERB.findall(code)] == ["report", "dance"]
    assert [is_there(path) for code in codes for path in REPO_PATH.findall(code)] == [False]
    assert broken_links(page) == {"missing.md", "#elsewhere"}


BRITISH: Final = re.compile(
    r"licence|colour|honour|favour|behaviour|neighbour|harbour|labour|misspelt|levelled|labelled|modelled|travelled"
    r"|judgement|artefact|catalogue|\bcentre|\bmetre|\blitre|\bgrey\b|programme\b|analyse|defence|whilst|towards"
    r"|(?:organ|quant|recogn|summar|normal|serial|initial|optim|minim|maxim|general|priorit|token|util)is(?:e|ing|ation)",
    re.IGNORECASE,
)
OLD_KEYS: Final = {
    "loadgen/store/manifest.py": {"licence", "honours_max_tokens", "honours_stop", "honours_seed"},
    "loadgen/scenario/model_list.py": {"licence"},
    "loadgen/targets/adapter/target.py": {"licence"},
    "loadgen/targets/licenses.py": {"licence"},
}
"""Keys of older files and words of other catalogs that are spelled the British way, and where they are read."""


def test_code_and_pages_are_spelled_the_american_way() -> None:
    sources = [path for path in (ROOT / "loadgen").rglob("*") if path.suffix in {".py", ".js", ".css"}]
    met = []
    for path in (*sources, *PAGES):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        for key in OLD_KEYS.get(name, ()):
            assert f'"{key}"' in text, (name, key)
            text = text.replace(f'"{key}"', "")
        met += [f"{name}: {word}" for word in set(re.findall(r"\w+", text)) if BRITISH.search(word)]
    assert not met
