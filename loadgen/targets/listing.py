"""Whether a server's list of models covers a name. Sends nothing."""

import re
from collections.abc import Collection
from typing import Final

_NAMED_MODEL: Final = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')


def is_listed(wanted: str, names: Collection[str]) -> bool:
    """Whether a name is among those that a server lists. Some list a model without the version by which they take it
    (Foundry Local 1.x), or with a tag that nobody has to say (Ollama); of two versions, neither is the other. A gateway
    (LiteLLM) lists `openai/*` for all names that begin so."""
    if wanted in names or any(_covers(name, wanted) for name in names):
        return True
    if "/" in wanted.rpartition(":")[2]:  # a colon of a path, as in C:/models/x, parts no version
        return False
    return wanted.partition(":")[0] in names or wanted in {name.partition(":")[0] for name in names}


def _covers(pattern: str, wanted: str) -> bool:
    """Whether a listed name is a pattern that a name fits. Only its stars stand for something."""
    if "*" not in pattern:
        return False
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), wanted, re.DOTALL) is not None


def substitute_for(wanted: str, names: Collection[str], answer: bytes) -> str | None:
    """The other listed model that an answer says it is of; None where it names the one that was asked for, or none.

    answer: the body of a chat with a model that is not listed. A model that a list leaves out may well be there; but
    one that is not there is often answered by whatever is loaded, which would be measured under a wrong name.
    """
    named = _NAMED_MODEL.search(answer)
    if named is None:
        return None
    name = named[1].decode("utf-8", "replace")
    return name if name != wanted and name in names and not is_listed(name, (wanted,)) else None
