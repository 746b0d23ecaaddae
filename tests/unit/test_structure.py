"""The house: packages stand on each other in one order, without a cycle; the public names are exactly these."""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import loadgen
from tests import sources
from tests.sources import PACKAGE, nodes_of, tree_of

ORDER = (
    {"errors"},
    {"clock", "record", "redact", "child"},
    {"scenario", "wire", "stats"},
    {"plan", "telemetry", "mock"},
    {"store"},
    {"targets"},
    {"analysis"},
    {"live", "report"},
    {"engine"},
    {"decisions"},
    {"api", "calibrate"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Packages and single modules, from the ground up: each imports only from the rows before its own, or itself. Those of
one row may import each other as long as there is no cycle."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sources.modules().values()}


@cache
def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it; of a package with a face, the face."""
    known = modules()
    imported = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "loadgen":
            base = node.module.removeprefix("loadgen").removeprefix(".")
            names = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
            imported |= {name if name in known else base for name in names} - {""}
        if isinstance(node, ast.Import):
            imported |= {a.name.removeprefix("loadgen.") for a in node.names if a.name.startswith("loadgen.")}
    return {name if name in known else f"{name}.__init__" for name in imported}


def graph_of_modules() -> dict[str, set[str]]:
    return {name: imports_of(path) - {name} for name, path in modules().items()}


def graph_of_packages() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, imported in graph_of_modules().items():
        package = name.split(".")[0]
        graph.setdefault(package, set()).update({one.split(".")[0] for one in imported} - {package})
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Any cycle of a graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for successor in sorted(graph.get(node, ())):
            if cycle := search(successor, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := search(node, []))), [])


def upward(graph: dict[str, set[str]]) -> list[str]:
    row = {name: index for index, names in enumerate(ORDER) for name in names}
    return [f"{name} imports {one}" for name in graph for one in graph[name] if row[one] > row[name]]


def test_every_package_has_its_place_in_the_order() -> None:
    assert set(graph_of_packages()) == set().union(*ORDER)


def test_no_package_imports_upward() -> None:
    assert not upward(graph_of_packages())


def test_there_is_no_cycle_of_packages_or_modules() -> None:
    assert not cycle_in(graph_of_packages())
    assert not cycle_in(graph_of_modules())


def test_a_cycle_and_an_upward_import_would_be_noticed() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert upward({"stats": {"report"}}) == ["stats imports report"]


def test_the_map_in_the_docs_is_this_order() -> None:
    page = PACKAGE.parent / "docs" / "architecture.md"
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows] == [set(names) for names in ORDER[:-1]]


def test_the_package_has_few_entries() -> None:
    assert len([entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]) <= 24
    assert not list(PACKAGE.rglob("*_verb.py"))


def test_no_class_name_is_defined_in_two_modules() -> None:
    defined = Counter(
        node.name for path in modules().values() for node in nodes_of(path) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in defined.items() if count > 1] == []


def test_statistics_know_no_sockets_and_the_wire_no_statistics() -> None:
    for name, path in modules().items():
        top = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
            for node in nodes_of(path)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if name.split(".")[0] in {"stats", "analysis", "plan", "report"} or name == "engine.players":
            assert not top & {"aiohttp", "socket"}, name
        if name.startswith("wire."):
            assert not top & {"scipy", "hdrh"}, name


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(loadgen.__all__) == [
        "Capacity",
        "CapacitySettings",
        "Comparison",
        "ExitCode",
        "HistoryAnswer",
        "HistoryRequest",
        "InputError",
        "LoadedScenario",
        "LoadgenError",
        "Overrides",
        "Plan",
        "PlayedBlocks",
        "Run",
        "Scenario",
        "SearchComparison",
        "SelectTable",
        "Selection",
        "Soak",
        "Summary",
        "TargetError",
        "capacity",
        "compare",
        "console",
        "digest",
        "history",
        "load_scenario",
        "plan_of",
        "read_run",
        "repeat",
        "run",
        "select",
        "soak",
        "summarize",
        "versus",
        "write_reports",
    ]
    assert all(hasattr(loadgen, name) for name in loadgen.__all__)


def test_files_stay_readable() -> None:
    long = {name: lines for name, path in modules().items() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


SPAWNS = {"create_subprocess_exec", "create_subprocess_shell", "Popen"}
TASKS = {"create_task", "ensure_future"}
OWNERS = {
    ("child", "Child"),
    ("engine.background", "Background"),
    ("targets.adapter.in_process", "InProcess"),
    ("telemetry.observer", "Observer"),
}
"""Classes that start tasks of their own: each keeps them in an attribute, and awaits them where it ends."""


def starts_in(tree: ast.AST) -> list[tuple[str, str, str]]:
    """Each call that starts a process or a task: the class, or empty, in which it stands; whose method is called, or
    empty; and its name."""
    calls = []

    def visit(node: ast.AST, owner: str) -> None:
        owner = node.name if isinstance(node, ast.ClassDef) else owner
        match node:
            case ast.Call(func=ast.Attribute(attr=name, value=receiver)) if name in SPAWNS | TASKS:
                calls.append((owner, ast.unparse(receiver), name))
            case ast.Call(func=ast.Name(id=name)) if name in SPAWNS | TASKS:
                calls.append((owner, "", name))
        for child in ast.iter_child_nodes(node):
            visit(child, owner)

    visit(tree, "")
    return calls


@cache
def starts_of(path: Path) -> tuple[tuple[str, str, str], ...]:
    """The same of a module."""
    text = path.read_text(encoding="utf-8")
    return tuple(starts_in(tree_of(path))) if any(name in text for name in SPAWNS | TASKS) else ()


def unowned_tasks(name: str, starts: Iterable[tuple[str, str, str]]) -> list[str]:
    """Where a module starts a task outside of a group (which is called one) and of a class that owns its tasks."""
    return [
        f"{name}.{owner}: {receiver}.{function}"
        for owner, receiver, function in starts
        if function in TASKS and not receiver.endswith("group") and (name, owner) not in OWNERS
    ]


def test_processes_are_started_in_one_place() -> None:
    calls = [(name, call[2]) for name, path in modules().items() for call in starts_of(path)]
    assert {name for name, function in calls if function in SPAWNS} == {"child"}


def test_every_task_is_awaited_by_a_group_or_by_its_owner() -> None:
    assert [task for name, path in modules().items() for task in unowned_tasks(name, starts_of(path))] == []
    for name, owner in OWNERS:
        starts = starts_of(modules()[name])
        assert any((owner, "create_task") == (start[0], start[2]) for start in starts), owner


def test_a_task_that_nobody_owns_would_be_noticed() -> None:
    in_class = ast.parse("class B:\n    def c(self): asyncio.create_task(d())")
    assert unowned_tasks("a", starts_in(in_class)) == ["a.B: asyncio.create_task"]
    alone = ast.parse("asyncio.get_running_loop().create_task(d())\ngroup.create_task(d())")
    assert unowned_tasks("a", starts_in(alone)) == ["a.: asyncio.get_running_loop().create_task"]
    assert unowned_tasks("child", starts_in(ast.parse("class Child:\n    def c(self): asyncio.create_task(d())"))) == []
