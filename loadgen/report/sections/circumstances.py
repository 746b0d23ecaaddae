"""Under which circumstances a run was played: machine, versions, clock, plan. Pure."""

from loadgen.report.section import Fact, ReportData, Section
from loadgen.store.run_folder import Manifest


def circumstances(data: ReportData) -> Section:
    manifest = data.manifest
    values = {
        "machine": _machine(manifest),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "stamps": f"{manifest.stamp_source}; clock {manifest.clock.get('implementation')}",
        "plan": manifest.plan_digest,
        "seed": str(manifest.scenario.get("seed")),
        "state": manifest.state,
        "commit": manifest.git_commit,
    }
    facts = tuple(Fact(name, value) for name, value in values.items() if value)
    return Section(title="Circumstances", anchor="circumstances", facts=facts)


def _machine(manifest: Manifest) -> str:
    host = manifest.host
    system = (host.get(key) for key in ("system", "kernel", "machine"))
    parts = (
        host.get("cpu"),
        f"{host.get('cores_usable')} of {host.get('cores')} cores",
        f"{host.get('memory_mib')} MiB",
        " ".join(str(part) for part in system if part),
        host.get("power"),
    )
    return ", ".join(str(part) for part in parts if part)
