"""Which version of this package runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def package_version() -> str:
    """The installed version; ``0+unknown`` in a source tree that is not installed."""
    try:
        return version("prefect-wavespeed")
    except PackageNotFoundError:
        return "0+unknown"
