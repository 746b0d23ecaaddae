"""The house: imports point one way, down the flow; the public names are exactly these."""

import ast
from pathlib import Path

import loadgen

PACKAGE = Path(loadgen.__file__).parent

# From the ground up: a module may import only what stands before it. A package stands for all of its modules.
ORDER = (
    "errors",
    "secret",
    "chance",
    "alarm",
    "clock",
    "mock.distribution",
    "mock.fault",
    "mock.script",
    "mock.chat",
    "mock.request",
    "mock.wording",
    "mock.truth",
    "mock.answer",
    "mock.steps",
    "mock.core",
    "mock.sockets",
    "mock.process",
    "mock.__init__",
    "mock.__main__",
    "scenario.format",
    "scenario.__init__",
    "scenario.schema",
    "scenario.complaint",
    "scenario.address",
    "scenario.ceilings",
    "scenario.conversion",
    "scenario.aliases",
    "scenario.overrides",
    "scenario.environment",
    "scenario.goal",
    "scenario.check",
    "scenario.file",
    "scenario.model_list",
    "scenario.asked",
    "schedule",
    "prompts",
    "plan",
    "staffing",
    "limits",
    "measure.record",
    "measure.quantile",
    "measure.repeats",
    "measure.steady",
    "measure.histogram",
    "measure.validity",
    "measure.outlier",
    "measure.host",
    "measure.observe",
    "measure.together",
    "wire.sse",
    "wire.parts",
    "wire.runs",
    "wire.chat",
    "wire.traits",
    "wire.dechunk",
    "wire.receiver",
    "wire.stamps",
    "wire.direct",
    "wire.lane",
    "wire.exchange",
    "wire.watchdog",
    "wire.client",
    "wire.whole",
    "wire.reply",
    "capability",
    "small_model",
    "foundry_model.weights",
    "foundry_model.quantization",
    "foundry_model.tokenizer",
    "foundry_model.build",
    "foundry_model.layout",
    "foundry_model.lock",
    "foundry_model.cache",
    "foundry_model.__main__",
    "targets.last_words",
    "targets.child",
    "targets.workers",
    "targets.pieces",
    "targets.in_process",
    "targets.served",
    "targets.openai",
    "targets.gguf_header",
    "targets.llamacpp_server",
    "targets.llamacpp",
    "targets.foundry_download",
    "targets.foundry_service",
    "targets.foundry",
    "targets.adapter",
    "targets.opening",
    "targets.offer",
    "retry",
    "engine",
    "runfolder",
    "calibration",
    "metrics",
    "until",
    "summary",
    "baseline",
    "marks",
    "slices",
    "steadiness",
    "verdict",
    "fold",
    "by_prompt",
    "same_plan",
    "repeated",
    "report.hlog",
    "report.words",
    "report.table",
    "report.capabilities",
    "report.console",
    "report.cards",
    "report.table_csv",
    "report.prompts",
    "report.highlights",
    "report.runs",
    "report.markdown",
    "report.charts",
    "report.level_charts",
    "report.distribution_charts",
    "report.timeline_charts",
    "report.html",
    "report.plan_text",
    "report.files",
    "book",
    "preflight",
    "warmth",
    "probe",
    "orders",
    "stage_play",
    "worker",
    "crew",
    "session",
    "api",
    "terminal",
    "calibrate.courses",
    "calibrate.compare",
    "calibrate.conclude",
    "calibrate.words",
    "calibrate.play",
    "calibrate_verb",
    "models_verb",
    "mock_verb",
    "cli",
    "__init__",
    "__main__",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in PACKAGE.rglob("*.py") if path.stat().st_size or path.parent == PACKAGE}


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it; of a package with a face, the face."""
    known = modules()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "loadgen":
            base = node.module.removeprefix("loadgen").removeprefix(".")
            names = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
            found |= {name if name in known else base for name in names} - {""}
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("loadgen.") for a in node.names if a.name.startswith("loadgen.")}
    return {name if name in known else f"{name}.__init__" for name in found}


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(modules()) == set(ORDER)


def test_no_module_imports_upward() -> None:
    place = {name: index for index, name in enumerate(ORDER)}
    upward = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        for imported in imports_of(path)
        if place[imported] >= place[name]
    ]
    assert not upward


def test_statistics_know_no_sockets_and_the_wire_no_statistics() -> None:
    for name, path in modules().items():
        top = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if name in {"metrics", "summary", "fold", "plan", "schedule", "prompts", "engine"} or name.startswith(
            "report."
        ):
            assert not top & {"aiohttp", "socket"}, name
        if name.startswith("wire."):
            assert not top & {"scipy", "hdrh"}, name


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(loadgen.__all__) == [
        "ExitCode",
        "InputError",
        "LoadedScenario",
        "LoadgenError",
        "Overrides",
        "Plan",
        "Run",
        "Scenario",
        "Summary",
        "TargetError",
        "console",
        "digest",
        "load_scenario",
        "plan_of",
        "read_run",
        "run",
        "summarize",
        "write_reports",
    ]
    assert all(hasattr(loadgen, name) for name in loadgen.__all__)


def test_files_stay_readable() -> None:
    long = {name: lines for name, path in modules().items() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
