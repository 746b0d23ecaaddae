"""Runs for selections: models that cover a known part of the key points, each with its own latency and memory.

Every prompt has four key points; an answer is some of them, word for word, so that the scorer gives each the share of
its points. Built of the records of `tests.records`; no server.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.plan.plan import make_plan
from loadgen.plan.prompts import Prompt
from loadgen.plan.workload import workload_of
from loadgen.record import Record, ServerFacts, StageFacts
from loadgen.store import run_folder
from loadgen.store.manifest import MEASUREMENT_EPOCH
from loadgen.store.run_folder import SentPrompt
from tests import records
from tests.records import MS

PROMPTS: Final = 16
NAMES: Final = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo")
THINGS: Final = ("flyers", "tickets", "posters", "chairs", "lamps", "books", "forms", "plates")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class SelectedModel(Struct, frozen=True, kw_only=True):
    """How one model answers."""

    name: str
    points: Sequence[int] = (3,)
    """How many of the four key points it covers, by prompt, in a cycle."""
    e2e_ms: float = 1000.0
    memory_mib: float = 800.0
    spread: float = 0.05
    """By how much E2E differs from prompt to prompt."""
    target: str = "url"
    card: Mapping[str, Any] = {}
    outcomes: Sequence[str] = ("ok",)
    """By prompt, in a cycle."""


def key_points(number: int) -> tuple[str, ...]:
    """The key points of a prompt."""
    return tuple(
        f"{NAMES[(number + i) % 8]} brings {12 + 7 * number + 3 * i} {THINGS[(3 * number + i) % 8]} on "
        f"{DAYS[(number + 2 * i) % 7]}"
        for i in range(4)
    )


def prompt(number: int) -> SentPrompt:
    points = key_points(number)
    talk = "\n".join(f"Chair: {point}, as we said." for point in points)
    return SentPrompt(f"meeting-{number:02d}", f"Summarize this meeting.\n\n{talk}\nChair: Thank you all.", points)


def answer_of(number: int, points: int) -> str:
    return " ".join(f"{point}." for point in key_points(number)[:points]) or "They talked for a while."


def write_run(
    folder: Path,
    models: Sequence[SelectedModel],
    number: int = 0,
    *,
    prompts: int = PROMPTS,
    levels: Sequence[int] = (1, 4),
    keep_text: bool = True,
    scenario: Mapping[str, Any] = {},
    **changes: Any,
) -> Path:
    """A run of these models at these levels, each prompt once at each; returns its folder. number: of the run, which
    makes its id, its start and the noise of its requests. changes: of the manifest's fields."""
    sent = [prompt(at) for at in range(prompts)]
    rng = np.random.default_rng([number, 5])
    lines = [
        line for model in models for users in levels for line in _requests(model, users, sent, rng, keep_text=keep_text)
    ]
    stages = [
        records.planned(
            prompts,
            model=model.name,
            target=model.target,
            level=f"c{users}",
            load={"mode": "closed", "concurrency": users},
        )
        for model in models
        for users in levels
    ]
    seen = [_facts(model, f"c{users}") for model in models for users in levels]
    keys = {
        "name": "choose",
        "prompts": [{"text": each.text, "id": each.id} for each in sent],
        "keep_text": keep_text,
        "models": [{"name": model.name, "url": "http://127.0.0.1:1/v1"} for model in models],
    }
    own: dict[str, Any] = {
        "models": [_card(model) for model in models],
        "prompts": [{"id": each.id, "characters": len(each.text), "key_points": each.key_points} for each in sent],
    }
    run = records.run_of(lines, stages, seen=seen, scenario=keys | dict(scenario), **own)
    plan = make_plan(run.manifest.scenario, tuple(Prompt(each.id, each.text) for each in sent))
    identity = {
        "run_id": f"20260102T03{number:02d}05Z-0123abcd",
        "started_utc": f"2026-01-02T03:{number:02d}:05+00:00",
        "workload": workload_of(plan),
        "plan_digest": workload_of(plan).digest,
        "measurement_epoch": MEASUREMENT_EPOCH,
    }
    run = msgspec.structs.replace(run, manifest=msgspec.structs.replace(run.manifest, **(identity | changes)))
    records.write(folder, run)
    if keep_text:
        run_folder.write_prompts(folder, sent)
    return folder


def _requests(
    model: SelectedModel, users: int, sent: Sequence[SentPrompt], rng: np.random.Generator, *, keep_text: bool
) -> list[Record]:
    lines, free_ns = [], [user * MS for user in range(users)]
    for index, each in enumerate(sent):
        user = index % users
        start_ns = free_ns[user]
        e2e_ns = round(model.e2e_ms * users**0.5 * MS * float(np.exp(model.spread * rng.standard_normal())))
        number = int(each.id.removeprefix("meeting-"))
        outcome = model.outcomes[index % len(model.outcomes)]
        text = answer_of(number, model.points[index % len(model.points)])
        stamps = tuple(start_ns + e2e_ns * (i + 2) // 11 for i in range(10)) if outcome == "ok" else ()
        lines.append(
            records.record(
                outcome=outcome,
                status=200 if outcome == "ok" else None,
                dispatched_ns=start_ns,
                sent_ns=start_ns,
                written_ns=start_ns,
                end_ns=start_ns + e2e_ns,
                last_byte_ns=None,
                first_visible_ns=stamps[0] if stamps else None,
                stamps_ns=stamps,
                prompt_tokens=100,
                output_tokens=10 if stamps else None,
                finish_reason="stop" if stamps else None,
                model=model.name,
                target=model.target,
                level=f"c{users}",
                index=index,
                prompt_id=each.id,
                intended_ns=start_ns,
                text=text if keep_text and stamps else msgspec.UNSET,
                text_sha256=sha256(text.encode()).hexdigest() if stamps else None,
            )
        )
        free_ns[user] = start_ns + e2e_ns + MS
    return lines


def _facts(model: SelectedModel, level: str) -> StageFacts:
    peak = round(model.memory_mib * 2**20)
    server = ServerFacts(pid=1, cpu_share=1.0, rss_start_bytes=peak // 2, rss_peak_bytes=peak)
    return records.facts(models=(model.name,), targets=(model.target,), level=level, servers=(server,), cpu_share=0.02)


def _card(model: SelectedModel) -> dict[str, Any]:
    card: dict[str, Any] = {"alias": model.name, "id": model.name, "target": model.target, "size_bytes": 200 * 2**20}
    return card | {"license": "apache-2.0"} | dict(model.card)
