"""In what two variants may differ, and how that is told."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.decisions.versus.variants import changed_keys, check_name, check_variants
from loadgen.decisions.versus.words import keys_line, variant_lines
from loadgen.errors import InputError
from loadgen.plan.plan import Plan
from loadgen.scenario import Closed, LlamaCpp, Model, Poisson, Sampling, Scenario, Slo
from loadgen.scenario.file import LoadedScenario

BASE = Scenario(name="x", prompts=("Say hello.", "Count."), models=(Model(name="m", target="llamacpp"),))


def plan(scenario: Scenario, **changes: Any) -> Plan:
    return api.plan_of(LoadedScenario(msgspec.structs.replace(scenario, **changes), None, Path(), "the test"))


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {}),
        ({"models": (Model(name="n", target="llamacpp"),)}, {"models[0].name": "n"}),
        (
            {"models": (Model(name="m", target="llamacpp", llamacpp=LlamaCpp(threads=1)),)},
            {"models[0].llamacpp.threads": 1},
        ),
        (
            {"models": (Model(name="m", url="http://user:secret@a.invalid/v1"),)},
            {"models[0].url": "http://…@a.invalid/v1", "models[0].target": None},
        ),
        ({"models": (Model(name="m", target="llamacpp", llamacpp=LlamaCpp()),)}, {}),
        ({"timeouts": msgspec.structs.replace(BASE.timeouts, ready_s=5.0)}, {"timeouts.ready_s": 5.0}),
    ],
    ids=str,
)
def test_variants_may_differ_in_whom_they_ask(changes: dict[str, Any], keys: dict[str, Any]) -> None:
    base, new = plan(BASE), plan(BASE, **changes)
    check_variants(base, new)
    check_name(base.scenario, new.scenario)
    shown = changed_keys(base.scenario, new.scenario)
    assert shown == keys
    assert "secret" not in str(shown) + keys_line(shown)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling": Sampling(max_tokens=7)}, "sampling.max_tokens is 128 in A and 7 in B"),
        ({"load": Closed(concurrency=(1,), requests=3)}, "load.requests is "),
        ({"load": Poisson(rates_per_s=(1.0,), requests=3), "seed": 2}, "seed is 1 in A and 2 in B"),
        ({"system": "Be brief."}, "system is not set in A and Be brief. in B"),
        ({"prompts": ("Say hello.", "Stop.")}, 'prompts is ["Say hello.","Count."] in A and ["Say hello.","Stop."]'),
        ({"slo": Slo(ttft_ms=9.0)}, "slo.ttft_ms is not set in A and 9.0 in B"),
    ],
    ids=str,
)
def test_variants_that_ask_for_other_work_or_are_judged_otherwise_are_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        check_variants(plan(BASE), plan(BASE, **changes))
    assert words in str(refused.value)
    assert "--anyway" in str(refused.value)


def test_variants_of_another_name_are_refused_as_their_runs_would_lie_apart() -> None:
    with pytest.raises(InputError, match=r"^--versus name=y: "):
        check_name(BASE, msgspec.structs.replace(BASE, name="y"))


def test_what_few_blocks_cannot_show_is_said_before() -> None:
    base, new = plan(BASE), plan(BASE, models=(Model(name="n", target="llamacpp"),))
    few = list(variant_lines(base, new, 4))
    assert few[0].startswith("4 blocks of two runs, A (unchanged) and B (the variant), in this order: ")
    assert few[1:] == ["B: models[0].name is n", "4 blocks cannot show a regression; --repeats 5 can"]
    assert len(list(variant_lines(base, new, 5))) == 2
    assert list(variant_lines(base, base, 6))[1] == "B is the same as A"
