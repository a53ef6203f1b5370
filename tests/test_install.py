"""What is installed, beside what pyproject.toml promises."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.read import read_manifest
from prefect_wavespeed.errors import ManifestError
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.fake_batch import FakeApi, carry_out, images
from tests.support.imports import PACKAGE, ROOT, imported_names, modules


def test_what_is_pinned_installs_on_the_oldest_python_that_is_promised() -> None:
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    refusing = {
        f"{there.name} {there.version} wants {wanted}"
        for there in distributions()
        if (wanted := there.metadata["Requires-Python"]) and oldest not in SpecifierSet(wanted)
    }
    assert not refusing


# Halves of one project: each minor release of the first pins the second.
_BROUGHT = {"boto3": "botocore", "pydantic": "pydantic-core"}
# Not imported, but newer releases break Prefect (pyproject.toml).
_CEILINGS = {"fastapi", "sqlalchemy"}


def test_the_product_depends_on_what_it_imports() -> None:
    """Other dependencies may bring it along today and stop tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["aws"], *extras["parquet"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions_of = packages_distributions()
    imported = {
        name.partition(".")[0] for module in modules(PACKAGE).values() for name in imported_names(module.tree)
    }
    others = {name for name in imported - sys.stdlib_module_names - {PACKAGE} if "mypy" not in name}
    needed = {canonicalize_name(distribution) for name in others for distribution in distributions_of[name]}
    assert needed - set(_BROUGHT.values()) == declared - _CEILINGS


def test_what_the_image_installs_is_what_is_pinned_with_the_hash_of_every_file() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    text = re.sub(r"#.*\n|\\\n", "", (ROOT / "requirements.txt").read_text())
    lines = [Requirement(line.partition(" --hash=")[0]) for line in text.splitlines()]
    installed = {canonicalize_name(line.name): str(line.specifier) for line in lines}
    assert installed == {name: f"=={pinned[name]}" for name in installed}
    assert all(re.search(r"( +--hash=sha256:[0-9a-f]{64})+$", line) for line in text.splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["aws"], *extras["parquet"]]
    assert installed.keys() >= {canonicalize_name(Requirement(line).name) for line in needed}


async def test_without_the_extra_parquet_reports_have_one_file_less_and_a_manifest_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    carried = await carry_out(FakeApi(), tmp_path, images(3))
    assert carried.statuses == ["stored"] * 3
    files = {path.name for path in carried.folder.rglob("*") if path.is_file()}
    assert files == {"gallery.html", "report.jsonl", "summary.json"}
    manifest = tmp_path / "catalogue.parquet"
    manifest.write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match=r"pip install 'prefect-wavespeed\[parquet\]'"):
        [page async for page in read_manifest(str(manifest), ReduxParams(), directory_store(tmp_path))]
