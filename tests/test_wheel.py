"""What a release contains: one name, and every file that the product reads."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.wheels import ROOT, build, checkout

# For those who have a clone: docs/containers.md and docs/metrics.md say so.
NOT_INSTALLED = {"deployments/Dockerfile", "deployments/grafana-dashboard.json"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("checkout") / "tree")


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel that was made of a checkout."""
    return _names(build(tree, tmp_path_factory.mktemp("wheel") / "dist"))


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_a_wheel_installs_one_name(wheel: list[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert sorted(name for name in top if not name.endswith(".dist-info")) == ["prefect_wavespeed"]


def test_a_wheel_contains_every_file_of_the_product(wheel: list[str], tree: Path) -> None:
    expected = set()
    package = tree / "prefect_wavespeed"
    for folder in [package, *(link.resolve() for link in package.iterdir() if link.is_symlink())]:
        below = tree if folder == package else folder.parent
        for path in folder.rglob("*"):
            name = str(path.relative_to(below))
            if path.is_file() and name not in NOT_INSTALLED:
                expected.add(name if folder == package else f"prefect_wavespeed/{name}")
    assert {name for name in wheel if name.startswith("prefect_wavespeed/")} == expected


def test_a_wheel_made_of_the_source_distribution_is_the_same(
    wheel: list[str], tree: Path, tmp_path: Path
) -> None:
    archive = build(tree, tmp_path / "sdist", "sdist")  # tarfile's filter is not in the Python of Debian 12
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", tmp_path], check=True)
    (source,) = tmp_path.glob("prefect_wavespeed-*")
    assert not (source / "tests").exists()
    assert _names(build(source, tmp_path / "wheel")) == wheel


def test_entry_points_can_be_loaded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["restyle"].partition(":")
    assert callable(getattr(import_module(module), function))
    (collection,) = project["entry-points"]["prefect.collections"].values()
    assert hasattr(import_module(collection), "WaveSpeed")
