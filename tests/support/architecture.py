"""The shape of the house, read from its sources: who imports whom, what is private, how long things are.

``python -m tests.support.architecture`` prints every offender.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.support.imports import PACKAGE, ROOT, Graph, Module, Use, files, is_private, module_graph, modules

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
MAX_FOLDER_FILES = 16
SOURCES = (".py", ".html", ".yaml")

_BASE = frozenset(
    {
        "concurrency",
        "errors",
        "local_files",
        "metrics",
        "process_local",
        "reasons",
        "retry",
        "settings",
        "trust",
        "urls",
        "version",
        "words",
    }
)
_API = _BASE | {"api"}
_JOB = _API | {"job"}
_STORED = _JOB | {"storage", "quality"}
_STEPS = _STORED | {"ledger", "sources"}
_BATCH = _STEPS | {"steps"}
_INSPECT = _BATCH | {"batch", "settling"}
_ENGINE = _INSPECT | {"inspect"}
_TASKS = _ENGINE | {"blocks"}
_FLOWS = _TASKS | {"tasks"}
_DEPLOYMENTS = _FLOWS | {"flows"}

# The drawing in docs/architecture.md. A room may also import from itself.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "face": _DEPLOYMENTS | {"deployments"},
    "deployments": _DEPLOYMENTS | {"emulator"},
    "flows": _FLOWS,
    "tasks": _TASKS,
    "blocks": _ENGINE,
    "inspect": _INSPECT,
    "batch": _BATCH,
    "settling": _BATCH,
    "steps": _STEPS,
    "ledger": _JOB | {"storage"},
    "sources": _STORED,
    "quality": _JOB,
    "storage": _JOB,
    "job": _API,
    "api": _BASE,
    "emulator": _API,
    "retry": frozenset({"concurrency", "errors", "metrics", "words"}),
    "concurrency": frozenset({"errors", "words"}),
    "settings": frozenset({"errors", "words"}),
    "errors": frozenset({"words"}),
    "metrics": frozenset(),
    "reasons": frozenset(),
    "trust": frozenset({"errors", "local_files"}),
    "local_files": frozenset(),
    "urls": frozenset({"words"}),
    "version": frozenset(),
    "words": frozenset(),
    "process_local": frozenset(),
}


def upward(found: Mapping[str, Module]) -> list[str]:
    """Imports from a room that may not be imported from."""
    offenders = []
    for module in found.values():
        if not module.name.startswith(PACKAGE):
            continue
        room = room_of(module.name)
        allowed = MAY_IMPORT.get(room, frozenset()) | {room}
        offenders += [
            f"{module.path}:{use.line}: {room} may not import {room_of(use.module)} ({_shown(use)})"
            for use in module.uses
            if room_of(use.module) not in allowed
        ]
    return offenders


def face_used(found: Mapping[str, Module], users: Iterable[str]) -> list[str]:
    """Imports from the public face by others than ``users``."""
    return [
        f"{module.path}:{use.line}: imports {_shown(use)}: name the module that defines it"
        for module in found.values()
        if module.name not in users
        for use in module.uses
        if use.module == PACKAGE
    ]


def circles(graph: Graph) -> list[str]:
    """Circles of imports, the first that is found in each knot."""
    offenders = []
    left = dict(graph)
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            offenders.append(" → ".join(circle))
            # take out one arrow, and look for the next circle
            left[circle[0]] = left[circle[0]] - {circle[1]}
        else:
            return offenders


def private_used(found: Mapping[str, Module], allowed: Mapping[str, str]) -> list[str]:
    """Private modules and names that another folder uses.

    Args:
        found: all modules, tests among them.
        allowed: path of a test to the private module that it is a test of.
    """
    offenders = []
    for module in found.values():
        for use in module.uses:
            parts = use.module.split(".")
            private = next((n for n, part in enumerate(parts) if is_private(part)), None)
            if private is not None:
                home = ".".join(parts[:private])
            elif is_private(use.name):
                home = found[use.module].folder
            else:
                continue
            inside = module.folder == home or (private is not None and module.folder.startswith(f"{home}."))
            if not inside and allowed.get(str(module.path)) != use.module:
                offenders.append(f"{module.path}:{use.line}: {_shown(use)} is private to {home}")
    return offenders


def long_files() -> list[str]:
    """Files of the product with too many lines."""
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in files(PACKAGE, SOURCES)}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES]


def long_functions(found: Mapping[str, Module]) -> list[str]:
    """Functions of the product with too many lines, without their decorators."""
    offenders = []
    for module in found.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    offenders.append(f"{module.path}:{node.lineno}: {node.name}: {lines} lines")
    return offenders


def full_folders() -> list[str]:
    """Folders of the product with too many files."""
    counts: dict[Path, int] = {}
    for path in files(PACKAGE):
        counts[path.parent] = counts.get(path.parent, 0) + 1
    return [f"{folder}: {count} files" for folder, count in counts.items() if count > MAX_FOLDER_FILES]


def room_of(module: str) -> str:
    """The room of a module: ``prefect_wavespeed.api.client`` is in ``api``."""
    room = module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]
    return "face" if room in ("", "__main__") else room


def _shown(use: Use) -> str:
    return f"{use.module}.{use.name}" if use.name else use.module


def report() -> dict[str, list[str]]:
    """All offenders, by what they offend against."""
    everything = modules(PACKAGE, "tests", "benchmarks")
    product = {name: module for name, module in everything.items() if name.startswith(PACKAGE)}
    return {
        "imports upward": upward(product),
        "imports from the face": face_used(everything, users=FACE_USERS),
        "circles": circles(module_graph(product)),
        "private things used elsewhere": private_used(everything, TESTS_OF_PRIVATE),
        f"files over {MAX_FILE_LINES} lines": long_files(),
        f"functions over {MAX_FUNCTION_LINES} lines": long_functions(product),
        f"folders with over {MAX_FOLDER_FILES} files": full_folders(),
    }


FACE_USERS = frozenset({"tests.test_face", "tests.test_docs"})
"""Who imports from the face: tests of what users do."""

TESTS_OF_PRIVATE: Mapping[str, str] = {"tests/test_shared.py": "prefect_wavespeed.tasks._shared"}
"""Tests of a private module that nothing public shows: path of the test to the module."""


if __name__ == "__main__":
    offenders = report()
    for offence, lines in offenders.items():
        print(f"## {offence}: {len(lines)}", *lines, "", sep="\n")
    sys.exit(any(offenders.values()))
