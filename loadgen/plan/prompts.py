"""The prompts of a scenario, as they are sent and in the order in which they are taken.

Knows no clock, no socket and no model: reads text, from the scenario itself or from files beside it.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan import rng
from loadgen.plan.arrivals import most_requests
from loadgen.plan.prompt_rows import (
    JSON_LINES,
    PlacedRow,
    checked_points,
    has_list,
    json_value_of,
    message_text,
    rows_of_document,
    rows_of_lines,
    rows_of_pieces,
)
from loadgen.plan.prompt_sample import PromptSample
from loadgen.plan.prompt_streams import BEGINNING_BYTES, LongKind, Rejoined, kind_of_long, lines_in, pieces_in
from loadgen.plan.prompt_tables import is_table, rows_of_table
from loadgen.record import JsonObject
from loadgen.scenario import InlinePrompt, PromptFiles, Scenario
from loadgen.scenario.file import STANDARD_INPUT, decode_text, is_file, is_folder, is_pipe, opened, parse_toml
from loadgen.scenario.problem import Problem, Source, input_error, toml_text
from loadgen.scenario.validate import convert

MAX_BYTES: Final = 32 << 20
"""The longest text that is read at once. Longer ones are read row by row."""
SAMPLE_BYTES: Final = 2 * MAX_BYTES
"""If the prompts of all files have more bytes, only a part of them is used, because they are held in memory."""
LEAST_SAMPLE: Final = 1024
"""The smallest part, because a search of the capacity asks more than a stage that is planned before the run."""
_TABLES: Final = (".csv", ".tsv")
_TEXTS: Final = (".txt", ".md")
_KINDS: Final = (".toml", *_TEXTS, *JSON_LINES, ".json", *_TABLES)
_ADVICE: Final = {
    **dict.fromkeys(
        (".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first, or pipe what it holds to --prompts-file -"
    ),
    **dict.fromkeys((".parquet", ".arrow", ".xlsx", ".xls", ".ods", ".numbers"), "save it as .csv or .jsonl"),
}
"""The advice for files of prompts that are not text."""
_CUT_CHARACTER: Final = re.compile(rb"[\xc0-\xff][\x80-\xbf]{0,2}\Z")
"""In UTF-8, a last character that may not be complete."""
LONGEST_ID: Final = 80
_SYSTEM_ROLES: Final = frozenset(("system", "developer"))
"""The roles of a system message; the second is its newer name in OpenAI's API."""


class Prompt(Struct, frozen=True):
    """The prompt of one request."""

    id: str
    """The id, unique in a scenario."""
    text: str
    """The text as it is sent, after the template was applied."""
    key_points: tuple[str, ...] = ()
    """The points that a good answer names."""
    messages: tuple[JsonObject, ...] = ()
    """A recorded chat, which is sent unchanged instead of the text. The text is then the user's last turn in it."""
    tools: tuple[JsonObject, ...] = ()
    """The tools that were offered in a recorded chat."""


class _PlacedPrompt(Struct, frozen=True):
    """A prompt and its place in a file. The place is named in the message that another prompt has its id."""

    prompt: Prompt
    """The prompt. Another one may have the same id, unless the id is in the file."""
    place: str
    given_id: str | None
    """The id from the file, or the file's name; None if the id is made from the row's number."""


class _Origin(Struct, frozen=True):
    """Where prompts come from, for messages."""

    name: str
    stem: str
    """The beginning of the ids that are made here."""
    remarks: list[str]
    """Gets a line if rows are skipped."""


class LoadedPrompts(Struct, frozen=True):
    """The prompts of a scenario, with remarks about their files."""

    prompts: tuple[Prompt, ...]
    """At least one prompt, in the order of use, with unique ids."""
    remarks: tuple[str, ...] = ()
    """A line for each file in which rows were skipped."""


def load_prompts(scenario: Scenario, folder: Path, where: str) -> tuple[Prompt, ...]:
    """The prompts alone, as in `read_prompts`."""
    return read_prompts(scenario, folder, where).prompts


