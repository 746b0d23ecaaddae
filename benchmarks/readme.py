"""Makes the README's table and picture anew from a run of `summarizer`: on a quiet machine, `make readme`.

python benchmarks/readme.py          plays the scenario first
python benchmarks/readme.py RUN      takes a run folder that is there already
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.tables import write_between
from loadgen.clock import SYSTEM_CLOCK

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
PICTURE: Final = ROOT / "docs" / "img" / "summarizer.png"
SIZE: Final = "1280,1290"
BEGIN: Final = "<!-- made by benchmarks/readme.py: begin -->"
END: Final = "<!-- made by benchmarks/readme.py: end -->"


def table_of(report: str) -> str:
    """What a report.md begins with: the answer, the main table and its notes, without the run's own name."""
    _, _, rest = report.partition("\n\n")
    head, _, _ = rest.partition("\n## ")
    blocks = [block for block in head.strip().split("\n\n") if not block.startswith(("Run `", "Model: "))]
    return "\n\n".join(blocks) + "\n"


def main(arguments: list[str]) -> int:
    if arguments:
        run = Path(arguments[0])
    else:
        began_ns = SYSTEM_CLOCK.now_ns()
        played = subprocess.run([sys.executable, "-m", "loadgen", "run", "summarizer"], cwd=ROOT, check=False)
        print(f"it took {(SYSTEM_CLOCK.now_ns() - began_ns) / 1e9:.0f} s, and ended with {played.returncode}")
        if played.returncode != 0:
            print("a stage cannot be believed: nothing was changed; make the machine quiet, and run it again")
            return 1
        run = max((ROOT / "results" / "summarizer").iterdir())
    write_between(README, table_of((run / "report.md").read_text(encoding="utf-8")), BEGIN, END)
    subprocess.run([ROOT / "docs" / "img" / "screenshot.sh", run, PICTURE, SIZE], check=True)
    print(f"{README.name} and {PICTURE.relative_to(ROOT)} are those of {run.name}; look at both before you commit them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
