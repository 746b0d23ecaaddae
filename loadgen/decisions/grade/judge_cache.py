"""What judges have answered, kept in the user's cache folder, so that a judging that was broken off goes on."""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.decisions.grade.judge_question import VERSION
from loadgen.errors import InputError
from loadgen.redact import redact_key_bytes, redact_keys
from loadgen.store.paths import user_cache_folder

FOLDER: Final = "judges"
MAX_BYTES: Final = 256 << 20
"""A larger file is not read, and begins anew."""


class _KeptAnswer(Struct, frozen=True):
    """A line of the file."""

    question: str
    text: str


class JudgeCache:
    """The answers of one judge that have a verdict, by question. A cache that cannot be read or written holds what this
    process puts into it."""

    def __init__(self, path: Path | None) -> None:
        """path: of its file; None: there is none."""
        self._path = path
        self._texts = {} if path is None else _read(path)
        self.why_not_written: str | None = None
        """Why answers are not kept; None while they are."""

    def text(self, question: str) -> str | None:
        """What the judge answered to the question with this digest; None: nothing that is kept."""
        return self._texts.get(question)

    def keep(self, question: str, text: str) -> None:
        """Keep an answer, at once."""
        self._texts[question] = text
        if self._path is None or self.why_not_written is not None:
            return
        line = redact_key_bytes(msgspec.json.encode(_KeptAnswer(question, redact_keys(text)))) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Answers may quote what is private.
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            self.why_not_written = f"{self._path}: {error.strerror or error}"


def cache_of(url: str, model: str) -> JudgeCache:
    """The cache of a judge. url: the base URL of its API. The version of the questions is a part of the key too."""
    digest = hashlib.sha256("\0".join((url, model, VERSION)).encode()).hexdigest()[:16]
    try:
        folder = user_cache_folder()
    except InputError:  # a user without a home folder
        return JudgeCache(None)
    return JudgeCache(folder / FOLDER / f"{digest}.jsonl")


def _read(path: Path) -> dict[str, str]:
    """The answers in a file. Lines that were cut off are left out."""
    decoder, texts = msgspec.json.Decoder(_KeptAnswer), {}
    try:
        lines = path.read_bytes().split(b"\n") if path.stat().st_size <= MAX_BYTES else []
    except OSError:
        return {}
    for line in lines:
        try:
            answer = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        texts[answer.question] = answer.text
    return texts
