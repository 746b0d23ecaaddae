"""Makes the requests of a stage before anything is timed: a complete body for each prompt and model."""

from collections.abc import Iterable

from loadgen.plan.plan import Plan, Planned, Stage
from loadgen.targets.adapter.in_process import Question, question_of
from loadgen.targets.request import body_of, chat_request_of, deadlines_of, first_limit_ns
from loadgen.targets.served import Served
from loadgen.wire.exchange import ChatRequest


def requests_of(plan: Plan, stage: Stage, served: dict[int, Served]) -> dict[tuple[int, int], ChatRequest | Question]:
    """The requests of a stage by (model, prompt), complete, so that nothing is encoded while others are timed."""
    # All requests with the same prompt are equal byte for byte, so each body is encoded once.
    requests: dict[tuple[int, int], ChatRequest | Question] = {}
    for model in stage.models:
        # The limit for the warm-up. The warm-up shows what the limit of the measured requests is.
        first_ns = first_limit_ns(plan.scenario, served[model].test_chat_ns)
        deadlines = deadlines_of(plan.scenario.timeouts, first_ns)
        for prompt in _prompts_of(stage):
            body = body_of(plan, Planned(model=model, index=0, prompt=prompt), served[model])
            is_adapter = served[model].adapter is not None
            requests[model, prompt] = (
                question_of(body, deadlines) if is_adapter else chat_request_of(served[model], body, deadlines)
            )
    return requests


def _prompts_of(stage: Stage) -> Iterable[int]:
    """The prompts that a stage may ask. A file may have many times as many."""
    if stage.count is None or stage.count >= stage.prompts:
        return range(stage.prompts)
    measured = {stage.request(position).prompt for position in range(stage.count)}
    return measured | {stage.warmup_request(position).prompt for position in range(stage.warmup_count)}
