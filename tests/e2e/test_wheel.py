"""A wheel in an environment of its own, used in a team's repository that has folders of the same names.

What `restyle init` writes is pasted there from its README, on a real Prefect server.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.batch_shell import KEY
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import end, running_with, wait_until
from tests.support.wheels import build, checkout, install

# The team's own packages. What they import of one another must be theirs, in every process.
TEAM = {
    "blocks/__init__.py": "",
    "deployments/__init__.py": "",
    "emulator/__init__.py": "",
    "tasks/__init__.py": "",
    "tasks/greet.py": """\
from prefect import task

@task
def greet(name):
    return f"hello {name}"
""",
    "flows/__init__.py": "",
    "flows/hello.py": """\
from pathlib import Path
from prefect import flow
from prefect_wavespeed import Restyled, restyle_image
from tasks.greet import greet
import blocks, deployments, emulator

@flow(log_prints=True)
async def hello(image: str, output: str) -> Restyled:
    here = Path(__file__).parent.parent
    for package in (blocks, deployments, emulator):
        assert Path(package.__file__).parent.parent == here, package.__file__
    print(greet(image))
    return await restyle_image(image, output=output)
""",
}
DEPLOYMENT = """\
  - name: hello
    entrypoint: flows/hello.py:hello
    work_pool: *work_pool
    pull:
      - prefect.deployments.steps.set_working_directory:
          directory: {folder}
"""


class Shell:
    """A bash that pastes what a page tells, in one folder."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def paste(self, *lines: str) -> str:
        """Run the lines in one shell; every one must succeed. Returns what they printed."""
        script = "\n".join(["set -e", *lines])
        ended = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )
        assert ended.returncode == 0, (lines, ended.stdout, ended.stderr)
        return ended.stdout

    @contextmanager
    def running(self, *lines: str) -> Iterator[None]:
        """Let the lines run beside; nothing of them is left afterwards."""
        with (self.folder / "running.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", "\n".join(lines)],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
        finally:
            end(process)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which the wheel is installed, and nothing that it does not need."""
    folder = tmp_path_factory.mktemp("installed")
    return install(build(checkout(folder / "tree"), folder / "dist"), folder / "env")


@pytest.fixture
def team(commands: Path, prefect: PrefectServer, tmp_path: Path) -> Shell:
    """In a team's repository, with the installed commands first on the path, and nothing of this checkout."""
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    shell = Shell(tmp_path, {**prefect.env, "PREFECT_API_URL": "", "PYTHONPATH": "", "PATH": path})
    shell.paste("restyle init pictures")
    shell.folder = tmp_path / "pictures"
    for name, text in TEAM.items():
        (shell.folder / name).parent.mkdir(exist_ok=True)
        (shell.folder / name).write_text(text)
    with (shell.folder / "prefect.yaml").open("a") as file:
        file.write(DEPLOYMENT.format(folder=shell.folder))
    return shell


def test_a_new_projects_readme_works_beside_packages_of_the_same_names(
    team: Shell, prefect: PrefectServer, emulator: Emulator
) -> None:
    copy, set_up, batch, worker, doctor = _blocks(team.folder / "README.md")
    team.paste(*copy)
    settings = (team.folder / ".env").read_text()
    for name, value in {"PREFECT_API_URL": prefect.url, "WAVESPEED_API_KEY": KEY}.items():
        settings, times = re.subn(rf"^{name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
        assert times == 1
    (team.folder / ".env").write_text(f"{settings}WAVESPEED_BASE_URL={emulator.url}\n")
    load, deploy = set_up[0], set_up[-1]
    assert f"\nnow run  {deploy}\n" in team.paste(*set_up)
    deployed = {deployment["name"] for deployment in prefect.all("deployments")}
    assert deployed == {"hello", "restyle-image", "restyle-batch", "restyle-object", "settle"}

    dry, real = batch
    assert "3 would be billed: 0.075 USD" in team.paste(load, dry)
    assert emulator.ledger()["billed"] == 0
    assert "3 stored" in team.paste(load, real)
    assert len(list((team.folder / "restyled" / "images").glob("*/metadata.json"))) == 3
    assert "0 would be billed" in team.paste(load, dry)
    assert emulator.ledger()["billed"] == 3

    photo = str(team.folder / "photos" / "coffee.jpg")
    ours, theirs = {"image": photo}, {"image": photo, "output": str(team.folder / "restyled")}
    (run_worker,) = worker
    with team.running(load, f"exec {run_worker}"):
        runs = [_start(prefect, "restyle-image", ours), _start(prefect, "hello", theirs)]
        for run in runs:
            wait_until(lambda: _state(prefect, run)["type"] in ("COMPLETED", "FAILED", "CRASHED"), 240)  # noqa: B023
            assert _state(prefect, run)["type"] == "COMPLETED", _state(prefect, run)
        assert emulator.ledger()["billed"] == 3
        assert "ok" in team.paste(load, *doctor)


def test_the_demo_shows_two_kinds_of_failure_bills_once_and_ends_with_its_gallery(team: Shell) -> None:
    for _ in range(2):  # the second time in the folder that the first one left
        printed = team.paste("restyle demo 2> errors")
        shown = " ".join(printed.split())
        assert "missing │ failed │ │ no such file" in shown
        assert "refused │ failed │ │ content moderation" in shown
        gallery = Path(printed.splitlines()[-1].strip())
        assert gallery.name == "gallery.html"
        assert "content moderation" in gallery.read_text()
        assert "first run: 4 predictions, 0.100 USD" in shown
        assert "again: 4, 0.100 USD" in shown
        assert (team.folder / "errors").read_text() == ""
        assert len(list((team.folder / "demo" / "images").glob("*/1.jpeg"))) == 4
        assert running_with(f"PREFECT_HOME={team.folder}") == []


def _blocks(readme: Path) -> list[list[str]]:
    """The blocks of commands of a page."""
    return [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)]


def _start(prefect: PrefectServer, name: str, parameters: dict[str, str]) -> str:
    (deployment,) = (found["id"] for found in prefect.all("deployments") if found["name"] == name)
    created = prefect.call("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
    return str(created["id"])


def _state(prefect: PrefectServer, run_id: str) -> dict[str, str]:
    state: dict[str, str] = prefect.call("GET", f"/flow_runs/{run_id}")["state"]
    return state
