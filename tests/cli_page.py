"""docs/cli.md: the help of every verb, as the command line prints it. `python -m tests.cli_page` writes it anew."""

from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from loadgen.cli.app import VERBS, app

PAGE: Final = Path(__file__).parents[1] / "docs" / "cli.md"
COLUMNS: Final = 80
INTRODUCTION: Final = """# The command line

This page has the help of every verb. `python -m tests.cli_page` generates it, and a test fails when it is out of date.
The exit codes are in [the run folder](run-folder.md#exit-codes), the keys of a scenario in [scenarios](scenarios.md).

`loadgen --install-completion` lets the shell complete verbs and flags.
"""


def help_of(*words: str) -> str:
    """What `loadgen WORDS --help` prints on a terminal of 80 columns."""
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="loadgen", terminal_width=COLUMNS)
    assert result.exit_code == 0, result.output
    return result.output


def page_text() -> str:
    sections = [("loadgen", help_of()), *((f"loadgen {verb}", help_of(verb)) for verb in VERBS)]
    return INTRODUCTION + "".join(f"\n## {title}\n\n```text\n{text.rstrip()}\n```\n" for title, text in sections)


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8", newline="\n")
