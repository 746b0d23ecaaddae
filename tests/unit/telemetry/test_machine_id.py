"""The id of a machine tells it apart, and cannot be turned back into the id that the system has."""

import hashlib
import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from loadgen.telemetry import machine_id as module
from loadgen.telemetry.machine_id import digest_of, id_in_ioreg, machine_id, registry_value, usable_id
from loadgen.telemetry.parts import parts

SYSTEM_ID = "0f4b6a1f2c3d4e5f60718293a4b5c6d7"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    machine_id.cache_clear()


def test_it_is_eight_digits_of_a_digest_and_not_the_id_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text(f"{SYSTEM_ID}\n", "utf-8")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(module, "_FILES", (str(tmp_path / "none"), str(tmp_path / "machine-id")))
    assert machine_id("a CPU") == hashlib.sha256(f"loadgen{SYSTEM_ID}".encode()).hexdigest()[:8]
    assert str(machine_id("a CPU")) not in SYSTEM_ID


@pytest.mark.parametrize(
    "text", [None, "", "uninitialized\n", "0" * 32, "0000-0000", f"{SYSTEM_ID}{SYSTEM_ID}", "x" * 32]
)
def test_what_is_no_id_is_not_used(text: str | None) -> None:
    assert usable_id(text) is None


def test_one_id_in_several_spellings_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_id("{0F4B6A1F-2C3D-4E5F-6071-8293A4B5C6D7}") == SYSTEM_ID


def test_without_an_id_the_name_and_the_processor_tell_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_system_id", lambda system: "uninitialized")
    monkeypatch.setattr(platform, "node", lambda: "bench-1")
    assert machine_id("a CPU") == digest_of("bench-1 a CPU")
    assert machine_id("a CPU") != machine_id("another CPU")
    machine_id.cache_clear()
    monkeypatch.setattr(platform, "node", lambda: "")
    assert machine_id("a CPU") is None


def test_macos_tells_it_by_ioreg(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = '    | {\n    |   "IOPlatformUUID" = "0F4B6A1F-2C3D-4E5F-6071-8293A4B5C6D7"\n    | }\n'
    assert id_in_ioreg(printed) == "0F4B6A1F-2C3D-4E5F-6071-8293A4B5C6D7"
    assert id_in_ioreg("") is None
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(module, "_ioreg", lambda: printed)
    assert machine_id(None) == digest_of(SYSTEM_ID)


class Registry(types.ModuleType):
    """The part of Windows' registry that is read: keys with values."""

    KEY_READ, KEY_WOW64_64KEY, HKEY_LOCAL_MACHINE = 1, 256, object()

    def __init__(self, keys: dict[str, dict[str, Any]]) -> None:
        super().__init__("winreg")
        self._keys = keys

    def OpenKey(self, root: object, key: str, reserved: int, access: int) -> "Handle":  # noqa: N802
        assert (root, reserved, access) == (self.HKEY_LOCAL_MACHINE, 0, 257)
        if key not in self._keys:
            raise FileNotFoundError(2, "no such key")
        return Handle(self._keys[key])

    def QueryValueEx(self, handle: "Handle", name: str) -> tuple[Any, int]:  # noqa: N802
        if name not in handle.values:
            raise FileNotFoundError(2, "no such value")
        return handle.values[name], 1


class Handle:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_windows_tells_it_by_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    display = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
    keys: dict[str, dict[str, Any]] = {
        r"SOFTWARE\Microsoft\Cryptography": {"MachineGuid": "0f4b6a1f-2c3d-4e5f-6071-8293a4b5c6d7", "Number": 7},
        r"HARDWARE\DESCRIPTION\System\BIOS": {"BIOSVersion": "1.21"},
        rf"{display}\0000": {"DriverDesc": "Arc", "DriverVersion": "32.0.1"},
        rf"{display}\0001": {"DriverDesc": "Basic"},
    }
    monkeypatch.setitem(sys.modules, "winreg", Registry(keys))
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert machine_id(None) == digest_of(SYSTEM_ID)
    assert registry_value(r"SOFTWARE\Microsoft\Cryptography", "Number") is None
    assert registry_value(r"SOFTWARE\None", "Number") is None
    found = parts()
    assert (found.firmware, found.gpu, found.npu, found.driver) == ("1.21", "Arc, Basic", None, "Arc 32.0.1")


def test_a_registry_is_nowhere_but_on_windows() -> None:
    if sys.platform != "win32":
        assert registry_value("SOFTWARE", "x") is None


def test_linux_tells_firmware_and_devices_in_sys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert parts(tmp_path).firmware is None
    texts = {
        "class/dmi/id/bios_version": "1.21\n",
        "class/dmi/id/bios_date": "05/01/2026\n",
        "class/drm/card1/device/vendor": "0x8086\n",
        "class/drm/card1/device/device": "0x46a6\n",
        "class/drm/card1-HDMI-A-1/status": "connected\n",
        "class/accel/accel0/device/vendor": "0x8086\n",
        "module/nvidia/version": "550.1\n",
        "class/drm/card0/device/vendor": "0x10de\n",
    }
    for name, text in texts.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "sys/class/drm/card0/device/driver").symlink_to(tmp_path / "nvidia")
    found = parts(tmp_path)
    assert found.firmware == "1.21 (05/01/2026)"
    assert found.gpu == "nvidia 10de, 8086:46a6"
    assert found.npu == "8086"
    assert found.driver == "nvidia 550.1"


def test_other_systems_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    assert parts().gpu is None
    monkeypatch.setattr(platform, "node", lambda: "glenda")
    assert machine_id(None) == digest_of("glenda ")
