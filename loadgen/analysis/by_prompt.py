"""A run by prompt: what each prompt took at each stage, and which of its requests were unusual. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.stage import StageData, stages_of
from loadgen.stats.median import median
from loadgen.stats.outlier import outliers
from loadgen.store.manifest import PlannedStage
from loadgen.store.run_folder import Run


class ValueRange(Struct, frozen=True):
    """Of the values that were measured, in ms. The median is the sample's: it claims nothing of others."""

    min: float
    median: float
    max: float


class PromptRow(Struct, frozen=True, kw_only=True):
    """One prompt at one stage: measured requests only.

    ttft, e2e: of the ok ones; None without any. output_tokens: their median; None where nobody counted. outliers: how
    many of them have a TTFT or an E2E that lies far from the stage's others (`loadgen.stats.outlier`).
    """

    stage: PlannedStage
    prompt_id: str
    ok: int
    failed: int
    ttft: ValueRange | None
    e2e: ValueRange | None
    output_tokens: float | None
    outliers: int


def rows_by_prompt(run: Run) -> tuple[PromptRow, ...]:
    """A row for each stage and prompt that was asked, in the plan's order of both."""
    order = [prompt.id for prompt in run.manifest.prompts]
    return tuple(row for part in stages_of(run) for row in _rows(part, order))


def _rows(part: StageData, order: Sequence[str]) -> list[PromptRow]:
    marked = _marked(part)
    asked = dict.fromkeys(record.prompt_id for record in part.measured)
    known = [name for name in order if name in asked]
    rows = []
    for name in (*known, *(name for name in asked if name not in known)):
        mine = [record for record in part.measured if record.prompt_id == name]
        answered = [record for record in mine if record.outcome == "ok"]
        found = metrics.of_requests(answered, closed=part.closed)
        tokens = [record.output_tokens for record in answered if record.output_tokens is not None]
        rows.append(
            PromptRow(
                stage=part.planned,
                prompt_id=name,
                ok=len(answered),
                failed=len(mine) - len(answered),
                ttft=_spread(found["ttft"]),
                e2e=_spread(found["e2e"]),
                output_tokens=median(tokens) if tokens else None,
                outliers=sum(id(record) in marked for record in answered),
            )
        )
    return rows


def _marked(part: StageData) -> set[int]:
    """The ok requests of a stage, by their identity, that are outliers among them: by TTFT, or by E2E."""
    answered, found = part.ok, set[int]()
    values = metrics.of_requests(answered, closed=part.closed)
    for name in ("ttft", "e2e"):
        if len(values[name]) == len(answered):  # each has one, so they stand in the same order
            marks = outliers(values[name])
            found |= {id(record) for record, mark in zip(answered, marks, strict=True) if mark}
    return found


def _spread(values: metrics.Ns) -> ValueRange | None:
    if not len(values):
        return None
    return ValueRange(*(round(float(value) / 1e6, 4) for value in (values.min(), median(values), values.max())))
