"""The prompts of a scenario, as they are sent and in the order in which they are taken.

Knows no clock, no socket and no model: reads text, from the scenario itself or from files beside it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan import rng
from loadgen.record import JsonObject
from loadgen.redact import escape_control
from loadgen.scenario import InlinePrompt, PromptFiles, Scenario
from loadgen.scenario.file import is_file, is_folder, parse_toml, read_text
from loadgen.scenario.problem import Problem, Source, input_error, toml_text
from loadgen.scenario.validate import convert

MAX_BYTES: Final = 32 << 20
"""Of one file of prompts; and twice that of all of them together, since they are held in memory."""
_KINDS = (".toml", ".txt", ".md", ".jsonl", ".json")
_TEXT_KEYS = ("text", "prompt")
_POINTS_KEYS = ("key_points", "expected_aspects", "expected_facets", "aspects", "facets")


class Prompt(Struct, frozen=True):
    """What one request asks."""

    id: str
    """Unique in a scenario."""
    text: str
    """As it is sent, template applied."""
    key_points: tuple[str, ...] = ()
    """What a good answer names."""


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


def messages(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    """The chat that a request sends: the system message, where there is one, and the prompt as the user's."""
    user = {"role": "user", "content": prompt.text}
    return [user] if system is None else [{"role": "system", "content": system}, user]


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
            length += len(item.prompt.text)
            if length > 2 * MAX_BYTES:
                hint = "name fewer, or shorten them"
                raise InputError(f"{path}: with it, the prompts are more than {MAX_BYTES >> 19} MiB of text; {hint}")
            if name in by_id:
                hint = "give each an id of its own"
                raise InputError(f'{item.place}: the id "{name}" is that of {by_id[name].place} too; {hint}')
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
    """The prompts of one file, at least one, without surrounding white space."""
    text = read_text(path, MAX_BYTES)
    if not text.strip():
        raise InputError(f"{path}: empty; write a prompt into it, or leave it out")
    match path.suffix.lower():
        case ".toml":
            entry = convert(parse_toml(text, str(path)), InlinePrompt, Source(str(path)))
            yield _placed_prompt(entry, _slug(path.stem), str(path))
        case ".jsonl":
            # Split at line feeds alone: JSON may hold the other separators that Python knows.
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    place = f"{path}: line {number}"
                    yield _placed_prompt(_of_json(line, place), _slug(f"{path.stem}-{number}"), place)
        case ".json":
            for number, item in enumerate(_list_of_json(text, str(path)), start=1):
                place = f"{path}: prompt {number}"
                yield _placed_prompt(_of_listed(item, place), _slug(f"{path.stem}-{number}"), place)
        case _:
            yield _placed_prompt(InlinePrompt(text=text), _slug(path.stem), str(path))


def _list_of_json(text: str, where: str) -> list[Any]:
    """The prompts of a JSON file: a list, or an object with one under `prompts`."""
    hint = 'write a list, such as ["Say hello."]'
    try:
        raw = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {escape_control(str(error))}; {hint}") from None
    listed = raw.get("prompts") if isinstance(raw, dict) else raw
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: no list of prompts in it; {hint}")
    return listed


def _of_listed(item: Any, place: str) -> InlinePrompt:
    """A text, or an object as other programs write it: what else it holds, a category or a score, is for them."""
    if isinstance(item, str):
        return InlinePrompt(text=item)
    if not isinstance(item, dict):
        raise InputError(f'{place}: neither a text nor an object; write e.g. "Say hello."')
    fields: JsonObject = {}
    for name, keys in (("text", _TEXT_KEYS), ("key_points", _POINTS_KEYS)):
        given = [key for key in keys if key in item]
        if len(given) > 1:
            raise InputError(f"{place}: {given[0]} and {given[1]} say the same; leave one out")
        if given:
            fields[name] = item[given[0]]
    if isinstance(fields.get("key_points"), str):
        fields["key_points"] = [fields["key_points"]]
    if isinstance(number := item.get("id"), str | int) and not isinstance(number, bool) and str(number).strip():
        fields["id"] = _slug(str(number))
    return convert(fields, InlinePrompt, Source(place))


def _of_json(line: str, place: str) -> InlinePrompt:
    try:
        raw = msgspec.json.decode(line.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{place}: not JSON: {escape_control(str(error))}; "
            'write one object a line, such as {"text": "Say hello."}'
        ) from None
    if not isinstance(raw, dict):
        raise InputError(f'{place}: not an object; write one a line, such as {{"text": "Say hello."}}')
    return convert(raw, InlinePrompt, Source(place))


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
