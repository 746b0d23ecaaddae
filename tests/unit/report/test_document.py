"""Whatever a report is of, its Markdown and its page have the same sections and rows: those of the document."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import loadgen.report
from loadgen.analysis.summarize import merged, summarize
from loadgen.record import Record
from loadgen.redact import printable
from loadgen.report.console import console
from loadgen.report.document import SECTIONS, Document, make_document, report_data
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.section import Section
from loadgen.store.run_folder import Run
from tests import report_runs
from tests.records import MS, facts, planned, run_of, turn
from tests.scored_runs import BAD, GOOD, levels_run
from tests.sources import nodes_of

Contents = dict[str, list[list[str]]]
"""By the title of a section, "" for the headline: the cells of each row of its tables, and each item of its lists."""


def with_retries() -> Run:
    """One request in four is asked once more."""
    records = []
    for index in range(40):
        last = turn(index)
        if index % 4 == 0:
            records.append(turn(index, outcome="http_error", status=503, stamps_ns=(), output_tokens=None))
            last = turn(index, attempt=1, attempt_ns=110 * MS)
        records.append(last)
    return run_of(records, [planned(40)])


def with_server_timings() -> Run:
    timed = {"timings": {"prompt_n": 10, "prompt_ms": 80.0, "predicted_n": 3, "predicted_ms": 100.0}}
    records = [msgspec.convert(msgspec.to_builtins(turn(index)) | timed, Record) for index in range(12)]
    probe = {"sends_done": True, "usage_in_stream": True, "role_event": True, "notes": ["a note"]}
    card = {
        "alias": "m",
        "target": "t",
        "id": "m-q4",
        "parameters": 135_000_000,
        "settings": {"slots": 4},
        "probe": probe,
    }
    return run_of(records, models=(card,))


def repeated() -> list[Run]:
    runs = []
    for number, late_ms in enumerate((0, 10, 20), start=1):
        records = [turn(index, stamps_ns=tuple((200 + late_ms + at) * MS for at in (0, 50, 90))) for index in range(40)]
        run = run_of(records, run_id=f"20260102T03040{number}Z-0123abcd")
        runs.append(msgspec.structs.replace(run, folder=Path(f"run-{number}")))
    return runs


def on_devices() -> Run:
    targets = ("foundry/cpu", "foundry/gpu")
    records = [turn(index, target=target) for target in targets for index in range(40)]
    return run_of(records, [planned(40, target=target) for target in targets])


RUNS = {
    "an ordinary run": [run_of([turn(index) for index in range(40)])],
    "several models, levels, failures and a skipped model": [report_runs.everything()],
    "retries": [with_retries()],
    "a server's own timings, and a probe": [with_server_timings()],
    "nothing but a skipped model": [
        report_runs.run([report_runs.stage("c4", report_runs.closed(4), 40, skipped="no server | at all")])
    ],
    "nothing at all": [report_runs.run([])],
    "a killed run": [run_of([turn(index) for index in range(3)], [planned(8)], seen=[], state="running")],
    "more prompts than a table holds": [run_of([turn(i, prompt_id=f"p{i}", outcome="timeout") for i in range(120)])],
    "an invalid stage": [run_of([turn(index) for index in range(40)], seen=[facts(clock_steps=1)])],
    "merged runs": repeated(),
    "one model on two devices": [on_devices()],
    "answers with marks": [levels_run(GOOD, f"- {BAD}\n- It costs 977 | or `so`.", changed=4)],
    "merged runs whose answers have marks": [
        msgspec.structs.replace(
            levels_run(GOOD, text), manifest=msgspec.structs.replace(levels_run(GOOD, text).manifest, run_id=text[:4])
        )
        for text in (GOOD, BAD)
    ],
}


def document_of(runs: list[Run]) -> Document:
    summary = merged(runs) if len(runs) > 1 else summarize(runs[0])
    return make_document(report_data(summary, runs))


def in_document(document: Document) -> Contents:
    contents = {"": [[*row.cells] for row in document.headline.table.rows]}
    contents[""] += [[note] for note in document.headline.table.remarks]
    for section in document.sections:
        rows = [[point] for point in section.points]
        for table in section.tables:
            rows += [[*row.cells] for row in table.rows]
            rows += [[note] for note in table.remarks]
        contents[section.title] = rows + [[fact.name, fact.value] for fact in section.facts]
    return {title: [[printable(cell).strip() for cell in row] for row in rows] for title, rows in contents.items()}


def in_markdown(text: str) -> Contents:
    """As a reader sees it: without what escapes, and without a line through it."""
    contents: Contents = {"": []}
    title = ""
    facts = {"Circumstances"}
    for line in text.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
            contents[title] = []
        elif line.startswith("- "):
            item = unescaped(line.removeprefix("- "))
            contents[title].append(item.split(": ", 1) if title in facts else [item])
        elif line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            contents[title].append([unescaped(cell.strip().removeprefix("~~").removesuffix("~~")) for cell in cells])
        elif line.startswith(("|:", "|-")):
            contents[title].pop()  # what stood before it were the headings
    return contents


def unescaped(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


class PageContents(HTMLParser):
    """What a page says, by section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.contents: Contents = {"": []}
        self._title = ""
        self._text: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"h2", "td", "li", "dt", "dd"}:
            self._text = ""
        if tag == "tr":
            self.contents[self._title].append([])
        if tag == "th":
            self._text = None

    def handle_endtag(self, tag: str) -> None:
        text = (self._text or "").strip()
        rows = self.contents[self._title]
        match tag:
            case "h2":
                self._title = text
                self.contents[text] = []
            case "td" | "dd":
                rows[-1].append(re.sub("^[✓!✕–] (?=valid|degraded|invalid|skipped)", "", text))
            case "li" | "dt":
                rows.append([text])
            case "thead":
                rows.pop()

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text += data


