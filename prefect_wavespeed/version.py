"""Which version of this package runs."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def package_version() -> str:
    """The installed version; ``0+unknown`` in a source tree that is not installed."""
    try:
        return version("prefect-wavespeed")
    except PackageNotFoundError:
        return "0+unknown"


@cache
def git_commit() -> str | None:
    """The commit that is checked out, where the package runs from a clone of its repository."""
    root = Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():  # installed: the folder may lie in another repository
        return None
    command = [git, "-C", str(root), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()  # noqa: S603
    return commit or None
