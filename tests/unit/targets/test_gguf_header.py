"""Reading what a GGUF file says of itself, and nothing of its weights."""

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.targets.llamacpp.gguf_header import read_header, weights_of_file
from loadgen.targets.llamacpp.target import card_of_file
from tests.e2e.tiny import make_tiny_model


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(*pairs: bytes, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


WORDS = struct.pack("<IQ", 8, 2) + text("one") + text("zwei")
NESTED = struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 4, 3) + struct.pack("<III", 1, 2, 3)


def test_single_values_are_read_and_arrays_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf(
            pair("tokens", 9, WORDS),
            pair("name", 8, text("Grüße")),
            pair("nested", 9, NESTED),
            pair("layers", 4, struct.pack("<I", 30)),
            pair("eps", 6, struct.pack("<f", 0.5)),
            pair("flag", 7, b"\x01"),
        )
    )
    assert read_header(path) == {"name": "Grüße", "layers": 30, "eps": 0.5, "flag": True}


@pytest.mark.parametrize("data", [b"", b"GGU", b"NOPE" * 20, gguf(pair("a", 99, b""))])
def test_what_is_no_gguf_says_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert read_header(path) == {}
    assert read_header(tmp_path / "nowhere.gguf") == {}


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.binary(max_size=8))
def test_a_damaged_file_never_raises(tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes) -> None:
    whole = gguf(pair("tokens", 9, WORDS), pair("name", 8, text("x")), pair("nested", 9, NESTED))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(whole[: cut % len(whole)] + noise)
    assert isinstance(read_header(path), dict)


def test_a_card_has_what_the_file_says(tmp_path: Path) -> None:
    card = card_of_file("mine", make_tiny_model(tmp_path / "tiny.gguf"))
    assert (card.license, card.context_tokens, card.task) == ("CC0-1.0", 4096, "chat-completion")
    assert card.size_bytes == (tmp_path / "tiny.gguf").stat().st_size


def test_weights_are_told_apart_by_size_and_by_the_first_mib(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a" * (1 << 20) + b"x")
    first = weights_of_file(path)
    assert first == f"1048577 bytes, sha256 of the first MiB {hashlib.sha256(b'a' * (1 << 20)).hexdigest()[:16]}"
    path.write_bytes(b"a" * (1 << 20) + b"y")
    assert weights_of_file(path) == first, "the rest of the file is not read"
    path.write_bytes(b"b" + b"a" * (1 << 20))
    assert weights_of_file(path) != first
    assert weights_of_file(tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"": "llama3.2"}, "llama3.2"),
        ({"": "other", ".name": "qwen-research", ".link": "https://example.org/LICENSE"}, "qwen-research"),
        ({"": "other", ".link": "https://mistral.ai/licenses/MRL-0.1.md"}, "https://mistral.ai/licenses/MRL-0.1.md"),
        ({".name": "gemma"}, "gemma"),
        ({"": "other"}, "other"),
        ({}, None),
    ],
)
def test_a_license_that_is_called_other_is_the_one_that_the_header_names_or_links_to(
    tmp_path: Path, keys: dict[str, str], expected: str | None
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(*(pair(f"general.license{part}", 8, text(value)) for part, value in keys.items())))
    assert card_of_file("m", path).license == expected
