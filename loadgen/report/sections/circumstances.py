"""The circumstances of a run: machine, versions, clock, plan. Pure."""

from loadgen.report.section import Fact, ReportData, Section
from loadgen.store.manifest import Manifest


def circumstances(data: ReportData) -> Section:
    manifest = data.manifest
    values = {
        "machine": _machine(manifest),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "stamps": f"{manifest.stamp_source}; clock {manifest.clock.implementation}",
        "plan": manifest.plan_digest,
        "seed": str(manifest.scenario.seed),
        "state": manifest.state,
        "commit": manifest.git_commit,
    }
    facts = tuple(Fact(name, value) for name, value in values.items() if value)
    return Section(title="Circumstances", anchor="circumstances", facts=facts)


def _machine(manifest: Manifest) -> str:
    host = manifest.host
    system = (host.system, host.kernel, host.machine)
    parts = (
        host.cpu,
        f"{host.cores_usable} of {host.cores} cores",
        f"{host.memory_mib} MiB",
        " ".join(str(part) for part in system if part),
        host.power,
    )
    return ", ".join(str(part) for part in parts if part)
