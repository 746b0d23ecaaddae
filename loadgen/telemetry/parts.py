"""The parts of a machine beside its processor whose change may explain a change of its speed: firmware, GPU, NPU and
their drivers. As far as the system tells them to any user, without a program that would have to be started.
"""

import contextlib
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from loadgen.telemetry.machine_id import registry_value

_BIOS: Final = r"HARDWARE\DESCRIPTION\System\BIOS"
_CLASSES: Final = r"SYSTEM\CurrentControlSet\Control\Class"
_DISPLAY: Final = "{4d36e968-e325-11ce-bfc1-08002be10318}"
_COMPUTE: Final = "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"
"""The classes of display adapters, and of compute accelerators such as NPUs, in the registry of Windows."""
_MOST_DEVICES: Final = 8


class Parts(Struct, frozen=True, kw_only=True):
    """The parts of a machine; None if the system does not tell."""

    firmware: str | None = None
    gpu: str | None = None
    npu: str | None = None
    driver: str | None = None
    """The drivers of GPU and NPU that have a version of their own. Those of the kernel have the kernel's."""


def parts(root: Path = Path("/")) -> Parts:
    """The parts of this machine. root: where its `sys` folder is (Linux)."""
    match platform.system():
        case "Linux":
            return _linux(root / "sys")
        case "Windows":
            return _windows()
        case _:  # on macOS, the name of the processor tells the GPU and the NPU, and their drivers are the system's
            return Parts()


def _linux(sys: Path) -> Parts:
    dmi = sys / "class" / "dmi" / "id"
    version, date = _text(dmi / "bios_version"), _text(dmi / "bios_date")
    firmware = f"{version} ({date})" if version and date else version
    gpus = _devices(sys / "class" / "drm", "card[0-9]*")
    npus = _devices(sys / "class" / "accel", "accel[0-9]*")
    names = dict.fromkeys(device.driver for device in (*gpus, *npus) if device.driver)
    versions = {name: _text(sys / "module" / name / "version") for name in names}
    return Parts(
        firmware=firmware,
        gpu=_joined(device.name for device in gpus),
        npu=_joined(device.name for device in npus),
        driver=_joined(f"{name} {version}" for name, version in versions.items() if version),
    )


class _Device(Struct, frozen=True):
    name: str
    """Its driver, and the numbers of its vendor and its kind: `i915 8086:46a6`."""
    driver: str | None


def _devices(folder: Path, pattern: str) -> list[_Device]:
    """The devices of a class. Outputs of a GPU, such as `card0-HDMI-A-1`, are none."""
    devices: list[_Device] = []
    with contextlib.suppress(OSError):
        entries = [entry for entry in sorted(folder.glob(pattern)) if re.fullmatch(r"[a-z]+[0-9]+", entry.name)]
        devices = [_device(entry / "device") for entry in entries]
    return [device for device in devices if device.name][:_MOST_DEVICES]


def _device(folder: Path) -> _Device:
    numbers = (_text(folder / "vendor"), _text(folder / "device"))
    kind = ":".join(number.removeprefix("0x") for number in numbers if number)
    driver = None
    with contextlib.suppress(OSError):
        driver = (folder / "driver").readlink().name
    return _Device(" ".join(part for part in (driver, kind) if part), driver)


def _windows() -> Parts:
    gpus, npus = _registered(_DISPLAY), _registered(_COMPUTE)
    drivers = ((name, version) for name, version in (*gpus, *npus) if version)
    return Parts(
        firmware=registry_value(_BIOS, "BIOSVersion"),
        gpu=_joined(name for name, _ in gpus),
        npu=_joined(name for name, _ in npus),
        driver=_joined(f"{name} {version}" for name, version in drivers),
    )


def _registered(device_class: str) -> list[tuple[str, str | None]]:
    """The devices of a class in the registry of Windows, each with the version of its driver."""
    keys = (f"{_CLASSES}\\{device_class}\\{number:04d}" for number in range(_MOST_DEVICES))
    names = ((key, registry_value(key, "DriverDesc")) for key in keys)
    return [(name, registry_value(key, "DriverVersion")) for key, name in names if name]


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or None
    return None


def _joined(texts: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(texts)) or None
