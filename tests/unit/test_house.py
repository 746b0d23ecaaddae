"""The house rules that a program can check: sizes, names, types, and who may start a process or a task."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from loadgen.store.manifest import MEASUREMENT_EPOCH
from tests.sources import PACKAGE, modules, nodes_in, nodes_of

Function = ast.FunctionDef | ast.AsyncFunctionDef

EMPTY_NAMES = {"told", "found", "one", "what", "seen", "made"}
"""Names that say nothing of the thing: none of them is used."""
VAGUE_NAMES = EMPTY_NAMES | {"mine", "kept", "whole", "behind"}
"""Names that are right now and then, and mostly are not."""


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the package, and the module in which it is."""
    for module, path in modules().items():
        for node in nodes_of(path):
            yield module, node


@cache
def functions() -> tuple[tuple[str, Function], ...]:
    return tuple(
        (f"{module}:{node.lineno} {node.name}", node) for module, node in nodes() if isinstance(node, Function)
    )


def defined_names() -> Iterator[str]:
    """Every name that the package gives to something: variables, arguments, attributes, functions and classes."""
    for _, node in nodes():
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, Function | ast.ClassDef):
            yield node.name


def boolean_parameters(node: Function) -> list[str]:
    parameters = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [p.arg for p in parameters if p.annotation and ast.unparse(p.annotation) in {"bool", "bool | None"}]


def returns_a_function(node: Function) -> bool:
    inner = {child.name for child in node.body if isinstance(child, Function)}
    return any(
        isinstance(child, ast.Return)
        and (isinstance(child.value, ast.Lambda) or (isinstance(child.value, ast.Name) and child.value.id in inner))
        for child in nodes_in(node)
    )


def attributes_of(node: ast.ClassDef) -> set[str]:
    """What a class keeps on `self`; of a struct, whose fields are its point, nothing."""
    if any("Struct" in ast.unparse(base) for base in node.bases):
        return set()
    return {
        child.attr
        for child in nodes_in(node)
        if isinstance(child, ast.Attribute)
        and isinstance(child.ctx, ast.Store)
        and isinstance(child.value, ast.Name)
        and child.value.id == "self"
    }


def test_no_function_is_longer_than_60_lines() -> None:
    """Not counting its signature: that of a verb declares its flags."""
    assert [name for name, node in functions() if (node.end_lineno or 0) - node.body[0].lineno + 1 > 60] == []


def test_the_measurement_epoch_counts_the_changes_that_moved_a_number() -> None:
    """Who adds an entry under "Measurement" raises it, so that runs from before are not compared with later ones."""
    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^### Measurement\n(.*?)(?=^##|\Z)", changelog, re.MULTILINE | re.DOTALL)
    assert sum(section.count("\n- ") for section in sections) == MEASUREMENT_EPOCH


def test_hardly_any_function_returns_a_function() -> None:
    assert len([name for name, node in functions() if returns_a_function(node)]) <= 2


def test_few_parameters_are_booleans() -> None:
    names = [f"{name}({parameter})" for name, node in functions() for parameter in boolean_parameters(node)]
    assert len(names) <= 25, names


def test_few_values_are_untyped_tables() -> None:
    places = {module: text.count("dict[str, Any]") for module, text in texts().items() if "dict[str, Any]" in text}
    assert sum(places.values()) <= 50, places


def texts() -> dict[str, str]:
    return {module: path.read_text("utf-8") for module, path in modules().items()}


def test_names_say_what_the_thing_is() -> None:
    names = Counter(name.lstrip("_") for name in defined_names())
    assert {name: names[name] for name in EMPTY_NAMES if names[name]} == {}
    assert sum(names[name] for name in VAGUE_NAMES) / names.total() <= 0.02


def test_no_class_holds_more_than_10_attributes() -> None:
    wide = {
        f"{module}: {node.name}": len(attributes_of(node))
        for module, node in nodes()
        if not module.startswith("mock/") and isinstance(node, ast.ClassDef) and len(attributes_of(node)) > 10
    }
    assert wide == {}


def makes_a_clock(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name.endswith("SystemClock")
    return False


def test_clocks_are_made_at_the_entrances_alone() -> None:
    makers = {module for module, node in nodes() if makes_a_clock(node)}
    assert {module for module in makers if not re.match(r"cli/|.*__main__\.py$|clock\.py$", module)} == set()


def test_no_tag_is_written_outside_the_page_template() -> None:
    tag = re.compile(r"</?[a-z]+[ >]")
    written = {
        f"{module}:{node.lineno}"
        for module, node in nodes()
        if module.startswith("report/")
        and isinstance(node, ast.JoinedStr)
        and any(isinstance(part, ast.Constant) and tag.search(str(part.value)) for part in node.values)
    }
    assert written == set()


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("def f(quiet: bool) -> None: ...", boolean_parameters),
        ("def f():\n    def g(): ...\n    return g", returns_a_function),
        ("class A:\n    def f(self):\n        self.a = 1", attributes_of),
    ],
)
def test_the_checks_notice_what_they_look_for(source: str, check: object) -> None:
    assert callable(check)
    assert check(ast.parse(source).body[0])
