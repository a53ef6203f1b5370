"""What is installed, beside what pyproject.toml promises."""

from __future__ import annotations

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent


def test_what_is_pinned_installs_on_the_oldest_python_that_is_promised() -> None:
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    refusing = {
        f"{there.name} {there.version} wants {wanted}"
        for there in distributions()
        if (wanted := there.metadata["Requires-Python"]) and oldest not in SpecifierSet(wanted)
    }
    assert not refusing
