"""Writes a commented scenario to start from. It is checked before it is written, and never overwrites a file."""

from importlib import resources
from pathlib import Path

from loadgen.errors import InputError
from loadgen.scenario import Scenario
from loadgen.scenario.check import first_conflict
from loadgen.scenario.file import SCENARIOS, is_folder, parse_toml
from loadgen.scenario.problem import Source, input_error
from loadgen.scenario.validate import convert


def starter_text(name: str) -> str:
    """The file's text. Raises InputError if no scenario can have this name."""
    text = resources.files("loadgen.scenario").joinpath("starter.toml").read_text(encoding="utf-8")
    raw = parse_toml(text, "starter.toml")
    source = Source("starter.toml", {"name": "init"})
    scenario = convert(raw | {"name": name}, Scenario, source)
    if problem := first_conflict(scenario):
        raise input_error(source, problem)
    return text.replace("NAME", name)


def write_starter(name: str) -> Path:
    """The new file: in scenarios/ if the current folder has one, otherwise in the current folder itself.

    Raises InputError if the file exists or cannot be written, and for an invalid name.
    """
    name = name.removesuffix(".toml")
    text = starter_text(name)
    path = (SCENARIOS if is_folder(SCENARIOS) else Path()) / f"{name}.toml"
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:  # half a scenario would be in the way of the next attempt
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise InputError(f"init: {path} already exists; choose another name") from None
    except OSError as error:
        raise InputError(f"init: {path} cannot be written ({error.strerror}); choose another place") from None
    return path
