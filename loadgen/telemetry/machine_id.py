"""An id of this machine that tells machines apart, and does not tell which machine it is.

It is a digest of the id that the system has for itself. That id is used by many programs to recognize a machine, so it
is never written anywhere.
"""

import contextlib
import hashlib
import importlib
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

DIGITS: Final = 8
"""How many hexadecimal digits an id has."""
_FILES: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_KEY: Final = r"SOFTWARE\Microsoft\Cryptography"
_LONG_ENOUGH: Final = re.compile(r"[0-9a-f]{32}")
_IOREG: Final = ("ioreg", "-rd1", "-c", "IOPlatformExpertDevice")
_IN_IOREG: Final = re.compile(r'"IOPlatformUUID"\s*=\s*"([^"]+)"')


@cache
def machine_id(cpu: str | None) -> str | None:
    """The id of this machine, 8 hexadecimal digits; None if the system has no id, and this machine no name.

    cpu: the processor, which with the name of the machine replaces an id that the system does not have.
    """
    system_id = usable_id(_system_id(platform.system()))
    if system_id is not None:
        return digest_of(system_id)
    name = platform.node()
    return digest_of(f"{name} {cpu or ''}") if name else None


def digest_of(identity: str) -> str:
    """The id of a machine: the first digits of the SHA-256 over "loadgen" and what identifies it."""
    return hashlib.sha256(f"loadgen{identity}".encode()).hexdigest()[:DIGITS]


def usable_id(text: str | None) -> str | None:
    """A system's id in one spelling; None for a text that is no id, such as `uninitialized` in a fresh image, and for
    an id of zeros, which several machines may have."""
    compact = re.sub(r"[\s{}-]", "", text or "").lower()
    return compact if _LONG_ENOUGH.fullmatch(compact) and compact.strip("0") else None


def id_in_ioreg(text: str) -> str | None:
    """The id in what `ioreg` prints on macOS."""
    match = _IN_IOREG.search(text)
    return None if match is None else match[1]


def _system_id(system: str) -> str | None:
    match system:
        case "Linux":
            return next((text for path in _FILES if usable_id(text := _text_of(path))), None)
        case "Windows":
            return registry_value(_KEY, "MachineGuid")
        case "Darwin":
            return id_in_ioreg(_ioreg())
        case _:
            return None


def _text_of(path: str) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text()
    return ""


def _ioreg() -> str:
    try:
        return subprocess.run(_IOREG, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def registry_value(key: str, name: str) -> str | None:
    """A text below HKEY_LOCAL_MACHINE in the registry of Windows; None if there is none, as on other systems."""
    try:
        registry: Any = importlib.import_module("winreg")
    except ImportError:
        return None
    with contextlib.suppress(OSError):
        # The 64-bit view, so that a 32-bit Python reads the same.
        access = registry.KEY_READ | registry.KEY_WOW64_64KEY
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, key, 0, access) as handle:
            value, _ = registry.QueryValueEx(handle, name)
            return value if isinstance(value, str) else None
    return None
