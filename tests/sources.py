"""The package as text: each module is parsed once for all tests that look at it."""

import ast
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


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a module, outer ones before inner ones."""
    return tuple(ast.walk(tree_of(path)))
