"""The verb `report`: makes the reports of run folders again; and how a summary is printed."""

from pathlib import Path
from typing import Annotated

import typer

from loadgen import api
from loadgen.analysis.summary import Summary, summary_data
from loadgen.cli.options import Output, Strict
from loadgen.cli.streams import print_text
from loadgen.cli.terminal import screen, show_json
from loadgen.errors import InputError
from loadgen.report.console import report_text
from loadgen.report.files import write_merged, write_reports
from loadgen.stats.quantile import Floor
from loadgen.store.run_folder import MANIFEST


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run folder, or a scenario's folder (its newest run).")
    ],
    merge: Annotated[bool, typer.Option("--merge", help="Make one report of repeated runs of the same plan.")] = False,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the summary, as JSON.")] = False,
) -> None:
    """Make the reports of runs again, from their folders alone.

    Prints their tables too.
    """
    folders = [_run_folder(path) for path in runs]
    floor: Floor | None = "strict" if strict else None
    if merge:
        merged, folder = write_merged(folders, floor=floor)
        print_summary(merged, folder, "json" if as_json else "text")
        return
    summaries = [write_reports(folder, floor=floor) for folder in folders]
    if as_json:
        built_in = [summary_data(summary) for summary in summaries]
        show_json(built_in if len(runs) > 1 else built_in[0])
        return
    for summary, folder in zip(summaries, folders, strict=True):
        print_summary(summary, folder, "text")


def print_summary(summary: Summary, folder: Path, output: Output) -> None:
    """The table of a run, and where its reports are; or the summary as JSON."""
    if output == "json":
        show_json(summary_data(summary))
        return
    if output == "text":
        print_text(report_text(summary, screen()))
    print_text(f"report: {folder / 'report.html'} (and report.md)\n")


def _run_folder(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    newest = api.runs_of(path)
    if newest:
        return newest[-1]
    raise InputError(f"{path}: no run folder; give one that has a {MANIFEST}, such as those under results/")
