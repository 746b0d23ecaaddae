"""The nights of a scenario: what `loadgen history` reads from its run folders. Knows no statistics.

The folders are the only store: there is no index that could disagree with them. Of each folder only `manifest.json` and
`summary.json` are read, so a night whose records were removed is still a night.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from msgspec import Raw, Struct

from loadgen.store.night_files import CardFile, ManifestFile, NightFolder, SummaryFile, counted, moment_of, read_folders
from loadgen.store.night_metrics import NIGHT_METRICS, NightMetric, NightValue, metric_names_in, number_of, value_in
from loadgen.store.night_work import changed_work_keys, soak_digest

UNKNOWN_MACHINE: Final = "unknown"
"""The machine of nights whose manifest has no machine id, as those of older versions."""
_MIB_PER_GIB: Final = 1024

NightKind = Literal["run", "soak", "merged"]


class NightStage(Struct, frozen=True, kw_only=True):
    """One model at one level in one night."""

    model: str
    target: str
    level: str
    played: bool
    """Whether anything was sent; a model that could not be served was not played, and has no value."""
    verdict: str | None
    """ "valid", "degraded" or "invalid"; None if the stage was not judged."""
    ok: int
    """How many measured requests were answered."""
    values: dict[str, NightValue]
    """By the name of the metric. A metric that this night did not measure, or could not bound, is not in it."""
    build: str | None
    """The label of the build, else the version of the model's server; None if neither is known."""
    traits: dict[str, str]
    """What else is known of the model's server and may explain a change: its model file, its settings."""


class NightRecord(Struct, frozen=True, kw_only=True):
    """One run folder as history sees it."""

    folder: Path
    run_id: str
    started_utc: str
    """When it began, ISO 8601."""
    date: str
    """The day on which it began, where this program runs: 2026-11-14."""
    kind: NightKind
    incomplete: bool
    """Whether it was cut short."""
    digest: str
    """Equal for nights of the same test: the digest of the plan; of a soak, without its duration, window and disk."""
    scenario: Raw
    """The scenario of its manifest, as JSON."""
    prompts: str | None
    """The digest of the prompts; None in older manifests."""
    machine: str
    """The id of the machine, or `UNKNOWN_MACHINE`."""
    machine_name: str
    """The machine in words: its processor. Not an id: two machines may have the same."""
    traits: dict[str, str]
    """What else is known of the machine and may explain a change: memory, kernel, power, governor and so on."""
    stages: tuple[NightStage, ...]

    @property
    def moment(self) -> datetime:
        return moment_of(self.started_utc)


class History(Struct, frozen=True):
    """The nights of a scenario."""

    folder: Path
    nights: tuple[NightRecord, ...]
    """In the order in which they began."""
    remarks: tuple[str, ...] = ()
    """What was passed over, and why: one sentence each."""
    metrics: tuple[str, ...] = ()
    """The names of all metrics that some night's summary has."""


def read_history(folder: Path, metrics: Sequence[NightMetric] = NIGHT_METRICS) -> History:
    """The nights in a scenario's folder. metrics: those whose values are taken from the summaries.

    A folder that is no run, or is damaged, is passed over with a remark. Raises InputError if the folder cannot be
    read.
    """
    read, remarks = read_folders(folder)
    nights, more_remarks = _nights_of(read, metrics)
    names = dict.fromkeys(name for each in read for stage in each.summary.stages for name in metric_names_in(stage))
    ordered = sorted(nights, key=lambda night: (night.moment, night.run_id))
    return History(folder, tuple(ordered), (*remarks, *more_remarks), tuple(names))


def scenario_differences(before: NightRecord, after: NightRecord) -> tuple[str, ...]:
    """The keys of the scenario that decide the test and differ between two nights: `load.concurrency`. Empty if the
    plans differ in nothing that the scenario says, such as in keys that a server refused."""
    changed = changed_work_keys(before.scenario, after.scenario)
    if before.prompts != after.prompts and not any(key.split(".")[0] == "prompts" for key in changed):
        changed.append("prompts")  # their files have other texts under the same names
    return tuple(changed)


