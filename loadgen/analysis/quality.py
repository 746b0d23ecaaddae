"""The quality of the answers of a run: of each stage, under load, and of each answer. Pure, but for reading a folder.

The mean of a stage is over prompts, because the answers to one prompt are no independent samples; intervals are
Student's, over prompts. docs/quality.md says what a mark means.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from loadgen.analysis.quality_types import SCORER, Quality, ScoredAnswer, UnderLoad
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summary import StageSummary, Summary, rounded
from loadgen.plan.plan import StageLoad
from loadgen.record import StageKey
from loadgen.scenario import Sampling
from loadgen.stats.mean import mean_interval
from loadgen.store import run_folder
from loadgen.store.run_folder import Run

SCORES: Final = "quality.jsonl"
UNCHANGED_WITHIN: Final = 3.0
"""Points of quality: an interval within these is said to show that load does not change the quality."""
MIN_PROMPTS: Final = 5
"""With fewer prompts at both levels, nothing is said about load."""
MIN_FOR_UNCHANGED: Final = 16
"""With fewer prompts, that nothing changed is not said either, because a rare loss may have been missed."""

Decoding = Literal["greedy", "sampled"]
"""Whether the same prompt should get the same text each time: at temperature 0."""


def with_quality(summary: Summary, runs: Sequence[Sequence[StageData]], sampling: Sampling) -> Summary:
    """The summary with the quality of each stage. runs: the stages of each run of the summary. A summary whose runs did
    not keep their texts stays as it is."""
    if any(stage.scorer is None for stages in runs for stage in stages):
        return summary
    decoding: Decoding = "greedy" if temperature_of(sampling) == 0 else "sampled"
    scored = [_answers(in_each_run) for in_each_run in zip(*runs, strict=True)]
    blocks = [
        _quality(answers, decoding, stage.requests.planned) if stage.requests is not UNSET and answers else None
        for stage, answers in zip(summary.stages, scored, strict=True)
    ]
    for lowest, highest in _pairs(summary.stages, blocks):
        block = blocks[highest]
        assert block is not None
        under_load = _under_load(summary.stages[lowest].level, scored[lowest], scored[highest], decoding)
        blocks[highest] = msgspec.structs.replace(block, under_load=under_load)
    stages = zip(summary.stages, blocks, strict=True)
    return msgspec.structs.replace(
        summary, stages=tuple(msgspec.structs.replace(stage, quality=block) for stage, block in stages)
    )


def temperature_of(sampling: Sampling) -> float | None:
    """The temperature that is sent to the server; None if none is sent."""
    sent = sampling.extra.get("temperature", None if "temperature" in sampling.omit else sampling.temperature)
    return float(sent) if isinstance(sent, int | float) else None


def answers_of(run: Run) -> tuple[ScoredAnswer, ...]:
    """The quality of each measured request of a run, in the order of its stages and requests. Empty if the run did not
    keep its texts."""
    return tuple(answer for stage in stages_of(run) for answer in _in_order(stage.scored or ()))


def scored_answers(folder: Path) -> tuple[ScoredAnswer, ...]:
    """As `stored_answers`, of a run folder. Raises InputError if it is no run folder."""
    run = run_folder.read(folder)
    return stored_answers(run, stages_of(run))


def stored_answers(run: Run, stages: Sequence[StageData]) -> tuple[ScoredAnswer, ...]:
    """As `answers_of`. Taken from the run's `quality.jsonl`, if that is of this scorer and of these answers; otherwise
    scored. stages: those of the run."""
    stored = _stored(run.folder / SCORES)
    requests = [
        (record.stage_key, record.index, record.prompt_id, record.text_sha256 if record.outcome == "ok" else None)
        for stage in stages
        for record in sorted(stage.measured, key=lambda record: record.index)
    ]
    if stored and requests == [_request(answer) for answer in stored]:
        return stored
    return tuple(answer for stage in stages for answer in _in_order(stage.scored or ()))


def quality_lines(stages: Iterable[StageData]) -> bytes:
    """The contents of `quality.jsonl`."""
    answers = [answer for stage in stages for answer in _in_order(stage.scored or ())]
    return b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers)


def _in_order(answers: Iterable[ScoredAnswer]) -> list[ScoredAnswer]:
    return sorted(answers, key=lambda answer: answer.index)


def _stored(path: Path) -> tuple[ScoredAnswer, ...]:
    """The lines of a `quality.jsonl`; none if it is missing, damaged, or of another scorer."""
    decoder = msgspec.json.Decoder(ScoredAnswer)
    try:
        answers = tuple(decoder.decode(line) for line in path.read_bytes().splitlines())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    return answers if all(answer.scorer == SCORER for answer in answers) else ()


def _request(answer: ScoredAnswer) -> tuple[StageKey, int, str, str | None]:
    return StageKey(answer.target, answer.model, answer.level), answer.index, answer.prompt_id, answer.text_sha256


def _answers(in_each_run: Sequence[StageData]) -> list[ScoredAnswer]:
    """The answers of a stage in all runs, without requests that a killed run planned and has no record of."""
    return [answer for stage in in_each_run for answer in stage.scored or ()]


def _quality(answers: Sequence[ScoredAnswer], decoding: Decoding, planned: int) -> Quality:
    """The quality of a stage. planned: how many requests it had in all runs; of those that a killed run has no record
    of, nothing is known, as of those that were cancelled."""
    given = [answer for answer in answers if answer.is_answer]
    marks = by_prompt(answers, "quality")
    interval = mean_interval(list(marks.values()))
    failed = sum("failed" in answer.flags for answer in answers)
    return Quality(
        scorer=SCORER,
        prompts=len(marks),
        answers=len(given),
        failed=failed,
        left_out=planned - len(given) - failed,
        mean=_mean(marks.values()),
        ci=None if interval is None else (round(max(0.0, interval[0]), 2), round(min(100.0, interval[1]), 2)),
        covered=_mean_share(answers, "covered"),
        mentioned=_mean_share(answers, "mentioned"),
        supported=_mean(by_prompt(given, "supported").values()),
        rouge_l=_mean(by_prompt(answers, "rouge_l").values()),
        flags=dict(sorted(Counter(flag for answer in given for flag in answer.flags).items())),
        same_text=_same_text_within(given) if decoding == "greedy" else None,
    )


def by_prompt(answers: Iterable[ScoredAnswer], field: str) -> dict[str, float]:
    """By prompt, the mean of a number of its answers, which have one; in the order of the prompts' first answers."""
    values: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if (value := getattr(answer, field)) is not None:
            values[answer.prompt_id].append(value)
    return {prompt: sum(of_prompt) / len(of_prompt) for prompt, of_prompt in values.items()}


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return rounded(sum(known) / len(known)) if known else None


