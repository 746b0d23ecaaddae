"""The circumstances of a run: machine, system, versions. Results can be compared only if these are known."""

import asyncio
import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

from loadgen.telemetry.machine_id import machine_id
from loadgen.telemetry.parts import parts

VERSIONED: Final = ("loadgen", "aiohttp", "hdrhistogram", "msgspec", "numpy", "orjson", "xllamacpp")


def versions() -> dict[str, str]:
    """The versions of Python, of loadgen and of the packages that affect a measurement, if they are installed."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = _version_of(name)
    return versions


@cache
def _version_of(package: str) -> str:
    """The version at the start of a package's metadata. Parsing all of it, including its readme, would be slow."""
    metadata = importlib.metadata.distribution(package).read_text("METADATA") or ""
    head = re.search(r"^Version: *(\S+)", metadata.partition("\n\n")[0], re.MULTILINE)
    return head[1] if head else importlib.metadata.version(package)


class Host(Struct, frozen=True, kw_only=True):
    """The machine and its system; None if a value is not known. Contains no name of a host or a user."""

    cpu: str | None = None
    cores: int | None = None
    cores_usable: int | None = None
    """The number of cores that this process may run on."""
    memory_mib: int | None = None
    system: str | None = None
    kernel: str | None = None
    machine: str | None = None
    power: str | None = None
    """ "mains", or "battery 80 %"."""
    governor: str | None = None
    """The governor of the first core's clock rate (Linux)."""
    power_saving: str | None = None
    """The power-saving mode of the machine, if it is in one."""
    machine_id: str | None = None
    """Tells machines apart without telling which they are: see `loadgen.telemetry.machine_id`."""
    firmware: str | None = None
    gpu: str | None = None
    npu: str | None = None
    driver: str | None = None
    """See `loadgen.telemetry.parts`."""


class ClockFacts(Struct, frozen=True, kw_only=True):
    """The monotonic clock of every `_ns` value, and the event loop in which it is read."""

    implementation: str | None = None
    resolution_ns: float | None = None
    loop: str | None = None


def host() -> Host:
    """CPU, cores, memory, system, kernel, power and parts of this machine, and its id."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu, own_parts = _cpu_model(), parts()
    return Host(
        cpu=cpu,
        cores=os.cpu_count(),
        cores_usable=cores,
        memory_mib=psutil.virtual_memory().total >> 20,
        system=platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        power=_power(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        power_saving=_power_saving(),
        machine_id=machine_id(cpu),
        firmware=own_parts.firmware,
        gpu=own_parts.gpu,
        npu=own_parts.npu,
        driver=own_parts.driver,
    )


def clock(loop: asyncio.AbstractEventLoop) -> ClockFacts:
    """The monotonic clock of every `_ns` value, and the event loop in which it is read."""
    info = time.get_clock_info("perf_counter")
    return ClockFacts(
        implementation=info.implementation,
        resolution_ns=round(info.resolution * 1e9, 3),
        loop=f"{type(loop).__module__}.{type(loop).__name__}",
    )


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout around a folder, with `+changes` if it is not clean; None outside a checkout."""
    # Not `describe --dirty`: it writes to the index, and leaves the index locked if it is killed meanwhile.
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
    """The power-saving mode of a Linux machine, from values in /sys; None if it does not save power.

    If the driver chooses the clock rate by itself, `powersave` is the normal governor and not a power-saving mode.
    """
    if profile in ("low-power", "quiet"):
        return f"platform profile {profile}"
    if governor == "powersave" and not (driver or "").startswith(("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")):
        return "governor powersave"
    return "energy preference power" if preference == "power" else None


def _battery_saver() -> bool:
    """Whether the battery saver of Windows is on: the fourth byte of GetSystemPowerStatus is then 1."""
    status = (ctypes.c_ubyte * 12)()
    library = getattr(ctypes, "windll", None)
    return library is not None and bool(library.kernel32.GetSystemPowerStatus(status)) and status[3] == 1


def _pmset() -> str:
    """The power settings that macOS prints; empty on other systems."""
    try:
        return subprocess.run(["pmset", "-g"], capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return None