def read_prompts(scenario: Scenario, folder: Path, where: str) -> LoadedPrompts:
    """The scenario's prompts, from the scenario itself or from files.

    folder: the folder to which the scenario's paths are relative. where: the scenario's file, for messages. Raises
    InputError if a prompt cannot be sent: a file is missing, empty or not UTF-8, an id is used twice, …
    """
    source = Source(where)
    match scenario.prompts:
        case PromptFiles() as files:
            return _from_files(files, folder, source, scenario)
        case str(text):
            return LoadedPrompts((Prompt("p1", _not_blank(text, "prompts", source)),))
        case listed:
            return LoadedPrompts(_inline(listed, source))


def messages(prompt: Prompt, system: str | None) -> list[JsonObject]:
    """The chat that a request sends: the system message, if there is one, and the prompt as the user's message or the
    recorded chat. A recorded chat with its own system message does not get the scenario's."""
    chat: list[JsonObject] = [*prompt.messages] or [{"role": "user", "content": prompt.text}]
    if system is None or any(message["role"] in _SYSTEM_ROLES for message in chat):
        return chat
    return [{"role": "system", "content": system}, *chat]


def text_of(prompt: Prompt) -> str:
    """All that a prompt gives to the model as text: of a recorded chat, its messages with their roles."""
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"{turn['role']}: {text}" for turn in prompt.messages if (text := message_text(turn)).strip())


def _inline(listed: tuple[str | InlinePrompt, ...], source: Source) -> tuple[Prompt, ...]:
    position_of: dict[str, int] = {}
    prompts: list[Prompt] = []
    for i, item in enumerate(listed):
        entry = InlinePrompt(text=item) if isinstance(item, str) else item
        key = f"prompts[{i}]" if isinstance(item, str) else f"prompts[{i}].text"
        name = entry.id or f"p{i + 1}"
        if name in position_of:
            problem = f'the id "{name}" stands at prompts[{position_of[name]}] too'
            raise input_error(source, Problem(f"prompts[{i}].id", problem, "give each its own id"))
        position_of[name] = i
        points = checked_points(entry.key_points, f"prompts[{i}].key_points", source)
        prompts.append(Prompt(name, _not_blank(entry.text, key, source), points))
    return tuple(prompts)


def _from_files(files: PromptFiles, folder: Path, source: Source, scenario: Scenario) -> LoadedPrompts:
    if "{text}" not in files.template:
        raise input_error(source, Problem("prompts.template", "does not say where the text goes", "put {text} into it"))
    remarks: list[str] = []
    requests = most_requests(scenario.load)
    sample = PromptSample[_PlacedPrompt](
        files.order,
        needed=None if requests is None else max(requests + scenario.warmup_requests, LEAST_SAMPLE),
        max_bytes=SAMPLE_BYTES,
        seed=scenario.seed,
    )
    for path in _matching(files.files, folder, source):
        for item in _in_file(path, files, remarks):
            if item.prompt.messages and files.template != "{text}":
                hint = "leave the template out"
                raise InputError(f"{item.place}: a recorded chat is sent unchanged, so no template can wrap it; {hint}")
            sample.take(item, len(item.prompt.text) + sum(map(_size_of, (item.prompt.messages, item.prompt.tools))))
            if sample.is_full:
                break
        if sample.is_full:
            break
    prompts = [
        msgspec.structs.replace(prompt, text=files.template.replace("{text}", prompt.text))
        for prompt in _with_unique_ids(sample.prompts())
    ]
    if sample.is_part:
        is_random = files.order == "shuffled"
        drawn = f"{len(prompts):,} of {sample.count:,}, drawn by the seed"
        used = drawn if is_random else f"the first {len(prompts):,}"
        remarks.append(f"{files.files}: more than {SAMPLE_BYTES >> 20} MiB of prompts; uses {used}")
    elif files.order == "shuffled":
        order = rng.generator(scenario.seed, "prompts").permutation(len(prompts))
        prompts = [prompts[int(i)] for i in order]
    return LoadedPrompts(tuple(prompts), tuple(remarks))