def _mean_share(answers: Iterable[ScoredAnswer], field: str) -> float | None:
    """The mean over prompts of the mean share of their key points."""
    shares: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if (points := getattr(answer, field)) and answer.counts:
            shares[answer.prompt_id].append(sum(points) / len(points))
    return _mean(sum(each) / len(each) for each in shares.values())


def _texts(answers: Iterable[ScoredAnswer]) -> dict[str, list[str | None]]:
    """By prompt, the digests of its answers."""
    texts: dict[str, list[str | None]] = defaultdict(list)
    for answer in answers:
        texts[answer.prompt_id].append(answer.text_sha256)
    return texts


def _same_text_within(answers: Iterable[ScoredAnswer]) -> float | None:
    repeated = [texts for texts in _texts(answers).values() if len(texts) > 1]
    return _mean(float(len(set(texts)) == 1) for texts in repeated)


def _same_text_between(lowest: Iterable[ScoredAnswer], highest: Iterable[ScoredAnswer]) -> float | None:
    """The share of prompts that have the same texts at two levels, of those that were answered at both."""
    low, high = _texts(lowest), _texts(highest)
    return _mean(float(set(low[prompt]) == set(high[prompt])) for prompt in low if prompt in high)


def _pairs(stages: Sequence[StageSummary], blocks: Sequence[Quality | None]) -> list[tuple[int, int]]:
    """The indices of the lowest and the highest level of each model that has marks at two levels or more."""
    levels: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for index, (stage, block) in enumerate(zip(stages, blocks, strict=True)):
        intensity = _intensity(stage.load)
        if block is not None and block.mean is not None and intensity is not None:
            levels[stage.target, stage.model].append((intensity, index))
    return [(min(of_model)[1], max(of_model)[1]) for of_model in levels.values() if len(of_model) > 1]


def _intensity(load: StageLoad) -> float | None:
    """The users or the rate of a level; None for a load that changes."""
    return load.concurrency if load.concurrency is not None else load.rate_per_s


def _under_load(
    lowest: str, low: Sequence[ScoredAnswer], high: Sequence[ScoredAnswer], decoding: Decoding
) -> UnderLoad:
    before, after = by_prompt(low, "quality"), by_prompt(high, "quality")
    differences = [after[prompt] - mark for prompt, mark in before.items() if prompt in after]
    interval = mean_interval(differences)
    given_low, given_high = ([answer for answer in answers if answer.is_answer] for answers in (low, high))
    return UnderLoad(
        lowest=lowest,
        prompts=len(differences),
        difference=_mean(differences),
        ci=None if interval is None else (round(max(-100.0, interval[0]), 2), round(min(100.0, interval[1]), 2)),
        same_text=_same_text_between(given_low, given_high) if decoding == "greedy" else None,
        verdict=verdict_of(interval, len(differences)),
    )


def verdict_of(
    interval: tuple[float, float] | None, prompts: int
) -> Literal["unchanged", "lower", "higher", "unknown"]:
    """What the interval of the difference under load shows, over so many prompts."""
    if interval is None or prompts < MIN_PROMPTS:
        return "unknown"
    low, high = interval
    if low >= -UNCHANGED_WITHIN and high <= UNCHANGED_WITHIN and prompts >= MIN_FOR_UNCHANGED:
        return "unchanged"
    return "lower" if high < 0 else "higher" if low > 0 else "unknown"
