"""Finds whether the body of an answer says that its server is still loading. Pure.

Servers say so with any status: llama.cpp with 503, Ollama with 500, gateways and proxies also with 404 or 200. That
loading failed is something else: waiting does not help then.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from loadgen.wire.chat_json import parse_value

_STATES: Final = re.compile(
    r"(?:model|server|engine)?[ _-]?(?:is[ _-])?(?:still[ _-])?"
    r"(?:(?:re)?loading|starting(?:[ _-]up)?|initiali[sz]ing|warming(?:[ _-]up)?|warm-?up|booting|not[ _-]?ready)"
    r"(?:[ _-](?:model|yet))?[. …!]*",
    re.IGNORECASE,
)
"""A whole value that is the name of such a state: `loading`, `Loading model`, `NOT_READY`."""
_SENTENCES: Final = re.compile(
    r"\b(?:is|are|still|currently|being|yet) (?:still |currently |being )*"
    r"(?:(?:re)?loading|starting(?: up)?|initiali[sz]ing|warming up|booting)\b"
    r"|\bbeing loaded\b|\bnot (?:fully )?(?:loaded|ready|available) yet\b|\bnot yet (?:loaded|ready|available)\b"
    r"|\b(?:server|service|engine|model|backend)(?: \S+)?(?: is|:)? not ready\b"
    r"|\b(?:server|service|engine|backend) (?:loading|starting)\b|\b(?:loading|start-?up) (?:is )?in progress\b"
    r"|(?:^|[.:,;({\[\"']) *(?:re)?loading (?:the )?(?:model|weights)\b",
    re.IGNORECASE,
)
_FAILED: Final = re.compile(
    r"\bfail|\bcan(?:not|'t)\b|\bcould(?: not|n't)\b|\bunable\b|\bno such\b|\bnot found\b|\bdoes not exist\b"
    r"|\bmissing\b|\binvalid\b|\bunsupported\b|\bout of memory\b|\bcorrupt",
    re.IGNORECASE,
)
"""Why a model cannot be loaded, which the same sentence may have in it."""
_CODE_503: Final = re.compile(
    r"\b(?:code|status)\W{1,4}503\b|\b503 service (?:temporarily )?unavailable", re.IGNORECASE
)
"""An answer with status 503 that a gateway repeats in one of its own."""
_CODES: Final = ("code", "status", "status_code")
_STATE_FIELDS: Final = (*_CODES, "state", "type")
_TEXT_FIELDS: Final = (*_STATE_FIELDS, "message", "msg", "detail", "details", "error", "errors", "reason", "title")
_FLAGS: Final = {"loading": True, "is_loading": True, "ready": False, "is_ready": False, "model_loaded": False}
"""Fields that say it as true or false."""
_ANSWERS: Final = ("choices", "data")
"""What an answer to a chat, or a list of models, has in it."""
_MAX_BYTES: Final = 64 << 10
_MAX_DEPTH: Final = 4


def says_loading(body: bytes) -> bool:
    """Whether a body says that its server is still loading, as JSON, as an event of a stream, or as plain text. A list
    of models and an answer to a chat say nothing else, and web pages are not read."""
    if len(body) > _MAX_BYTES or body.lstrip().startswith(b"<"):
        return False
    events = [line[len(b"data:") :].strip() for line in body.splitlines() if line.startswith(b"data:")]
    return any(_says(data) for data in events or [body.strip()])


def _says(data: bytes) -> bool:
    value = parse_value(data)
    if value is None:
        return not data.startswith((b"{", b"[")) and _is_loading(data.decode("utf-8", "replace"))
    if isinstance(value, str):
        return _is_loading(value)
    if not isinstance(value, dict) or any(isinstance(value.get(key), list) and value[key] for key in _ANSWERS):
        return False
    return any(_statements(value, _MAX_DEPTH))


def _statements(value: dict[str, Any], depth: int) -> Iterator[bool]:
    """Whether each of the statements in an object says that the server is loading."""
    for field, content in value.items():
        if isinstance(content, bool):
            yield _FLAGS.get(field) is content
        elif field in _CODES and content in (503, "503"):
            yield True
        elif field in _TEXT_FIELDS:
            for item in content if isinstance(content, list) else [content]:
                if isinstance(item, dict) and depth > 0:
                    yield from _statements(item, depth - 1)
                elif isinstance(item, str):
                    yield _is_loading(item)


def _is_loading(text: str) -> bool:
    if _STATES.fullmatch(text.strip()) or _CODE_503.search(text):
        return True
    line = " ".join(text.split())
    return _SENTENCES.search(line) is not None and _FAILED.search(line) is None