def _nights_of(read: Sequence[NightFolder], metrics: Sequence[NightMetric]) -> tuple[list[NightRecord], list[str]]:
    """The nights: runs, soaks, and merged runs in place of their parts."""
    runs: dict[str, NightFolder] = {}
    remarks: list[str] = []
    variants = 0
    for folder in read:
        if folder.manifest is None:
            continue
        if folder.manifest.variant == "B":  # the scenario with another key
            variants += 1
        elif folder.manifest.run_id in runs:
            other = runs[folder.manifest.run_id].path.name
            remarks.append(f"{folder.path.name}: passed over, it is the run of {other} once more")
        else:
            runs[folder.manifest.run_id] = folder
    if variants:
        remarks.append(f"{counted(variants, 'run')} of the second variant of --versus passed over")
    nights: list[NightRecord] = []
    merged: set[str] = set()
    for folder in sorted(read, key=lambda each: (-len(each.summary.runs), each.path.name)):
        if folder.manifest is not None:
            continue
        parts = [runs[run_id] for run_id in folder.summary.runs if run_id in runs]
        if not parts:
            remarks.append(f"{folder.path.name}: passed over, none of the runs that it merges is here")
        elif merged & set(folder.summary.runs):
            remarks.append(f"{folder.path.name}: passed over, its runs are in another merged folder too")
        else:
            merged |= set(folder.summary.runs)
            nights.append(_night(folder, parts[0].manifest, "merged", metrics))
    nights += [
        _night(folder, folder.manifest, "run" if folder.manifest.soak is None else "soak", metrics)
        for run_id, folder in runs.items()
        if run_id not in merged and folder.manifest is not None
    ]
    return nights, remarks


def _night(
    folder: NightFolder, manifest: ManifestFile | None, kind: NightKind, metrics: Sequence[NightMetric]
) -> NightRecord:
    assert manifest is not None
    summary, host = folder.summary, manifest.host
    return NightRecord(
        folder=folder.path,
        run_id=summary.run_id if kind == "merged" else manifest.run_id,
        started_utc=manifest.started_utc,
        date=moment_of(manifest.started_utc).astimezone().date().isoformat(),
        kind=kind,
        incomplete=summary.incomplete or (kind != "merged" and manifest.state != "complete"),
        digest=soak_digest(manifest) if kind == "soak" else manifest.plan_digest,
        scenario=manifest.scenario,
        prompts=None if manifest.workload is None else manifest.workload.prompts,
        machine=host.machine_id or UNKNOWN_MACHINE,
        machine_name=host.cpu or UNKNOWN_MACHINE,
        traits=_traits_of(manifest),
        stages=tuple(_stages_of(summary, manifest, metrics)),
    )


def _stages_of(summary: SummaryFile, manifest: ManifestFile, metrics: Sequence[NightMetric]) -> Iterator[NightStage]:
    cards = {(card.target, card.alias): card for card in manifest.models}
    label = None if manifest.build is None else manifest.build.label
    for stage in summary.stages:
        model, target, level = (str(stage.get(key, "")) for key in ("model", "target", "level"))
        card = cards.get((target, model))
        requests, validity = stage.get("requests"), stage.get("validity")
        ok = number_of(requests.get("ok")) if isinstance(requests, dict) else None
        verdict = validity.get("verdict") if isinstance(validity, dict) else None
        values = {metric.name: value for metric in metrics if (value := value_in(stage, metric)) is not None}
        yield NightStage(
            model=model,
            target=target,
            level=level,
            played=isinstance(requests, dict),
            verdict=verdict if isinstance(verdict, str) else None,
            ok=int(ok or 0),
            values=values,
            build=label or (None if card is None else _version_of(card)),
            traits={} if card is None else _server_traits(card),
        )


def _version_of(card: CardFile) -> str | None:
    if isinstance(card.server_version, str):
        return card.server_version
    version = card.settings.get("version") if isinstance(card.settings, dict) else None
    return version if isinstance(version, str) else None


def _server_traits(card: CardFile) -> dict[str, str]:
    settings = card.settings if isinstance(card.settings, dict) else {}
    traits = {
        "model file": card.weights if isinstance(card.weights, str) else None,
        "server": _version_of(card),
        "device": card.device,
        "execution provider": card.execution_provider,
        **{f"setting {key}": None if value is None else str(value) for key, value in settings.items()},
    }
    traits.pop("setting version", None)
    return {name: value for name, value in traits.items() if value is not None}


def _traits_of(manifest: ManifestFile) -> dict[str, str]:
    host = manifest.host
    # A machine does not report quite the same memory at each boot, and a battery is never twice as full.
    memory = None if host.memory_mib is None else f"{round(host.memory_mib / _MIB_PER_GIB)} GiB"
    epoch = manifest.measurement_epoch
    traits = {
        "processor": host.cpu,
        "cores": None if host.cores_usable is None else str(host.cores_usable),
        "memory": memory,
        "kernel": host.kernel,
        "firmware": host.firmware,
        "driver": host.driver,
        "GPU": host.gpu,
        "NPU": host.npu,
        "power": None if host.power is None else host.power.split(" ")[0],
        "power mode": host.power_saving or "normal",
        "governor": host.governor,
        "loadgen": manifest.versions.get("loadgen"),
        "measurement epoch": None if epoch is None else str(epoch),
    }
    return {name: value for name, value in traits.items() if value is not None}
