"""Whether a server's list of models covers a name. Sends nothing."""

import re
from collections.abc import Collection
from typing import Final

_NAMED_MODEL: Final = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')


def is_listed(wanted: str, names: Collection[str]) -> bool:
    """Whether a server lists a name. Some servers list a model without the version that a request has (Foundry Local
    1.x), or with a tag that a request may leave out (Ollama). Two different versions do not match. A gateway (LiteLLM)
    lists `openai/*` for all names that begin so."""
    if wanted in names or any(_covers(name, wanted) for name in names):
        return True
    if "/" in wanted.rpartition(":")[2]:  # the colon is part of a path, as in C:/models/x, and begins no version
        return False
    return wanted.partition(":")[0] in names or wanted in {name.partition(":")[0] for name in names}


def _covers(pattern: str, wanted: str) -> bool:
    """Whether a listed name is a pattern that a name matches. Only `*` is special in it."""
    if "*" not in pattern:
        return False
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), wanted, re.DOTALL) is not None


def substitute_for(wanted: str, names: Collection[str], answer: bytes) -> str | None:
    """Another listed model that the answer names as its own; None if it names the requested one, or none.

    answer: the body of a chat with a model that is not listed. Such a model may exist all the same. But if it does not,
    many servers answer with the model that is loaded, which would be measured under a wrong name.
    """
    named = _NAMED_MODEL.search(answer)
    if named is None:
        return None
    name = named[1].decode("utf-8", "replace")
    return name if name != wanted and name in names and not is_listed(name, (wanted,)) else None