@pytest.mark.parametrize("name", RUNS)
def test_markdown_and_page_have_the_same_sections_and_rows(name: str) -> None:
    document = document_of(RUNS[name])
    expected = in_document(document)
    assert in_markdown(markdown(document)) == expected
    assert PageContents(html(document).decode()).contents == expected


@pytest.mark.parametrize("name", RUNS)
def test_the_console_shows_the_rows_of_the_headline(name: str) -> None:
    document = document_of(RUNS[name])
    summary = merged(RUNS[name]) if len(RUNS[name]) > 1 else summarize(RUNS[name][0])
    text = console(summary, width=400)
    for row in document.headline.table.rows:
        assert any(all(printable(cell) in line for cell in row.cells) for line in text.splitlines())
    for note in document.headline.table.remarks:
        assert f"· {printable(note)}" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", RUNS)
def test_anchors_and_charts_of_a_document_are_unique(name: str) -> None:
    sections = document_of(RUNS[name]).sections
    ids = [section.anchor for section in sections] + [chart.id for section in sections for chart in section.charts]
    assert len(set(ids)) == len(ids)


def test_every_registered_section_is_in_some_report_of_these() -> None:
    """So that the comparison above has met each of them."""
    met = set()
    for runs in RUNS.values():
        summary = merged(runs) if len(runs) > 1 else summarize(runs[0])
        data = report_data(summary, runs)
        met |= {make for make in SECTIONS if make(data) is not None}
    assert met == set(SECTIONS)


def test_the_charts_of_a_section_are_named_in_markdown() -> None:
    document = document_of(RUNS["merged runs"])
    lines = markdown(document).splitlines()
    (levels,) = (section for section in document.sections if section.anchor == "levels")
    assert lines[lines.index(f"## {levels.title}") + 4] == ("Charts in report.html: Time to first token; Throughput.")


def test_several_runs_have_no_timelines_and_say_where_requests_are() -> None:
    document = document_of(RUNS["merged runs"])
    anchors = [section.anchor for section in document.sections]
    assert "run-by-run" in anchors and "spread" in anchors
    assert not {"timelines", "by-prompt"} & set(anchors)
    assert document.footer.endswith("every request is in the folder of its run.")
    page = html(document).decode()
    assert "3 runs: " in page
    assert all(run_id in page for run_id in document.headline.runs)


def test_a_text_that_looks_like_markup_is_text_in_every_place_of_a_section() -> None:
    document = document_of(RUNS["an ordinary run"])
    hostile = "<i>x</i>"
    section = Section(title="T", anchor="t", paragraphs=(hostile,), points=(hostile,))
    changed = msgspec.structs.replace(document, sections=(section,), footer=hostile)
    page = html(changed).decode()
    assert "<i>" not in page
    assert page.count("&lt;i&gt;x&lt;/i&gt;") == 3
    assert "<i>" not in markdown(changed)


def test_no_tag_is_put_together_in_python() -> None:
    """The template engine escapes what it draws; a tag in an f-string would go past it."""
    tag = re.compile(r"</?[a-z]")
    for path in Path(loadgen.report.__file__).parent.rglob("*.py"):
        for node in nodes_of(path):
            if isinstance(node, ast.JoinedStr):
                texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                assert not any(tag.search(str(text)) for text in texts), f"{path}:{node.lineno}"
