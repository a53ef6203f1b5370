"""Wheels of this project, and environments in which nothing else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
_NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "demo", "dist", "site")
_CONSTRAINTS = str(ROOT / "constraints.txt")


def checkout(folder: Path) -> Path:
    """Copy this repository, links and all, so that building leaves nothing in it."""
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    return folder


def build(source: Path, folder: Path, kind: Literal["sdist", "wheel"] = "wheel") -> Path:
    """Build what a release is made of, as pip would. Returns its file, in ``folder``."""
    folder.mkdir()
    script = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", script], cwd=source, env=_env(), stdout=subprocess.DEVNULL, check=True
    )
    (file,) = folder.iterdir()
    return file


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment of a wheel and what it depends on, as pinned. Returns its folder of commands."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    # as `make setup` does: uv, which takes seconds, and where it finds no packages pip, which takes minutes
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", str(python)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    for command in (uv, pip):
        installing = subprocess.run(
            [*command, "--quiet", "--constraint", _CONSTRAINTS, str(wheel)], env=_env()
        )
        if installing.returncode == 0:
            return python.parent
    raise RuntimeError(f"{wheel} cannot be installed")


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
