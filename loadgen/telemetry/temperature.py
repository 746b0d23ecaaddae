"""The temperature of the machine's processor, where a sensor tells it."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import psutil

PROCESSOR_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
"""The names that Linux gives to a processor's sensors, the most exact first."""


class SensorReading(Protocol):
    @property
    def current(self) -> float: ...


def temperature_c() -> float | None:
    """The highest that any sensor of the processor shows now, °C; None without one, or where the system tells none."""
    read = getattr(psutil, "sensors_temperatures", None)
    try:
        return None if read is None else hottest_c(read())
    except (OSError, RuntimeError, ValueError):  # a sensor that cannot be read
        return None


def hottest_c(readings: Mapping[str, Sequence[SensorReading]]) -> float | None:
    """The highest reading of the first of PROCESSOR_SENSORS that has one. A sensor that shows nothing shows 0."""
    for name in PROCESSOR_SENSORS:
        shown = [reading.current for reading in readings.get(name, ()) if reading.current > 0]
        if shown:
            return round(float(max(shown)), 1)
    return None
