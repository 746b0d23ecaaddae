"""Reads the folders of a scenario: of each run, the parts of `manifest.json` and `summary.json` that a history needs.

Decoding no more than these takes a tenth of the time, and a manifest of a later version with other keys is readable.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from loadgen.errors import InputError
from loadgen.record import JsonObject
from loadgen.store.manifest import SCHEMA
from loadgen.store.run_folder import MANIFEST, SEARCH_PREFIX

SUMMARY: Final = "summary.json"
SUMMARY_SCHEMA: Final = "loadgen.summary/1"
PAIRS: Final = "pairs.json"


class HostFile(Struct, frozen=True):
    cpu: str | None = None
    cores_usable: int | None = None
    memory_mib: int | None = None
    kernel: str | None = None
    power: str | None = None
    governor: str | None = None
    power_saving: str | None = None
    machine_id: str | None = None
    firmware: str | None = None
    gpu: str | None = None
    npu: str | None = None
    driver: str | None = None


class BuildFile(Struct, frozen=True):
    label: str | None = None


class SoakFile(Struct, frozen=True):
    """How a soak was played, of which nothing is needed: the digest of a soak is without its length."""


class CardFile(Struct, frozen=True):
    alias: str
    target: str
    device: str | None = None
    execution_provider: str | None = None
    settings: dict[str, object] | UnsetType = UNSET
    refused_keys: dict[str, str | None] | UnsetType = UNSET
    server_version: str | UnsetType | None = UNSET
    weights: str | UnsetType | None = UNSET


class WorkFile(Struct, frozen=True):
    prompts: str


class PlannedFile(Struct, frozen=True):
    model: str
    level: str
    load: Raw
    warmup: int = 0


class ManifestFile(Struct, frozen=True):
    """The part of `manifest.json` that history needs."""

    schema: str
    run_id: str
    started_utc: str
    plan_digest: str
    scenario: Raw
    host: HostFile
    state: str = "running"
    stages: tuple[PlannedFile, ...] = ()
    models: tuple[CardFile, ...] = ()
    versions: dict[str, str] = {}
    workload: WorkFile | None = None
    measurement_epoch: int | None = None
    variant: str | None = None
    build: BuildFile | None = None
    soak: SoakFile | None = None


class SummaryFile(Struct, frozen=True):
    """The part of `summary.json` that history needs. A stage is kept as it is, because a metric is named by a path."""

    schema: str
    run_id: str
    started_utc: str
    stages: tuple[JsonObject, ...]
    incomplete: bool = False
    runs: tuple[str, ...] = ()
    """The runs that were merged; empty for a run."""


_MANIFESTS: Final = msgspec.json.Decoder(ManifestFile)
_SUMMARIES: Final = msgspec.json.Decoder(SummaryFile)


class NightFolder(Struct, frozen=True):
    """A run folder, or a merged one, whose files were read. manifest: None of a merged folder, which has none."""

    path: Path
    manifest: ManifestFile | None
    summary: SummaryFile


def read_folders(folder: Path) -> tuple[list[NightFolder], list[str]]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{folder}: cannot be read ({reason}); name a scenario whose runs are under --out, or that folder"
        ) from error
    read: list[NightFolder] = []
    remarks: list[str] = []
    strangers = searches = 0
    for name in names:
        path = folder / name
        manifest = _bytes_of(path / MANIFEST)
        summary = _bytes_of(path / SUMMARY)
        if name.startswith(SEARCH_PREFIX):
            searches += 1
        elif manifest is None and (summary is None or (path / PAIRS).exists()):
            strangers += not (path / PAIRS).exists()
        elif summary is None:
            remarks.append(f"{name}: passed over, it has no {SUMMARY} yet; `loadgen report {path}` makes it")
        else:
            match _parsed(path, manifest, summary):
                case str(remark):
                    remarks.append(remark)
                case parsed:
                    read.append(parsed)
    if strangers:
        remarks.append(f"{counted(strangers, 'folder')} passed over: no {MANIFEST} in it, so no run")
    if searches:
        remarks.append(f"{counted(searches, 'search', 'searches')} of `loadgen capacity` passed over")
    return read, remarks


def _parsed(path: Path, manifest: bytes | OSError | None, summary: bytes | OSError) -> NightFolder | str:
    """The files of a folder, or a remark that says which of them is damaged."""
    for name, data in ((MANIFEST, manifest), (SUMMARY, summary)):
        if isinstance(data, OSError):
            return f"{path.name}: passed over, {name} cannot be read ({data.strerror or data})"
    assert not isinstance(manifest, OSError) and not isinstance(summary, OSError)
    name = MANIFEST
    try:
        read = None if manifest is None else _MANIFESTS.decode(manifest)
        if read is not None:
            moment_of(read.started_utc).astimezone()
            if read.schema != SCHEMA:
                return f"{path.name}: passed over, its schema is {read.schema!r}, not {SCHEMA!r}"
        name = SUMMARY
        summarized = _SUMMARIES.decode(summary)
        moment_of(summarized.started_utc).astimezone()
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError) as error:
        return f"{path.name}: passed over, {name} is damaged ({error})"
    if summarized.schema != SUMMARY_SCHEMA:
        return f"{path.name}: passed over, the schema of its summary is {summarized.schema!r}, not {SUMMARY_SCHEMA!r}"
    return NightFolder(path, read, summarized)


def _bytes_of(path: Path) -> bytes | OSError | None:
    """The bytes of a file; None if there is no such file; the error if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error


def moment_of(text: str) -> datetime:
    """A moment of ISO 8601, in UTC if it names no zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def counted(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"
