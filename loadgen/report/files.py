"""Writes every report of a run into its folder, from the folder alone. The same folder gives the same bytes."""

from datetime import datetime
from pathlib import Path

from loadgen import runfolder
from loadgen.by_prompt import rows_by_prompt
from loadgen.errors import InputError
from loadgen.fold import histograms, slices, summarize
from loadgen.report.hlog import Interval, interval_log, tag
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.prompts import prompts_csv
from loadgen.report.table_csv import csv_text
from loadgen.runfolder import Run
from loadgen.summary import Summary


def write_reports(folder: Path) -> Summary:
    """Make `summary.json`, `summary.csv`, `prompts.csv`, `report.md`, `report.html`, `histograms.hlog` (again).

    Raises InputError for no run.
    """
    if (folder / "summary.json").exists() and not (folder / runfolder.REQUESTS).exists():
        raise InputError(f"{folder}: its requests were not kept, as in a baseline; read its report.md")
    run = runfolder.read(folder)
    summary, prompts = summarize(run), rows_by_prompt(run)
    runfolder.write_json(folder / "summary.json", summary)
    runfolder.write_whole(folder / "summary.csv", csv_text(summary).encode())
    runfolder.write_whole(folder / "report.md", markdown(summary, run.manifest, prompts).encode())
    runfolder.write_whole(folder / "prompts.csv", prompts_csv(summary, prompts).encode())
    runfolder.write_whole(folder / "report.html", html(summary, run).encode())
    runfolder.write_whole(folder / "histograms.hlog", histogram_log(run).encode())
    return summary


def histogram_log(run: Run) -> str:
    """The interval log of a run: one interval a stage and metric, of its ok measured requests."""
    intervals = []
    for part in slices(run):
        if not part.measured:
            continue
        moments = [moment for r in part.measured for moment in (r.intended_ns, r.end_ns) if moment is not None]
        start_s, end_s = max(0, min(moments)) / 1e9, max(moments) / 1e9
        for metric, histogram in histograms(part).items():
            if histogram.count:
                name = tag(part.planned.target, part.planned.model, part.planned.level, metric)
                intervals.append(Interval(name, start_s, end_s - start_s, histogram))
    return interval_log(datetime.fromisoformat(run.manifest.started_utc).timestamp(), intervals)
