"""docs/api.md: its examples play, one after another, and its table has every public name."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import loadgen
from loadgen.mock import FixedTime, MockProcess, Script

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_public_name_has_its_place_in_the_table() -> None:
    rows = re.findall(r"^\| (`.+) \|$", PAGE.partition("## Names")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(loadgen.__all__) - named == set()
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[0])} <= set(loadgen.__all__)


def test_the_examples_play_as_they_stand(tmp_path: Path) -> None:
    """All in one process that begins with the name FOLDER, as a reader would fill it in: the newest run's."""
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(examples) == 10
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    # How fast this machine is makes no run invalid, which `compare` would refuse.
    steady = (
        "from loadgen.analysis import validity\n"
        "of_the_server = {'nothing_answered', 'incomplete', 'server_died'}\n"
        "validity.RULES = tuple(rule for rule in validity.RULES if rule.code in of_the_server)\n"
    )
    newest = "from pathlib import Path\nFOLDER = sorted(Path('results/smoke').iterdir())[-1]\n"
    examples[2] = newest + examples[2]
    with MockProcess(Script(ttft_s=FixedTime(0.01), itl_s=FixedTime(0.001), tokens=FixedTime(3))) as server:
        program = steady + "\n".join(examples).replace("http://127.0.0.1:8080/v1", server.url).replace("NAME", "mock")
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert "6/6" in result.stdout
    assert re.search(r"^r\S+ \d+ \[\d", result.stdout, re.MULTILINE)
    assert re.search(r"^(same|unknown|worse|better)$", result.stdout, re.MULTILINE)
    assert re.search(r"^(complete \d blocks|complete \d few)$", result.stdout, re.MULTILINE)
    assert re.search(r"^mock c[12] \d+\.\d+ \w+$", result.stdout, re.MULTILINE)
