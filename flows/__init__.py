"""Prefect flows, each made when it is first used, as Prefect takes a while to work out its parameters."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_wavespeed.flows.restyle_batch import arestyle_batch, restyle_batch
    from prefect_wavespeed.flows.restyle_image import arestyle_image, restyle_image
    from prefect_wavespeed.flows.restyle_object import restyle_object
    from prefect_wavespeed.flows.settle import settle

__all__ = ["arestyle_batch", "arestyle_image", "restyle_batch", "restyle_image", "restyle_object", "settle"]

# The module of each, for __getattr__.
_MODULES = {
    "arestyle_batch": "restyle_batch",
    "arestyle_image": "restyle_image",
    "restyle_batch": "restyle_batch",
    "restyle_image": "restyle_image",
    "restyle_object": "restyle_object",
    "settle": "settle",
}


class _Flows(ModuleType):
    """This package, in which a name means the flow, not the module of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        """As the import of a module sets it in its package."""
        is_module = name in _MODULES and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_module else value)


sys.modules[__name__].__class__ = _Flows


def __getattr__(name: str) -> object:
    """Import a flow when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    flow: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = flow
    return flow


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
