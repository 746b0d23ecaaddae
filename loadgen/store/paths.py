"""The folder in which loadgen keeps files for its own use. Knows no run."""

import os
import sys
from pathlib import Path
from typing import Final

from loadgen.errors import InputError

CACHE_VARIABLE: Final = "LOADGEN_CACHE_DIR"


def user_cache_folder() -> Path:
    """The folder for files that can be made again: LOADGEN_CACHE_DIR, or `loadgen` in the system's folder for caches.

    Raises InputError if that depends on a home folder and none is known, as in a container whose user has no name.
    """
    try:
        return _user_cache_folder()
    except RuntimeError as error:  # what pathlib raises for `~` and for home()
        raise InputError(f"no home folder is known; set {CACHE_VARIABLE} to a folder that can be written") from error


def _user_cache_folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        system = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        system = Path.home() / "Library" / "Caches"
    else:
        stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
        system = stated if stated.is_absolute() else Path.home() / ".cache"
    return system / "loadgen"
