"""Every reader of foreign bytes keeps its law on a bounded number of fuzzed cases, the same in every run; `make fuzz`
goes on for longer."""

import sys

import pytest

from tests.fuzz.__main__ import kept, search_of
from tests.fuzz.readers import TARGETS
from tests.fuzz.search import Search
from tests.integration.stream_bodies import BODIES

CASES = 400


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_keeps_its_law_on_fuzzed_bytes(name: str) -> None:
    search = search_of(name, seed=1)
    while search.found.cases < CASES and search.step():
        pass
    assert search.found.failure is None, f"{search.found.failure}"
    assert len(search.found.corpus) > 1, "nothing that was tried went another way than the first"


@pytest.mark.parametrize("name", TARGETS)
def test_cases_that_once_broke_a_reader_do_so_no_more(name: str) -> None:
    for data in kept(name):
        TARGETS[name].check(data)


def reads_five_letters(data: bytes) -> None:
    for at, letter in enumerate(b"fuzzy"):
        if data[at : at + 1] != bytes([letter]):
            break
        STEPS[at]()
    else:
        raise ZeroDivisionError


STEPS = (
    lambda: None,
    lambda: None,
    lambda: None,
    lambda: None,
    lambda: None,
)
LETTERS = tuple(bytes([letter]) for letter in range(ord("a"), ord("z") + 1))


def test_a_search_goes_step_by_step_to_a_fault_that_chance_would_not_find_and_shortens_it() -> None:
    search = Search(reads_five_letters, (sys.modules[__name__],), (b"hello there",), LETTERS)
    while search.found.cases < 50_000 and search.step():  # one in 12 million texts of five letters is it
        pass
    assert search.found.failure is not None
    assert search.found.failure.data == b"fuzzy"
    assert "ZeroDivisionError" in search.found.failure.why


def test_the_same_seed_makes_the_same_cases() -> None:
    tried: list[list[bytes]] = []
    for _ in range(2):
        cases: list[bytes] = []
        search = Search(cases.append, (), (b"data: a\n\n", b"x"), (b"data",), seed=3)
        search.found.corpus.extend((b"data: a\n\n", BODIES["lines: LF"][0]))
        for _ in range(50):
            search.step()
        tried.append(cases)
    assert tried[0] == tried[1]
    assert len(set(tried[0])) > 30
