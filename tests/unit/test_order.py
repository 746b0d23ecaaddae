"""The order of the tests: nothing is lost, and each worker of pytest-xdist begins with long ones."""

from pathlib import Path

import pytest
from msgspec import Struct

from tests.order import in_parts


class Named(Struct, frozen=True):
    path: Path
    number: int


def named(name: str, count: int) -> list[Named]:
    return [Named(Path(f"{name}.py"), number) for number in range(count)]


LONG = [*named("a", 5), *named("b", 3), *named("e2e/c", 3), *named("test_freeze", 2)]
SHORT = named("short", 60)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_each_part_begins_with_whole_modules_of_long_tests_and_ends_with_short_ones(workers: int) -> None:
    order, left, seen = list(in_parts(LONG, SHORT, workers)), len(LONG) + len(SHORT), set[Path]()
    assert sorted(order, key=str) == sorted([*LONG, *SHORT], key=str)
    assert order[0].path.name == "test_freeze.py"
    for number in range(workers):  # as worksteal deals them
        size = left // (workers - number)
        part, left = order[:size], left - size
        order = order[size:]
        long = {test.path for test in part if test.path.name != "short.py"}
        assert long.isdisjoint(seen), "a module is of one worker"
        seen |= long
        names = list(dict.fromkeys(test.path.name for test in part))
        assert "c.py" not in names or names[: names.index("c.py")] in ([], ["test_freeze.py"]), "it is end to end"
        first_short = next(i for i, test in enumerate(part) if test.path.name == "short.py")
        assert {test.path.name for test in part[first_short:]} == {"short.py"}


def test_long_tests_alone_or_short_ones_alone_are_all_there() -> None:
    assert sorted(in_parts(LONG, [], 3), key=str) == sorted(LONG, key=str)
    assert list(in_parts([], SHORT, 3)) == SHORT
