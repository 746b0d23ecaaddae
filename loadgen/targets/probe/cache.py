"""What servers were asked before, kept in the user's cache so that later runs can quote it. Sends nothing.

One small file for each server and model, replaced as a whole: writers of different ones never meet, and of two that
write the same one the last wins.
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
    """By what it is known that a server and its model are the same as before."""

    address: str
    """Without user, password and query; of a server that we start, which has another port each time, its kind."""
    model: str
    """Its id, as the server names it."""
    settings: dict[str, str | int | None]
    """Its version, and how it was started, where we start it; empty of others, which do not say."""


class RememberedProbe(Struct, frozen=True):
    """A file of the cache."""

    schema: str
    server: ServerIdentity
    probe: Probe


def identity_of(served: Served) -> ServerIdentity:
    """Who is asked."""
    address = served.card.target if served.child is not None else redact_url(served.base_url)
    return ServerIdentity(address, served.card.id, dict(served.settings))


def remember(served: Served, probe: Probe) -> None:
    """Keep what a server was asked for, if it told anything. Raises OSError where it cannot be kept,
    InputError where no place for it is known."""
    asked = asked_part(probe)
    if asked is None:
        return
    path = _path(identity_of(served))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, RememberedProbe(SCHEMA, identity_of(served), asked))


def recall(served: Served) -> Probe | None:
    """What the same server was asked for before, with its date; None where there is nothing that can be read."""
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
