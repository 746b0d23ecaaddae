"""For all tests: the examples of property tests are the same in every run, unless new ones are asked for.

HYPOTHESIS_PROFILE=explore pytest tests/unit     looks for new examples
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import is_hypothesis_test, settings

from tests import garbage
from tests.compiled_templates import compiled_once
from tests.order import in_parts

UNIT: Final = Path(__file__).parent / "unit"

# What a test reads is as wide as it is, also under a runner that tells its workers how wide its terminal is.
os.environ.pop("COLUMNS", None)

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what hypothesis looks for exceptions to, and put first what is slow or has a server, as
    `tests.order` says."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("slow")
    short = [item for item in items if item.path.is_relative_to(UNIT) and item.get_closest_marker("slow") is None]
    known = set(short)
    long = [item for item in items if item not in known]
    items[:] = in_parts(long, short, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.fixture(scope="session", autouse=True)
def _runs_cost_little() -> Iterator[None]:
    """Hundreds of runs need to ask git for the commit once, and need not wait until what they write is on the disk. The
    same answers to the same prompts are scored once, and a page's template is compiled once. The tests of the scorer
    have imported what they call before."""
    from jinja2 import Environment

    from loadgen.analysis.scorer import answer_score
    from loadgen.telemetry import host

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "git_commit", cache(host.git_commit))
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(answer_score, "rubric_of", cache(answer_score.rubric_of))
        patch.setattr(answer_score, "score", cache(answer_score.score))
        patch.setattr(Environment, "compile", compiled_once(Environment.compile))
        yield


def pytest_collection_finish() -> None:
    garbage.begin()


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> Iterator[None]:
    """What the tests of a module leave behind is collected with the module."""
    yield
    garbage.collect()