def _with_unique_ids(placed: list[_PlacedPrompt]) -> list[Prompt]:
    """The prompts in their order, with unique ids. If an id that was made here is also in a file, it gets a suffix.
    Raises InputError if two prompts have the same id in their files."""
    place_of: dict[str, str] = {}
    for item in placed:
        if item.given_id is None:
            continue
        if item.given_id in place_of:
            twice = f'the id "{item.prompt.id}" is also that of {place_of[item.given_id]}'
            raise InputError(f"{item.place}: {twice}; give each its own id")
        place_of[item.given_id] = item.place
    taken = {item.prompt.id for item in placed if item.given_id == item.prompt.id}
    tries = Counter[str]()
    prompts = []
    for item in placed:
        name = item.prompt.id
        if item.given_id != name:
            while name in taken:
                tries[item.prompt.id] += 1
                suffix = f"-{tries[item.prompt.id] + 1}"
                name = item.prompt.id[: LONGEST_ID - len(suffix)] + suffix
            taken.add(name)
        prompts.append(msgspec.structs.replace(item.prompt, id=name))
    return prompts


def _matching(pattern: str, folder: Path, source: Source) -> list[Path]:
    """The files that match a path or a glob, at least one, sorted by name."""
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
            advice = _ADVICE.get(path.suffix.lower(), f"use {', '.join(_KINDS)}")
            raise input_error(source, Problem("prompts.files", problem, advice))
    return paths


