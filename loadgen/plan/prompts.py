"""The prompts of a scenario, as they are sent and in the order in which they are taken.

Knows no clock, no socket and no model: reads text, from the scenario itself or from files beside it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan import rng
from loadgen.plan.prompt_rows import RowOfFile, rows_of_document, rows_of_lines
from loadgen.record import JsonObject
from loadgen.scenario import InlinePrompt, PromptFiles, Scenario
from loadgen.scenario.file import STANDARD_INPUT, is_file, is_folder, is_pipe, parse_toml, read_piped_text, read_text
from loadgen.scenario.problem import Problem, Source, input_error, toml_text
from loadgen.scenario.validate import convert

MAX_BYTES: Final = 32 << 20
"""Of one file of prompts; and twice that of all of them together, since they are held in memory."""
_KINDS = (".toml", ".txt", ".md", ".jsonl", ".json")


class Prompt(Struct, frozen=True):
    """What one request asks."""

    id: str
    """Unique in a scenario."""
    text: str
    """As it is sent, template applied."""
    key_points: tuple[str, ...] = ()
    """What a good answer names."""
    messages: tuple[JsonObject, ...] = ()
    """A recorded chat, sent as it is in place of the text, which is then that of its last turn of the user."""
    tools: tuple[JsonObject, ...] = ()
    """The tools that were offered in a recorded chat."""


class _PlacedPrompt(Struct, frozen=True):
    """A prompt, and where it stands, for the message that another one has its id."""

    prompt: Prompt
    place: str


def load_prompts(scenario: Scenario, folder: Path, where: str) -> tuple[Prompt, ...]:
    """The scenario's prompts, at least one, in the order in which they are taken; ids are unique.

    folder: what the scenario's paths are relative to. where: the scenario's file, for messages. Raises InputError for
    whatever keeps a prompt from being sent: no file, an empty one, one that is not UTF-8, an id that stands twice, …
    """
    source = Source(where)
    match scenario.prompts:
        case PromptFiles() as files:
            return _from_files(files, folder, source, scenario.seed)
        case str(text):
            return (Prompt("p1", _not_blank(text, "prompts", source)),)
        case listed:
            return _inline(listed, source)


def messages(prompt: Prompt, system: str | None) -> list[JsonObject]:
    """The chat that a request sends: the system message, where there is one, and the prompt as the user's, or the chat
    that was recorded. A system message of a recorded chat's own goes before the scenario's."""
    chat: list[JsonObject] = [*prompt.messages] or [{"role": "user", "content": prompt.text}]
    if system is None or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": system}, *chat]


def _inline(listed: tuple[str | InlinePrompt, ...], source: Source) -> tuple[Prompt, ...]:
    position_of: dict[str, int] = {}
    prompts: list[Prompt] = []
    for i, item in enumerate(listed):
        entry = InlinePrompt(text=item) if isinstance(item, str) else item
        key = f"prompts[{i}]" if isinstance(item, str) else f"prompts[{i}].text"
        name = entry.id or f"p{i + 1}"
        if name in position_of:
            problem = f'the id "{name}" stands at prompts[{position_of[name]}] too'
            raise input_error(source, Problem(f"prompts[{i}].id", problem, "give each an id of its own"))
        position_of[name] = i
        prompts.append(Prompt(name, _not_blank(entry.text, key, source), entry.key_points))
    return tuple(prompts)


def _from_files(files: PromptFiles, folder: Path, source: Source, seed: int) -> tuple[Prompt, ...]:
    if "{text}" not in files.template:
        raise input_error(source, Problem("prompts.template", "does not say where the text goes", "put {text} into it"))
    by_id: dict[str, _PlacedPrompt] = {}
    length = 0
    for path in _matching(files.files, folder, source):
        for item in _in_file(path):
            name = item.prompt.id
            length += len(item.prompt.text) + sum(map(_size_of, (item.prompt.messages, item.prompt.tools)))
            if length > 2 * MAX_BYTES:
                hint = "name fewer, or shorten them"
                raise InputError(f"{path}: with it, the prompts are more than {MAX_BYTES >> 19} MiB of text; {hint}")
            if name in by_id:
                hint = "give each an id of its own"
                raise InputError(f'{item.place}: the id "{name}" is that of {by_id[name].place} too; {hint}')
            if item.prompt.messages and files.template != "{text}":
                hint = "leave the template out"
                raise InputError(f"{item.place}: a recorded chat is sent as it is, and has no text to wrap; {hint}")
            by_id[name] = item
    prompts = [
        msgspec.structs.replace(item.prompt, text=files.template.replace("{text}", item.prompt.text))
        for item in by_id.values()
    ]
    if files.order == "shuffled":
        order = rng.generator(seed, "prompts").permutation(len(prompts))
        prompts = [prompts[int(i)] for i in order]
    return tuple(prompts)


def _matching(pattern: str, folder: Path, source: Source) -> list[Path]:
    """The files of a path or a glob, at least one, by name."""
    plain = folder / pattern
    if pattern == STANDARD_INPUT or is_pipe(plain):
        return [Path(pattern) if pattern == STANDARD_INPUT else plain]
    paths = [plain] if is_file(plain) else _globbed(pattern, folder, source)
    if not paths and is_folder(plain):
        problem, hint = f'"{pattern}" is a folder', f'write "{Path(pattern).as_posix().rstrip("/")}/*.txt"'
        raise input_error(source, Problem("prompts.files", problem, hint))
    if not paths:
        problem = f"no file matches {toml_text(pattern)} in {folder.as_posix()}/"
        raise input_error(source, Problem("prompts.files", problem, "paths are relative to the scenario's own folder"))
    for path in paths:
        if path.suffix.lower() not in _KINDS:
            problem = f'"{path.name}" is not of a kind that holds prompts'
            raise input_error(source, Problem("prompts.files", problem, f"use {', '.join(_KINDS)}"))
    return paths


def _globbed(pattern: str, folder: Path, source: Source) -> list[Path]:
    """The files that a glob means, by name. Hidden ones are not meant: some systems put them beside every file."""
    path = Path(pattern)
    root, below = (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (folder, path)
    if not below.parts:
        return []
    try:
        matches = sorted(root.glob(str(below)), key=lambda match: match.as_posix())
    except (ValueError, NotImplementedError, OSError) as error:
        problem = f"{toml_text(pattern)} is no path and no pattern ({error})"
        raise input_error(source, Problem("prompts.files", problem, 'write e.g. files = "prompts/*.txt"')) from None
    return [match for match in matches if is_file(match) and not match.name.startswith(".")]


def _in_file(path: Path) -> Iterator[_PlacedPrompt]:
    """The prompts of one file or pipe, at least one, without surrounding white space."""
    text = read_piped_text(MAX_BYTES) if str(path) == STANDARD_INPUT else read_text(path, MAX_BYTES)
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    stem = "stdin" if str(path) == STANDARD_INPUT else path.stem
    if not text.strip():
        raise InputError(f"{name}: empty; write a prompt into it, or leave it out")
    match _kind_of(text, path.suffix.lower()):
        case ".toml":
            entry = convert(parse_toml(text, name), InlinePrompt, Source(name))
            yield _placed_prompt(entry, _slug(stem), name)
        case ".jsonl":
            yield from _of_rows(rows_of_lines(text, name), stem)
        case ".json":
            yield from _of_rows(rows_of_document(text, name), stem)
        case _:
            yield _placed_prompt(InlinePrompt(text=text), _slug(stem), name)


def _kind_of(text: str, suffix: str) -> str:
    """The kind of a file, by its name; of what comes without a name, what it looks like. Whether JSON is one document
    or a row a line is seen from the text in any case: programs write either under either name."""
    if suffix in (".toml", ".txt", ".md"):
        return suffix
    start = text.lstrip()
    if suffix not in _KINDS and not start.startswith(("[", "{")):
        return ".txt"
    value = _json_of(text)
    if isinstance(value, list) or (isinstance(value, dict) and (suffix == ".json" or "prompts" in value)):
        return ".json"
    if isinstance(_json_of(start.partition("\n")[0]), dict | str):
        return ".jsonl"
    return suffix if suffix in _KINDS else ".json" if start.startswith("[") else ".jsonl"


def _json_of(text: str) -> Any:
    """The value that a text is in JSON; None where it is none, or null."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return None


