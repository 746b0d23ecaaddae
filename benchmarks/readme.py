"""Makes the README's tables and pictures again from runs of `summarizer` and `capacity`: `make readme`, when quiet.

python benchmarks/readme.py          plays both first
python benchmarks/readme.py RUN...   takes run folders that are there already
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks.tables import write_between
from loadgen.clock import SYSTEM_CLOCK

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"


class Section(Struct, frozen=True):
    """A table and a picture of the README."""

    scenario: str
    verb: str
    """What plays it: `loadgen VERB SCENARIO`."""
    size: str
    """Of the picture: width,height in pixels."""

    @property
    def picture(self) -> Path:
        """Where the picture lies."""
        return ROOT / "docs" / "img" / f"{self.scenario}.png"

    @property
    def begin(self) -> str:
        """The line before the table."""
        return f"<!-- made by benchmarks/readme.py, {self.scenario}: begin -->"

    @property
    def end(self) -> str:
        """The line after the table."""
        return f"<!-- made by benchmarks/readme.py, {self.scenario}: end -->"


SECTIONS: Final = (Section("summarizer", "run", "1280,1290"), Section("capacity", "capacity", "1280,1090"))


def table_of(report: str) -> str:
    """What a report.md begins with: the answer, the main table and its notes, without the run's own name."""
    _, _, rest = report.partition("\n\n")
    head, _, _ = rest.partition("\n## ")
    blocks = [block for block in head.strip().split("\n\n") if not block.startswith(("Run `", "Model: "))]
    return "\n\n".join(blocks) + "\n"


def play(section: Section) -> Path | None:
    """Plays a scenario and returns its run folder. None: the run cannot be believed."""
    began_ns = SYSTEM_CLOCK.now_ns()
    command = [sys.executable, "-m", "loadgen", section.verb, section.scenario]
    played = subprocess.run(command, cwd=ROOT, check=False)
    print(f"it took {(SYSTEM_CLOCK.now_ns() - began_ns) / 1e9:.0f} s, and ended with {played.returncode}")
    if played.returncode != 0:
        print("a stage cannot be believed: nothing was changed; make the machine quiet, and run it again")
        return None
    return max((ROOT / "results" / section.scenario).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def show(section: Section, run: Path) -> None:
    """Writes the table and the picture of a run into the README."""
    write_between(README, table_of((run / "report.md").read_text(encoding="utf-8")), section.begin, section.end)
    subprocess.run([ROOT / "docs" / "img" / "screenshot.sh", run, section.picture, section.size], check=True)
    picture = section.picture.relative_to(ROOT)
    print(f"{README.name} and {picture} are those of {run.name}; look at both before you commit them")


def main(arguments: list[str]) -> int:
    folders = {Path(folder).resolve().parent.name: Path(folder) for folder in arguments}
    for section in SECTIONS:
        if arguments and section.scenario not in folders:
            continue
        run = folders.get(section.scenario) or play(section)
        if run is None:
            return 1
        show(section, run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
