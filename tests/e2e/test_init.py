"""What `restyle init` writes works: the commands of its README, in options, on a real Prefect server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.batch_shell import KEY
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer, wait_until

_BIN = Path(sys.executable).parent


class Shell:
    """A bash that pastes what a page tells, in one folder."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = {**env, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}"}

    def paste(self, *lines: str) -> str:
        """Run the lines in one shell; every one must succeed. Returns what they printed."""
        script = "\n".join(["set -e", *lines])
        ended = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )
        assert ended.returncode == 0, (lines, ended.stdout, ended.stderr)
        return ended.stdout


def commands(readme: Path) -> list[list[str]]:
    """The blocks of commands of a page."""
    return [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)]


def test_the_commands_of_a_new_project_work_when_pasted(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, {**prefect.env, "PREFECT_API_URL": ""})
    shell.paste("restyle init pictures")
    shell.folder = project = tmp_path / "pictures"
    copy, set_up, batch, worker, doctor = commands(project / "README.md")

    shell.paste(*copy)
    settings = (project / ".env").read_text()
    for name, value in {"PREFECT_API_URL": prefect.url, "WAVESPEED_API_KEY": KEY}.items():
        settings, times = re.subn(rf"^{name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
        assert times == 1
    (project / ".env").write_text(f"{settings}WAVESPEED_BASE_URL={emulator.url}\n")
    load, deploy = set_up[0], set_up[-1]
    assert f"\nnow run  {deploy}\n" in shell.paste(*set_up)
    deployed = {deployment["name"] for deployment in prefect.all("deployments")}
    assert {"restyle-image", "restyle-batch", "restyle-object", "settle"} <= deployed

    dry, real = batch
    told = shell.paste(load, dry)
    assert "3 would be billed: 0.075 USD" in told
    assert emulator.ledger()["billed"] == 0
    assert "3 stored" in shell.paste(load, real)
    assert len(list((project / "restyled" / "images").glob("*/metadata.json"))) == 3
    assert "0 would be billed" in shell.paste(load, dry)
    assert emulator.ledger()["billed"] == 3

    (run_worker,) = worker
    started = subprocess.Popen(
        ["bash", "-c", f"{load}\nexec {run_worker}"],
        cwd=project,
        env=shell.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deployment = _deployment(prefect, "restyle-image")
        parameters = {"image": str(project / "photos" / "coffee.jpg")}
        created = f"/deployments/{deployment}/create_flow_run"
        run = prefect.call("POST", created, {"parameters": parameters})
        wait_until(lambda: _state(prefect, run["id"]) in ("COMPLETED", "FAILED", "CRASHED"), 240)
        assert _state(prefect, run["id"]) == "COMPLETED"
        assert emulator.ledger()["billed"] == 3
        assert "ok" in shell.paste(load, *doctor)
    finally:
        os.killpg(started.pid, 15)
        started.wait(60)


def _deployment(prefect: PrefectServer, name: str) -> str:
    (found,) = (there["id"] for there in prefect.all("deployments") if there["name"] == name)
    return str(found)


def _state(prefect: PrefectServer, run_id: str) -> str:
    return str(prefect.call("GET", f"/flow_runs/{run_id}")["state_type"])