def _of_rows(rows: Iterable[tuple[RowOfFile, str, int]], stem: str) -> Iterator[_PlacedPrompt]:
    for row, place, number in rows:
        name = _slug(f"{stem}-{number}") if row.id is None else _slug(row.id)
        text = _not_blank(row.text, "text", Source(place)).strip()
        yield _PlacedPrompt(Prompt(name, text, row.key_points, row.messages, row.tools), place)


def _size_of(items: tuple[JsonObject, ...]) -> int:
    return len(msgspec.json.encode(items)) if items else 0


def _placed_prompt(entry: InlinePrompt, default_id: str, place: str) -> _PlacedPrompt:
    text = _not_blank(entry.text, "text", Source(place)).strip()
    return _PlacedPrompt(Prompt(entry.id or default_id, text, entry.key_points), place)


def _slug(stem: str) -> str:
    """A file's name as an id: what an id cannot hold becomes a hyphen."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    # A name with nothing that an id can hold, such as one in Chinese: its letters by number, so that it stays itself.
    return slug or f"u{'-'.join(f'{ord(char):x}' for char in stem)}"[:80]


def _not_blank(text: str, key: str, source: Source) -> str:
    if not text.strip():
        raise input_error(source, Problem(key, "no text in it", 'write a prompt, such as "Say hello."'))
    return text
