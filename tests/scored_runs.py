"""Runs that kept their texts, with the prompts that their answers are scored by. Built of `tests.records`."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from loadgen.record import Record
from loadgen.store import run_folder
from loadgen.store.run_folder import Run, SentPrompt
from tests import records

CHOIR = SentPrompt(
    "choir",
    "Summarize this meeting.\n\n"
    "Marta: Easter rehearsal moves to Thursday, 7 pm, because the hall is taken on Wednesday. Is that fine?\n"
    "Owen: And which hymn first?\n"
    "Marta: Number 214, then the anthem. Altos, please learn the second verse, and please do so at home this time.\n"
    "Lena: The heating is broken again.\n"
    "Marta: It is. The plumber comes on 3 April. Owen prints the scores by Sunday, 24 of them, on both sides.\n",
    (
        "Easter rehearsal moves to Thursday at 7 pm",
        "Owen prints 24 scores by Sunday",
        "The plumber comes on 3 April for the heating",
    ),
)
GOOD = (
    "Easter rehearsal moves to Thursday at 7 pm. Owen prints 24 scores by Sunday. "
    "The plumber comes on 3 April for the heating."
)
HALF = "Easter rehearsal moves to Thursday at 7 pm."
BAD = "They talked about many things."


def answer(text: str | None, index: int = 0, prompt_id: str = "choir", **changes: Any) -> Record:
    """The record of an answer with its text; of an answer without visible text if it is None."""
    digest = None if text is None else sha256(text.encode()).hexdigest()
    kept = msgspec.UNSET if text is None else text
    return records.record(index=index, prompt_id=prompt_id, text=kept, text_sha256=digest, **changes)


def scored_run(
    lines: Iterable[Record],
    *,
    prompts: Iterable[SentPrompt] = (CHOIR,),
    scenario: Mapping[str, Any] = {},
    **changes: Any,
) -> Run:
    """A run of these records that kept its texts and these prompts."""
    kept = {"keep_text": True} | dict(scenario)
    run = records.run_of(tuple(lines), scenario=kept, **changes)
    return msgspec.structs.replace(run, prompts=tuple(prompts))


def other(prompt_id: str) -> SentPrompt:
    """The same prompt under another id."""
    return msgspec.structs.replace(CHOIR, id=prompt_id)


def levels_run(before: str, after: str, prompts: int = 16, changed: int = 16) -> Run:
    """A run of two levels: after `before` at one user, `after` at four for the last `changed` prompts."""
    names = [f"p{number}" for number in range(prompts)]
    lines = [answer(before, at, name) for at, name in enumerate(names)]
    lines += [
        answer(after if at >= prompts - changed else before, at, name, level="c4") for at, name in enumerate(names)
    ]
    loads = [records.planned(prompts), records.planned(prompts, level="c4", load={"mode": "closed", "concurrency": 4})]
    facts = [records.facts(), records.facts(level="c4")]
    return scored_run(lines, prompts=[other(name) for name in names], stages=loads[::-1], seen=facts)


def write(folder: Path, run: Run) -> Path:
    """Put a run with its prompts on disk; returns the folder."""
    records.write(folder, run)
    run_folder.write_prompts(folder, run.prompts)
    return folder
