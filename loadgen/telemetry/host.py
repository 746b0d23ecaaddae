"""The circumstances of a run: machine, system, versions. A result without them cannot be compared with another."""

import asyncio
import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

VERSIONED: Final = ("loadgen", "aiohttp", "hdrhistogram", "msgspec", "numpy", "orjson", "xllamacpp")


def versions() -> dict[str, str]:
    """Versions of Python, of ourselves and of what touches the measurement; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = _version_of(name)
    return versions


def _version_of(package: str) -> str:
    """The version that a package's metadata begin with; the rest of them, its whole readme too, takes long to parse."""
    metadata = importlib.metadata.distribution(package).read_text("METADATA") or ""
    head = re.search(r"^Version: *(\S+)", metadata.partition("\n\n")[0], re.MULTILINE)
    return head[1] if head else importlib.metadata.version(package)


class Host(Struct, frozen=True, kw_only=True):
    """The machine and its system. None is not known. Names no host and no user."""

    cpu: str | None = None
    cores: int | None = None
    cores_usable: int | None = None
    """Those that this process may run on."""
    memory_mib: int | None = None
    system: str | None = None
    kernel: str | None = None
    machine: str | None = None
    power: str | None = None
    """ "mains", or "battery 80 %"."""
    governor: str | None = None
    """Who sets the clock rate of the first core (Linux)."""
    power_saving: str | None = None
    """The mode in which the machine saves power, if it is in one."""


class ClockFacts(Struct, frozen=True, kw_only=True):
    """The monotonic clock behind every `_ns`, and the event loop in which it is read."""

    implementation: str | None = None
    resolution_ns: float | None = None
    loop: str | None = None


def host() -> Host:
    """CPU, cores, memory, system, kernel, power. What cannot be known is None. Names no host and no user."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Host(
        cpu=_cpu_model(),
        cores=os.cpu_count(),
        cores_usable=cores,
        memory_mib=psutil.virtual_memory().total >> 20,
        system=platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        power=_power(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        power_saving=_power_saving(),
    )


def clock(loop: asyncio.AbstractEventLoop) -> ClockFacts:
    """The monotonic clock behind every `_ns`, and the event loop it is read in."""
    info = time.get_clock_info("perf_counter")
    return ClockFacts(
        implementation=info.implementation,
        resolution_ns=round(info.resolution * 1e9, 3),
        loop=f"{type(loop).__module__}.{type(loop).__name__}",
    )


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout that holds a folder, with `+changes` when it is not clean; None outside of one."""
    # Not `describe --dirty`, which writes to the index, and leaves it locked where it is killed as it does.
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(command, cwd=folder, capture_output=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    commit = re.search(rb"^# branch\.oid ([0-9a-f]{12})", status, re.MULTILINE)
    if commit is None:  # nothing has been committed yet
        return None
    is_changed = re.search(rb"^[^#]", status, re.MULTILINE) is not None
    return commit[1].decode() + ("+changes" if is_changed else "")


def _cpu_model() -> str | None:
    if platform.system() == "Linux":
        lines = (_read("/proc/cpuinfo") or "").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
        return next(names, None) or platform.processor() or None
    return platform.processor() or None


def _power() -> str | None:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return None
    return "mains" if battery.power_plugged else f"battery {battery.percent:.0f} %"


def _power_saving() -> str | None:
    match platform.system():
        case "Linux":
            cpufreq = "/sys/devices/system/cpu/cpu0/cpufreq"
            return power_saving_of(
                _read("/sys/firmware/acpi/platform_profile"),
                _read(f"{cpufreq}/scaling_governor"),
                _read(f"{cpufreq}/scaling_driver"),
                _read(f"{cpufreq}/energy_performance_preference"),
            )
        case "Windows":
            return "battery saver" if _battery_saver() else None
        case "Darwin":
            return "low power mode" if re.search(r"^\s*(low)?powermode\s+1\b", _pmset(), re.MULTILINE) else None
        case _:
            return None


def power_saving_of(
    profile: str | None, governor: str | None, driver: str | None, preference: str | None
) -> str | None:
    """In which mode a Linux machine saves power, from what /sys says; None where it does not.

    With drivers that choose the clock rate by themselves, the governor `powersave` is the ordinary one.
    """
    if profile in ("low-power", "quiet"):
        return f"platform profile {profile}"
    if governor == "powersave" and not (driver or "").startswith(("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")):
        return "governor powersave"
    return "energy preference power" if preference == "power" else None


def _battery_saver() -> bool:
    """Windows: GetSystemPowerStatus, whose fourth byte is 1 while the battery saver is on."""
    status = (ctypes.c_ubyte * 12)()
    library = getattr(ctypes, "windll", None)
    return library is not None and bool(library.kernel32.GetSystemPowerStatus(status)) and status[3] == 1


def _pmset() -> str:
    """What macOS says of its power settings; empty where it does not."""
    try:
        return subprocess.run(["pmset", "-g"], capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return None
