"""Which window a moment lies in, by a file that grows."""

from pathlib import Path

import orjson

from loadgen.engine.soak.window_numbers import WindowNumbers
from loadgen.store.windows import WINDOWS

S = 1_000_000_000


def write(folder: Path, *windows: tuple[int, int, int], end: bytes = b"\n") -> None:
    with (folder / WINDOWS).open("ab") as file:
        for number, start_s, end_s in windows:
            line = orjson.dumps({"window": number, "start_ns": start_s * S, "end_ns": end_s * S, "model": "m"})
            file.write(line + end)


def numbers(windows: WindowNumbers, *moments_s: int) -> list[int]:
    return [windows.number_at(moment_s * S) for moment_s in moments_s]


def test_without_a_window_everything_is_in_the_first(tmp_path: Path) -> None:
    assert numbers(WindowNumbers(tmp_path), 0, 500) == [0, 0]


def test_a_moment_is_in_the_window_that_has_it_or_will_have_it(tmp_path: Path) -> None:
    windows = WindowNumbers(tmp_path)
    write(tmp_path, (0, 10, 70), (0, 10, 70), (1, 70, 130))
    assert numbers(windows, 0, 10, 69, 70, 129) == [0, 0, 0, 1, 1]
    assert numbers(windows, 130, 189, 190) == [2, 2, 3]
    write(tmp_path, (2, 130, 190))
    assert numbers(windows, 129, 130, 189, 190) == [1, 2, 2, 3]


def test_a_pause_between_two_stages_belongs_to_the_window_before(tmp_path: Path) -> None:
    write(tmp_path, (0, 10, 70), (1, 100, 160))
    assert numbers(WindowNumbers(tmp_path), 69, 80, 100) == [0, 0, 1]


def test_a_line_that_is_half_written_is_read_when_it_is_complete(tmp_path: Path) -> None:
    windows = WindowNumbers(tmp_path)
    write(tmp_path, (0, 10, 70))
    write(tmp_path, (7, 70, 130), end=b"")
    assert numbers(windows, 75) == [1]
    with (tmp_path / WINDOWS).open("ab") as file:
        file.write(b"\n")
    assert numbers(windows, 75) == [7]


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / WINDOWS).write_bytes(b"{\n\xff\n")
    write(tmp_path, (0, 10, 70), (1, 70, 130))
    assert numbers(WindowNumbers(tmp_path), 75) == [1]
