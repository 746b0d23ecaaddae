"""The embedded model for Foundry Local in the user's cache folder: built once, checked at every use, built again when
damaged or out of date. Knows nothing of measuring, and nothing of the runtime that will serve it.

    <user cache>/foundry-model/               the runtime's model cache folder: see `layout`
    <user cache>/foundry-model/loadgen.json   what it was built from, and a digest of each file; written last
    <user cache>/foundry-model.lock           held while one process builds
    <user cache>/foundry-model.building-*     where it builds, gone afterwards
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError, TargetError
from loadgen.store.paths import CACHE_VARIABLE, user_cache_folder
from loadgen.targets.foundry.model.build import (
    BUILDER_VERSION,
    COPIED,
    MANIFEST,
    SKELETON,
    OnBuildProgress,
    build_model,
)
from loadgen.targets.foundry.model.layout import Listing, is_listed, lay_out, list_in_catalog
from loadgen.targets.foundry.model.lock import hold_lock
from loadgen.targets.small_model import verified_gguf

LISTING: Final = Listing(
    name="smollm2-135m-instruct-generic-cpu",
    alias="smollm2-135m",
    publisher="HuggingFaceTB",
    license="apache-2.0",
    license_text="SmolLM2-135M-Instruct, Apache-2.0",
    max_output_tokens=2048,
)
FOLDER: Final = "foundry-model"
SEAL: Final = "loadgen.json"
NEEDED_MIB: Final = 200


class FoundryCache(Struct, frozen=True, kw_only=True):
    """A model cache that has been checked."""

    folder: Path
    """Give it to the runtime as `model_cache_dir`, and `NO_CATALOG_URL` of `layout` as its catalog."""
    alias: str
    """The name by which the runtime loads the model."""
    model_id: str
    """The name that a chat request must give."""
    digest: str
    """sha256 of the model's files and their names; equal on every build from the same weights."""


class Sources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a build depends on."""

    weights: str
    """sha256 of the GGUF file."""
    skeleton: str
    """sha256 of the skeleton's files and their names."""
    builder: int
    """`BUILDER_VERSION` of the code that built it."""


class Seal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `loadgen.json` says."""

    sources: Sources
    files: dict[str, str]
    """sha256 of each file, by its path within the folder."""


def ignore_progress(step: str, share: float) -> None:
    """For a caller that shows no progress."""


def ensure_model(
    on_progress: OnBuildProgress = ignore_progress,
    *,
    folder: Path | None = None,
    gguf: Path | None = None,
    skeleton: Path = SKELETON,
) -> FoundryCache:
    """The embedded model, checked, and built first where it is absent, damaged, or made from something else.

    Blocks: under a second to check, some seconds to build. Safe in several processes at once: one builds and the
    others wait for it. folder: the user's by default. gguf: the installed weights by default. Raises TargetError when
    the weights or the package `gguf` are not installed or the folder cannot be written, InputError when the weights
    cannot be used.
    """
    folder = folder or user_cache_folder() / FOLDER
    gguf = gguf or verified_gguf()
    sources = _sources(gguf, skeleton)
    seal = _valid_seal(folder, sources)
    if seal is not None and is_listed(folder, LISTING):
        return _cache(folder, seal)
    with _one_line_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock")
        with hold_lock(lock, lambda: on_progress("waiting for another process that builds it", 0.0)) as locked:
            if locked:
                _remove_leftovers(folder)
            seal = _valid_seal(folder, sources) or _build(folder, gguf, skeleton, sources, on_progress)
            if not is_listed(folder, LISTING):
                list_in_catalog(folder, LISTING)  # the runtime has fetched a catalog and put it in its place
    on_progress("done", 1.0)
    return _cache(folder, seal)


def _cache(folder: Path, seal: Seal) -> FoundryCache:
    digest = _digest_of_all(seal.files)
    return FoundryCache(folder=folder, alias=LISTING.alias, model_id=LISTING.model_id, digest=digest)


def _sources(gguf: Path, skeleton: Path) -> Sources:
    try:
        weights = _digest(gguf)
    except OSError as error:
        raise InputError(f"{gguf}: cannot be read ({error.strerror}); give a readable GGUF file") from error
    files = {name: _digest(skeleton / name) for name in (*COPIED, MANIFEST)}
    return Sources(weights=weights, skeleton=_digest_of_all(files), builder=BUILDER_VERSION)


def _valid_seal(folder: Path, sources: Sources) -> Seal | None:
    """The folder's seal, when it is true of each file and of the sources; None otherwise."""
    try:
        seal = msgspec.json.decode((folder / SEAL).read_bytes(), type=Seal)
        if seal.sources != sources or not seal.files:
            return None
        intact = all(_digest(folder / name) == digest for name, digest in seal.files.items())
    except (OSError, msgspec.DecodeError):
        return None
    return seal if intact else None


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed have left. Only for the holder of the lock: no other is building."""
    for leftover in folder.parent.glob(f"{_building_prefix(folder)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _building_prefix(folder: Path) -> str:
    return f"{folder.name}.building-"


def _build(folder: Path, gguf: Path, skeleton: Path, sources: Sources, on_progress: OnBuildProgress) -> Seal:
    """Build beside the folder, seal, and put it in its place."""
    work = Path(tempfile.mkdtemp(prefix=_building_prefix(folder), dir=folder.parent))
    try:
        cache = work / "made"
        build_model(gguf, work / "model", on_progress, skeleton=skeleton)
        on_progress("checking", 0.98)
        seal = _lay_out_and_seal(work / "model", cache, sources)
        return _move_into_place(cache, folder, work / "replaced", seal)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _lay_out_and_seal(model_dir: Path, cache: Path, sources: Sources) -> Seal:
    model_folder = lay_out(model_dir, cache, LISTING)
    files = {path.relative_to(cache).as_posix(): _digest(path) for path in model_folder.iterdir()}
    seal = Seal(sources=sources, files=files)
    (cache / SEAL).write_bytes(msgspec.json.format(msgspec.json.encode(seal, order="sorted"), indent=1))
    return seal


def _move_into_place(cache: Path, folder: Path, aside: Path, seal: Seal) -> Seal:
    """Rename the new cache into its place, and what was there aside. An intact one that another process has put there
    meanwhile stays."""
    other_seal = _valid_seal(folder, seal.sources)
    if other_seal is not None:
        return other_seal
    with suppress(FileNotFoundError):
        folder.rename(aside)
    cache.rename(folder)
    return seal


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_all(files: dict[str, str]) -> str:
    """Of files by name, each with its sha256: what `sha256sum` prints of them, in order of name, digested."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


@contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a TargetError: one line with the remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TargetError(
            f"{folder}: the model for Foundry Local cannot be stored there ({reason}); free {NEEDED_MIB} MiB, "
            f"or set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