def _globbed(pattern: str, folder: Path, source: Source) -> list[Path]:
    """The files that match a glob, sorted by name, without hidden files, which some systems put beside every file."""
    path = Path(pattern)
    root, below = (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (folder, path)
    if not below.parts:
        return []
    try:
        matches = sorted(root.glob(str(below)), key=lambda match: match.as_posix())
    except (ValueError, NotImplementedError, OSError) as error:
        problem = f"{toml_text(pattern)} is neither a path nor a pattern ({error})"
        raise input_error(source, Problem("prompts.files", problem, 'write e.g. files = "prompts/*.txt"')) from None
    return [match for match in matches if is_file(match) and not match.name.startswith(".")]


def _in_file(path: Path, files: PromptFiles, remarks: list[str]) -> Iterator[_PlacedPrompt]:
    """The prompts of one file or pipe, at least one, without surrounding white space. remarks: gets a line if rows are
    skipped."""
    is_piped = str(path) == STANDARD_INPUT
    name, stem = ("standard input", "stdin") if is_piped else (str(path), path.stem)
    with opened(path) as file:
        data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            beginning = decode_text(_CUT_CHARACTER.sub(b"", data[:BEGINNING_BYTES]), name)
            rejoined = io.BufferedReader(Rejoined(data, file), BEGINNING_BYTES)
            del data
            yield from _in_long_file(rejoined, beginning, path.suffix.lower(), files, _Origin(name, stem, remarks))
            return
    text, origin = decode_text(data, name), _Origin(name, stem, remarks)
    if not text.strip():
        raise InputError(f"{name}: empty; write a prompt into it, or leave it out")
    match _kind_of(text, path.suffix.lower()):
        case ".toml":
            entry = convert(parse_toml(text, name), InlinePrompt, Source(name))
            yield _placed_prompt(entry, stem, name)
        case ".jsonl":
            yield from _of_rows(rows_of_lines(text.split("\n"), name), origin)
        case ".json":
            yield from _of_rows(rows_of_document(text, name), origin)
        case ".csv":
            yield from _of_rows(rows_of_table(io.StringIO(text, newline=""), name), origin)
        case _ if files.text_files == "one_per_line":
            yield from _of_text_lines(text.split("\n"), origin)
        case _:
            yield _placed_prompt(InlinePrompt(text=text), stem, name)


def _in_long_file(
    file: BinaryIO, beginning: str, suffix: str, files: PromptFiles, origin: _Origin
) -> Iterator[_PlacedPrompt]:
    """The prompts of a text that is too long to be read at once; otherwise as `_in_file`."""
    name = origin.name
    kind: LongKind = "table" if suffix in _TABLES else "text"
    if suffix not in (".toml", *_TEXTS, *_TABLES):
        kind = kind_of_long(beginning, suffix)
    match kind:
        case "lines":
            yield from _of_rows(rows_of_lines(lines_in(file, name), name), origin)
        case "list":
            yield from _of_rows(rows_of_pieces(pieces_in(file, name), name), origin)
        case "table":
            yield from _of_rows(rows_of_table(lines_in(file, name), name), origin)
        case "object":
            hint = "write its prompts as JSON lines, such as with jq -c '.data[]' FILE > prompts.jsonl"
            raise InputError(f"{name}: one JSON object of more than {MAX_BYTES >> 20} MiB; {hint}")
        case "text" if files.text_files == "one_per_line" and suffix != ".toml":
            yield from _of_text_lines(lines_in(file, name), origin)
        case "text":
            raise InputError(f"{name}: more than {MAX_BYTES >> 20} MiB; split it, or name another file")


def _of_text_lines(lines: Iterable[str], origin: _Origin) -> Iterator[_PlacedPrompt]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompt = Prompt(_slug(f"{origin.stem}-{number}"), line.strip())
            yield _PlacedPrompt(prompt, f"{origin.name}: line {number}", None)


def _kind_of(text: str, suffix: str) -> str:
    """The kind of a file, from its name; the kind of a text without a name, from its content. For JSON, the content
    always decides between one document and a row per line, because programs write both under both names."""
    if suffix == ".toml" or suffix in _TEXTS:
        return suffix
    if suffix in _TABLES:
        return ".csv"
    start = text.lstrip()
    if suffix not in _KINDS and not start.startswith(("[", "{")):
        return ".csv" if is_table(text) else ".txt"
    value = _json_of(text)
    if isinstance(value, list) or (isinstance(value, dict) and (suffix == ".json" or has_list(value))):
        return ".json"
    if isinstance(_json_of(start.partition("\n")[0]), dict | str):
        return ".jsonl"
    if suffix not in _KINDS:
        return ".json" if start.startswith("[") else ".jsonl"
    return ".jsonl" if suffix in JSON_LINES else ".json"


def _json_of(text: str) -> Any:
    """The JSON value of a text; None if it is null or not JSON."""
    try:
        return json_value_of(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _of_rows(rows: Iterable[PlacedRow], origin: _Origin) -> Iterator[_PlacedPrompt]:
    name, count, skipped_count, first_skipped = origin.name, 0, 0, ""
    for row, place, number in rows:
        count += 1
        if not row.text:
            skipped_count += 1
            first_skipped = first_skipped or place.removeprefix(f"{name}: ")
            continue
        made_id = _slug(f"{origin.stem}-{number}" if row.id is None else row.id)
        yield _PlacedPrompt(Prompt(made_id, row.text, row.key_points, row.messages, row.tools), place, row.id)
    if count == skipped_count:
        where = f"in any of its {count} rows" if count > 1 else "in its only row" if count else "below its first line"
        raise InputError(f"{name}: there is no question {where}; write a text into it")
    if skipped_count:
        verb = "is" if skipped_count == 1 else "are"
        first = first_skipped if skipped_count == 1 else f"the first: {first_skipped}"
        skipped = f"{skipped_count} of {count} rows {verb} skipped"
        origin.remarks.append(f"{name}: {skipped}, because they have no question ({first})")


def _size_of(items: tuple[JsonObject, ...]) -> int:
    return len(msgspec.json.encode(items)) if items else 0


def _placed_prompt(entry: InlinePrompt, stem: str, place: str) -> _PlacedPrompt:
    """The only prompt of a file. Its id is the file's name, unless the file gives an id."""
    text = _not_blank(entry.text, "text", Source(place)).strip()
    name = entry.id or _slug(stem)
    points = checked_points(entry.key_points, "key_points", Source(place))
    return _PlacedPrompt(Prompt(name, text, points), place, name)


def _slug(stem: str) -> str:
    """A name as an id. Characters that an id cannot contain become hyphens."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:LONGEST_ID]
    # If no character of the name can be in an id, as in Chinese, the id has their numbers, so that it stays unique.
    return slug or f"u{'-'.join(f'{ord(char):x}' for char in stem)}"[:LONGEST_ID]


def _not_blank(text: str, key: str, source: Source) -> str:
    if not text.strip():
        raise input_error(source, Problem(key, "no text in it", 'write a prompt, such as "Say hello."'))
    return text
