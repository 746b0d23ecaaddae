"""Whether a server's list of models covers a name. Sends nothing."""

import re
from collections.abc import Collection
from typing import Final

from loadgen.wire.chat_json import mend, parse_value

_VERSION: Final = re.compile(r"-(?:latest|\d{4}|\d{8}|\d{4}-\d{2}-\d{2})\Z")
"""The date of a version at the end of a name, or the word for the newest."""
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
    name = parse_value(b'"%b"' % named[1])
    if not isinstance(name, str) or mend(name) not in names:
        return None
    return None if _is_same(wanted, mend(name)) else mend(name)


def _is_same(wanted: str, name: str) -> bool:
    """Whether a server's own name for a model is another form of the requested name: in other letters, with or without
    its folder, the type of its file, its version or its date."""
    wanted, name = (each.casefold().replace("\\", "/").rstrip("/").removesuffix(".gguf") for each in (wanted, name))
    if is_listed(name, (wanted,)):
        return True
    shorter, longer = sorted((wanted, name), key=len)
    if longer.endswith(f"/{shorter}"):
        return True
    return shorter.removesuffix("-latest") == _VERSION.sub("", longer)
