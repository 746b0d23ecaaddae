"""Stores the probes of servers in the user's cache, so that later runs can quote them. Sends nothing.

Each server and model has one small file, which is replaced as a whole. If two processes write the same one, the last
wins.
"""

import hashlib
import re
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import redact_url
from loadgen.store.files import write_json
from loadgen.store.manifest import Probe
from loadgen.store.paths import user_cache_folder
from loadgen.targets.probe.findings import asked_part
from loadgen.targets.served import Served

SCHEMA: Final = "loadgen.probe/1"
FOLDER: Final = "probes"


class ServerIdentity(Struct, frozen=True):
    """What must be equal for a server and its model to count as the same as before."""

    address: str
    """The address without user, password and query. For a server that we start, whose port changes, its kind."""
    model: str
    """The model's id, as the server names it."""
    settings: dict[str, str | int | None]
    """The version and settings of a server that we start; empty for others, which do not report them."""


class RememberedProbe(Struct, frozen=True):
    """A file of the cache."""

    schema: str
    server: ServerIdentity
    probe: Probe


def identity_of(served: Served) -> ServerIdentity:
    """The identity of a served model."""
    address = served.card.target if served.child is not None else redact_url(served.base_url)
    return ServerIdentity(address, served.card.id, dict(served.settings))


def remember(served: Served, probe: Probe) -> None:
    """Store the probe of a server, if it has findings. Raises OSError if it cannot be stored, InputError if there is no
    cache folder."""
    asked = asked_part(probe)
    if asked is None:
        return
    path = _path(identity_of(served))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, RememberedProbe(SCHEMA, identity_of(served), asked))


def recall(served: Served) -> Probe | None:
    """The stored probe of the same server, with its date; None if there is none that can be read."""
    server = identity_of(served)
    try:
        remembered = msgspec.json.decode(_path(server).read_bytes(), type=RememberedProbe)
    except (OSError, InputError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return remembered.probe if (remembered.schema, remembered.server) == (SCHEMA, server) else None


def _path(server: ServerIdentity) -> Path:
    key = hashlib.sha256(msgspec.json.encode(server, order="deterministic")).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", server.model).strip("-._")[:60]
    return user_cache_folder() / FOLDER / f"{name or 'model'}-{key}.json"
