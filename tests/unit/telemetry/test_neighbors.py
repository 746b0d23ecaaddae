"""Who waited for whom: from two samples at a machine to by how much neighbors slowed the server. No clock, no files."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

from loadgen.record import MachineFacts, Neighbor
from loadgen.telemetry.neighbors import (
    READ_BESIDE,
    CoreTimes,
    MachineSample,
    NeighborWatch,
    Shortages,
    Waited,
    host_slowdown_of,
    shared_slowdown_of,
    slowdown_of,
    waited_between,
)
from loadgen.telemetry.process_table import Processes, ProcessTimes, family_of, neighbors_between
from loadgen.telemetry.thread_waits import ThreadId, Threads, ThreadTimes

SERVER, WORKER, STRANGER = 700, 701, 900
MS = 1_000_000


def process(name: str, cpu_s: float, parent: int = 1, started: float = 1.0) -> ProcessTimes:
    return ProcessTimes(name, parent, started, cpu_s)


def sample(
    at_s: float, *, server_s: float = 0.0, own_s: float = 0.0, cores: CoreTimes, threads: Threads | None
) -> MachineSample:
    return MachineSample(at_s, own_s, server_s, cores, threads)


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self._now_ns = 5_000_000_000

    def now_ns(self) -> int:
        return self._now_ns

    def advance_ns(self, ns: int) -> None:
        self._now_ns += ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        self._now_ns = max(self._now_ns, deadline_ns)


class FakeMachine:
    """A machine of so many cores on which a script of changes happens from sample to sample."""

    def __init__(self, cores: int = 2, *, tells_waits: bool = True) -> None:
        self.cores = cores
        self.tells_waits = tells_waits
        self.table: dict[int, ProcessTimes] = {
            os.getpid(): process("loadgen", 0.0),
            SERVER: process("server", 0.0),
            WORKER: process("runner", 0.0, parent=SERVER),
        }
        self.times = CoreTimes(0.0, 0.0, 0.0 if tells_waits else None)
        self.of_threads: dict[ThreadId, ThreadTimes] = {(SERVER, SERVER): ThreadTimes(0, 0)}
        self.short = Shortages()
        self.available: float | None = None
        self.skipped: list[Collection[ThreadId]] = []
        self.connected: dict[int, int] = {}
        """By process, the one that it sends requests on to."""

    def use(self, pid: int, cpu_s: float, *, waits_s: float = 0.0) -> None:
        was = self.table[pid]
        self.table[pid] = process(was.name, was.cpu_s + cpu_s, was.parent, was.started)
        if pid in (SERVER, WORKER):
            old = self.of_threads.get((pid, pid), ThreadTimes(0, 0))
            times = ThreadTimes(old.run_ns + round(cpu_s * 1e9), old.wait_ns + round(waits_s * 1e9))
            self.of_threads[pid, pid] = times

    def pass_time(self, wall_s: float, steal_s: float = 0.0) -> None:
        """So much time has passed, in which the processes used what they have by now."""
        busy_s = sum(process.cpu_s for process in self.table.values())
        idle_s = self.times.idle_s + self.cores * wall_s - (busy_s - self.times.busy_s)
        stolen_s = None if self.times.steal_s is None else self.times.steal_s + steal_s
        self.times = CoreTimes(busy_s, max(0.0, idle_s), stolen_s)

    def processes(self) -> Processes:
        return dict(self.table)

    def core_times(self) -> CoreTimes:
        return self.times

    def upstreams(self, pids: Collection[int]) -> set[int]:
        return {self.connected[pid] for pid in pids if pid in self.connected}

    def shortages(self, server_pids: Sequence[int]) -> Shortages:
        return self.short

    def memory_available_share(self) -> float | None:
        return self.available

    def cpu_s(self, pids: Iterable[int]) -> float:
        return sum(self.table[pid].cpu_s for pid in pids if pid in self.table)

    def threads(self, pids: Iterable[int], skip: Collection[ThreadId] = ()) -> Threads | None:
        self.skipped.append(skip)
        wanted = set(pids)
        if not self.tells_waits:
            return None
        return {key: times for key, times in self.of_threads.items() if key[0] in wanted and key not in skip}


def facts_of(machine: FakeMachine, seconds: float, *changes: tuple[Any, ...], active: float = 1.0) -> MachineFacts:
    """What is said of a machine after so many seconds, during which processes used CPU: (pid, CPU s, waited s)."""
    clock = HandClock()
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    halves = max(1, round(seconds / 0.5))
    for _ in range(halves):
        for pid, cpu_s, *waits_s in changes:
            machine.use(pid, cpu_s / halves, waits_s=waits_s[0] / halves if waits_s else 0.0)
        machine.pass_time(seconds / halves)
        clock.advance_ns(round(seconds / halves * 1e9))
        watch.sample()
    return watch.facts(active)


def test_a_server_alone_was_slowed_by_nobody() -> None:
    facts = facts_of(FakeMachine(), 10, (SERVER, 9.9, 0.05), (os.getpid(), 0.4))
    assert (facts.slowdown, facts.neighbors_cpu_share, facts.busiest) == (0.0, 0.0, ())
    assert facts.slowdown_source == "run_delay"
    assert facts.server_wait_share == pytest.approx(0.005, abs=1e-4)


def test_a_server_that_waited_half_the_time_for_a_neighbor_took_twice_as_long() -> None:
    machine = FakeMachine(1)
    machine.table[STRANGER] = process("cc1plus", 50.0)
    facts = facts_of(machine, 10, (SERVER, 5.0, 5.0), (STRANGER, 5.0))
    assert facts.slowdown == pytest.approx(1.0, rel=0.02)
    assert facts.busiest == (Neighbor("cc1plus", 0.5),)


def test_what_we_and_the_server_itself_took_is_not_charged_to_neighbors() -> None:
    machine = FakeMachine(1)
    machine.table[STRANGER] = process("cron", 0.0)
    facts = facts_of(machine, 10, (SERVER, 8.0, 2.0), (os.getpid(), 1.8), (STRANGER, 0.1))
    assert facts.slowdown is not None
    assert facts.slowdown < 0.02, "of 2 s of waiting, 1.8 s were ours"


def test_a_server_of_more_threads_than_cores_waits_for_itself() -> None:
    before = {(SERVER, tid): ThreadTimes(0, 0) for tid in range(8)}
    after = {(SERVER, tid): ThreadTimes(250 * MS, 750 * MS) for tid in range(8)}
    quiet = CoreTimes(0.0, 0.0), CoreTimes(2.02, 0.0)
    waited = waited_between(
        sample(0, cores=quiet[0], threads=before), sample(1, server_s=2.0, cores=quiet[1], threads=after), cores=2
    )
    assert waited.crowding_s == pytest.approx(1.5)
    assert slowdown_of(waited, 0.02, 1.0)[0] < 0.03


def test_a_neighbor_is_never_charged_with_more_than_the_cpu_that_it_had() -> None:
    waited = Waited(10.0, 0.0, 5.0, CoreTimes(5.1, 14.9), stalled_s=9.0)
    slowdown, source = slowdown_of(waited, 0.1, 10.0)
    assert slowdown == pytest.approx(0.1 / 9.9)
    assert source == "run_delay"


def test_threads_that_compute_together_wait_for_the_one_that_waits() -> None:
    before = {(SERVER, tid): ThreadTimes(0, 0) for tid in range(4)}
    after = {(SERVER, tid): ThreadTimes(900 * MS, 100 * MS) for tid in range(4)}
    cores = CoreTimes(0, 0), CoreTimes(4.0, 0)
    waited = waited_between(
        sample(0, cores=cores[0], threads=before), sample(1, cores=cores[1], threads=after), cores=4
    )
    assert waited.stalled_s == pytest.approx(1 - 0.9**4)


@pytest.mark.parametrize(
    ("threads_ms", "lost"),
    [
        ([(1000, 0), (500, 500)], 0.25),  # half of two equal threads' work of one is done by the other
        ([(750, 250)], 0.25),
        ([(990, 10), (4, 96)], 0.0194),  # the second only hands tokens on
        ([(0, 0), (0, 0)], 0.0),
    ],
)
def test_threads_that_take_over_each_other_s_work_lose_the_share_of_it_in_which_they_waited(
    threads_ms: list[tuple[int, int]], lost: float
) -> None:
    before = {(SERVER, tid): ThreadTimes(0, 0) for tid in range(len(threads_ms))}
    after = {(SERVER, tid): ThreadTimes(run * MS, wait * MS) for tid, (run, wait) in enumerate(threads_ms)}
    cores = CoreTimes(0, 0), CoreTimes(2.0, 0)
    waited = waited_between(
        sample(0, cores=cores[0], threads=before), sample(1, cores=cores[1], threads=after), cores=2
    )
    assert waited.shared_wait_s == pytest.approx(lost, abs=1e-3)


def test_the_facts_have_both_kinds_of_wait_where_the_system_tells_and_neither_elsewhere() -> None:
    facts = facts_of(FakeMachine(), 10, (SERVER, 7.5, 2.5))
    assert facts.server_shared_wait_share == pytest.approx(0.25, abs=1e-3)
    assert facts_of(FakeMachine(tells_waits=False), 10, (SERVER, 7.5)).server_shared_wait_share is None


def test_a_thread_that_is_new_began_in_between_and_one_that_ended_counts_no_more() -> None:
    before = {(SERVER, 1): ThreadTimes(5_000 * MS, 5_000 * MS)}
    after = {(SERVER, 2): ThreadTimes(100 * MS, 200 * MS)}
    cores = CoreTimes(0, 0), CoreTimes(1.0, 0)
    waited = waited_between(
        sample(0, cores=cores[0], threads=before), sample(1, cores=cores[1], threads=after), cores=1
    )
    assert waited.stalled_s == pytest.approx(0.2)


def test_threads_that_take_over_each_other_s_work_are_slowed_by_the_neighbors_part_of_what_they_lose() -> None:
    waited = Waited(10.0, 1.0, 5.0, CoreTimes(9.0, 11.0), stalled_s=6.0, shared_wait_s=4.0)
    assert shared_slowdown_of(waited, 3.0, 10.0) == pytest.approx(3.0 / 7.0), "3 of 4 s, as we used 1 s"
    assert shared_slowdown_of(waited, 3.0, 10.0, all_memory_s=2.0) == pytest.approx(5.0 / 5.0)
    assert shared_slowdown_of(Waited(10.0), 3.0, 10.0) is None
    facts = facts_of(FakeMachine(1), 10, (SERVER, 5.0, 5.0))
    assert facts.shared_slowdown == 0.0


def test_threads_that_share_their_work_never_lose_more_than_those_that_all_wait_for_one() -> None:
    before = {(SERVER, 1): ThreadTimes(0, 0)}
    after = {
        (SERVER, 1): ThreadTimes(0, 0),
        (SERVER, 2): ThreadTimes(100 * MS, 1_570 * MS),
    }  # it is older than the sample
    cores = CoreTimes(0, 0), CoreTimes(1.0, 0)
    waited = waited_between(
        sample(0, cores=cores[0], threads=before), sample(1, cores=cores[1], threads=after), cores=1
    )
    assert waited.stalled_s is not None
    assert waited.shared_wait_s <= waited.stalled_s <= 1.0


def test_waiting_counts_against_the_time_in_which_there_was_something_to_do() -> None:
    waited = Waited(10.0, 0.0, 1.0, CoreTimes(2.0, 8.0), stalled_s=0.2)
    assert slowdown_of(waited, 1.0, 10.0)[0] == pytest.approx(0.2 / 9.8)
    assert slowdown_of(waited, 1.0, 1.2)[0] == pytest.approx(0.2)
    assert slowdown_of(waited, 1.0, 0.0)[0] == 0.0


def test_what_the_host_of_a_virtual_machine_took_slows_in_proportion_to_the_server_s_share() -> None:
    waited = Waited(10.0, 0.0, 8.0, CoreTimes(10.0, 5.0, steal_s=1.0), stalled_s=0.0)
    assert host_slowdown_of(waited, 2.0, 10.0) == pytest.approx(0.8 / 9.2)
    assert slowdown_of(waited, 2.0, 10.0)[0] == 0.0
    assert host_slowdown_of(Waited(10.0, 0.0, 8.0, CoreTimes(10.0, 5.0)), 2.0, 10.0) is None
    both = Waited(10.0, 0.0, 16.0, CoreTimes(16.0, 0.0, steal_s=4.0), stalled_s=0.0)
    assert host_slowdown_of(both, 0.0, 10.0) == pytest.approx(2.5 / 7.5), "of both cores at once"


def test_a_thread_that_hands_tokens_on_holds_up_nobody_when_it_waits() -> None:
    before = {(SERVER, tid): ThreadTimes(0, 0) for tid in range(2)}
    after = {(SERVER, 0): ThreadTimes(990 * MS, 10 * MS), (SERVER, 1): ThreadTimes(4 * MS, 96 * MS)}
    cores = CoreTimes(0, 0), CoreTimes(1.0, 0)
    waited = waited_between(
        sample(0, cores=cores[0], threads=before), sample(1, cores=cores[1], threads=after), cores=2
    )
    assert waited.stalled_s == pytest.approx(0.01 + 0.0096, abs=1e-3)


def test_time_in_which_nobody_could_run_for_want_of_memory_was_lost_to_the_server() -> None:
    waited = Waited(10.0, 0.0, 8.0, CoreTimes(8.0, 12.0), stalled_s=0.0)
    assert slowdown_of(waited, 0.0, 10.0, all_memory_s=2.0)[0] == pytest.approx(0.25)


def test_without_run_delays_neighbors_on_idle_cores_slow_nobody() -> None:
    machine = FakeMachine(4, tells_waits=False)
    machine.table[STRANGER] = process("Teams.exe", 0.0)
    facts = facts_of(machine, 10, (SERVER, 20.0), (STRANGER, 9.0))
    assert (facts.slowdown, facts.slowdown_source) == (0.0, "idle_cores")
    assert (facts.server_wait_share, facts.steal_share) == (None, None)


def test_without_run_delays_neighbors_on_a_full_machine_took_what_the_server_missed() -> None:
    machine = FakeMachine(2, tells_waits=False)
    machine.table[STRANGER] = process("Teams.exe", 0.0)
    facts = facts_of(machine, 10, (SERVER, 15.0), (STRANGER, 5.0))
    assert facts.slowdown == pytest.approx(1.0, rel=0.02), "half a core of a thread that had two"
    assert facts.busiest == (Neighbor("Teams.exe", 0.5),)


def test_a_server_elsewhere_is_slowed_by_nobody_that_we_know() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[STRANGER] = process("cc1plus", 0.0)
    watch = NeighborWatch(machine, clock)
    watch.start()
    machine.use(STRANGER, 2.0)
    machine.pass_time(2.0)
    clock.advance_ns(2_000_000_000)
    facts = watch.facts()
    assert (facts.slowdown, facts.slowdown_source, facts.server_wait_share) == (None, None, None)
    assert facts.neighbors_cpu_share == pytest.approx(1.0)


def test_a_family_is_some_processes_with_all_who_descend_from_them() -> None:
    table = {1: process("init", 0, 0), 2: process("a", 0, 1), 3: process("b", 0, 2), 4: process("c", 0, 1)}
    assert family_of((2,), table) == {2, 3}
    assert family_of((9,), table) == {9}
    assert family_of((1,), table | {1: process("init", 0, 1)}) == {1, 2, 3, 4}


def test_neighbors_are_by_program_and_a_process_id_that_is_used_again_is_another_process() -> None:
    before = {1: process("make", 1.0), 2: process("cc", 9.0), 3: process("ours", 0.0), 5: process("gone", 3.0)}
    after = {
        1: process("make", 1.5),
        2: process("cc", 0.25, started=7.0),
        4: process("cc", 0.5, started=8.0),
        3: process("ours", 4.0),
    }
    assert neighbors_between(before, after, {3}) == {"cc": 0.75, "make": 0.5}


def test_a_table_of_processes_that_takes_long_to_read_adds_nothing_to_what_they_used() -> None:
    clock = HandClock()

    class SlowlyRead(FakeMachine):
        def processes(self) -> Processes:
            """Takes 200 ms, in which the stranger goes on."""
            clock.advance_ns(100 * MS)
            self.use(STRANGER, 0.1)
            table = dict(self.table)
            clock.advance_ns(100 * MS)
            self.use(STRANGER, 0.1)
            return table

    machine = SlowlyRead()
    machine.table[STRANGER] = process("stranger", 0.0)
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    clock.advance_ns(300 * MS)
    machine.use(STRANGER, 0.3)
    facts = watch.facts()
    assert facts.busiest == (Neighbor("stranger", 1.0),)
    assert facts.neighbors_cpu_share == pytest.approx(1.0)


def test_what_ended_in_between_is_in_the_machine_s_total_and_has_no_name() -> None:
    machine, clock = FakeMachine(), HandClock()
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    machine.table[STRANGER] = process("cc1plus", 0.0)
    machine.use(STRANGER, 4.0)
    machine.pass_time(10.0)
    del machine.table[STRANGER]
    clock.advance_ns(10_000_000_000)
    facts = watch.facts()
    assert facts.busiest == ()
    assert facts.neighbors_cpu_share == pytest.approx(0.4)


def test_a_server_s_idle_threads_are_read_at_the_start_and_at_the_end_alone() -> None:
    machine = FakeMachine()
    machine.of_threads |= {(SERVER, tid): ThreadTimes(tid * MS, 0) for tid in range(1000, 1100)}
    facts = facts_of(machine, 2, (SERVER, 1.0, 0.1))
    first, *beside, _ = machine.skipped
    assert not first
    assert {len(skip) for skip in beside} == {101 - READ_BESIDE}
    assert facts.server_wait_share == pytest.approx(0.05, abs=1e-3)


def test_what_idle_threads_waited_counts_at_the_end() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.of_threads |= {(SERVER, tid): ThreadTimes(tid * MS, 0) for tid in range(1000, 1100)}
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    machine.of_threads[SERVER, 1000] = ThreadTimes(1000 * MS, 500 * MS)
    clock.advance_ns(1_000_000_000)
    assert watch.facts().server_wait_share == pytest.approx(0.5)


def test_shortages_are_those_since_the_start_as_shares_of_the_time() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.short = Shortages(5.0, 1.0, 0.5, 2.0, 4096)
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    machine.short = Shortages(7.0, 1.5, 0.5, 3.0, 8192)
    clock.advance_ns(10_000_000_000)
    facts = watch.facts()
    assert (facts.cpu_pressure, facts.memory_pressure, facts.throttled_share) == (0.2, 0.05, 0.1)
    assert facts.swapped_in_bytes == 4096


def test_the_least_memory_that_was_available_at_a_look_stays() -> None:
    machine, clock = FakeMachine(), HandClock()
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    for share in (0.04, None, 0.3):
        machine.available = share
        clock.advance_ns(500_000_000)
        watch.sample()
    assert watch.facts().memory_available_share == 0.04


def test_memory_that_the_system_does_not_report_is_not_known() -> None:
    assert facts_of(FakeMachine(), 2, (SERVER, 1.0, 0.1)).memory_available_share is None


def test_a_model_in_our_own_process_is_the_server_and_not_us() -> None:
    machine, clock = FakeMachine(), HandClock()
    watch = NeighborWatch(machine, clock, (os.getpid(),))
    watch.start()
    machine.use(os.getpid(), 3.0)
    machine.pass_time(10.0)
    clock.advance_ns(10_000_000_000)
    facts = watch.facts()
    assert facts.neighbors_cpu_share == 0.0
    assert facts.slowdown == 0.0


def test_a_harness_that_the_server_s_program_has_started_is_not_the_server() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[os.getpid()] = process("loadgen", 0.0, parent=SERVER)
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    machine.use(os.getpid(), 1.0)
    machine.pass_time(2.0)
    clock.advance_ns(2_000_000_000)
    assert watch.facts().neighbors_cpu_share == 0.0


def test_the_server_behind_a_gateway_is_no_neighbor_however_many_gateways_there_are() -> None:
    machine = FakeMachine()
    gateway, backend = 4001, 4002
    machine.table |= {gateway: process("nginx", 0.0), backend: process("llama-server", 0.0)}
    machine.connected = {SERVER: gateway, gateway: backend, backend: os.getpid()}
    facts = facts_of(machine, 10, (SERVER, 0.5, 0.5), (backend, 9.0))
    assert (facts.slowdown, facts.neighbors_cpu_share, facts.busiest) == (0.0, 0.0, ())


def test_where_a_gateway_finds_its_server_only_later_nothing_is_said_of_a_slowdown() -> None:
    machine, clock = FakeMachine(), HandClock()
    machine.table[STRANGER] = process("llama-server", 0.0)
    watch = NeighborWatch(machine, clock, (SERVER,))
    watch.start()
    machine.connected = {SERVER: STRANGER}
    machine.use(STRANGER, 9.0)
    machine.use(SERVER, 0.5, waits_s=0.5)
    machine.pass_time(10.0)
    clock.advance_ns(10_000_000_000)
    facts = watch.facts()
    assert (facts.slowdown, facts.slowdown_source, facts.host_slowdown) == (None, None, None)
