"""`make fuzz`: fuzzes every reader for its share of FUZZ_SECONDS, prints what was reached, and each failure.

FUZZ_SECONDS=120 FUZZ_SEED=0 python -m tests.fuzz [TARGET...]   a target's name, or all of them
python -m tests.fuzz --case FILE TARGET                         plays one case again
python -m tests.fuzz --keep FOLDER                              writes the cases that reached something, to begin with
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.fuzz.readers import TARGETS
from tests.fuzz.search import Found, Search

CORPUS: Final = Path(__file__).parents[1] / "data" / "corpus"


def kept(name: str) -> tuple[bytes, ...]:
    """The cases of a target that earlier searches have kept, and those that once broke it."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name.replace(" ", "-")).glob("*")))


def search_of(name: str, seed: int) -> Search:
    target = TARGETS[name]
    return Search(target.check, target.modules, target.seeds + kept(name), target.words, target.read, seed)


def _search(name: str, seconds: float, seed: int) -> Found:
    search, until = search_of(name, seed), time.monotonic() + seconds
    while search.step() and time.monotonic() < until:
        pass
    return search.found


def _tell(name: str, found: Found, seconds: float) -> None:
    rate = found.cases / seconds
    print(f"{name:<12} {found.cases:>9,} {rate:>9,.0f} {len(found.edges):>7} {len(found.corpus):>7}", flush=True)
    if found.failure is not None:
        digest = hashlib.sha256(found.failure.data).hexdigest()[:12]
        case = Path(tempfile.gettempdir()) / f"loadgen-fuzz-{name.replace(' ', '-')}-{digest}"
        case.write_bytes(found.failure.data)
        print(f"\n{found.failure.why}\n{name}: {found.failure.data[:200]!r}")
        print(f'play it again: python -m tests.fuzz --case {case} "{name}"\n', flush=True)


def _keep(folder: Path, name: str, found: Found) -> None:
    place = folder / name.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    for data in found.corpus:
        (place / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def main() -> int:
    """Returns the number of targets that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET")
    parser.add_argument("--case", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    names = asked.targets or list(TARGETS)
    if asked.case is not None:
        for name in names:
            TARGETS[name].check(asked.case.read_bytes())
        return 0
    each_s, seed = float(os.environ.get("FUZZ_SECONDS", "120")) / len(names), int(os.environ.get("FUZZ_SEED", "0"))
    print(f"{'target':<12} {'cases':>9} {'a second':>9} {'steps':>7} {'kept':>7}")
    failed = 0
    for name in names:
        began = time.monotonic()
        found = _search(name, each_s, seed)
        _tell(name, found, time.monotonic() - began)
        failed += found.failure is not None
        if asked.keep is not None:
            _keep(asked.keep, name, found)
    return failed


if __name__ == "__main__":
    sys.exit(main())
