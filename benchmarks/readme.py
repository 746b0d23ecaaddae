"""Makes the README's tables and pictures again from runs of its scenarios: `make readme`, on a quiet machine.

python benchmarks/readme.py             plays all of them first
python benchmarks/readme.py FOLDER...   takes folders of runs and of selections that are there already
"""

import re
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
    command: tuple[str, ...]
    """The arguments of loadgen that play it."""
    size: str
    """The picture's width,height in pixels."""
    results: str
    """The folder in results/ in which the command makes a folder of its own."""
    report: str = "report.md"
    page: str = "report.html"
    caption: str = ""
    """The picture's text, if the table comes with the picture below it."""

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


SECTIONS: Final = (
    Section("summarizer", ("run", "summarizer"), "1280,1290", "summarizer"),
    Section("capacity", ("capacity", "capacity"), "1280,1090", "capacity"),
    Section(
        "choose-summarizer",
        ("run", "choose-summarizer", "--select"),
        "1280,1090",
        "selections",
        "benchmark_report.md",
        "selection.html",
        "The top of selection.html: the decision, the candidates, and quality against latency",
    ),
)


def table_of(report: str) -> str:
    """The beginning of a report: the answer, the main table and its notes, without the names of the runs."""
    _, _, rest = report.partition("\n\n")
    head, _, _ = rest.partition("\n## ")
    blocks = [block for block in head.strip().split("\n\n") if not re.match(r"Run `|Model: |\d+ runs?, ", block)]
    return "\n\n".join(blocks) + "\n"


def play(section: Section) -> Path | None:
    """Plays a scenario and returns the folder of its reports. None: the run cannot be believed."""
    began_ns = SYSTEM_CLOCK.now_ns()
    played = subprocess.run([sys.executable, "-m", "loadgen", *section.command], cwd=ROOT, check=False)
    print(f"it took {(SYSTEM_CLOCK.now_ns() - began_ns) / 1e9:.0f} s, and ended with {played.returncode}")
    if played.returncode != 0:
        print("a stage cannot be believed: nothing was changed; make the machine quiet, and run it again")
        return None
    return max((ROOT / "results" / section.results).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def show(section: Section, run: Path) -> None:
    """Writes the table and the picture of a run, or of a selection, into the README."""
    picture = section.picture.relative_to(ROOT)
    text = table_of((run / section.report).read_text(encoding="utf-8"))
    if section.caption:
        text += f"\n![{section.caption}]({picture.as_posix()})\n"
    write_between(README, text, section.begin, section.end)
    script = ROOT / "docs" / "img" / "screenshot.sh"
    subprocess.run([script, run / section.page, section.picture, section.size], check=True)
    print(f"{README.name} and {picture} are those of {run.name}; look at both before you commit them")


def main(arguments: list[str]) -> int:
    folders = {Path(folder).resolve().parent.name: Path(folder) for folder in arguments}
    for section in SECTIONS:
        if arguments and section.results not in folders:
            continue
        run = folders.get(section.results) or play(section)
        if run is None:
            return 1
        show(section, run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
