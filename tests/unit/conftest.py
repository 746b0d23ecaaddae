"""For the unit tests: a run whose files are the same as those of one that was read before is read and judged once."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

READ: Final = 200
"""Of so many runs at most, what was read is remembered: a few MiB."""


@pytest.fixture(scope="session", autouse=True)
def _equal_runs_are_read_once() -> Iterator[None]:
    """Tests of selections and of comparisons write the same few runs again and again, and to read and judge them is
    most of what they take. What a test changes in a folder's files makes it another run."""
    from loadgen.decisions.candidates import runs
    from loadgen.decisions.compare import sides
    from loadgen.decisions.versus import block_sides

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_read", read_once(runs._read))
        patch.setattr(sides, "read_compared", read_once(sides.read_compared))
        patch.setattr(block_sides, "read_compared", sides.read_compared)
        yield


def read_once(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The same function of a folder, which remembers what it returned by the contents of the folder's files."""
    known: dict[bytes, Any] = {}

    def read_or_remember(folder: Path) -> Any:
        if (key := contents(folder)) not in known:
            if len(known) >= READ:
                known.clear()
            known[key] = read(folder)
        return msgspec.structs.replace(known[key], folder=folder)

    return read_or_remember


def contents(folder: Path) -> bytes:
    """A digest of the names and bytes of the files in a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(data)} ".encode() + data)
    return digest.digest()
