"""Griffe extension: a default that is a constant of ours is shown by its value, not by its name."""

from __future__ import annotations

from functools import cache
from typing import Any

import griffe


class Defaults(griffe.Extension):
    """Replaces the defaults of a module's functions."""

    def on_module(self, *, mod: griffe.Module, **_: object) -> None:
        """Replace them; Griffe calls this once it has read a module."""
        for function in mod.members.values():
            if isinstance(function, griffe.Function):
                for parameter in function.parameters:
                    if isinstance(parameter.default, griffe.ExprName):
                        parameter.default = _value(mod, parameter.default)


def _value(mod: griffe.Module, default: griffe.ExprName) -> Any:
    home, _, name = mod.resolve(default.name).rpartition(".")
    found = mod.members[name] if home == mod.path else _module(home).members[name]
    return found.value if isinstance(found, griffe.Attribute) else default


@cache
def _module(path: str) -> griffe.Object | griffe.Alias:
    return griffe.load(path, search_paths=["."])  # without this extension
