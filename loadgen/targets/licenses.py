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

_OTHERS: Final = {"other", "custom", ""}


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


def license_named(text: str | None) -> str | None:
    """The id of the license with this spelling; the spelling itself if the table does not have it."""
    row = license_of(text)
    return text if row is None else row.id


def license_text(license_key: str | None, name: str | None = None, link: str | None = None) -> str | None:
    """What a model card calls its license; None if it has none.

    Cards of model hubs have the key `other` for a license that is not in the hub's list. They then name it, or link to
    it, or both.
    """
    is_other = license_key is None or _folded(license_key) in _OTHERS
    return name or link or license_key if is_other else license_key


@cache
def _by_spelling() -> dict[str, License]:
    return {_folded(spelling): row for row in licenses() for spelling in (row.id, row.name, *row.spellings)}


def _folded(text: str) -> str:
    """A spelling without case, punctuation and words that say nothing: `Apache License, Version 2.0` is `apache2`."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)*|\+", text.casefold())
    return "".join(re.sub(r"(\.0)+\Z", "", word) for word in words if word not in _EMPTY_WORDS)
