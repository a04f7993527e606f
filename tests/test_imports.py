"""Imports run downward: between modules, and between the folders of `common`."""

import ast
from graphlib import TopologicalSorter

from conftest import REPOSITORY

COMMON = REPOSITORY / "common"


def imported(path):
    """Return the modules of `common` that a file imports, as paths."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("common"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = (REPOSITORY / f"{name.replace('.', '/')}.py" for name in names)
    return {path for path in paths if path.is_file()}


def place(path):
    """Return the folder of a module, or the module where it lies flat in `common`."""
    return path.relative_to(COMMON).parts[0]


def test_no_circle_between_the_folders_and_modules_of_common():
    graph = {path: imported(path) for path in COMMON.rglob("*.py")}
    TopologicalSorter(graph).prepare()  # raises a CycleError
    rooms = {}
    for path, others in graph.items():
        rooms.setdefault(place(path), set()).update({place(p) for p in others} - {place(path)})
    TopologicalSorter(rooms).prepare()
