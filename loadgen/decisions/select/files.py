"""Writes a selection into a folder of its own: what was decided, as data, as a report, as a page, and for a router."""

import contextlib
import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from loadgen.decisions.compare.files import WrittenFiles
from loadgen.decisions.select.decide import SelectionData
from loadgen.decisions.select.document import page_document, report_document
from loadgen.decisions.select.model_list import RankedModel, ranked_model_list
from loadgen.decisions.select.selection import CandidateRow, Selection
from loadgen.redact import redact_key_bytes
from loadgen.report.csv import CsvRow, csv_of
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.store import files, run_folder
from loadgen.store.manifest import ModelCard

FOLDER: Final = "selections"
SELECTION: Final = "selection.json"


def write_selection(data: SelectionData, results: Path, now: datetime) -> WrittenFiles:
    """Write a selection into the folder `results/selections/<UTC time>-<8 hex>`; the hex digits are of what was
    decided. A selection that is there already is written into its own folder again, so that trying one twice leaves no
    second one. Raises InputError if the folder cannot be made."""
    document = files.json_document(data.selection)
    tag = hashlib.sha256(document).hexdigest()[:8]
    folder = _folder_with(document, results / FOLDER, tag) or run_folder.create(results, FOLDER, now, tag)
    contents: dict[str, Callable[[], bytes]] = {
        SELECTION: lambda: document,
        "benchmark_report.md": lambda: markdown(report_document(data)).encode(),
        "selection.html": lambda: html(page_document(data)),
        "selection.csv": lambda: selection_csv(data.selection).encode(),
        "models.json": lambda: models_json(data),
    }
    unwritten, reason = files.write_all(folder, contents)
    return WrittenFiles(folder, unwritten, reason)


def _folder_with(document: bytes, selections: Path, tag: str) -> Path | None:
    """The oldest folder that has the same `selection.json`; None if there is none."""
    for path in sorted(selections.glob(f"*-{tag}*/{SELECTION}")):
        with contextlib.suppress(OSError):  # what cannot be read is left alone
            if path.read_bytes() == redact_key_bytes(document):
                return path.parent
    return None


def selection_csv(selection: Selection) -> str:
    """The contents of `selection.csv`: one row a candidate. An empty cell means not known. Lines end in LF."""
    return csv_of([_csv_row(selection, row) for row in selection.candidates])


def _csv_row(selection: Selection, row: CandidateRow) -> CsvRow:
    cells: CsvRow = {
        "candidate": row.name,
        "model": row.model,
        "target": row.target,
        "device": row.device,
        "eligible": str(row.eligible).lower(),
        "out": row.out,
        "verdict": row.verdict,
        "level": selection.level,
    }
    for name in selection.policy.weights:
        criterion = row.criteria.get(name)
        cells[name] = None if criterion is None else criterion.value
        if name in ("quality", "latency"):
            low, high = (None, None) if criterion is None or criterion.ci is None else criterion.ci
            cells |= {f"{name}_low": low, f"{name}_high": high}
        cells[f"{name}_steps"] = None if criterion is None else criterion.steps
    low, high = (None, None) if row.lead is None or row.lead.ci is None else row.lead.ci
    return cells | {
        "e2e_mean_ms": row.e2e_ms.get("mean"),
        "e2e_p95_ms": row.e2e_ms.get("p95"),
        "tokens_per_s": row.tokens_per_s,
        "license": row.facts.license.value,
        "utility": row.utility,
        "behind_by": None if row.lead is None else row.lead.steps,
        "behind_by_low": low,
        "behind_by_high": high,
        "chance_of_first": row.chance_of_first,
        "acceptability": row.acceptability,
        "pareto": str(row.pareto).lower(),
    }


def models_json(data: SelectionData) -> bytes:
    """The contents of `models.json`: the cards of the candidates that meet the requirements, by their place."""
    known = {each.name: each for each in data.known}
    ranked = []
    for priority, row in enumerate((row for row in data.selection.candidates if row.eligible), 1):
        summaries = [stage.summary for stages in known[row.name].candidate.runs for stage in stages]
        card = next((each.card for each in summaries if each.card is not None), None)
        quality = row.criteria.get("quality")
        ranked.append(
            RankedModel(
                card=card or ModelCard(alias=row.model, id=row.model, target=row.target),
                facts=row.facts,
                priority=priority,
                figures={
                    "quality": None if quality is None else quality.value,
                    "ttft_p50_ms": row.ttft_p50_ms,
                    "e2e_p50_ms": row.e2e_ms.get("p50"),
                },
            )
        )
    return ranked_model_list(ranked)
