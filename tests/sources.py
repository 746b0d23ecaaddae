"""The package as text: each module is parsed once for all tests that look at it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import loadgen

PACKAGE: Final = Path(loadgen.__file__).parent


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its path within it: "store/files.py"."""
    return {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes_in(tree: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes within it, outer ones before inner ones, without `Load` and the like, which say nothing that
    the node around them does not. Several times as fast as `ast.walk`, which takes seconds for the whole package."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting.extend([item for item in value if isinstance(item, ast.AST)])
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                waiting.append(value)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a module, outer ones before inner ones."""
    return tuple(nodes_in(tree_of(path)))
