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
from loadgen.targets.foundry.model.build import BUILDER_VERSION, COPIED, MANIFEST, SKELETON, Progress, build_model
from loadgen.targets.foundry.model.layout import Listing, is_listed, lay_out, list_in_catalog
from loadgen.targets.foundry.model.lock import held
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
    """A model cache that has been checked. folder: give it to the runtime as `model_cache_dir`, and `NO_CATALOG_URL`
    of `layout` as its catalog. alias: loads the model. model_id: what a chat request must say. digest: sha256 of the
    model's files and their names; equal on every build from the same weights."""

    folder: Path
    alias: str
    model_id: str
    digest: str


class Sources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a build depends on: sha256 of the weights and of the skeleton, and the builder's version."""

    weights: str
    skeleton: str
    builder: int


class Seal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `loadgen.json` says. files: sha256 of each, by path within the folder."""

    sources: Sources
    files: dict[str, str]


def silent(what: str, share: float) -> None:
    """Progress that nobody looks at."""


def ensure_model(
    progress: Progress = silent,
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
    found = _checked(folder, sources)
    if found is not None and is_listed(folder, LISTING):
        return _cache(folder, found)
    with _one_line(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock")
        with held(lock, lambda: progress("waiting for another process that builds it", 0.0)) as alone:
            found = _checked(folder, sources) or _build(folder, gguf, skeleton, sources, progress, alone=alone)
            if not is_listed(folder, LISTING):
                list_in_catalog(folder, LISTING)  # the runtime has fetched a catalog and put it in its place
    progress("done", 1.0)
    return _cache(folder, found)


def _cache(folder: Path, seal: Seal) -> FoundryCache:
    digest = _digest_of_all(seal.files)
    return FoundryCache(folder=folder, alias=LISTING.alias, model_id=LISTING.model_id, digest=digest)


def _sources(gguf: Path, skeleton: Path) -> Sources:
    try:
        weights = _digest(gguf)
    except OSError as error:
        raise InputError(f"{gguf}: cannot be read ({error.strerror}); give a GGUF file that can be") from error
    files = {name: _digest(skeleton / name) for name in (*COPIED, MANIFEST)}
    return Sources(weights=weights, skeleton=_digest_of_all(files), builder=BUILDER_VERSION)


def _checked(folder: Path, sources: Sources) -> Seal | None:
    """What the seal says, when that is true of each file and of the sources; None otherwise."""
    try:
        seal = msgspec.json.decode((folder / SEAL).read_bytes(), type=Seal)
        if seal.sources != sources or not seal.files:
            return None
        whole = all(_digest(folder / name) == digest for name, digest in seal.files.items())
    except (OSError, msgspec.DecodeError):
        return None
    return seal if whole else None


def _build(folder: Path, gguf: Path, skeleton: Path, sources: Sources, progress: Progress, *, alone: bool) -> Seal:
    """Build beside the folder, seal, and put it in its place. alone: no other process can be building."""
    prefix = f"{folder.name}.building-"
    if alone:
        for left in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        made = work / "made"
        build_model(gguf, work / "model", progress, skeleton=skeleton)
        progress("checking", 0.98)
        seal = _laid_out(work / "model", made, sources)
        return _put(made, folder, work / "replaced", seal)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _laid_out(model_dir: Path, made: Path, sources: Sources) -> Seal:
    place = lay_out(model_dir, made, LISTING)
    files = {path.relative_to(made).as_posix(): _digest(path) for path in place.iterdir()}
    seal = Seal(sources=sources, files=files)
    (made / SEAL).write_bytes(msgspec.json.format(msgspec.json.encode(seal, order="sorted"), indent=1))
    return seal


def _put(made: Path, folder: Path, aside: Path, seal: Seal) -> Seal:
    """Rename the new folder into its place, and what was there aside; a whole one that came first stays."""
    theirs = _checked(folder, seal.sources)
    if theirs is not None:
        return theirs
    with suppress(FileNotFoundError):
        folder.rename(aside)
    made.rename(folder)
    return seal


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_all(files: dict[str, str]) -> str:
    """Of files by name, each with its sha256: what `sha256sum` prints of them, in order of name, digested."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """What the disk refuses, as one line with the mend."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TargetError(
            f"{folder}: the model for Foundry Local cannot be kept there ({reason}); make {NEEDED_MIB} MiB of room, "
            f"or set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
