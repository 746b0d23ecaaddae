"""The parts of a chat request that the scripted server uses. Knows no HTTP and no time."""

from typing import Any

import msgspec
from msgspec import Struct

from loadgen.errors import InputError


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Message(Struct):
    role: str
    content: Any = None


class Chat(Struct):
    """The parts of a chat request that matter; all others are ignored."""

    messages: list[_Message]
    model: str = ""
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None

    @property
    def token_limit(self) -> int | None:
        """The maximum number of tokens that the client requests."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def asks_for_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def prompt_words(self) -> int:
        return sum(_words(message.content) for message in self.messages)


def _words(content: Any) -> int:
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        return sum(_words(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def read_chat(body: bytes) -> Chat:
    """Reads the body of a chat request. Raises InputError with a message for the client."""
    try:
        chat = msgspec.json.decode(body, type=Chat)
    except msgspec.ValidationError as error:
        raise InputError(f"the request is not a chat: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the body is not JSON: {error}") from None
    if not chat.messages:
        raise InputError("messages is empty; send at least one")
    if chat.token_limit is not None and chat.token_limit < 1:
        raise InputError("max_tokens must be at least 1")
    return chat
