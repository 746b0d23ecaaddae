"""Which licenses of models allow commercial use: facts with their clause and source. It is no legal advice.

The table is `licenses.toml`. Nothing is guessed from a model's name. A license that the table lacks is unknown, and so
is one whose text has not been read.
"""

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Final, Literal

import msgspec
from msgspec import Struct

Commercial = Literal["yes", "no", "conditions", "unknown"]
"""Whether commercial use is allowed. yes: under no other duties than to name the author and to pass on the license.
conditions: only under those of the clause."""

_EMPTY_WORDS: Final = {"license", "licence", "agreement", "the", "version", "v", "http", "https", "www"}


class License(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One license. `clause`, `source` and `read` are empty if its text has not been read; it is then unverified."""

    id: str
    """The SPDX id; if SPDX has none, the name that model hubs use."""
    name: str
    commercial: Commercial
    clause: str = ""
    """The sentence that decides, quoted."""
    source: str = ""
    """Where the text was read."""
    read: str = ""
    """The day on which it was read, as YYYY-MM-DD."""
    spellings: tuple[str, ...] = ()
    """How catalogs, hubs and model files spell it, besides `id` and `name`."""

    @property
    def is_verified(self) -> bool:
        """Whether its text has been read."""
        return self.commercial != "unknown"


@cache
def licenses() -> tuple[License, ...]:
    """The table, in the order of the docs."""
    text = resources.files("loadgen.targets").joinpath("licenses.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["license"], tuple[License, ...])


def license_of(text: str | None) -> License | None:
    """The license with this spelling, whatever the case and the punctuation; None if the table has none.

    An expression of several licenses, such as `MIT OR Apache-2.0`, is none of the table.
    """
    return None if text is None else _by_spelling().get(_folded(text))


def license_named(text: str | None, name: str | None = None, link: str | None = None) -> str | None:
    """The id of the license that a model card means; its own spelling if the table does not have it; None without one.

    Cards of model hubs write `other` for a license that is not in the hub's list, and then name it and link to it.
    """
    if text is None or _folded(text) == "other":
        text = name or link or text
    row = license_of(text)
    return text if row is None else row.id


@cache
def _by_spelling() -> dict[str, License]:
    return {_folded(spelling): row for row in licenses() for spelling in (row.id, row.name, *row.spellings)}


def _folded(text: str) -> str:
    """A spelling without case, punctuation and words that say nothing: `Apache License, Version 2.0` is `apache2`."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)*|\+", text.casefold())
    return "".join(re.sub(r"(\.0)+\Z", "", word) for word in words if word not in _EMPTY_WORDS)
