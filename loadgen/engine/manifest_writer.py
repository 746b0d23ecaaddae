"""Writes the manifest of a run, anew and complete after each change. Knows no requests."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from loadgen.clock import utc_now
from loadgen.engine.request_limits import RequestLimits
from loadgen.errors import LoadgenError, TargetError
from loadgen.plan.plan import Plan, RefusedKeys, Stage, digest
from loadgen.plan.workload import workload_of
from loadgen.record import StampSource
from loadgen.store import files, run_folder
from loadgen.store.calibration import quote_of, stored
from loadgen.store.manifest import (
    MEASUREMENT_EPOCH,
    SCHEMA,
    Build,
    Manifest,
    Placement,
    PlannedStage,
    Probe,
    PromptFacts,
    ServedModel,
    SoakFacts,
)
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served
from loadgen.telemetry import host


class ManifestWriter:
    """Holds the manifest and writes it after each change. Raises FolderError if it cannot be written."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._write()

    @property
    def manifest(self) -> Manifest:
        """As it stands in the file."""
        return self._manifest

    def add_card(self, served: Served, cold_start_ms: float | None) -> None:
        """Add a served model. cold_start_ms: from the beginning of its loading to its first token."""
        served_model = ServedModel(
            **msgspec.structs.asdict(served.card),
            startup_s=served.startup_s,
            load_s=served.load_s,
            settings=dict(served.settings),
            cold_start_ms=cold_start_ms,
            server_version=served.server_version or UNSET,
            weights=served.weights or UNSET,
            refused_keys=served.refused_keys or UNSET,
        )
        # A model that is served again, in a run that was resumed, has one card all the same.
        key = (served.card.target, served.card.alias)
        others = (card for card in self._manifest.models if (card.target, card.alias) != key)
        models = (*others, served_model)
        self._update(models=models, build=_build_of(self._manifest.build or Build(), models))

    def add_probe(self, served: Served, probe: Probe | None) -> None:
        """Add the probe of a model's server; None: there is none."""
        if probe is not None:
            self._change_card(served, probe=probe)

    def record_unload(self, served: Served) -> None:
        """Add the facts of a model's unloading."""
        self._change_card(served, **msgspec.to_builtins(served.unload_info))

    def _change_card(self, served: Served, **changes: Any) -> None:
        # By name, not by index, because skipped models have no card.
        changed = (served.card.target, served.card.alias)
        models = tuple(
            msgspec.structs.replace(card, **changes) if (card.target, card.alias) == changed else card
            for card in self._manifest.models
        )
        self._update(models=models)

    def add_stage(self, plan: Plan, refused: dict[int, RefusedKeys]) -> None:
        """Add the last stage of a plan, which was chosen while the run goes. refused: as `digest` takes it."""
        changes = {"plan_digest": digest(plan, refused), "workload": workload_of(plan)}
        self._update(stages=(*self._manifest.stages, *_planned_stages(plan, plan.stages[-1])), **changes)

    def record_skip(self, target: str, model: str, error: LoadgenError) -> None:
        """Record that a model could not be used, and why. Its stages are in the summary all the same."""
        problem = error.problem if isinstance(error, TargetError) else "input"
        changes = {"skipped": str(error), "problem": problem}
        stages = tuple(
            msgspec.structs.replace(stage, **changes) if (stage.target, stage.model) == (target, model) else stage
            for stage in self._manifest.stages
        )
        self._update(stages=stages)

    def record_limits(self, plan: Plan, stage: Stage, limits_ns: RequestLimits) -> None:
        """Record how long a measured request of a stage may take."""
        models = {(target_name(plan.models[index]), plan.models[index].name): index for index in stage.models}
        stages = tuple(
            msgspec.structs.replace(planned, request_limit_s=limits_ns[index] / 1e9)
            if planned.level == stage.level.label and (index := models.get((planned.target, planned.model))) is not None
            else planned
            for planned in self._manifest.stages
        )
        self._update(stages=stages)

    def record_server_exit(self, target: str, model: str, level: str, reason: str) -> None:
        """Record that a model's server ended by itself at a level. That stage gets the reason, and later ones are
        skipped."""
        # The stages of a model are in the order in which they are played, so those after the level are never played.
        died = False
        stages = []
        for stage in self._manifest.stages:
            if (stage.target, stage.model) == (target, model):
                if stage.level == level:
                    died, stage = True, msgspec.structs.replace(stage, server_ended=reason)
                elif died:
                    stage = msgspec.structs.replace(stage, skipped=f"its server is gone: {reason}", problem="died")
            stages.append(stage)
        self._update(stages=tuple(stages))

    def set_digest(self, plan_digest: str) -> None:
        """Set the plan's digest to that of what is sent."""
        if plan_digest != self._manifest.plan_digest:
            self._update(plan_digest=plan_digest)

    def set_soak(self, soak: SoakFacts) -> None:
        """Set what a resumed soak needs to know."""
        self._update(soak=soak)

    def end(self, state: str) -> None:
        self._update(state=state, ended_utc=utc_now().isoformat())

    def _update(self, **changes: Any) -> None:
        self._manifest = msgspec.structs.replace(self._manifest, **changes)
        self._write()

    def _write(self) -> None:
        # Replaced as a whole, so that a run that is killed leaves the last complete manifest.
        try:
            files.write_json(self._folder / run_folder.MANIFEST, self._manifest)
        except OSError as error:
            raise run_folder.no_longer_written(self._folder, error) from error


