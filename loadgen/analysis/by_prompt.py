"""The latencies of each prompt at each stage, and how many of its requests were outliers. Pure."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis import metrics
from loadgen.analysis.stage import StageData, stages_of
from loadgen.stats.median import median
from loadgen.stats.outlier import outliers
from loadgen.store.manifest import PlannedStage
from loadgen.store.run_folder import Run


class ValueRange(Struct, frozen=True):
    """The range of measured values, ms. The median is that of these values, no estimate for others."""

    min: float
    median: float
    max: float


class PromptRow(Struct, frozen=True, kw_only=True):
    """One prompt at one stage: measured requests only.

    ttft, e2e: those of the ok requests; None if there is none. output_tokens: their median; None if not counted.
    outliers: how many of them have a TTFT or an E2E far from the stage's others (`loadgen.stats.outlier`).
    """

    stage: PlannedStage
    prompt_id: str
    ok: int
    failed: int
    ttft: ValueRange | None
    e2e: ValueRange | None
    output_tokens: float | None
    outliers: int


def rows_by_prompt(run: Run, stages: Sequence[StageData] | None = None) -> tuple[PromptRow, ...]:
    """A row for each stage and each prompt that was sent in it, in the plan's order. stages: those of the run, if they
    were made already."""
    order = [prompt.id for prompt in run.manifest.prompts]
    return tuple(row for stage in (stages_of(run) if stages is None else stages) for row in _rows(stage, order))


def _rows(stage: StageData, order: Sequence[str]) -> list[PromptRow]:
    asked = Counter(record.prompt_id for record in stage.measured)
    places: dict[str, list[int]] = {name: [] for name in asked}
    for place, record in enumerate(stage.ok):
        places[record.prompt_id].append(place)
    is_outlier = _outliers(stage)
    listed = [name for name in order if name in asked]
    rows = []
    for name in dict.fromkeys((*listed, *asked)):
        answered = np.array(places[name], dtype=np.int64)
        tokens = [count for place in places[name] if (count := stage.ok[place].output_tokens) is not None]
        rows.append(
            PromptRow(
                stage=stage.planned,
                prompt_id=name,
                ok=len(answered),
                failed=asked[name] - len(answered),
                ttft=_spread(metrics.known(stage.each["ttft"][answered])),
                e2e=_spread(metrics.known(stage.each["e2e"][answered])),
                output_tokens=median(tokens) if tokens else None,
                outliers=int(np.count_nonzero(is_outlier[answered])),
            )
        )
    return rows


def _outliers(stage: StageData) -> NDArray[np.bool_]:
    """Which of a stage's ok requests are outliers, by TTFT or by E2E. A metric counts only if every request has it."""
    marks = np.zeros(len(stage.ok), dtype=np.bool_)
    for name in ("ttft", "e2e"):
        if len(stage.values[name]) == len(stage.ok):
            marks |= outliers(stage.values[name])
    return marks


def _spread(values: metrics.Ns) -> ValueRange | None:
    if not len(values):
        return None
    return ValueRange(*(round(float(value) / 1e6, 4) for value in (values.min(), median(values), values.max())))
