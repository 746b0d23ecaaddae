"""Which requests were in flight when a process was killed, as its file tells at every moment."""

from pathlib import Path

from loadgen.engine.soak.in_flight import IN_FLIGHT, MAX_BYTES, Begun, InFlightLog, read_in_flight, remove_in_flight
from loadgen.record import BegunRequest, Phase, Record
from tests.records import record


def request(index: int, model: str = "m", level: str = "c1") -> BegunRequest:
    return BegunRequest(model=model, target="t", level=level, index=index, prompt_id="p1", intended_ns=index)


def ended(index: int, phase: Phase = "measured") -> Record:
    return record(model="m", target="t", level="c1", index=index, phase=phase)


def read(folder: Path) -> Begun:
    return read_in_flight(sorted(folder.glob("*.jsonl")), "c1")


def test_it_has_what_began_and_did_not_end(tmp_path: Path) -> None:
    log = InFlightLog(tmp_path / IN_FLIGHT)
    assert read(tmp_path) == Begun((), -1)
    for index in range(4):
        log.begin_request(request(index))
    log.record(ended(0, "warmup"))
    log.record(ended(2))
    log.record(ended(1))
    assert read(tmp_path) == Begun((request(0), request(3)), 3)
    assert read_in_flight([tmp_path / IN_FLIGHT, tmp_path / "missing"], "c2") == Begun((), -1)
    log.close()


def test_every_prefix_of_the_file_can_be_read(tmp_path: Path) -> None:
    log = InFlightLog(tmp_path / IN_FLIGHT)
    for index in range(3):
        log.begin_request(request(index))
        log.record(ended(index))
    raw = (tmp_path / IN_FLIGHT).read_bytes()
    log.close()
    for size in range(len(raw) + 1):
        (tmp_path / IN_FLIGHT).write_bytes(raw[:size])
        begun = read(tmp_path)
        assert len(begun.in_flight) <= 1
        assert begun.last_index == raw[:size].count(b'"begun"') - 1 or raw[size - 1 : size] != b"\n"


def test_it_stays_small_and_forgets_neither_what_is_in_flight_nor_the_last_index(tmp_path: Path) -> None:
    log = InFlightLog(tmp_path / IN_FLIGHT)
    log.begin_request(request(0))
    for index in range(1, 5_000):
        log.begin_request(request(index))
        log.record(ended(index))
        assert (tmp_path / IN_FLIGHT).stat().st_size < MAX_BYTES + 1_000
    assert read(tmp_path) == Begun((request(0),), 4_999)
    assert [path.name for path in tmp_path.iterdir()] == [IN_FLIGHT]
    log.close()
    remove_in_flight(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_does_not_end_the_soak(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    log = InFlightLog(folder / IN_FLIGHT)
    log.begin_request(request(0))
    (folder / IN_FLIGHT).unlink()
    for index in range(1, 4):
        log.begin_request(request(index))
        log.record(ended(index))
    log.close()
