"""The verb `report`: makes the reports of run folders again. Also prints summaries for other verbs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from loadgen.analysis.summary import Summary, summary_data
from loadgen.cli.options import Output, Strict
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.errors import InputError
from loadgen.report.console import report_text
from loadgen.report.files import Reports, make_merged, make_reports
from loadgen.report.sections.server_behavior import WHAT_SERVERS_DO
from loadgen.stats.quantile import Floor
from loadgen.store import run_folder
from loadgen.store.manifest import manifest_from
from loadgen.store.run_folder import MANIFEST
from loadgen.targets.probe.findings import was_asked

if TYPE_CHECKING:
    from loadgen.decisions.drift.files import Soak


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run folder, or a scenario's folder (its newest run).")
    ],
    merge: Annotated[bool, typer.Option("--merge", help="Make one report of repeated runs of the same plan.")] = False,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the summary, as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PATH", help="Write the page of a soak here as well.")
    ] = None,
) -> None:
    """Make the reports of runs again, from their folders alone.

    It also prints their tables.
    """
    folders = [run_folder.run_folder_at(path) for path in runs]
    floor: Floor | None = "strict" if strict else None
    output: Output = "json" if as_json else "text"
    if html is not None:
        _check_page(html, folders)
    if merge:
        remade = [_MadeReports(make_merged(_mergeable(folders), floor=floor))]
    else:
        remade = [_make(each, floor, html) for each in folders]
    if as_json:
        built_in = [summary_data(each.reports.summary) for each in remade]
        show_json(built_in if len(remade) > 1 else built_in[0])
    for each in remade:
        if each.soak is not None:
            print_soak(each.soak, output)
            continue
        if not as_json:
            print_summary(each.reports.summary, "text")
        tell_place(each.reports, output)


class _MadeReports(Struct, frozen=True):
    """The reports of one run, or of merged ones."""

    reports: Reports
    soak: "Soak | None" = None
    """If the run is a soak."""


def _make(folder: Path, floor: Floor | None, page_path: Path | None) -> _MadeReports:
    """The reports of one run; those of a search and of a soak begin with its answer. page_path: of a soak's page."""
    # `run` need not wait for them
    from loadgen.decisions.capacity.files import is_search, make_search_reports
    from loadgen.decisions.drift.files import is_soak, make_soak_reports

    if is_search(folder):
        return _MadeReports(make_search_reports(folder, floor=floor).reports)
    if is_soak(folder):
        soak = make_soak_reports(folder, floor=floor, page_path=page_path)
        return _MadeReports(soak.reports, soak)
    return _MadeReports(make_reports(folder, floor=floor))


def _check_page(path: Path, folders: list[Path]) -> None:
    """Raise InputError if there is no one soak whose page can be written to a path."""
    from loadgen.decisions.drift.files import is_soak

    other = next((folder for folder in folders if not is_soak(folder)), None)
    if other is not None:
        raise InputError(
            f"--html {path}: {other} is not a soak, and always has its page in its folder; leave --html out"
        )
    if len(folders) > 1:
        raise InputError(f"--html {path}: one file for the pages of {len(folders)} soaks; give one RUN")


def _mergeable(folders: list[Path]) -> list[Path]:
    """The folders, of which none is a soak's. Raises InputError if one is."""
    from loadgen.decisions.drift.files import is_soak

    soak = next((folder for folder in folders if is_soak(folder)), None)
    if soak is not None:
        raise InputError(f"{soak}: a soak is not merged; compare its nights with `loadgen history`")
    return folders


def print_soak(soak: "Soak", output: Output) -> None:
    """Print the report of a soak, or nothing of it as JSON, which the caller prints. The last line is its verdict."""
    from loadgen.decisions.drift.document import soak_text

    if output == "text":
        print_text(soak_text(soak.summary, soak.events, screen()))
    if soak.page_remark:
        _tell_place_without_page(soak, output)
    else:
        tell_place(soak.reports, output)
    if output != "json":
        print_text(f"{soak.sentence}\n")


def print_summary(summary: Summary, output: Output) -> None:
    """Print the table of a run, or its summary as JSON."""
    match output:
        case "json":
            show_json(summary_data(summary))
        case "text":
            print_text(report_text(summary, screen()))
        case "nothing":
            pass


def _tell_place_without_page(soak: "Soak", output: Output) -> None:
    """As `tell_place`, of a soak whose page is left out; and why it is, on standard error."""
    if soak.reports.unwritten:
        tell_place(soak.reports, output)
    elif output != "json":
        print_text(f"report: {soak.folder / 'report.md'}\n")
    tell(f"loadgen: {soak.folder}: {soak.page_remark}")


def tell_place(reports: Reports, output: Output) -> None:
    """Print the path of the reports; and on standard error, which of them could not be written."""
    if reports.unwritten:
        tell(f"loadgen: {reports.folder}: not written: {', '.join(reports.unwritten)} ({reports.reason})")
    elif output != "json":
        _print_place(reports.folder)


def _print_place(folder: Path) -> None:
    asked = f", section “{WHAT_SERVERS_DO}”: the findings of --probe" if _has_probe(folder) else ""
    print_text(f"report: {folder / 'report.html'} (and report.md){asked}\n")


def _has_probe(folder: Path) -> bool:
    """Whether a server of this run was probed."""
    try:
        manifest = manifest_from((folder / MANIFEST).read_bytes())
    except OSError:  # a merged report has none
        return False
    probes = (card.known_probe for card in manifest.models)
    return any(probe is not None and was_asked(probe) for probe in probes)
