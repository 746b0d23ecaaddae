"""A wrong command line in words: what the parser says of it, and a clearer sentence where it often means another
option."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

SEARCHED: Final = ("--users", "--rate")
"""The options of `capacity` that name what is searched. In other verbs, options like them take numbers."""
NUMBERS: Final = r"[0-9]+(?:[.,][0-9]+)*"


def usage_text(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with a command line. error: the parser's. arguments: those of the command line."""
    text: str = error.format_message().rstrip(".")
    if possible := getattr(error, "possibilities", None):
        return f"{error.message} (Possible options: {', '.join(possible)})"  # the nearest first, not by the alphabet
    if "does not take a value" in text:
        flags = {error.option_name}
    elif "unexpected extra argument" in text:
        params = error.ctx.command.params
        flags = {name for param in params if getattr(param, "is_flag", False) for name in param.opts}
    else:
        return text
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    apart = [word for argument in arguments for word in argument.split("=", 1)]
    for flag, value in itertools.pairwise(apart):
        if flag in flags and re.fullmatch(NUMBERS, value):
            return number_text(flag, value, verb)
    return text


def number_text(flag: str, value: str, verb: str) -> str:
    """The error of a number after an option that takes none."""
    if verb != "capacity" or flag not in SEARCHED:
        return f"{flag} {value}: {flag} takes no value; leave {value} out"
    lowest, *_, highest = sorted(re.split(",", f"{value},{value}"), key=float)
    instead = f"--from {lowest}" if lowest == highest else f"--from {lowest} --to {highest}"
    return f"{flag} {value}: {flag} of capacity takes no number, because a search chooses its levels; use {instead}"