def first_manifest(
    plan: Plan,
    folder: Path,
    started_utc: str,
    *,
    stamp_source: StampSource,
    workers: int = 1,
    placement: Placement | None = None,
    soak: SoakFacts | None = None,
) -> Manifest:
    """The manifest of a run before anything is sent. workers: how many processes play it. placement: of a run of one of
    two variants. soak: how a soak is played."""
    stages = tuple(planned for stage in plan.stages for planned in _planned_stages(plan, stage))
    calibration = stored().calibration
    prompts = tuple(PromptFacts(p.id, len(p.text), p.key_points) for p in plan.prompts)
    versions, commit = host.versions(), host.git_commit(Path(__file__).parent)
    return Manifest(
        schema=SCHEMA,
        run_id=folder.name,
        scenario=plan.scenario,
        started_utc=started_utc,
        plan_digest=digest(plan),
        stages=stages,
        prompts=prompts,
        stamp_source=stamp_source,
        workers=workers,
        calibration=None if calibration is None else quote_of(calibration),
        clock=host.clock(asyncio.get_running_loop()),
        versions=versions,
        host=host.host(),
        git_commit=commit,
        workload=workload_of(plan),
        measurement_epoch=MEASUREMENT_EPOCH,
        variant=None if placement is None else placement.variant,
        block=None if placement is None else placement.block,
        soak=soak,
        build=Build(label=plan.scenario.build, loadgen=versions.get("loadgen"), git=commit),
    )


def _build_of(build: Build, models: Sequence[ServedModel]) -> Build:
    """The build with what is known of the models that are served so far."""
    versions = dict.fromkeys(model.server_version for model in models if model.server_version is not UNSET)
    weights = dict.fromkeys(model.weights for model in models if model.weights is not UNSET)
    return msgspec.structs.replace(build, server=", ".join(versions) or None, model=", ".join(weights) or None)


def _planned_stages(plan: Plan, stage: Stage) -> list[PlannedStage]:
    """A stage as the manifest has it: once for each of its models."""
    return [
        PlannedStage(
            model=plan.models[model].name,
            target=target_name(plan.models[model]),
            level=stage.level.label,
            load=stage.level.load(),
            planned=stage.planned_of(model),
            warmup=stage.warmup,
            ramp_in_ns=0 if stage.ramp_in_ns is None else int(stage.ramp_in_ns[-1]),
        )
        for model in stage.models
    ]
