"""Lists the chats that a run sends beside the requests of its stages, for `loadgen plan`. Sends nothing."""

from typing import Final, Literal

from msgspec import Struct

from loadgen.plan.plan import Plan
from loadgen.scenario import PYTHON_PREFIX, Model, Scenario
from loadgen.targets.registry import target_name

TEST_CHAT: Final = "Say hello."
PING: Final = "Hi."


class ProbeQuestion(Struct, frozen=True):
    """One thing that a probe tests a server for."""

    name: str
    chats: int
    """The highest number of chats. Some are left out if an answer has shown enough, or if the server is too slow."""
    asks: str


QUESTIONS: Final = (
    ProbeQuestion("max_tokens", 1, "does an answer end at the limit?"),
    ProbeQuestion("stop", 1, "does the same answer end at a word of it?"),
    ProbeQuestion("seed", 3, "does one seed give the same answer twice, and another seed another?"),
    ProbeQuestion("parallel streams", 8, "how many of eight run at once?"),
    ProbeQuestion(
        "closing a stream", 3, "does the server stop generating? One chat where it says how many it works on"
    ),
)
"""The questions of a probe, in their order (`loadgen.targets.probe.probe`)."""


def questions_for(scenario: Scenario, model: Model) -> tuple[ProbeQuestion, ...]:
    """The questions for a model's server after its stages; none for an adapter, or if answers are not streamed."""
    in_process = model.url is None and (model.target or "").startswith(PYTHON_PREFIX)
    return QUESTIONS if scenario.probe and scenario.sampling.stream and not in_process else ()


class ExtraChats(Struct, frozen=True):
    """Chats with one model outside of its stages."""

    model: str
    served_by: str
    when: Literal["before its stages", "while it is idle", "after its stages"]
    chats: int | None
    """The highest number of chats; None: as often as the model is idle."""
    asks: str


def extra_chats(plan: Plan) -> tuple[ExtraChats, ...]:
    """All chats that a run of a plan sends beside its stages, model by model. A model that is not played gets none."""
    scenario, listed = plan.scenario, list[ExtraChats]()
    played = {index for stage in plan.stages for index in stage.models}
    for index, model in enumerate(plan.models):
        if index not in played:
            continue
        who = (model.name, target_name(model))
        if scenario.preflight:
            listed.append(ExtraChats(*who, "before its stages", 1, f"test chat: {TEST_CHAT}"))
        if model.target == "foundry" and model.foundry is not None and model.foundry.keep_warm_s is not None:
            every = f"keep-warm: one token after every {model.foundry.keep_warm_s:g} s without a request"
            listed.append(ExtraChats(*who, "while it is idle", None, every))
        listed += [
            ExtraChats(*who, "after its stages", question.chats, f"{question.name}: {question.asks}")
            for question in questions_for(scenario, model)
        ]
    return tuple(listed)
