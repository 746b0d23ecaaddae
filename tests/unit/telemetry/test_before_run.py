"""What is said of the machine before a run: one line where it is busy, on battery, or saves power; else nothing."""

import os

import pytest

from loadgen.record import Neighbor
from loadgen.telemetry.before_run import BusyCheck, busy_warning, power_warning
from loadgen.telemetry.host import Host, power_saving_of
from loadgen.telemetry.process_table import Processes
from tests.unit.telemetry.test_neighbors import SERVER, STRANGER, FakeMachine, HandClock, process


def warning_of(
    used_s: dict[int, float], *, after_s: float = 1.0, server_pids: tuple[int, ...] = (SERVER,)
) -> str | None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[STRANGER] = process("cc1plus", 70.0)
    check = BusyCheck(machine, clock)
    for pid, cpu_s in used_s.items():
        machine.use(pid, cpu_s)
    clock.advance_ns(round(after_s * 1e9))
    return check.warning(server_pids)


def test_a_machine_that_others_use_is_said_to_be_busy_and_by_whom() -> None:
    assert warning_of({STRANGER: 0.9}) == (
        "this machine is already busy: other programs use 90% of a core (cc1plus 90%), which may slow the server"
    )


def test_what_we_use_and_what_the_server_uses_to_load_its_model_is_no_reason() -> None:
    assert warning_of({os.getpid(): 0.9, SERVER: 1.0, STRANGER: 0.1}) is None
    assert warning_of({SERVER: 1.0}, server_pids=()) is not None


@pytest.mark.parametrize("caller", [os.getpid(), SERVER], ids=["we", "the server"])
def test_what_listens_where_the_run_sends_its_requests_is_no_other_program(caller: int) -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[STRANGER] = process("python", 1.0)
    machine.table[STRANGER + 1] = process("its worker", 1.0, parent=STRANGER)
    machine.table[STRANGER + 2] = process("cc1plus", 1.0)
    machine.connected = {caller: STRANGER}
    check = BusyCheck(machine, clock)
    machine.use(STRANGER, 0.5)
    machine.use(STRANGER + 1, 0.5)
    clock.advance_ns(1_000_000_000)
    pids = () if caller == os.getpid() else (SERVER,)
    assert check.warning(pids) is None
    beside = BusyCheck(machine, clock)
    machine.use(STRANGER, 0.5)
    machine.use(STRANGER + 2, 0.3)
    clock.advance_ns(1_000_000_000)
    warning = beside.warning(pids)
    assert warning is not None
    assert "other programs use 30% of a core (cc1plus 30%)" in warning


def test_it_is_said_once_and_not_of_a_moment() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[STRANGER] = process("cc1plus", 0.0)
    check = BusyCheck(machine, clock)
    machine.use(STRANGER, 0.05)
    clock.advance_ns(50_000_000)
    assert check.warning(()) is None, "too short to tell"
    machine.use(STRANGER, 1.0)
    clock.advance_ns(1_000_000_000)
    assert check.warning(()) is not None
    assert check.warning(()) is None


def test_time_in_which_the_processes_were_read_counts_too() -> None:
    clock = HandClock()

    class SlowlyRead(FakeMachine):
        def processes(self) -> Processes:
            """Takes 400 ms, in which the stranger goes on."""
            clock.advance_ns(200_000_000)
            self.use(STRANGER, 0.2)
            table = dict(self.table)
            clock.advance_ns(200_000_000)
            self.use(STRANGER, 0.2)
            return table

    machine = SlowlyRead()
    machine.table[STRANGER] = process("cc1plus", 0.0)
    check = BusyCheck(machine, clock)
    warning = check.warning(())
    assert warning is not None and "cc1plus 100%" in warning


def test_the_line_is_at_a_fifth_of_a_core() -> None:
    assert busy_warning(0.199, ()) is None
    assert busy_warning(0.2, (Neighbor("a", 0.15), Neighbor("b", 0.05))) is not None
    gone = busy_warning(0.5, ())
    assert gone is not None
    assert "()" not in gone


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (Host(), None),
        (Host(power="mains"), None),
        (Host(power="battery 80 %"), "this machine runs on battery 80 %, which may slow the server"),
        (Host(power_saving="battery saver"), "this machine saves power (battery saver), which may slow the server"),
        (
            Host(power="battery 9 %", power_saving="low power mode"),
            "this machine runs on battery 9 % and saves power (low power mode), which may slow the server",
        ),
    ],
)
def test_a_machine_on_battery_or_that_saves_power_is_said_to_be(host: Host, line: str | None) -> None:
    assert power_warning(host) == line


@pytest.mark.parametrize(
    ("profile", "governor", "driver", "preference", "mode"),
    [
        (None, None, None, None, None),
        ("balanced", "schedutil", "acpi-cpufreq", None, None),
        ("low-power", "powersave", "intel_pstate", "power", "platform profile low-power"),
        ("balanced", "powersave", "intel_pstate", "balance_performance", None),
        ("balanced", "powersave", "amd-pstate-epp", "power", "energy preference power"),
        (None, "powersave", "acpi-cpufreq", None, "governor powersave"),
        (None, "powersave", None, None, "governor powersave"),
    ],
)
def test_the_ordinary_governor_of_a_driver_that_chooses_by_itself_saves_no_power(
    profile: str | None, governor: str | None, driver: str | None, preference: str | None, mode: str | None
) -> None:
    assert power_saving_of(profile, governor, driver, preference) == mode
