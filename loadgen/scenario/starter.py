"""A commented scenario to begin with: checked before it is written, and never over a file that is there."""

from importlib import resources
from pathlib import Path

from loadgen.errors import InputError
from loadgen.scenario import Scenario
from loadgen.scenario.check import first_conflict
from loadgen.scenario.file import SCENARIOS, is_folder, parse_toml
from loadgen.scenario.problem import Source, input_error
from loadgen.scenario.validate import convert


def starter_text(name: str) -> str:
    """The file's text. Raises InputError where no scenario can have this name."""
    text = resources.files("loadgen.scenario").joinpath("starter.toml").read_text(encoding="utf-8")
    raw = parse_toml(text, "starter.toml")
    source = Source("starter.toml", {"name": "init"})
    scenario = convert(raw | {"name": name}, Scenario, source)
    if problem := first_conflict(scenario):
        raise input_error(source, problem)
    return text.replace("NAME", name)


def write_starter(name: str) -> Path:
    """The new file: in scenarios/ where the current folder has one, else in the current folder itself.

    Raises InputError where there is such a file already, where it cannot be written, and for a name that cannot be one.
    """
    name = name.removesuffix(".toml")
    text = starter_text(name)
    path = (SCENARIOS if is_folder(SCENARIOS) else Path()) / f"{name}.toml"
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"init: {path} is there already; choose another name") from None
    except OSError as error:
        raise InputError(f"init: {path} cannot be written ({error.strerror}); choose another place") from None
    return path
