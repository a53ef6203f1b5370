"""deployments/Dockerfile, without Docker: its steps are carried out by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_TEXT = (_ROOT / "deployments" / "Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", _TEXT, flags=re.MULTILINE)).splitlines()


def _copied() -> list[str]:
    """The paths that are copied from the checkout into the build stage."""
    copies = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    return [source for sources in copies for source in sources]


def _sent(path: str) -> bool:
    """Whether .dockerignore lets a path at the root through: its last matching rule decides."""
    rules = (_ROOT / ".dockerignore").read_text().splitlines()
    matching = [rule for rule in rules if rule and rule[0] != "#" and fnmatch(path, rule.removeprefix("!"))]
    return matching[-1].startswith("!")


def test_copied_paths_exist_and_are_sent_and_nothing_else_is() -> None:
    for source in _copied():
        assert (_ROOT / source).exists(), source
        assert _sent(source), source
    for other in (".git", ".venv", ".env", "tests", "demo"):
        assert not _sent(other), other


def test_it_does_not_run_as_root_and_names_no_registry() -> None:
    (user,) = [line.split()[1] for line in LINES if line.startswith("USER ")]
    assert user.isdecimal()  # Kubernetes' runAsNonRoot needs a number
    assert int(user) > 0
    assert LINES.index(f"USER {user}") > max(n for n, line in enumerate(LINES) if line.startswith("RUN "))
    images = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    assert images == ["python:3.12-slim"] * 2
    assert "://" not in _TEXT


@pytest.mark.e2e  # downloads setuptools
def test_copied_paths_suffice_to_install_the_flows_and_the_command(tmp_path: Path) -> None:
    """Runs the image's own command, without dependencies, which are installed here already."""
    source, target = tmp_path / "src", tmp_path / "app"
    source.mkdir()
    for name in _copied():
        if (_ROOT / name).is_dir():
            # links stay links, as in a Docker build
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(_ROOT / name, source)
    needed, install = [line for line in LINES if "pip install" in line]
    assert needed.endswith(" --require-hashes --requirement requirements.txt")
    options = install.partition("pip install ")[2].split()
    assert options[-2:] == ["--no-deps", "."]
    command = [sys.executable, "-m", "pip", "install", *options[:-1], "--target", str(target)]
    constraints = {"PIP_CONSTRAINT": str(source / "constraints.txt")}
    subprocess.run([*command, "."], cwd=source, env={**os.environ, **constraints}, check=True)
    assert list(target.glob("prefect_wavespeed/flows/__pycache__/restyle_batch.*.pyc"))  # bytecode, compiled
    names = subprocess.run(
        [
            sys.executable,
            "-c",
            "from prefect_wavespeed import deployments, flows; print(flows.__file__, *dir(flows))",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert names[0].startswith(str(target))
    described = (target / "prefect_wavespeed" / "deployments" / "prefect.yaml").read_text()
    deployed = re.findall(r"entrypoint: prefect_wavespeed\.flows\.(\w+)", described)
    assert len(deployed) == 4
    assert set(deployed) < set(names)
