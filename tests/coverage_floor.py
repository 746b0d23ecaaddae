"""Whether the tests run as much of loadgen as they must: read from what coverage has written.

python -m tests.coverage_floor      prints what is missing; exit 1 when it is too much
"""

import io
import sys
from pathlib import Path
from typing import Final

import coverage

import loadgen

FLOOR: Final = 90.0
"""Percent of all lines and branches. What only processes of their own run is not counted, so there is more."""
COMPLETE: Final = ("plan", "stats", "analysis")
"""Packages of which every line is run: what they compute is what is reported."""


def main() -> int:
    package = Path(loadgen.__file__).parent
    data = coverage.Coverage()
    data.load()
    total = data.report(file=io.StringIO())
    missing = {
        path.relative_to(package): lines
        for folder in COMPLETE
        for path in sorted((package / folder).rglob("*.py"))
        if (lines := data.analysis2(str(path))[3])
    }
    for path, lines in missing.items():
        print(f"{path}: no test runs line {', '.join(map(str, lines))}")
    print(f"{total:.1f} % of lines and branches are run by the tests (at least {FLOOR:.0f} %)")
    return 0 if total >= FLOOR and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
