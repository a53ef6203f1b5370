"""The modules of this repository and what each imports, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "prefect_wavespeed"
LINKED = ("blocks", "deployments", "emulator", "flows", "tasks")
"""Folders at the top of the repository that the package reaches by links."""

Graph: TypeAlias = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Use:
    """Something of this repository that a module names.

    Attributes:
        module: the module that is imported.
        name: what is taken from it; empty for the module itself.
        line: where.
    """

    module: str
    name: str
    line: int


@dataclass(frozen=True)
class Module:
    """A Python file.

    Attributes:
        name: its dotted name.
        path: its file, relative to the repository.
        uses: every import, also inside functions and under ``TYPE_CHECKING``.
    """

    name: str
    path: Path
    tree: ast.Module = field(repr=False)
    uses: tuple[Use, ...] = field(repr=False, default=())

    @property
    def folder(self) -> str:
        """The dotted name of its folder."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def modules(*folders: str) -> dict[str, Module]:
    """All modules of some folders of the repository by name, with what they use of one another.

    Args:
        folders: ``prefect_wavespeed`` with what it links to, ``tests``, ``benchmarks``.
    """
    return parsed({path: (ROOT / path).read_text() for folder in folders for path in files(folder, (".py",))})


def parsed(sources: Mapping[Path, str]) -> dict[str, Module]:
    """Modules by name, from their texts by path relative to the repository."""
    bare = [Module(_name(path), path, ast.parse(text)) for path, text in sources.items()]
    found = {module.name: module for module in bare}
    return {module.name: replace(module, uses=tuple(_uses(module, found))) for module in bare}


def module_graph(found: Mapping[str, Module]) -> Graph:
    """Which module imports which."""
    return {
        name: frozenset(use.module for use in module.uses if use.module in found and use.module != name)
        for name, module in found.items()
    }


def imported_names(tree: ast.Module) -> Iterator[str]:
    """The dotted names of all modules that are imported, of this repository or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def is_private(name: str) -> bool:
    """Whether a name of a module or of something in it is private."""
    return name.startswith("_") and not name.endswith("__")


def files(folder: str, suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files of a folder, relative to the repository; those of the package at their real places."""
    folders = [folder, *LINKED] if folder == PACKAGE else [folder]
    for top in folders:
        for path in (ROOT / top).rglob("*"):  # rglob does not follow links
            if (
                path.is_file()
                and "__pycache__" not in path.parts
                and (not suffixes or path.suffix in suffixes)
            ):
                yield path.relative_to(ROOT)


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join((PACKAGE, *parts) if parts[0] in LINKED else parts)


def _uses(module: Module, found: Mapping[str, Module]) -> Iterator[Use]:
    """What a module uses of the others."""
    aliases: dict[str, str] = {}  # local name → the module that it stands for
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in found:
                    yield Use(alias.name, "", node.lineno)
                    aliases[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            parent = _parent(module, node)
            for alias in node.names:
                child = f"{parent}.{alias.name}"
                if child in found:
                    aliases[alias.asname or alias.name] = child
                    yield Use(child, "", node.lineno)
                if parent in found and (child not in found or alias.name in _bound(found[parent])):
                    yield Use(parent, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and _called(node) == "import_module":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and argument.value in found:
                    yield Use(str(argument.value), "", node.lineno)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of = aliases.get(ast.unparse(node.value))
            if of:
                yield Use(of, node.attr, node.lineno)


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "attr", "") or getattr(function, "id", "")


def _parent(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    above = module.folder.split(".")[: len(module.folder.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _bound(package: Module) -> set[str]:
    """Names that a package's ``__init__`` imports: they hide its modules of the same name."""
    imports = [node for node in package.tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}
