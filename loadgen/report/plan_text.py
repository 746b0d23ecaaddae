"""A plan as text, before anything is sent. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from loadgen.plan.plan import Plan, Stage, digest
from loadgen.record import StageKey
from loadgen.report.console import lines_text, table_text
from loadgen.report.format import format_count, format_load, format_minutes
from loadgen.report.section import Column, Row, Table
from loadgen.report.text_table import Screen
from loadgen.scenario import Model
from loadgen.targets.extra_chats import QUESTIONS, extra_chats, questions_for
from loadgen.targets.registry import target_name
from loadgen.targets.request import limit_rule

TITLES: Final = ("model", "served by", "load", "requests", "warm-up", "tokens at most", "due", "expected length")
COLUMNS: Final = tuple(Column(title, "text") for title in TITLES)

Pace = Mapping[StageKey, float]
"""The rate, in requests per second, that an earlier run reached."""


def plan_table(plan: Plan, pace: Pace, screen: Screen) -> str:
    """One row per stage and model: requests, due times, the maximum of tokens, the expected length. Then the digest."""
    table = Table(COLUMNS, tuple(Row(_cells(plan, stage, model, pace)) for stage, model in _parts(plan)))
    lines = [f"{_total(plan)}, {format_count(len(plan.prompts), 'prompt')}, seed {plan.scenario.seed}"]
    rule = next((stage.until for stage in plan.stages if stage.until is not None), None)
    if rule is not None:
        ends = "each level ends as soon as the percentile is known this precisely, or after all of its requests"
        lines.append(f"until {rule}: {ends}")
    lines.append(f"a request may take {limit_rule(plan.scenario)}")
    lines += [*_beside_the_stages(plan), f"digest {digest(plan)}"]
    return table_text(table, "", screen) + lines_text(lines, screen)


def _total(plan: Plan) -> str:
    """How many requests in all: exactly, at most, or at least."""
    stages = format_count(len(plan.stages), "stage")
    if any(stage.count is None for stage in plan.stages):
        least = sum(stage.min_count if stage.count is None else stage.count for stage in plan.stages)
        return f"at least {format_count(least, 'request')} in {stages}" if least else stages
    most = format_count(sum(stage.count or 0 for stage in plan.stages), "request")
    return f"{'' if all(stage.promised for stage in plan.stages) else 'at most '}{most} in {stages}"


def _beside_the_stages(plan: Plan) -> Iterator[str]:
    """One line for each kind of chat or request that may be sent outside the stages."""
    if plan.scenario.retries.attempts:
        yield f"a failed request is sent again up to {plan.scenario.retries.attempts} times"
    listed = extra_chats(plan)
    before = sum(extra.chats or 0 for extra in listed if extra.when == "before its stages")
    test_chats = {0: "no test chat", 1: "1 test chat"}.get(before, f"{before} test chats, one per model")
    yield f"before the stages: {test_chats}"
    for extra in listed:
        if extra.when == "while it is idle":
            yield f"while {extra.model} on {extra.served_by} is idle: {extra.asks}"
    asked = [(model, target_name(model)) for model in plan.models if questions_for(plan.scenario, model)]
    if asked:
        chats = sum(question.chats for question in QUESTIONS)
        names = ", ".join(f"{model.name} on {served_by}" for model, served_by in asked)
        yield f"after the stages of each model: up to {chats} chats that test its server ({names})"
        yield from (f"  {question.chats} {question.name}: {question.asks}" for question in QUESTIONS)


def _parts(plan: Plan) -> Iterator[tuple[Stage, int]]:
    for stage in plan.stages:
        for model in stage.models:
            yield stage, model


def _cells(plan: Plan, stage: Stage, model_number: int, pace: Pace) -> tuple[str, ...]:
    model, planned = plan.models[model_number], stage.planned_of(model_number)
    per_request = plan.scenario.sampling.token_limit
    return (
        model.name,
        target_name(model),
        format_load(stage.level.load()),
        _how_many(stage, planned),
        str(stage.warmup),
        _most_tokens(per_request, planned),
        _due(stage),
        _expected(stage, model, pace),
    )


def _most_tokens(per_request: int | None, planned: int | None) -> str:
    if per_request is None:
        return "no limit is sent"
    return f"{per_request} each" if planned is None else f"{planned * per_request:,}"


def _how_many(stage: Stage, planned: int | None) -> str:
    if planned is not None:
        return str(planned)
    if stage.until is not None:
        return "until known" if stage.count is None else f"at most {stage.count // len(stage.models)}"
    least, most = (
        stage.min_count // len(stage.models),
        None if stage.count is None else stage.count // len(stage.models),
    )
    if most is None:
        bounds = f"at least {least}, " if least else ""
    else:
        bounds = f"{least} to {most}, " if least else f"at most {most}, "
    return f"{bounds}as many as start in time"


def _due(stage: Stage) -> str:
    if stage.due_ns is None:
        return "when the last answer has ended"
    if not len(stage.due_ns):
        return "never"
    first = ", ".join(f"{offset / 1e9:.2f}" for offset in stage.due_ns[:3])
    more = f", … {stage.due_ns[-1] / 1e9:.2f}" if len(stage.due_ns) > 3 else ""
    return f"{first}{more} s"


def _expected(stage: Stage, model: Model, pace: Pace) -> str:
    if stage.due_ns is not None:
        length_s = stage.duration_ns / 1e9 if stage.duration_ns else float(stage.due_ns[-1]) / 1e9 if stage.count else 0
        return format_minutes(length_s)
    bound_s = None if stage.duration_ns is None else stage.duration_ns / 1e9
    reached = pace.get(StageKey(target_name(model), model.name, stage.level.label))
    if stage.count is not None and reached:
        seconds = stage.count / reached
        return f"{format_minutes(min(seconds, bound_s or seconds))} (as last time)"
    if bound_s is None:
        return "as long as the answers take"
    return f"at {'least' if stage.min_count else 'most'} {format_minutes(bound_s)}"


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as data: every request with its due time, for programs."""
    stages, limit = [], plan.scenario.sampling.token_limit
    for stage in plan.stages:
        requests = [stage.request(position) for position in range(stage.count or 0)]
        stages.append(
            {
                "load": msgspec.to_builtins(stage.level.load()),
                "level": stage.level.label,
                "models": [plan.models[model].name for model in stage.models],
                "warmup": stage.warmup,
                "requests": stage.count,
                "min_requests": stage.min_count,
                "duration_s": None if stage.duration_ns is None else stage.duration_ns / 1e9,
                "until": plan.scenario.until,
                "tokens_at_most": None if stage.count is None or limit is None else stage.count * limit,
                "planned": [
                    {
                        "model": plan.models[planned.model].name,
                        "index": planned.index,
                        "prompt_id": plan.prompts[planned.prompt].id,
                        "due_s": None if planned.due_ns is None else planned.due_ns / 1e9,
                        "think_s": planned.think_ns / 1e9,
                    }
                    for planned in requests
                ],
            }
        )
    return {
        "scenario": plan.scenario.name,
        "seed": plan.scenario.seed,
        "digest": digest(plan),
        "request_limit": limit_rule(plan.scenario),
        "stages": stages,
        "extra_chats": [msgspec.to_builtins(extra) for extra in extra_chats(plan)],
        "notes": list(plan.remarks),
    }
