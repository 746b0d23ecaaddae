"""The circumstances of a run: machine, system, versions. A result without them cannot be compared with another."""

import asyncio
import contextlib
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
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


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


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return None
